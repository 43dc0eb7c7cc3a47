"""Letters of any script in pictures: each run of a text is drawn in a font that has it."""

import functools
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from PIL import ImageDraw, ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
LETTERS = 14  # pixels, of a query below its picture
_INVISIBLE = ("C", "Z")  # Unicode categories of controls and spaces
_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "IDEOGRAPHIC")


def is_plain(text: str) -> bool:
    """Whether Pillow's own font has all letters: ASCII, and the ellipsis of a text that is cut."""
    return text.replace("…", "").isascii()


def text_width(text: str, size: int) -> float:
    """The width of a text in pixels, as `draw_text` draws it."""
    return sum(font.getlength(run) for run, font in font_runs(text, size))


def draw_text(
    draw: ImageDraw.ImageDraw,
    place: tuple[int | float, int | float],
    text: str,
    fill: tuple[int, int, int],
    size: int,
    *,
    anchor: str = "la",
) -> None:
    """Draws one line of text.

    Args:
        draw: the picture to draw on.
        place: in pixels, what `anchor` says.
        text: of any script.
        fill: its colour.
        size: of the letters, in pixels.
        anchor: "la" for the upper left corner, "lm" for the middle of the left side.
    """
    if is_plain(text):
        draw.text(place, text, fill, ImageFont.load_default(size), anchor=anchor)
        return
    # Fonts are of several heights, so all runs stand on one base line: that of plain text.
    x, y = place
    base = y + (0.95 * size if anchor == "la" else 0.35 * size)
    for run, font in font_runs(text, size):
        draw.text((x, base), run, fill, font, anchor="ls")
        x += font.getlength(run)


def text_lines(text: str, width: int, *, size: int = LETTERS, most: int = 3) -> list[str]:
    """The text in lines of `width` pixels; one that does not fit ends in "…".

    Args:
        text: of any script.
        width: of the longest line.
        size: of the letters, in pixels.
        most: lines.
    """
    lines: list[str] = []
    words = text.split()
    # As many words on a line as fit, one at least; the last line takes what is left.
    while words and len(lines) < most - 1:
        # Scripts without spaces, as Chinese is, break between letters.
        if not is_plain(words[0]) and text_width(words[0], size) > width:
            head = _longest_start(words[0], size, width)
            words[:1] = [head, words[0][len(head) :]]
        count = 1
        while count < len(words) and text_width(" ".join(words[: count + 1]), size) <= width:
            count += 1
        lines.append(fitted_text(" ".join(words[:count]), size, width))
        words = words[count:]
    return [*lines, fitted_text(" ".join(words), size, width)] if words else lines


def fitted_text(text: str, size: int, width: int | float) -> str:
    """The text, or as much of it as fits before an ellipsis."""
    if text_width(text, size) <= width:
        return text
    text = text[: max(1, int(width))]  # letters have a pixel at least
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _longest_start(word: str, size: int, width: int | float) -> str:
    """The longest start of a word that fits, one letter at least; marks stay with their letter."""
    end = max(1, min(len(word) - 1, int(width)))
    while end > 1 and (
        text_width(word[:end], size) > width or unicodedata.category(word[end])[0] == "M"
    ):
        end -= 1
    return word[:end]


def font_runs(text: str, size: int) -> list[tuple[str, Font]]:
    """The text in pieces, each with its font: one for the whole text where a font has it all.

    Letters that no font has stay with their neighbours, and are named on stderr, once for each
    package of fonts that has them.
    """
    if is_plain(text):
        return [(text, ImageFont.load_default(size))]
    visible = {ord(letter) for letter in text if _is_visible(letter)}
    single = next((file for file in font_files() if visible <= _letters(file)), None)
    if single is not None:
        return [(text, _font(single, size))]
    # The font of a letter is that of the one before if it has both, else the first that has it.
    runs: list[tuple[str, str | None]] = []
    for letter in text:
        file = runs[-1][1] if runs else None
        if _is_visible(letter) and (file is None or ord(letter) not in _letters(file)):
            file = _file_with(letter)
        if runs and runs[-1][1] == file:
            runs[-1] = (runs[-1][0] + letter, file)
        else:
            runs.append((letter, file))
    return [(run, _font(file, size)) for run, file in runs]


def font_families(texts: Iterable[str]) -> list[str]:
    """The families of fonts that have the letters of some texts, for matplotlib's `font.family`.

    The first is its own; the others are made known to it. Letters that no font has are named on
    stderr, as by `font_runs`.

    Args:
        texts: of any script.
    """
    from matplotlib.font_manager import FontProperties, fontManager

    letters = sorted({letter for text in texts for letter in text if _is_visible(letter)})
    files = dict.fromkeys(file for letter in letters if (file := _file_with(letter)) is not None)
    # Its list of fonts may be older than a font that was installed since.
    for file in files:
        if all(entry.fname != file for entry in fontManager.ttflist):
            fontManager.addfont(file)
    names = [FontProperties(fname=file).get_name() for file in files]
    return [*dict.fromkeys(["DejaVu Sans", *names])]


@functools.cache
def font_files() -> tuple[str, ...]:
    """The font files to look into: the one that matplotlib brings, then those of this machine."""
    from matplotlib import font_manager, get_data_path  # takes a second, for few texts

    def order(file: str) -> tuple[bool, bool, str]:
        name = Path(file).name
        return "Sans" not in name, "Regular" not in name, name

    # A font of last resort has a box for every letter, which is no help.
    installed = [file for file in font_manager.findSystemFonts() if "LastResort" not in file]
    return str(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf")), *sorted(installed, key=order)


def _is_visible(letter: str) -> bool:
    is_selector = "\ufe00" <= letter <= "\ufe0f"  # of a variant of the letter before
    return unicodedata.category(letter)[0] not in _INVISIBLE and not is_selector


@functools.cache
def _letters(file: str) -> frozenset[int]:
    """The code points that a font file has; none where it cannot be drawn with."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(file, 14)
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@functools.cache
def _font(file: str | None, size: int) -> Font:
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)


def _file_with(letter: str) -> str | None:
    """The first font file that has a letter; None for Pillow's own font."""
    if is_plain(letter):
        return None
    file = next((file for file in font_files() if ord(letter) in _letters(file)), None)
    if file is None:
        is_cjk = unicodedata.name(letter, "").startswith(_CJK)
        _say_missing("fonts-noto-cjk" if is_cjk else "fonts-noto-core", letter)
    return file


_packages_said: set[str] = set()


def _say_missing(package: str, letter: str) -> None:
    """Says that no font has a letter, and which package brings one; once for each package."""
    if package not in _packages_said:
        _packages_said.add(package)
        print(
            f"pictures: no font here has {letter!r} (U+{ord(letter):04X}) and letters like it: "
            f"they are drawn as boxes\n  install one that has them: apt install {package}",
            file=sys.stderr,
        )
