"""Exact search on all devices: the nearest rows of a gallery, and where the right ones rank.

Queries are spread over the mesh, the gallery comes by in tiles: nothing grows with their product.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from date_jax.pairs.all_pairs import (
    BLOCK,
    TILE,
    Rows,
    device_rows,
    is_real,
    power_of_two,
    visit_device_rows,
    visit_pairs,
)
from date_jax.pairs.vectors import dot_products

WIDER = 2  # tiles of the gallery that are compared at once when the nearest are looked for
GROUP = 16  # columns of which the largest stands for all, where the k largest are looked for

# Closer than float32 products of unit vectors can tell apart: such scores are a tie.
TIE = 1e-6


class Neighbours(NamedTuple):
    """The rows of a gallery that are nearest to each query, the nearest first.

    Attributes:
        score: float32 `[Q k]`; -inf where the gallery has fewer rows.
        index: int32 `[Q k]`, rows of the gallery; -1 there.
    """

    score: Any
    index: Any


def nearest_rows(
    query: Float[np.ndarray, "Q D"],
    gallery: Float[np.ndarray, "N D"],
    k: int,
    *,
    mesh: jax.sharding.Mesh,
    tile: int = TILE,
) -> Neighbours:
    """The k rows of the gallery with the largest products, exact in float32.

    Of equal scores the row that comes first; what is not a number is never near.

    Args:
        query, gallery: on every process the whole; unit vectors, for cosines.
        k: how many.
        mesh: of `sharding.device_mesh`.
        tile: queries that a device compares at a time, with WIDER times as many rows.
    """
    result = visit_pairs(
        _NearestRows(k),
        {"row": gallery},
        {"row": query},
        mesh=mesh,
        tile=tile,
        source_tile=WIDER * tile,
        block=BLOCK // WIDER,
    )
    return Neighbours(*result)


class Gallery:
    """Vectors that stay on the devices and are searched again and again, exactly.

        gallery = Gallery(vectors, mesh=mesh)
        gallery.nearest(query, 8)                                # as nearest_rows
        gallery.nearest(query, 8, is_shown=price < 20)           # of some rows alone

    Few programs are compiled: neither the rows that are shown nor k up to the next power of two
    make another one.

    Args:
        vectors: unit vectors, on every process the whole.
        mesh: of `sharding.device_mesh`; queries are spread over it.
        tile: queries that a device compares at a time, with WIDER times as many rows.
    """

    def __init__(
        self, vectors: Float[np.ndarray, "N D"], *, mesh: jax.sharding.Mesh, tile: int = TILE
    ):
        self._mesh, self._tile = mesh, tile
        rows = {"row": np.asarray(vectors, np.float32)}
        self._rows = device_rows(rows, mesh=mesh, source_tile=WIDER * tile, block=BLOCK // WIDER)

    def nearest(
        self,
        query: Float[np.ndarray, "Q D"],
        k: int,
        is_shown: Bool[np.ndarray, " N"] | None = None,
    ) -> Neighbours:
        """The k rows with the largest products, as `nearest_rows` gives them.

        Args:
            query: unit vectors.
            k: how many.
            is_shown: rows that are searched; None for all.
        """
        result = visit_device_rows(
            _NearestRows(power_of_two(k)),
            self._rows,
            {"row": np.asarray(query, np.float32)},
            mesh=self._mesh,
            tile=self._tile,
            is_shown=is_shown,
        )
        return Neighbours(*(x[:, :k] for x in result))


class _NearestRows(NamedTuple):
    """Visitor that remembers the k nearest rows of each query."""

    k: int

    def initial(self, query: Rows) -> Neighbours:
        shape = (len(query["row"]), self.k)
        return Neighbours(jnp.full(shape, -jnp.inf), jnp.full(shape, -1, jnp.int32))

    def add(self, result: Neighbours, gallery: Rows, query: Rows) -> Neighbours:
        scores = dot_products(query["row"], gallery["row"])
        scores = jnp.where(is_real(gallery) & ~jnp.isnan(scores), scores, -jnp.inf)
        scores, column = _candidates(scores, self.k)
        # Earlier rows first: of equal scores top_k takes what stands first.
        score, place = jax.lax.top_k(jnp.concatenate([result.score, scores], axis=1), self.k)
        number = jnp.concatenate([result.index, gallery["number"][column]], axis=1)
        index = jnp.take_along_axis(number, place, axis=1)
        return Neighbours(score, jnp.where(score > -jnp.inf, index, -1))


def _candidates(
    scores: Float[Array, "q g"], k: int
) -> tuple[Float[Array, "q c"], Int[Array, "q c"]]:
    """Some columns of each row in the order they stand, and which: the k largest are among them.

    They lie in the k groups of neighbouring columns whose largest scores are the largest. Choosing
    groups first takes a fraction of the time of choosing among all columns.
    """
    rows, columns = scores.shape
    groups = columns // GROUP
    if columns % GROUP or groups <= 2 * k:
        return scores, jnp.broadcast_to(jnp.arange(columns), scores.shape)
    grouped = scores.reshape(rows, groups, GROUP)
    _, best = jax.lax.top_k(grouped.max(axis=2), k)
    # In order, so that of equal scores the one that comes first still stands first.
    best = jnp.sort(best, axis=1)[:, :, None]
    column = best * GROUP + jnp.arange(GROUP)[None, None]
    candidates = jnp.take_along_axis(grouped, best, axis=1)
    return candidates.reshape(rows, -1), column.reshape(rows, -1)


class Items(NamedTuple):
    """Things to search for, or among. Two items match where they share a product.

    Attributes:
        embedding: float `[N D]`, unit vectors.
        product_id: int `[M]`, the products of all items, item after item; none is negative.
        first: int `[N]`, where the products of each item begin (each has at least one).
    """

    embedding: np.ndarray
    product_id: np.ndarray
    first: np.ndarray


def ranks(
    query: Items,
    gallery: Items,
    *,
    mesh: jax.sharding.Mesh,
    tile: int = TILE,
    itself: Int[np.ndarray, " Q"] | None = None,
) -> Int[np.ndarray, " Q"]:
    """The rank of each query's best match; 1 is best. Scores are dot products.

    `1 + #{wrong items with score >= the best match's}`: a tie counts against the query, so that a
    model whose embeddings are all equal comes out last, and so does what is not a number. A query
    without a match comes out behind the whole gallery.

    Args:
        query, gallery: on every process the whole.
        mesh: of `sharding.device_mesh`.
        tile: items of either set that a device compares at a time.
        itself: for each query the item of the gallery that is the query, which then is neither
            right nor wrong; -1 or None where there is none.
    """
    itself = np.full(len(query.first), -1) if itself is None else itself
    queries = {
        "row": query.embedding,
        "product": _product_table(query, -1),
        "itself": itself.astype(np.int32),
    }
    items = {"row": gallery.embedding, "product": _product_table(gallery, -2)}

    # First the score of each query's best match, then how many wrong items reach it.
    options: dict[str, Any] = {"mesh": mesh, "tile": tile}
    best = visit_pairs(_BestMatch(), items, queries, **options)
    return 1 + visit_pairs(_WrongAbove(), items, {**queries, "best": best}, **options)


def _product_table(items: Items, filler: int) -> Int[np.ndarray, "N M"]:
    """A row of products for each item, filled up with `filler`."""
    count = np.diff(items.first, append=len(items.product_id))
    column = np.arange(len(items.product_id)) - np.repeat(items.first, count)
    # Powers of two, so that other pictures seldom ask for another compiled program.
    width = power_of_two(int(count.max(initial=1)))
    table = np.full((len(count), width), filler, np.int32)
    table[np.repeat(np.arange(len(count)), count), column] = items.product_id
    return table


class _BestMatch(NamedTuple):
    """Visitor that remembers the largest score among the right items; -inf where there is none."""

    def initial(self, query: Rows) -> Float[Array, " q"]:
        return jnp.full(len(query["row"]), -jnp.inf)

    def add(self, result: Array, gallery: Rows, query: Rows) -> Float[Array, " q"]:
        scores = dot_products(query["row"], gallery["row"])
        scores = jnp.where(_is_match(query, gallery), scores, -jnp.inf)
        return jnp.maximum(result, scores.max(axis=1))


class _WrongAbove(NamedTuple):
    """Visitor that counts the wrong items whose score is not below the query's `best`."""

    def initial(self, query: Rows) -> Int[Array, " q"]:
        return jnp.zeros(len(query["row"]), jnp.int32)

    def add(self, result: Array, gallery: Rows, query: Rows) -> Int[Array, " q"]:
        scores = dot_products(query["row"], gallery["row"])
        not_below = ~(scores < query["best"][:, None] - TIE)  # nor a number
        is_wrong = _is_other(query, gallery) & ~_is_match(query, gallery)
        return result + (not_below & is_wrong).sum(axis=1, dtype=jnp.int32)


def _is_match(query: Rows, gallery: Rows) -> Bool[Array, "q g"]:
    """Whether an item shares a product with a query, and is not the query itself."""

    # A column of the gallery's products at a time, or `[q g M M]` would be made.
    def match_column(is_match: Array, column: Array) -> tuple[Array, None]:
        is_equal = query["product"][:, None, :] == column[None, :, None]
        return is_match | is_equal.any(axis=-1), None

    none = jnp.zeros((len(query["row"]), len(gallery["row"])), bool)
    return jax.lax.scan(match_column, none, gallery["product"].T)[0] & _is_other(query, gallery)


def _is_other(query: Rows, gallery: Rows) -> Bool[Array, "q g"]:
    """Whether an item does not only fill a tile up, and is not the query itself."""
    return is_real(gallery) & (gallery["number"][None] != query["itself"][:, None])
