"""Large batches in little memory: sums over all columns in tiles, the network's rows in chunks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from date_jax import sharding

TILE = 1024  # columns at a time; fewer are one tile


def folded(added: Callable[..., Any], start: Any, columns: list[Array], tile: int) -> Any:
    """`carry = added(carry, real, *tiles)` over all tiles of `columns`, from `start` on.

    The backward pass computes each tile again instead of keeping what all of them need.

    Args:
        added: `real [t]` is False where a tile is only filled up.
        start: the first carry.
        columns: arrays `[N ...]`, cut alike.
        tile: t.
    """
    count = len(columns[0])
    real = jnp.ones(count, bool)
    if count <= tile:
        return added(start, real, *columns)
    missing = -count % tile

    def cut(x: Array) -> Array:
        filled = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        return filled.reshape(-1, tile, *x.shape[1:])

    step = jax.checkpoint(added)
    tiles = [cut(x) for x in (real, *columns)]
    return jax.lax.scan(lambda carry, part: (step(carry, *part), None), start, tiles)[0]


def in_chunks(
    function: Callable[[dict[str, Array], Array | None], dict[str, Array]],
    rows: dict[str, Array],
    at_once: int,
) -> dict[str, Array]:
    """`function(rows, chunk)` for one part of a batch after the other, joined as if it were one.

    Only one chunk's activations live at a time: the backward pass computes them again, from the
    gradient of the joined outputs. This is gradient caching (2101.06983): a loss over the whole
    batch costs the memory of its outputs and of one chunk. On a CPU a chunk that stays in its cache
    is faster, too.

    Args:
        function: of arrays `[b ...]` and the chunk's number, None if there is but one, to arrays of
            as many rows, or scalars that are the same for all chunks.
        rows: arrays `[B ...]`.
        at_once: rows of each device in a chunk; where that does not divide what a device has, the
            next smaller number that does. 0 for all.
    """
    own = sharding.rows_of_a_device(len(next(iter(rows.values()))))
    size = next((n for n in range(min(at_once, own), 0, -1) if own % n == 0), own)
    chunks = own // size
    if chunks == 1:
        return function(rows, None)

    def split(x: Array) -> Array:  # each chunk has rows of every device
        return jnp.swapaxes(x.reshape(-1, chunks, *x.shape[1:]), 0, 1)

    def joined(x: Array) -> Array:
        return x.mean() if x.ndim == 1 else jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])

    one = jax.checkpoint(lambda given: function(*given))
    outputs = jax.lax.map(one, (jax.tree.map(split, rows), jnp.arange(chunks)))
    return jax.tree.map(joined, outputs)
