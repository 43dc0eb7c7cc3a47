"""Who is pasted onto what: rows of the source, and pictures that say nothing of their category."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from date_jax.data.composites.category_words import category_finder

_TRIES = 8  # grounds for a composite, and products for each of its places
FEWEST = 2  # products of a composite: of one alone "what is pasted" would be the answer


class Ground(NamedTuple):
    """A picture that products may be pasted onto.

    Attributes:
        row: one of those that have it.
        categories: that it shows, as far as is known: no product of these is pasted.
        products: that it shows.
    """

    row: int
    categories: frozenset[str]
    products: frozenset[str]


class Choice(NamedTuple):
    """A ground, by its number, and the products that come onto it, by theirs."""

    ground: int
    products: list[int]


def grounds_of_source(
    pictures: Sequence[str], categories: Sequence[str], products: Sequence[str]
) -> list[Ground]:
    """The pictures of the source, of which all is known."""
    return [
        Ground(
            rows[0],
            frozenset(categories[row] for row in rows),
            frozenset(products[row] for row in rows),
        )
        for rows in _rows_of(pictures).values()
    ]


def grounds_of_target(
    pictures: Sequence[str], texts: Sequence[str], categories: Collection[str]
) -> list[Ground]:
    """The pictures of the target, of which the queries alone are known.

    Args:
        pictures: of each row.
        texts: the query of each row.
        categories: those of the source's products.
    """
    named_categories = category_finder(categories)
    categories_of = {text: named_categories(text) for text in {*texts}}
    grounds = []
    for rows in _rows_of(pictures).values():
        named = frozenset[str]().union(*(categories_of[texts[row]] for row in rows))
        grounds.append(Ground(rows[0], named, frozenset()))
    return grounds


def _rows_of(pictures: Sequence[str]) -> Mapping[str, list[int]]:
    """The rows of each picture, in their order."""
    rows_of = defaultdict(list)
    for row, picture in enumerate(pictures):
        rows_of[picture].append(row)
    return rows_of


def product_weights(categories: Sequence[str]) -> Float[np.ndarray, " N"]:
    """How often each product is drawn: a category as often as the root of its number says."""
    names, category, counts = np.unique(categories, return_inverse=True, return_counts=True)
    del names
    weights: Float[np.ndarray, " N"] = 1 / np.sqrt(counts[category])
    return weights / weights.sum()


def choice(
    rng: np.random.Generator,
    grounds: Sequence[Sequence[Ground]],
    shares: Sequence[float],
    *,
    ends: Float[np.ndarray, " N"],
    categories: Sequence[str],
    products: Sequence[str],
    most: int,
) -> tuple[int, Choice] | None:
    """A kind of grounds with a choice of one of them, and of FEWEST to `most` products for it.

    Args:
        rng: decides.
        grounds: of each kind.
        shares: of each kind.
        ends: cumulated `product_weights`.
        categories, products: of what can be pasted.
        most: products of a composite.

    Returns:
        None where no ground was found that two products fit onto.
    """
    kind = int(rng.choice(len(shares), p=np.array(shares)))
    count = int(rng.integers(FEWEST, most + 1))
    for _ in range(_TRIES):
        number = int(rng.integers(len(grounds[kind])))
        ground = grounds[kind][number]
        draws: Int[np.ndarray, " n"] = np.searchsorted(ends, rng.random(_TRIES * count))
        drawn: dict[str, int] = {}
        for place in draws.clip(max=len(ends) - 1).tolist():
            is_new = products[place] not in drawn and products[place] not in ground.products
            if is_new and len(drawn) < count and categories[place] not in ground.categories - {""}:
                drawn[products[place]] = place
        if len(drawn) >= FEWEST:
            return kind, Choice(number, list(drawn.values()))
    return None
