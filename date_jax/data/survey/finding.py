"""One kind of thing that is wrong with a user's data or worth a look, and what it is found in."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from date_jax.data.files.annotations import Row
from date_jax.data.files.photos import short_name
from date_jax.data.files.preprocess import Header
from date_jax.data.survey.looks import Look
from date_jax.data.tokenizer import Tokenizer

EXAMPLES = 3  # of a finding


class Finding(NamedTuple):
    """One kind of thing that was found.

    Attributes:
        kind: a name for programs.
        is_wrong: a run would stop, or its measures would mean nothing.
        text: what, how often, and what to do.
        size: how many rows, pictures or pairs.
        examples: the first few, as texts.
        pictures: the names of the pictures to show, those of a pair after each other.
        rows: to show with their boxes.
    """

    kind: str
    is_wrong: bool
    text: str
    size: int = 1
    examples: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()


class Data(NamedTuple):
    """All that findings are made of.

    Attributes:
        path: of the file, for messages.
        rows: of it.
        headers: of the readable pictures, by name.
        unreadable: why each of the others cannot be read.
        looks: of the readable pictures, by name.
        budget: the share of rows whose pictures may be unreadable.
        tokenizer: of the vocabulary that the user gave, or None.
        vocab: its path.
    """

    path: Path
    rows: Sequence[Row]
    headers: Mapping[str, Header]
    unreadable: Mapping[str, str]
    looks: Mapping[str, Look]
    budget: float
    tokenizer: Tokenizer | None = None
    vocab: str = ""


def rows_finding(kind: str, rows: Sequence[Row], text: str) -> Finding:
    """The finding about some rows."""
    return Finding(
        kind,
        False,
        f"{text}: {len(rows):,}",
        len(rows),
        tuple(
            f"line {row.line}: {row.text[:40]!r} in {short_name(row.image)}"
            for row in rows[:EXAMPLES]
        ),
        rows=tuple(rows[:4]),
    )


def splits_by_picture(rows: Sequence[Row]) -> dict[str, set[str]]:
    """The splits in which each picture has rows, by its name."""
    sides: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        sides[row.image].add(row.split)
    return sides


def is_leak(splits: Collection[str]) -> bool:
    """Whether some splits hold what is trained on and what is measured."""
    return "train" in splits and len(set(splits)) > 1
