"""The encoding of a text file from another program, or what the file is where it is no text."""

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from date_jax.data.files.packed import PACKINGS, unpacked_file, unpacked_name
from date_jax.errors import DataError
from date_jax.run import git_lfs

# What files begin with that are no text, and what to do with them.
BINARY = {
    b"PK\3\4": "an Excel workbook or a zip file: unpack it, or in Excel save it as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: in Excel save it as CSV UTF-8",
    b"PAR1": "a Parquet file: write its rows as CSV UTF-8 or JSON Lines",
    b"\x1f\x8b": "a gzip file: unpack it with gunzip",
    b"BZh": "a bzip2 file: unpack it with bunzip2",
    b"\x28\xb5\x2f\xfd": "a zstd file: unpack it with unzstd",
    b"%PDF": "a PDF: export its table as CSV UTF-8",
    b"SQLite format 3\0": "an SQLite database: export its table as CSV UTF-8",
}
EAST_ASIAN = ("GBK", "CP932", "CP949", "BIG5")
EAST_ASIAN_LETTER = "\u1100"  # none of theirs is before it
# Cyrillic, Greek, Arabic, Hebrew, Thai: nearly all bytes are valid in each.
OTHER_SCRIPTS = ("WINDOWS-1251", "KOI8-R", "WINDOWS-1253", "WINDOWS-1256", "WINDOWS-1255", "CP874")
# Latin letters of Central Europe, Turkey and Vietnam, at the places of Western ones.
OTHER_LATIN = ("WINDOWS-1250", "WINDOWS-1254", "WINDOWS-1258")
WESTERN = "àáâãäåæçèéêëìíîïñòóôõöøùúûüßœÀÁÂÃÄÅÆÇÈÉÊËÍÎÏÑÓÔÕÖØÙÚÛÜŒªºµ"
MIN_WESTERN = 0.9  # share of a Western text's letters beyond ASCII that are in WESTERN
LETTERS = 10_000  # of a file, by which its encoding is guessed
CHUNK = 1 << 24  # bytes of a file that are looked at together


def check_utf8(path: Path) -> None:
    """Refuses a file that is no UTF-8 at some place, however large it is.

    Args:
        path: of the file, which may be packed.

    Raises:
        DataError: as `utf8_text`, with the line.
    """
    line = 1
    with unpacked_file(path) as file:
        # Whole lines, for a chunk may end within a letter.
        while chunk := file.read(CHUNK):
            chunk += file.readline()
            utf8_text(path, chunk, first_line=line)
            line += chunk.count(b"\n")


