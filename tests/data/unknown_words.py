"""How many pieces of titles in ten languages are unknown, as a Markdown table.

    python -m tests.data.unknown_words

Each language has a vocabulary of at most 1,000 pieces, made from its ten titles:

- `learned`: as a run learns it from its training texts;
- `unseen`: the same from nine of the titles, for the tenth;
- `BERT`: their letters, as a vocab.txt without rules next to it.

`no marks` counts the titles that are read as if they had no marks, of those that have some.
"""

import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from tokenizers.normalizers import BertNormalizer

from date_jax.data import tokenizer
from date_jax.data.tokenizer import Tokenizer
from date_jax.data.tokenizer_files import tokenizer_of_file
from tests.data.titles import TITLES

SIZE, LENGTH = 1_000, 256


def learned(texts: Sequence[str]) -> Tokenizer:
    """The tokenizer of a run that trains on these texts."""
    return tokenizer.tokenizer_of_texts(
        texts, size=SIZE, length=LENGTH, alphabet=tokenizer.ALPHABET
    )


def published(texts: Sequence[str]) -> Tokenizer:
    """The tokenizer of a vocab.txt in the manner of BERT's uncased ones, made from these texts."""
    letters = sorted(set("".join(map(BertNormalizer().normalize_str, texts)).replace(" ", "")))
    pieces = [*tokenizer.SPECIAL, *letters, *("##" + letter for letter in letters)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vocab.txt")
        path.write_text("".join(piece + "\n" for piece in pieces), encoding="utf-8")
        return tokenizer_of_file(path, length=LENGTH)


def unknown_share(pairs: Sequence[tuple[Tokenizer, Sequence[str]]]) -> float:
    """The share of unknown pieces among those of all texts, each read by its tokenizer."""
    encoded = [words.encode(texts) for words, texts in pairs]
    return sum(texts.unknown for texts in encoded) / sum(texts.pieces for texts in encoded)


def without_marks(text: str) -> str:
    """The letters of a text without accents, vowel signs and voicing marks."""
    letters = unicodedata.normalize("NFD", text)
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")


def row(language: str) -> str:
    """The line of the table for a language."""
    titles = TITLES[language]
    words = learned(titles)
    unseen = [(learned([*titles[:n], *titles[n + 1 :]]), [title]) for n, title in enumerate(titles)]
    marked = [
        title for title in titles if without_marks(title) != unicodedata.normalize("NFD", title)
    ]
    lost = sum(
        bool((words.encode([title]).ids == words.encode([without_marks(title)]).ids).all())
        for title in marked
    )
    shares = [
        unknown_share([(words, titles)]),
        unknown_share(unseen),
        unknown_share([(published(titles), titles)]),
    ]
    cells = [language, *(f"{share:.1%}" for share in shares), f"{lost} of {len(marked)}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print("| language | learned | unseen | BERT | no marks |\n| --- | --- | --- | --- | --- |")
    for name in TITLES:
        print(row(name), flush=True)
