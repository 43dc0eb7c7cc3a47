"""Exact search on all devices: the nearest rows of a gallery, and where the right ones rank.

Queries are spread over the mesh, the gallery comes by in tiles: nothing grows with their product.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from date_jax.pairs.all_pairs import BLOCK, TILE, Rows, is_real, power_of_two, visit_pairs
from date_jax.pairs.vectors import dot_products

WIDER = 2  # tiles of the gallery that are compared at once when the nearest are looked for
GROUP = 16  # columns of which the largest stands for all, where the k largest are looked for

# Closer than float32 products of unit vectors can tell apart: such scores are a tie.
TIE = 1e-6


class Neighbours(NamedTuple):
    """Attributes:
    score: float32 `[Q k]`, the largest first; -inf where the gallery has fewer rows.
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

    Of equal scores the row that comes first; what is not a number is never found.

    Args:
        query, gallery: on every process the whole; unit vectors, for cosines.
        k: how many.
        mesh: of `sharding.device_mesh`.
        tile: queries that a device compares at a time, with WIDER times as many rows.
    """
    found = visit_pairs(
        _NearestRows(k),
        {"row": gallery},
        {"row": query},
        mesh=mesh,
        tile=tile,
        source_tile=WIDER * tile,
        block=BLOCK // WIDER,
    )
    return Neighbours(*found)


class _NearestRows(NamedTuple):
    k: int

    def initial(self, query: Rows) -> Neighbours:
        shape = (len(query["row"]), self.k)
        return Neighbours(jnp.full(shape, -jnp.inf), jnp.full(shape, -1, jnp.int32))

    def add(self, kept: Neighbours, gallery: Rows, query: Rows) -> Neighbours:
        scores = dot_products(query["row"], gallery["row"])
        scores = jnp.where(is_real(gallery) & ~jnp.isnan(scores), scores, -jnp.inf)
        scores, column = _narrowed(scores, self.k)
        # The kept ones first: of equal scores top_k takes what stands first.
        score, place = jax.lax.top_k(jnp.concatenate([kept.score, scores], axis=1), self.k)
        number = jnp.concatenate([kept.index, gallery["number"][column]], axis=1)
        index = jnp.take_along_axis(number, place, axis=1)
        return Neighbours(score, jnp.where(score > -jnp.inf, index, -1))


def _narrowed(score: Float[Array, "q g"], k: int) -> tuple[Float[Array, "q c"], Int[Array, "q c"]]:
    """Some columns of each row in the order they stand, and which: the k largest are among them.

    They lie in the k groups of neighbouring columns whose largest scores are the largest. Choosing
    groups first takes a fraction of the time of choosing among all columns.
    """
    rows, columns = score.shape
    groups = columns // GROUP
    if columns % GROUP or groups <= 2 * k:
        return score, jnp.broadcast_to(jnp.arange(columns), score.shape)
    parts = score.reshape(rows, groups, GROUP)
    _, best = jax.lax.top_k(parts.max(axis=2), k)
    # In order, so that of equal scores the one that comes first still stands first.
    best = jnp.sort(best, axis=1)[:, :, None]
    column = best * GROUP + jnp.arange(GROUP)[None, None]
    found = jnp.take_along_axis(parts, best, axis=1)
    return found.reshape(rows, -1), column.reshape(rows, -1)


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
        itself: for each query the item of the gallery that is the query, which then is neither
            right nor wrong; -1 or None where there is none.
    """
    own = np.full(len(query.first), -1) if itself is None else itself
    asked = {
        "row": query.embedding,
        "product": _products_of(query, -1),
        "itself": own.astype(np.int32),
    }
    among = {"row": gallery.embedding, "product": _products_of(gallery, -2)}
    options: dict[str, Any] = {"mesh": mesh, "tile": tile}
    best = visit_pairs(_BestMatch(), among, asked, **options)
    return 1 + visit_pairs(_NotBelow(), among, {**asked, "best": best}, **options)


def _products_of(items: Items, none: int) -> Int[np.ndarray, "N M"]:
    """Each item's products in a row, filled up with `none`."""
    count = np.diff(items.first, append=len(items.product_id))
    column = np.arange(len(items.product_id)) - np.repeat(items.first, count)
    # Powers of two, so that other pictures seldom ask for another compiled program.
    most = power_of_two(int(count.max(initial=1)))
    rows = np.full((len(count), most), none, np.int32)
    rows[np.repeat(np.arange(len(count)), count), column] = items.product_id
    return rows


class _BestMatch(NamedTuple):
    """The largest score among the right items; -inf where there is none."""

    def initial(self, query: Rows) -> Float[Array, " q"]:
        return jnp.full(len(query["row"]), -jnp.inf)

    def add(self, kept: Array, gallery: Rows, query: Rows) -> Float[Array, " q"]:
        scores = dot_products(query["row"], gallery["row"])
        scores = jnp.where(_match(query, gallery), scores, -jnp.inf)
        return jnp.maximum(kept, scores.max(axis=1))


class _NotBelow(NamedTuple):
    """How many wrong items have a score that is not below `best`."""

    def initial(self, query: Rows) -> Int[Array, " q"]:
        return jnp.zeros(len(query["row"]), jnp.int32)

    def add(self, kept: Array, gallery: Rows, query: Rows) -> Int[Array, " q"]:
        scores = dot_products(query["row"], gallery["row"])
        not_below = ~(scores < query["best"][:, None] - TIE)  # nor a number
        wrong = _others(query, gallery) & ~_match(query, gallery)
        return kept + (not_below & wrong).sum(axis=1, dtype=jnp.int32)


def _match(query: Rows, gallery: Rows) -> Bool[Array, "q g"]:
    """Which items share a product; filled up rows (product 0) are left out later, by `is_real`."""

    def one(found: Array, column: Array) -> tuple[Array, None]:
        equal = query["product"][:, None, :] == column[None, :, None]
        return found | equal.any(axis=-1), None

    none = jnp.zeros((len(query["row"]), len(gallery["row"])), bool)
    return jax.lax.scan(one, none, gallery["product"].T)[0] & _others(query, gallery)


def _others(query: Rows, gallery: Rows) -> Bool[Array, "q g"]:
    """The items of the gallery that are not only filled up, nor the query itself."""
    return is_real(gallery) & (gallery["number"][None] != query["itself"][:, None])
