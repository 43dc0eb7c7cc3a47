"""Large batches in little memory: sums over all columns in tiles, the network's rows in chunks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from date_jax import sharding

TILE = 1024  # columns at a time; fewer are one tile
_KEPT = "kept"  # name of the arrays of a chunk that are not computed again


def fold_tiles(
    add_tile: Callable[..., Any], start: Any, columns: list[Array], tile_size: int
) -> Any:
    """Runs `carry = add_tile(carry, real, *tiles)` over all tiles of `columns`, from `start` on.

    The backward pass computes each tile again instead of keeping what all of them need.

    Args:
        add_tile: its `real [t]` is False where the last tile is only filled up.
        start: the first carry.
        columns: arrays `[N ...]`, cut alike.
        tile_size: t.
    """

    def add_tile_only(carry: Any, real: Array, *tiles: Array) -> tuple[Any, None]:
        return add_tile(carry, real, *tiles), None

    return scan_tiles(add_tile_only, start, columns, tile_size)[0]


def scan_tiles(
    add_tile: Callable[..., tuple[Any, Any]], start: Any, columns: list[Array], tile_size: int
) -> tuple[Any, Any]:
    """Folds tiles as `fold_tiles` does, and collects what `add_tile` says of a tile's columns.

    Args:
        add_tile: to `(carry, of_columns)`, the latter arrays `[t ...]`.
        start, columns, tile_size: see `fold_tiles`.

    Returns:
        The last carry, and `of_columns` of all tiles joined, `[N ...]`.
    """
    count = len(columns[0])
    real = jnp.ones(count, bool)
    if count <= tile_size:
        return add_tile(start, real, *columns)

    # The last tile is filled up with zeros, which are not real.
    missing = -count % tile_size

    def tiles_of(x: Array) -> Array:
        padded = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(-1, tile_size, *x.shape[1:])

    # The loop keeps the carry of each tile for the backward pass, and nothing made inside it.
    step = jax.checkpoint(add_tile, prevent_cse=False)  # a loop's body is not merged with another
    tiles = [tiles_of(x) for x in (real, *columns)]
    carry, of_columns = jax.lax.scan(lambda carry, tile: step(carry, *tile), start, tiles)
    return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], of_columns)


def kept(x: Array) -> Array:
    """The array `x`, which the backward pass of `map_chunks` finds kept where it needs it.

    So nothing that leads to it is computed again: for what no gradient passes through.
    """
    return checkpoint_name(x, _KEPT)


def map_chunks(
    function: Callable[..., dict[str, Array]],
    shared: Any,
    rows: dict[str, Array],
    *,
    at_once: int,
) -> dict[str, Array]:
    """Calls `function(shared, rows, chunk)` for one part of a batch after the other, and joins.

    Each device goes through its own rows, and only one chunk's activations live at a time: the
    backward pass computes them again, but for what is `kept`, from the gradient of the joined
    outputs, and the gradient of `shared` is exchanged once, at the end. This is gradient caching
    (2101.06983): apart from its rows and outputs a batch of any size costs the memory of one chunk.
    On a CPU it is also the fastest where a chunk fits the cache.

    Args:
        function: to arrays of as many rows as it receives, or scalars, the same for all chunks.
            `chunk` is the chunk's number among those of all devices, None where there is but one.
        shared: arrays that all chunks need, such as parameters.
        rows: arrays `[B ...]`.
        at_once: rows of each device in a chunk; where that does not divide what a device has, the
            next smaller number that does. 0 for all.
    """
    # The largest chunk that divides a device's rows and is not above what was asked for.
    count = len(next(iter(rows.values())))
    per_device = sharding.rows_per_device(count)
    divisors = (n for n in range(min(at_once, per_device), 0, -1) if per_device % n == 0)
    chunk_size = next(divisors, per_device)
    if chunk_size == per_device:
        return function(shared, rows, None)

    # In the loop, only what is named as kept lives until the backward pass.
    keep = jax.checkpoint_policies.save_only_these_names(_KEPT)

    def device_outputs(
        _: sharding.Gather, device_rows: Any, shared: Any
    ) -> dict[str, dict[str, Array]]:
        rows, chunk_numbers = device_rows

        # A loop's body is not merged with another.
        @partial(jax.checkpoint, prevent_cse=False, policy=keep)
        def chunk_outputs(chunk: tuple[dict[str, Array], Array]) -> dict[str, Array]:
            return function(shared, *chunk)

        chunks = jax.tree.map(lambda x: x.reshape(-1, chunk_size, *x.shape[1:]), rows)
        outputs = jax.lax.map(chunk_outputs, (chunks, chunk_numbers))
        # Rows are joined as they were cut. A scalar becomes its mean, over devices below.
        joined = {k: x.reshape(-1, *x.shape[2:]) for k, x in outputs.items() if x.ndim > 1}
        scalars = {k: x.mean(keepdims=True) for k, x in outputs.items() if x.ndim == 1}
        return {"rows": joined, "scalars": scalars}

    chunk_numbers = jnp.arange(count // chunk_size)
    outputs = sharding.map_rows(device_outputs, [rows, chunk_numbers], shared)
    return outputs["rows"] | {name: x.mean() for name, x in outputs["scalars"].items()}
