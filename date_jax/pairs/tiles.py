"""Large batches in little memory: sums over all columns in tiles, the network's rows in chunks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from date_jax import sharding

TILE = 1024  # columns at a time; fewer are one tile


def fold_tiles(added: Callable[..., Any], start: Any, columns: list[Array], tile: int) -> Any:
    """`carry = added(carry, real, *tiles)` over all tiles of `columns`, from `start` on.

    The backward pass computes each tile again instead of keeping what all of them need.

    Args:
        added: `real [t]` is False where a tile is only filled up.
        start: the first carry.
        columns: arrays `[N ...]`, cut alike.
        tile: t.
    """

    def and_nothing(carry: Any, real: Array, *parts: Array) -> tuple[Any, None]:
        return added(carry, real, *parts), None

    return scan_tiles(and_nothing, start, columns, tile)[0]


def scan_tiles(
    added: Callable[..., tuple[Any, Any]], start: Any, columns: list[Array], tile: int
) -> tuple[Any, Any]:
    """As `fold_tiles`, where `added` gives `(carry, of_columns)`: also arrays `[t ...]` of the
    tile's columns, which come back joined, `[N ...]`."""
    count = len(columns[0])
    real = jnp.ones(count, bool)
    if count <= tile:
        return added(start, real, *columns)
    missing = -count % tile

    def cut(x: Array) -> Array:
        filled = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        return filled.reshape(-1, tile, *x.shape[1:])

    step = jax.checkpoint(added, prevent_cse=False)  # a loop's body is not merged with another
    tiles = [cut(x) for x in (real, *columns)]
    carry, parts = jax.lax.scan(lambda carry, part: step(carry, *part), start, tiles)
    return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], parts)


def map_chunks(
    function: Callable[..., dict[str, Array]],
    shared: Any,
    rows: dict[str, Array],
    *,
    at_once: int,
) -> dict[str, Array]:
    """`function(shared, rows, chunk)` for one part of a batch after the other, joined.

    Each device goes through its own rows, and only one chunk's activations live at a time: the
    backward pass computes them again, from the gradient of the joined outputs, and the gradient of
    `shared` is exchanged once, at the end. This is gradient caching (2101.06983): beside its rows
    and outputs a batch of any size costs the memory of one chunk. On a CPU it is also the fastest
    where a chunk fits the cache.

    Args:
        function: to arrays of as many rows as it is given, or scalars, the same for all chunks.
            `chunk` is the chunk's number among those of all devices, None where there is but one.
        shared: arrays that all chunks need, such as parameters.
        rows: arrays `[B ...]`.
        at_once: rows of each device in a chunk; where that does not divide what a device has, the
            next smaller number that does. 0 for all.
    """
    count = len(next(iter(rows.values())))
    own = sharding.rows_per_device(count)
    size = next((n for n in range(min(at_once, own), 0, -1) if own % n == 0), own)
    if size == own:
        return function(shared, rows, None)

    def of_device(_: sharding.Gather, given: Any, shared: Any) -> dict[str, dict[str, Array]]:
        rows, numbers = given

        @partial(jax.checkpoint, prevent_cse=False)  # a loop's body is not merged with another
        def one(part: tuple[dict[str, Array], Array]) -> dict[str, Array]:
            return function(shared, *part)

        parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), rows)
        outputs = jax.lax.map(one, (parts, numbers))
        joined = {k: x.reshape(-1, *x.shape[2:]) for k, x in outputs.items() if x.ndim > 1}
        scalars = {k: x.mean(keepdims=True) for k, x in outputs.items() if x.ndim == 1}
        return {"rows": joined, "scalars": scalars}

    found = sharding.map_rows(of_device, [rows, jnp.arange(count // size)], shared)
    return found["rows"] | {name: x.mean() for name, x in found["scalars"].items()}
