"""Offers of a user's own catalogue: read from JSON Lines or CSV, each given a product and a split.

Products are for evaluation only. Where the file does not say which offers show the same one, offers
that pairs join do.
"""

import hashlib
import json
from collections.abc import Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from date_jax.data.files.text_rows import check_columns, check_splits, lines, text_rows
from date_jax.errors import DataError

REQUIRED = ("offer_id", "title", "supplier", "category", "image")
OPTIONAL = ("product_id", "split")


class Offer(NamedTuple):
    """One row; `line` is where it stands, `image` relative to the folder of pictures, and
    product_id and split are "" where the file has none."""

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
    """The offers of a `.jsonl` or `.csv` file.

    Raises:
        DataError: naming the file, the line, what is wrong with it and what to do.
    """
    check = partial(check_columns, required=REQUIRED, besides=OPTIONAL)
    found = [_offer(path, line, fields) for line, fields in text_rows(path, check)]
    if not found:
        raise DataError(f"{path} holds no rows: expected one an offer")
    _check_once(path, found)
    if any(offer.split for offer in found):
        check_splits(path, found)
    return found


def _offer(path: Path, line: int, fields: dict[str, Any]) -> Offer:
    where = f"{path}:{line}"
    texts = {name: text(where, name, fields.get(name)) for name in (*REQUIRED, *OPTIONAL)}
    for name in ("offer_id", "category", "image"):
        if not texts[name]:
            raise DataError(f"{where}: {name} is empty: every offer has one")
    return Offer(line, **texts)


def text(where: str, name: str, value: Any) -> str:
    """A field as a text: whole numbers are written out, null is "".

    Raises:
        DataError: it is something else.
    """
    if value is None:
        return ""
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"{where}: {name} is {json.dumps(value)[:60]}: expected a text")
    return str(value).strip()


def _check_once(path: Path, found: Sequence[Offer]) -> None:
    first: dict[str, Offer] = {}
    twice = [offer for offer in found if first.setdefault(offer.offer_id, offer) is not offer]
    if twice:
        one = first[twice[0].offer_id]
        raise DataError(
            f"{path}: {len(twice):,} rows have an offer_id that was there before: expected one row "
            f"an offer\n  {one.offer_id!r}: {lines([one, twice[0]])}"
        )


def placed(found: list[Offer], pairs: IdPairs) -> list[Offer]:
    """`found`, each with a product and a split.

    Where no offer has a product_id, those joined by pairs show one product: by pairs within a split
    where the file has splits, so that what is trained on does not decide what is measured. Where
    it has none, products go to train, val and test by a hash, 8:1:1.
    """
    if any(offer.product_id for offer in found):
        given = {offer.product_id for offer in found}
        product = [offer.product_id or own_product(offer.offer_id, given) for offer in found]
    else:
        product = joined(found, pairs)
    return [
        offer._replace(product_id=of, split=offer.split or split(of))
        for offer, of in zip(found, product, strict=True)
    ]


def own_product(offer_id: str, given: Set[str]) -> str:
    """The product of an offer that has none: its own, which is none of those that others have."""
    while offer_id in given:
        offer_id = f"offer {offer_id}"
    return offer_id


def notes(found: Sequence[Offer], placed: Sequence[Offer]) -> tuple[str, ...]:
    """What evaluation takes for one product, and which splits it can say nothing about.

    Args:
        found: as they were read.
        placed: the same with products and splits.
    """
    said = []
    if not any(offer.product_id for offer in found):
        said = ["no offer has a product_id: those that a chain of pairs joins are one product"]
    if all(offer.split == "train" for offer in placed):
        said.append("no offer is in split val or test: nothing is evaluated")
    for kind in ("val", "test"):
        of = [offer.product_id for offer in placed if offer.split == kind]
        if of and len(set(of)) == len(of):
            said.append(
                f"offer_{kind} is not evaluated: no two of its offers share a product_id"
                + ("" if any(offer.product_id for offer in found) else " or are a pair")
            )
    return tuple(said)


def joined(found: Sequence[Offer], pairs: IdPairs) -> list[str]:
    """For each offer the least offer_id that a chain of pairs within its split leads to."""
    number = {offer.offer_id: row for row, offer in enumerate(found)}
    ends = [
        (number[one], number[other])
        for one, other in zip(*pairs, strict=True)
        if one in number and other in number
    ]
    edges = [(a, b) for a, b in ends if found[a].split == found[b].split]
    rows, columns = np.array(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges)), (rows, columns)), shape=(len(found), len(found)))
    component = connected_components(graph, directed=False)[1]
    ids = [offer.offer_id for offer in found]
    order = np.argsort(ids, kind="stable")  # so that the file's order decides nothing
    first = order[np.unique(component[order], return_index=True)[1]]
    return [ids[first[label]] for label in component]


def split(product: str) -> str:
    """Of a product, always the same: train, val or test, 8:1:1."""
    digest = int.from_bytes(hashlib.sha256(product.encode()).digest()[:8])
    return (*["train"] * 8, "val", "test")[digest % 10]
