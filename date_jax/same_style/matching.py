r"""The losses of same-style matching (arXiv 2302.05093) over the whole global batch, in tiles.

With cosines of unit vectors, B pairs of a trigger and an offer, after the official loss file:

    PPM(a)   s_ij = a_i · offer_j,    l_i = (1/B) Σ_j max(0, s_ij − s_ii + m·[i≠j])
    SD(t)    q_ij = t_i · trigger_j,  likewise
    LC(t)    D_ij = trigger_i · offer_j, T_ij = t_i · offer_j,
             J_i = the k largest D_ij of the batch,
             l_i = (1/k) Σ_{j∈J_i} max(0, (D_ij − T_ij)² − m)

Trigger and offer are encoded from picture and words; t from one of them alone, a from either or
both. Each device keeps its rows and runs through all columns tile by tile.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from date_jax import sharding
from date_jax.pairs.tiles import TILE, folded
from date_jax.sharding import Gather

NEAREST = 10  # k of LC


def hinge(
    rows: Float[Array, "B E"],
    columns: Float[Array, "B E"],
    *,
    margin: float,
    tile: int = TILE,
) -> Float[Array, " B"]:
    """PPM, with the offers as columns, or SD, with the triggers: row i belongs to column i.

    Args:
        rows, columns: unit vectors.
        margin: m, by which a row's own column is to be nearer than any other.
        tile: columns at a time.
    """

    def of_rows(all_rows: Gather, given: Sequence[Array]) -> Float[Array, " b"]:
        rows, columns, number = given
        own = (rows * columns).sum(axis=1, keepdims=True)

        def added(total: Array, real: Bool[Array, " t"], part: Array, which: Array) -> Array:
            other = number[:, None] != which[None]
            each = jnp.maximum(_cosines(rows, part) - own + margin, 0.0)
            return total + jnp.where(real[None] & other, each, 0.0).sum(axis=1)

        every, which = all_rows(columns), all_rows(number)
        return folded(added, jnp.zeros(len(rows)), [every, which], tile) / len(every)

    return sharding.on_own_rows(of_rows, [rows, columns, jnp.arange(len(rows))])


def locality(
    trigger: Float[Array, "B E"],
    single: Float[Array, "B E"],
    offer: Float[Array, "B E"],
    *,
    margin: float,
    nearest: int = NEAREST,
    tile: int = TILE,
) -> Float[Array, " B"]:
    """LC: to the offers around a trigger, its picture or its words alone are to be as near as it.

    Args:
        trigger, offer: from picture and words.
        single: t, from one of them; unit vectors all.
        margin: m, the squared difference that costs nothing.
        nearest: k, at most B.
        tile: columns at a time.
    """
    nearest = min(nearest, len(trigger))

    def of_rows(all_rows: Gather, given: Sequence[Array]) -> Float[Array, " b"]:
        trigger, single, offer = given

        def added(kept: Any, real: Bool[Array, " t"], part: Array) -> Any:
            joint = jnp.where(real[None], _cosines(trigger, part), -jnp.inf)
            both = [
                jnp.concatenate([old, new], axis=1)
                for old, new in zip(kept, (joint, _cosines(single, part)), strict=True)
            ]
            _, place = jax.lax.top_k(jax.lax.stop_gradient(both[0]), nearest)
            return tuple(jnp.take_along_axis(values, place, axis=1) for values in both)

        shape = (len(trigger), nearest)
        start = jnp.full(shape, -jnp.inf), jnp.zeros(shape)
        joint, alone = folded(added, start, [all_rows(offer)], tile)
        return jnp.maximum((joint - alone) ** 2 - margin, 0.0).mean(axis=1)

    return sharding.on_own_rows(of_rows, [trigger, single, offer])


def _cosines(rows: Float[Array, "B E"], columns: Float[Array, "t E"]) -> Float[Array, "B t"]:
    # An accelerator's default would round to bfloat16, of the size of a margin.
    return jnp.matmul(rows, columns.T, precision="highest")