def utf8_text(path: Path, content: bytes, *, first_line: int = 1) -> str:
    """The text of a file's bytes.

    Args:
        path: of the file, for the messages.
        content: of the file, unpacked, or whole lines of it.
        first_line: of these lines in the file, from 1.

    Raises:
        DataError: it is no text, or in another encoding: which, and how to convert it.
    """
    if first_line == 1:
        _check_no_binary(path, content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = first_line + content[: error.start].count(_line_end(content))
        raise DataError(_advice(path, content, line)) from None
    # A zero byte is valid UTF-8, yet what follows it is lost to many programs.
    if "\0" in text:
        line = first_line + text[: text.index("\0")].count(_line_end(content).decode())
        command = _shell_command(path, "tr -d '\\000'", "< ")
        raise DataError(
            f"{path}:{line}: holds a zero byte\n"
            f"  remove it: {command} > clean{unpacked_name(path).suffix}"
        )
    return text


def _check_no_binary(path: Path, content: bytes) -> None:
    """Refuses packed files, workbooks, and texts of two or four bytes a letter."""
    if git_lfs.is_pointer(content):
        raise DataError(f"{path} is a Git LFS pointer, not the file\n  {git_lfs.WAY_OUT}")
    for start, advice in BINARY.items():
        if content.startswith(start):
            raise DataError(f"{path} is no text file but {advice}")
    # A mark at the start says it; without one, Latin letters have zeros in every second place.
    head = content[:4096]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if head[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        raise DataError(_conversion(path, "", "UTF-32"))
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(_conversion(path, "", "UTF-16"))
    # A character of four bytes is a number below 0x110000.
    utf32 = {"UTF-32LE": (head[3::4], head[2::4]), "UTF-32BE": (head[::4], head[1::4])}
    for encoding, (zeros, planes) in utf32.items():
        if len(head) >= 8 and not any(zeros) and max(planes) <= 0x10:
            raise DataError(_conversion(path, "", encoding))
    # Few zeros are of a text in another script; a single one is a zero byte in a text of one byte.
    if max(even, odd) >= max(8, len(head) / 50) and max(even, odd) > 8 * min(even, odd):
        raise DataError(_conversion(path, "", "UTF-16LE" if odd > even else "UTF-16BE"))


def _shell_command(path: Path, command: str, sign: str = "") -> str:
    """A command of the shell that reads a file, unpacked where its name says that it is packed.

    Args:
        path: of the file.
        command: that reads what comes from another one, or, after `sign`, a file.
        sign: "< " where the command takes no file's name.
    """
    for packing in PACKINGS:
        if path.suffix.lower() == packing.ending:
            return f"{packing.command} {path.name} | {command}"
    return f"{command} {sign}{path.name}"


def _conversion(path: Path, where: str, encoding: str) -> str:
    """The message for a file whose encoding is known."""
    kind = unpacked_name(path).suffix
    excel = "\n  or in Excel: Save As, CSV UTF-8" if kind.lower() == ".csv" else ""
    command = _shell_command(path, f"iconv -f {encoding} -t UTF-8")
    return (
        f"{path} is not UTF-8 text{where}: it looks like {encoding}\n"
        f"  convert it: {command} > utf8{kind}{excel}"
    )


def _advice(path: Path, content: bytes, line: int) -> str:
    """The message for a file that is no UTF-8 from `line` on."""
    # One bad line among good ones: converting all of them would spoil the good ones.
    lines = [text for text in content.split(_line_end(content)) if not text.isascii()]
    if 2 * sum(_text_of_bytes(text, "utf-8") is not None for text in lines) > len(lines):
        return (
            f"{path}:{line}: is not UTF-8 text, as other lines of the file are\n"
            f"  look at it: {_shell_command(path, f'sed -n {line}p')} | cat -v\n"
            "  mend or remove this line; a text may be cut within a character"
        )
    encodings = likely_encodings(content)
    if len(encodings) == 1:
        return _conversion(path, f" (line {line})", encodings[0])
    return (
        f"{path} is not UTF-8 text (line {line}): it may be {', '.join(encodings)}\n"
        "  save it as UTF-8 with the program that wrote it (Excel: Save As, CSV UTF-8)\n"
        f"  or try each: {_shell_command(path, 'iconv -f ENCODING -t UTF-8')} "
        f"> utf8{unpacked_name(path).suffix}\n"
        "  and look at the letters: a wrong encoding gives other ones without an error"
    )


def _line_end(content: bytes) -> bytes:
    """The last byte of a line; that of the first Macintoshes where there is no other."""
    return b"\n" if b"\n" in content else b"\r"


def likely_encodings(content: bytes) -> list[str]:
    """The encodings that the bytes of a text may have, as iconv calls them; one where it is clear.

    Windows writes Western texts as WINDOWS-1252, Chinese ones as GBK, Japanese ones as CP932 and
    Korean ones as CP949. Most bytes are valid in several: the letters that they give decide.

    Args:
        content: of the file, which is no UTF-8.
    """
    # Kana are in every Japanese text; Hangul and the usual Chinese characters nearly alone.
    texts = {name: _text_of_bytes(content, name) for name in EAST_ASIAN}
    if _share(texts["CP932"], _is_kana) >= 0.2:
        return ["CP932"]
    if _share(texts["CP949"], _is_hangul) >= 0.8:
        return ["CP949"]
    if _share(texts["GBK"], _is_usual_chinese) >= 0.8:
        return ["GBK"]
    # Accents stand alone between Latin letters; other scripts fill whole words.
    runs = re.findall(rb"[\x80-\xff]+", content)
    if sum(map(len, runs)) <= 2 * len(runs):
        # Polish, Czech, Turkish and Vietnamese letters would become rare Western ones and signs.
        western = _text_of_bytes(content, "cp1252") or content.decode("latin-1")
        if _share(western, _is_western, first="\x80") < MIN_WESTERN:
            return ["WINDOWS-1252", *OTHER_LATIN]
        # Latin-1 has control characters where Windows has the euro sign, dashes and quotes.
        return ["WINDOWS-1252" if re.search(rb"[\x80-\x9f]", content) else "LATIN1"]
    east_asian = [name for name, text in texts.items() if text is not None]
    return [*east_asian, *OTHER_SCRIPTS, *OTHER_LATIN]


def _text_of_bytes(content: bytes, encoding: str) -> str | None:
    """The text of some bytes; None where they are not in this encoding."""
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _share(
    text: str | None, is_plausible: Callable[[str], bool], *, first: str = EAST_ASIAN_LETTER
) -> float:
    """The share of a text's first letters from `first` on that are plausible; 0 without any."""
    # Private characters too: wrong encodings give them, right ones do not.
    letters = re.finditer(rf"(?=[{first}-\U0010ffff])[^\W\d_]|[\ue000-\uf8ff]", text or "")
    plausible = [is_plausible(letter[0]) for letter in islice(letters, LETTERS)]
    return sum(plausible) / len(plausible) if plausible else 0.0


def _is_western(letter: str) -> bool:
    """Whether a letter is one of those that Western European languages use."""
    return letter in WESTERN


def _is_kana(letter: str) -> bool:
    """Whether a letter is Hiragana or Katakana of full width."""
    return "\u3041" <= letter <= "\u30ff"


def _is_hangul(letter: str) -> bool:
    """Whether a letter is a Korean syllable of KS X 1001, which has the usual ones."""
    code = letter.encode("cp949", "replace")
    return "\uac00" <= letter <= "\ud7a3" and min(code) >= 0xA1


def _is_usual_chinese(letter: str) -> bool:
    """Whether a letter is one of the 3,755 characters of GB 2312's first level."""
    code = letter.encode("gb2312", "replace")
    return len(code) == 2 and 0xB0 <= code[0] <= 0xD7
