"""Splits of a user's rows: by a hash where the file has none, and what several of them share."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

EXAMPLES = 3  # pictures or products named in a note


@runtime_checkable
class PlacedRow(Protocol):
    """A row with its split, `train` or `mall_train`."""

    @property
    def line(self) -> int:
        """The row's line in its file, from 1."""

    @property
    def image(self) -> str:
        """The picture's file."""

    @property
    def product_id(self) -> str:
        """The product, or the picture's file where no product is known."""

    @property
    def split(self) -> str:
        """The name of the row's split."""


def hashed_split(product: str) -> str:
    """The split of a product, always the same: train, val or test, 8:1:1."""
    digest = int.from_bytes(hashlib.sha256(product.encode()).digest()[:8])
    return (*["train"] * 8, "val", "test")[digest % 10]


def hashed_splits(images: Sequence[str], products: Sequence[str]) -> list[str]:
    """The split of each row by a hash of its product, or of its picture where it has none.

    All of a product are in one split, and all of a picture: products that share a picture go where
    the least of them goes.

    Args:
        images: the picture of each row.
        products: the product of each row, or "".
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    keys = [product or image for image, product in zip(images, products, strict=True)]
    first: dict[str, str] = {}  # product of each picture
    for image, key in zip(images, keys, strict=True):
        one, other = root(key), root(first.setdefault(image, key))
        parent[max(one, other)] = min(one, other)
    return [hashed_split(root(key)) for key in keys]


def shared_notes(rows: Iterable[PlacedRow]) -> tuple[str, ...]:
    """The user's notes: which pictures and products are trained on and measured too.

    Args:
        rows: of all splits.
    """
    rows = list(rows)
    products = [row for row in rows if row.product_id != row.image]
    return (
        *_shared_note("pictures", rows, lambda row: row.image),
        *_shared_note("products", products, lambda row: row.product_id),
    )


def _shared_note(
    what: str, rows: Sequence[PlacedRow], name_of: Callable[[PlacedRow], str]
) -> list[str]:
    """The note about the names that rows of train and of val or test have in common."""
    trained: dict[str, PlacedRow] = {}
    measured: dict[str, PlacedRow] = {}
    for row in rows:
        is_train = row.split.rpartition("_")[2] == "train"
        (trained if is_train else measured).setdefault(name_of(row), row)
    shared = [name for name in trained if name in measured]
    if not shared:
        return []
    examples = "; ".join(
        f"{name[:60]} (lines {trained[name].line}, {measured[name].line})"
        for name in shared[:EXAMPLES]
    )
    return [
        f"{len(shared):,} {what} are in train and in val or test, which then measure what is "
        f"remembered: {examples}{'; …' if len(shared) > EXAMPLES else ''}"
    ]
