"""Offers of a user's own catalogue: read from JSON Lines or CSV, each given a product and a split.

Products are for evaluation only. Where the file does not say which offers show the same one, offers
that pairs join do.
"""

from collections.abc import Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from date_jax.data.files.splits import hashed_split, shared_notes
from date_jax.data.files.text_rows import (
    check_columns,
    check_images,
    check_splits,
    field_text,
    known_id,
    line_list,
    product_notes,
    text_rows,
)
from date_jax.errors import DataError

REQUIRED = ("offer_id", "title", "supplier", "category", "image")
OPTIONAL = ("product_id", "split")


class Offer(NamedTuple):
    """One row of the catalogue.

    Attributes:
        line: of the file, from 1.
        offer_id: which no other row has.
        title: what the supplier calls it.
        supplier: who offers it.
        category: of its product.
        image: the picture's file, relative to the folder of pictures.
        product_id: of the product, "" where the file has none.
        split: one of SPLITS, "" where the file has none.
    """

    line: int
    offer_id: str
    title: str
    supplier: str
    category: str
    image: str
    product_id: str = ""
    split: str = ""


class IdPairs(NamedTuple):
    """Offers that show the same product, by their ids: the i-th of one and of the other."""

    trigger_id: list[str]
    offer_id: list[str]


def offers(path: Path) -> list[Offer]:
    """The offers of a `.jsonl` or `.csv` file, their products and splits as it has them.

    Args:
        path: of the file.

    Raises:
        DataError: naming the file, the line, what is wrong with it and what to do.
    """
    # Each row alone, then what only all of them together can show.
    check = partial(check_columns, required=REQUIRED, optional=OPTIONAL)
    rows = [_offer(path, line, fields) for line, fields in text_rows(path, check)]
    if not rows:
        raise DataError(f"{path} holds no rows: expected one an offer")
    _check_unique(path, rows)
    check_images(path, [row.image for row in rows])
    if any(offer.split for offer in rows):
        check_splits(path, rows)
    return rows


def _offer(path: Path, line: int, fields: dict[str, Any]) -> Offer:
    """One row, each of its fields checked."""
    where = f"{path}:{line}"
    texts = {name: field_text(where, name, fields.get(name)) for name in (*REQUIRED, *OPTIONAL)}
    texts["product_id"] = known_id(texts["product_id"])
    for name in ("offer_id", "category", "image"):
        if not texts[name]:
            raise DataError(f"{where}: {name} is empty: every offer has one")
    if not known_id(texts["offer_id"]):
        raise DataError(
            f"{where}: offer_id is {texts['offer_id']!r}, a word for an empty cell: "
            "every offer has one"
        )
    return Offer(line, **texts)


def _check_unique(path: Path, rows: Sequence[Offer]) -> None:
    """Refuses a file in which two rows have one offer_id."""
    first: dict[str, Offer] = {}
    repeated = [offer for offer in rows if first.setdefault(offer.offer_id, offer) is not offer]
    if repeated:
        offer = repeated[0]
        raise DataError(
            f"{path}: {len(repeated):,} rows have an offer_id that was there before: expected one "
            f"row an offer\n  {offer.offer_id!r}: {line_list([first[offer.offer_id], offer])}"
        )


def offers_with_products(rows: list[Offer], pairs: IdPairs) -> list[Offer]:
    """The offers, each with a product and a split.

    Where no offer has a product_id, those joined by pairs show one product: by pairs within a split
    where the file has splits, so that what is trained on does not decide what is measured. Where
    it has none, products go to train, val and test by a hash, 8:1:1.

    Args:
        rows: as the file has them.
        pairs: that may join them.
    """
    if any(offer.product_id for offer in rows):
        # Where the file has products, an offer without one is the only offer of its product.
        taken = {offer.product_id for offer in rows}
        products = [offer.product_id or single_product(offer.offer_id, taken) for offer in rows]
    else:
        products = joined_products(rows, pairs)
    return [
        offer._replace(product_id=product, split=offer.split or hashed_split(product))
        for offer, product in zip(rows, products, strict=True)
    ]


def single_product(offer_id: str, taken: Set[str]) -> str:
    """The product of an offer that has none: named after the offer, and none of those taken."""
    product = offer_id
    while product in taken:
        product = f"offer {product}"
    return product


def notes(rows: Sequence[Offer], placed: Sequence[Offer]) -> tuple[str, ...]:
    """The user's notes: what counts as one product, and which splits cannot be evaluated.

    Args:
        rows: as the file has them.
        placed: the same with products and splits.
    """
    has_products = any(offer.product_id for offer in rows)
    lines = []
    if not has_products:
        lines = ["no offer has a product_id: those that a chain of pairs joins are one product"]
    if all(offer.split == "train" for offer in placed):
        lines.append("no offer is in split val or test: nothing is evaluated")
    # A search is right when it finds the product again, so two offers have to show it.
    for split in ("val", "test"):
        products = [offer.product_id for offer in placed if offer.split == split]
        if products and len(set(products)) == len(products):
            lines.append(
                f"offer_{split} is not evaluated: no two of its offers share a product_id"
                + ("" if has_products else " or are a pair")
            )
    return (
        *lines,
        *shared_notes(placed),
        *product_notes(offer.product_id for offer in placed),
    )


def joined_products(rows: Sequence[Offer], pairs: IdPairs) -> list[str]:
    """The product of each offer: the least offer_id that a chain of pairs in its split leads to."""
    # The pairs as edges between rows; ids that are not in the file join nothing.
    row_of = {offer.offer_id: row for row, offer in enumerate(rows)}
    ends = [
        (row_of[trigger], row_of[offer])
        for trigger, offer in zip(*pairs, strict=True)
        if trigger in row_of and offer in row_of
    ]
    edges = [(a, b) for a, b in ends if rows[a].split == rows[b].split]
    starts, stops = np.array(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges)), (starts, stops)), shape=(len(rows), len(rows)))
    component = connected_components(graph, directed=False)[1]
    # The first of each component in the order of the ids, so that the file's order decides nothing.
    ids = [offer.offer_id for offer in rows]
    order = np.argsort(ids, kind="stable")
    first = order[np.unique(component[order], return_index=True)[1]]
    return [ids[first[label]] for label in component]
