r"""The losses of same-style matching (arXiv 2302.05093) over the whole global batch, in tiles.

With cosines of unit vectors, B pairs of a trigger and an offer, after the official loss file:

    PPM(a)   s_ij = a_i · offer_j,    l_i = (1/B) Σ_{j∈N_i} max(0, s_ij − s_ii + m)
    SD(t)    q_ij = t_i · trigger_j,  l_i = (1/B) Σ_{j∈N_i} max(0, q_ij − q_ii + m)
    LC(t)    D_ij = trigger_i · offer_j, T_ij = t_i · offer_j,
             J_i = the k largest D_ij of the batch,
             l_i = (1/k) Σ_{j∈J_i} max(0, (D_ij − T_ij)² − m)

Trigger and offer are encoded from picture and words; t from one of them alone, a from either or
both. Each device keeps its rows and runs through all columns tile by tile.

N_i are the pairs of the batch that have no offer in common with pair i. This is ours: the official
file takes all j ≠ i, which pushes an offer away from itself where a batch has it in two pairs.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from date_jax import sharding
from date_jax.pairs.contrastive import crosswise_matches
from date_jax.pairs.tiles import TILE, fold_tiles
from date_jax.pairs.vectors import dot_products
from date_jax.sharding import Gather

NEAREST = 10  # k of LC


def hinge(
    rows: Float[Array, "B E"],
    columns: Float[Array, "B E"],
    identity: UInt32[Array, "B K"],
    *,
    margin: float,
    tile: int = TILE,
) -> Float[Array, " B"]:
    """The hinge loss of each row against the columns of other products; column i is row i's own.

        l_i = (1/B) Σ_{j∈N_i} max(0, s_ij - s_ii + m),    s_ij = row_i · column_j
        N_i = the j of whose K numbers row i has none

    With offers as columns it is PPM (2302.05093), with triggers SD. Two rows of which each lies on
    the other's column, and away from its own; then the same two as a pair and its own reverse:

        >>> pairs = jnp.array([[0, 1], [2, 3]], jnp.uint32)
        >>> hinge(jnp.eye(2), jnp.eye(2)[::-1], pairs, margin=0.5)
        Array([0.75, 0.75], dtype=float32)
        >>> reverse = jnp.array([[0, 1], [1, 0]], jnp.uint32)
        >>> hinge(jnp.eye(2), jnp.eye(2)[::-1], reverse, margin=0.5)
        Array([0., 0.], dtype=float32)

    Args:
        rows, columns: unit vectors.
        identity: numbers of the offers of each pair; pairs with one in common are no negatives.
        margin: m, by which a row's column is to be nearer than any other.
        tile: columns at a time.
    """

    def row_losses(all_rows: Gather, parts: Sequence[Array]) -> Float[Array, " b"]:
        rows, columns, identity = parts
        matching = (rows * columns).sum(axis=1, keepdims=True)

        def add_tile(
            total: Array, real: Bool[Array, " t"], tile_columns: Array, tile_identity: Array
        ) -> Array:
            # Columns of the row's own offers, and what only fills the last tile up, cost nothing.
            is_negative = real[None] & ~crosswise_matches(identity, tile_identity)
            excess = jnp.maximum(dot_products(rows, tile_columns) - matching + margin, 0.0)
            return total + jnp.where(is_negative, excess, 0.0).sum(axis=1)

        all_columns, all_identities = all_rows(columns), all_rows(identity)
        total = fold_tiles(add_tile, jnp.zeros(len(rows)), [all_columns, all_identities], tile)
        return total / len(all_columns)

    return sharding.map_rows(row_losses, [rows, columns, identity])


def locality(
    trigger: Float[Array, "B E"],
    single: Float[Array, "B E"],
    offer: Float[Array, "B E"],
    *,
    margin: float,
    nearest: int = NEAREST,
    tile: int = TILE,
) -> Float[Array, " B"]:
    """The locality loss LC of each trigger (2302.05093).

        l_i = (1/k) Σ_{j∈J_i} max(0, (D_ij - T_ij)² - m),    J_i = the k largest D_ij
        D_ij = trigger_i · offer_j,    T_ij = t_i · offer_j

    To the offers around a trigger, its picture or its words alone are to be as near as the two
    together. There are no negatives, so pairs with an offer in common take part. One offer, at a
    cosine of 1 from its trigger and of 0 from the trigger's words:

        >>> trigger, single = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> locality(trigger, single, trigger, margin=0.25)
        Array([0.75], dtype=float32)

    Args:
        trigger, offer: from picture and words.
        single: t, from one of them; unit vectors all.
        margin: m, the squared difference that costs nothing.
        nearest: k, at most B.
        tile: columns at a time.
    """
    nearest = min(nearest, len(trigger))

    def row_losses(all_rows: Gather, parts: Sequence[Array]) -> Float[Array, " b"]:
        trigger, single, offer = parts

        def add_tile(best: Any, real: Bool[Array, " t"], tile_offers: Array) -> Any:
            # D and T of the best offers so far and of the tile's; the k largest D stay.
            d = jnp.where(real[None], dot_products(trigger, tile_offers), -jnp.inf)
            candidates = [
                jnp.concatenate([old, new], axis=1)
                for old, new in zip(best, (d, dot_products(single, tile_offers)), strict=True)
            ]
            _, place = jax.lax.top_k(jax.lax.stop_gradient(candidates[0]), nearest)
            return tuple(jnp.take_along_axis(values, place, axis=1) for values in candidates)

        # There are k offers at least, so none of these is left at the end.
        shape = (len(trigger), nearest)
        start = jnp.full(shape, -jnp.inf), jnp.zeros(shape)
        d, t = fold_tiles(add_tile, start, [all_rows(offer)], tile)
        return jnp.maximum((d - t) ** 2 - margin, 0.0).mean(axis=1)

    return sharding.map_rows(row_losses, [trigger, single, offer])
