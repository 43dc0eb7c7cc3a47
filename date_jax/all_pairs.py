"""Counting over all pairs of two large sets, in tiles spread over all devices.

474k sources by 101k targets would be a matrix of 191 GB. Only the counts are ever kept: each device
holds its share of the targets, and the sources come by block after block. What has been counted can
be saved after each block, and is then not counted again.
"""

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from date_jax import sharding

TILE = 1024  # rows of either set that are compared at a time, on a device
BLOCK = 64  # tiles of the source that lie on the devices at a time


def counts(
    source: Sequence[Float[np.ndarray, "S _"]],
    target: Sequence[Float[np.ndarray, "N _"]],
    theta: float,
    *,
    mesh: jax.sharding.Mesh,
    tile: int = TILE,
    block: int = BLOCK,
    after_block: Callable[[int, int], None] | None = None,
    saved: Path | None = None,
) -> Integer[np.ndarray, " N"]:
    """For every target row the number of source rows whose every product with it exceeds θ.

    `count[t] = #{ s : min_k source[k][s] · target[k][t] > θ }`, products in full float32.

    Args:
        source: one matrix of features for each k, rows alike; on every process the whole.
        target: the same for the targets.
        theta: the limit; a product equal to it does not count.
        mesh: of `sharding.device_mesh`.
        tile: no array of pairs larger than `tile x tile` is made on a device.
        block: tiles of the source that a device holds beside its share of the targets.
        after_block: told how many of how many source rows are done, on every process; what it
            raises ends the counting.
        saved: a file that holds what is counted so far. A call with the same arguments goes on from
            there. Process 0 reads and writes it; the caller deletes it.
    """
    source_rows, target_rows = len(source[0]), len(target[0])
    tile_of_all = min(tile, -(-target_rows // mesh.size)) * mesh.size
    spread = [sharding.placed(_tiles(part, tile_of_all), sharding.columns(mesh)) for part in target]
    # jit finds the program of an earlier call again: the function is the same.
    counted = jax.jit(tiled_counts, out_shardings=sharding.replicated(mesh))
    key = _key(source, target, theta) if saved and jax.process_index() == 0 else ""
    done, total = _begun(saved, key, target_rows)
    tile = min(tile, source_rows)
    rows = min(block, -(-source_rows // tile)) * tile
    for end, part in _blocks(mesh, source, done, rows, tile):
        found = counted(part.features, part.is_source, spread, np.float32(theta))
        total = total + np.asarray(found).reshape(-1)[:target_rows]
        if saved and jax.process_index() == 0:
            _save(saved, key, end, total)
        if after_block is not None:
            after_block(end, source_rows)
    return total


class _Block(NamedTuple):
    """Tiles of the source `[T t D]`, and which of their rows are not only filled up."""

    features: list[Array]
    is_source: Array


def _blocks(
    mesh: jax.sharding.Mesh, source: Sequence[np.ndarray], start: int, rows: int, tile: int
) -> Iterator[tuple[int, _Block]]:
    """The source from `start` on, each block with the row behind its last one.

    A last block that is not full is filled up, or it would be compiled for itself. The next block
    is on its way to the devices while one is compared.
    """

    def placed(at: int) -> _Block:
        real = np.ones(min(rows, len(source[0]) - at), bool)
        parts = [_tiles(x[at : at + rows], tile, rows) for x in source]
        return _Block(*sharding.everywhere(mesh, (parts, _tiles(real, tile, rows))))

    starts = range(start, len(source[0]), rows)
    coming = placed(start) if starts else None
    for at in starts:
        here, coming = coming, placed(at + rows) if at + rows in starts else None
        assert here is not None
        yield min(at + rows, len(source[0])), here


def _tiles(rows: np.ndarray, tile: int, size: int = 0) -> np.ndarray:
    """`[N ...]` as `[tiles tile ...]`, filled up with zeros, to `size` rows at least."""
    missing = max(-(-size // tile) * tile - len(rows), -len(rows) % tile)
    filled = np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))
    return filled.reshape(-1, tile, *rows.shape[1:])


def tiled_counts(
    source: list[Float[Array, "S s _"]],
    is_source: Bool[Array, "S s"],
    target: list[Float[Array, "T t _"]],
    theta: Float[Array, ""],
) -> Integer[Array, "T t"]:
    """Counts of every target tile, one source tile after the other: the program of `counts`."""
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


def _key(source: Sequence[np.ndarray], target: Sequence[np.ndarray], theta: float) -> str:
    """Of everything that a count depends on."""
    digest = hashlib.sha256(np.float32(theta).tobytes())
    for part in (*source, *target):
        digest.update(repr((part.shape, part.dtype.str)).encode())
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _begun(saved: Path | None, key: str, targets: int) -> tuple[int, Integer[np.ndarray, " N"]]:
    """Source rows that are done, and the counts so far; the same on every process."""
    done, total = np.array(0), np.zeros(targets, np.int32)
    if saved is None:
        return 0, total
    # A file that is not there, cut short, or of other features: everything is counted.
    wrong = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    if jax.process_index() == 0:
        with contextlib.suppress(*wrong), saved.open("rb") as file:
            members = np.load(file, allow_pickle=False)
            if str(members["key"]) == key:
                done, total = members["done"], members["total"]
    done, total = sharding.of_first_host((done, total))
    return int(done), total


def _save(saved: Path, key: str, done: int, total: np.ndarray) -> None:
    part = saved.with_name(f"{saved.name}.part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, key=np.array(key), done=np.array(done), total=total)
    os.replace(part, saved)
