"""What the words of a corpus lose where pictures are mirrored: "left" has to become "right"."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from date_jax.data.tokenizer import MIRRORED, Tokenizer

TEXTS = 20_000  # looked at, spread over all: a note, made at every start
MIN_SHARE = 0.01  # of texts in a script; fewer are names and signs
# Scripts, as Unicode begins its letters' names, in which no language's words are exchanged.
SCRIPTS = (
    *("ARABIC", "ARMENIAN", "BENGALI", "CYRILLIC", "DEVANAGARI", "ETHIOPIC", "GEORGIAN", "GREEK"),
    *("GUJARATI", "GURMUKHI", "HANGUL", "HEBREW", "KANNADA", "KHMER", "LAO", "MALAYALAM"),
    *("MYANMAR", "SINHALA", "TAMIL", "TELUGU", "THAI", "TIBETAN"),
)
# Words for left and right in Latin letters that are not exchanged. Alone many mean something else,
# as links and sol do: both together tell a language that tells sides.
OTHER_WORDS = (
    *(("links", "rechts"), ("linke", "rechte"), ("linker", "rechter")),  # German, Dutch
    *(("gauche", "droite"), ("stânga", "dreapta"), ("sinistra", "destra"), ("sinistro", "destro")),
    *(("izquierda", "derecha"), ("izquierdo", "derecho")),
    *(("esquerda", "direita"), ("esquerdo", "direito")),
    *(("vänster", "höger"), ("venstre", "højre"), ("venstre", "høyre"), ("vasen", "oikea")),
    *(("lewy", "prawy"), ("lewa", "prawa"), ("levý", "pravý"), ("levá", "pravá"), ("bal", "jobb")),
    *(("sol", "sağ"), ("trái", "phải"), ("kiri", "kanan")),  # Turkish, Vietnamese, Indonesian
)


def notes(texts: Sequence[str], tokenizer: Tokenizer, flip: float) -> list[str]:
    """Lines for the user about texts that a mirrored picture would make wrong; often none.

    Args:
        texts: that are trained on.
        tokenizer: the one that they are encoded with.
        flip: `config.augment.flip`, the share of pictures that are mirrored.
    """
    if not flip:
        return []
    some_texts = texts[:: -(-len(texts) // TEXTS) or 1]
    words = Counter(word for text in some_texts for word in tokenizer.words(text))
    lines = [*_script_lines(some_texts), *_language_lines(words), *_piece_lines(words, tokenizer)]
    if not lines:
        return []
    return [
        f"warning: pictures are mirrored (config.augment.flip={flip:g}), but not all words for "
        "left and right with them:",
        *(f"  {line}" for line in lines),
        "  where such texts tell sides, add --config.augment.flip=0",
    ]


def _script_lines(texts: Sequence[str]) -> list[str]:
    """The line that names scripts in which nothing is exchanged, if texts have words in them."""
    letters: dict[str, list[str]] = {}
    for letter in filter(str.isalpha, set("".join(texts))):
        script = unicodedata.name(letter, "").partition(" ")[0]
        letters.setdefault(script, []).append(letter)
    # A single letter is a sign, as in Ω.
    counts = {}
    for script in SCRIPTS:
        if script in letters:
            word = re.compile(f"[{''.join(letters[script])}]{{2}}")
            counts[script.title()] = sum(bool(word.search(text)) for text in texts)
    names = [name for name, count in counts.items() if count >= MIN_SHARE * len(texts)]
    if not names:
        return []
    share = min(1.0, sum(counts[name] for name in names) / len(texts))
    return [
        f"{share:.0%} of the training texts are in {_word_list(names)}, where none are exchanged"
    ]


def _language_lines(words: Counter[str]) -> list[str]:
    """The line that names words of other languages, where a pair of them is in the texts."""
    plain = {_plain(word) for word in words}
    pairs = [pair for pair in OTHER_WORDS if all(_plain(word) in plain for word in pair)]
    if not pairs:
        return []
    return [f"{_word_list([f'{one!r} and {other!r}' for one, other in pairs])} stay as they are"]


def _piece_lines(words: Counter[str], tokenizer: Tokenizer) -> list[str]:
    """The line that names words that would be exchanged, were they one piece each."""
    # Texts that say "left" alone tell no sides, as in "only two left".
    lower_case = {word.lower() for word in words}
    mirrored = {word for pair in MIRRORED if lower_case.issuperset(pair) for word in pair}
    table = tokenizer.swap_table()
    stay = sorted(
        word for word in words if word.lower() in mirrored and not tokenizer.exchanges(word, table)
    )
    if not stay:
        return []
    stays = "stays as it is" if len(stay) == 1 else "stay as they are"
    return [
        f"{_word_list([repr(word) for word in stay])} {stays}: the vocabulary needs both words of "
        "a pair as one piece each"
    ]


def _plain(word: str) -> str:
    """A word in small letters without marks, as some vocabularies have it."""
    letters = unicodedata.normalize("NFD", word.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _word_list(names: Iterable[str]) -> str:
    """Some names in a row, of many the first few."""
    names = list(names)
    return ", ".join([*names[:4], *(["…"] if len(names) > 4 else [])])
