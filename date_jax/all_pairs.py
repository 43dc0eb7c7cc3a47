"""Counting over all pairs of two large sets, in tiles spread over all devices.

474k sources by 101k targets would be a matrix of 191 GB. Only the counts are ever kept: each device
holds its share of the targets, and for every tile of them runs through the sources tile by tile.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from date_jax import sharding


def counts(
    source: Sequence[Float[np.ndarray, "S _"]],
    target: Sequence[Float[np.ndarray, "N _"]],
    theta: float,
    *,
    mesh: jax.sharding.Mesh,
    tile: int = 1024,
) -> Integer[np.ndarray, " N"]:
    """For every target row the number of source rows whose every product with it exceeds θ.

    `count[t] = #{ s : min_k source[k][s] · target[k][t] > θ }`, products in full float32.

    Args:
        source: one matrix of features for each k, rows alike.
        target: the same for the targets, on every process the whole.
        theta: the limit; a product equal to it does not count.
        mesh: of `sharding.device_mesh`.
        tile: no array of pairs larger than `tile x tile` is made on a device, which holds the
            whole source and its share of the targets.
    """
    source_rows, target_rows = len(source[0]), len(target[0])
    source_tile = min(tile, source_rows)
    target_tile = min(tile, -(-target_rows // mesh.size)) * mesh.size
    is_source = _tiles(np.ones(source_rows, bool), source_tile)
    whole = sharding.everywhere(mesh, ([_tiles(part, source_tile) for part in source], is_source))
    rows = sharding.columns(mesh)  # of each tile
    spread = [sharding.placed(_tiles(part, target_tile), rows) for part in target]
    # jit finds the program of an earlier call again: the function is the same.
    counted = jax.jit(_tiled_counts, out_shardings=sharding.replicated(mesh))
    return np.asarray(counted(*whole, spread, np.float32(theta))).reshape(-1)[:target_rows]


def _tiles(rows: np.ndarray, tile: int) -> np.ndarray:
    """`[N ...]` as `[tiles tile ...]`, filled up with zeros."""
    missing = -len(rows) % tile
    filled = np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))
    return filled.reshape(-1, tile, *rows.shape[1:])


def _tiled_counts(
    source: list[Float[Array, "S s _"]],
    is_source: Bool[Array, "S s"],
    target: list[Float[Array, "T t _"]],
    theta: Float[Array, ""],
) -> Integer[Array, "T t"]:
    """Counts of every target tile, one source tile after the other."""
    # On accelerators the default precision would round the cosines near θ.
    product = partial(jnp.einsum, "sd,td->st", precision="highest")

    def of_tile(target: list[Array]) -> Integer[Array, " t"]:
        def added(count: Array, tile: tuple[list[Array], Array]) -> tuple[Array, None]:
            source, is_source = tile
            products = [product(s, t) for s, t in zip(source, target, strict=True)]
            above = (jnp.stack(products).min(axis=0) > theta) & is_source[:, None]
            return count + above.sum(axis=0, dtype=jnp.int32), None

        none = jnp.zeros(len(target[0]), jnp.int32)
        return jax.lax.scan(added, none, (source, is_source))[0]

    return jax.lax.map(of_tile, target)
