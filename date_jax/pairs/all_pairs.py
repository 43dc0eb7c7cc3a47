"""Walks over all pairs of two large sets, in tiles spread over all devices, and counts near ones.

474k sources by 101k targets would be a matrix of 191 GB, which nobody needs whole. Only a result
for each target is ever made: each device holds its share of the targets, and the sources come by
block after block.
"""

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from date_jax import sharding
from date_jax.pairs.vectors import dot_products

TILE = 1024  # rows of either set that are compared at a time, on a device
BLOCK = 16  # tiles of the source that lie on the devices at a time

Rows: TypeAlias = Mapping[str, Any]  # arrays [N ...] by name, rows alike


@runtime_checkable
class Visitor(Protocol):
    """A fold over all pairs. Equal visitors share a compiled program: make it hashable.

    Example: the largest product of each target with any source.

        class Largest(NamedTuple):
            def initial(self, target):
                return jnp.full(len(target["row"]), -jnp.inf)

            def add(self, result, source, target):
                product = dot_products(target["row"], source["row"])
                product = jnp.where(is_real(source), product, -jnp.inf)
                return jnp.maximum(result, product.max(axis=1))

    `visit_pairs(Largest(), {"row": sources}, {"row": targets}, mesh=mesh)` then is an array `[N]`.
    """

    def initial(self, target: Rows) -> Any:
        """The result of targets `[t ...]` before the first pair: a tree of `[t ...]`."""

    def add(self, result: Any, source: Rows, target: Rows) -> Any:
        """The result of a tile of targets after its pairs with a tile of sources.

        `source["number"] [s]` counts through all sources, with -1 where a tile is filled up.
        """


def visit_pairs(
    visitor: Visitor,
    source: Mapping[str, np.ndarray],
    target: Mapping[str, np.ndarray],
    *,
    mesh: jax.sharding.Mesh,
    tile: int = TILE,
    source_tile: int | None = None,
    block: int = BLOCK,
    first: int = 0,
    result: Any = None,
    after_block: Callable[[int, Callable[[], Any]], None] | None = None,
) -> Any:
    """Shows a visitor all pairs; returns its result for every target: host arrays `[N ...]`.

    Args:
        visitor: see there.
        source, target: host arrays by name, on every process the whole.
        mesh: of `sharding.device_mesh`; the targets are spread over it.
        tile: rows of either set that a device compares at a time.
        source_tile: of the sources, where that is to be another number.
        block: tiles of the source that a device holds.
        first: source row to begin with.
        result: of the sources before that one; None at the beginning.
        after_block: called after each block with the number of source rows that are done, and a
            function that fetches the result so far.
    """
    # How both sets are cut depends on their sizes and on the number of devices.
    source_count, target_count = (len(next(iter(rows.values()))) for rows in (source, target))
    cut = tiling(
        source_count,
        target_count,
        mesh.size,
        tile=tile,
        source_tile=source_tile or tile,
        block=block,
    )

    # The targets and their results stay on the devices, each with its share.
    def spread(x: np.ndarray) -> Array:
        return sharding.device_arrays(_padded_rows(x, cut.targets), sharding.row_sharding(mesh))

    targets = {name: spread(x) for name, x in target.items()}
    if result is None:
        state = initial_result(targets, mesh=mesh, visitor=visitor)
    else:
        state = jax.tree.map(spread, result)

    def fetch() -> Any:
        return jax.tree.map(lambda x: np.asarray(x)[:target_count], _replica(state, mesh=mesh))

    # The sources come by, a block at a time, and every device compares its targets with all.
    for end, sources in _blocks(mesh, source, source_count, first, cut):
        # The block was on its way while the one before was compared; a third must not be.
        jax.block_until_ready(state)
        state = add_block(state, sources, targets, mesh=mesh, visitor=visitor, tile=cut.target_tile)
        if after_block is not None:
            after_block(end, fetch)
    return fetch()


class DeviceRows(NamedTuple):
    """A set of rows that stays on the devices, for many visits; of `device_rows`.

    Attributes:
        blocks: arrays `[tiles rows ...]` by name, each block on every device.
        size: rows that are real.
    """

    blocks: tuple[Mapping[str, Array], ...]
    size: int


def device_rows(
    source: Mapping[str, np.ndarray], *, mesh: jax.sharding.Mesh, source_tile: int, block: int
) -> DeviceRows:
    """The sources of `visit_pairs`, placed on the devices once; its arguments."""
    count = len(next(iter(source.values())))
    cut = tiling(count, 1, mesh.size, source_tile=source_tile, block=block)
    return DeviceRows(tuple(rows for _, rows in _blocks(mesh, source, count, 0, cut)), count)


def visit_device_rows(
    visitor: Visitor,
    source: DeviceRows,
    target: Mapping[str, np.ndarray],
    *,
    mesh: jax.sharding.Mesh,
    tile: int = TILE,
    is_shown: Bool[np.ndarray, " S"] | None = None,
) -> Any:
    """As `visit_pairs`, with sources that lie on the devices.

    Args:
        visitor, target, mesh, tile: as there.
        source: of `device_rows`.
        is_shown: sources that the visitor sees; it takes the others for rows that fill a tile up.
    """
    target_count = len(next(iter(target.values())))
    cut = tiling(source.size, target_count, mesh.size, tile=tile)
    spread = sharding.row_sharding(mesh)
    targets = {
        name: sharding.device_arrays(_padded_rows(x, cut.targets), spread)
        for name, x in target.items()
    }
    state, first = initial_result(targets, mesh=mesh, visitor=visitor), 0
    for rows in source.blocks:
        shape = rows["number"].shape
        if is_shown is not None:
            numbers = np.full(shape[0] * shape[1], -1, np.int32)
            shown = np.flatnonzero(is_shown[first : first + len(numbers)])
            numbers[shown] = first + shown
            first += len(numbers)
            replicated = sharding.replicated_sharding(mesh)
            rows = {**rows, "number": sharding.device_arrays(numbers.reshape(shape), replicated)}
        state = add_block(state, rows, targets, mesh=mesh, visitor=visitor, tile=cut.target_tile)
    return jax.tree.map(lambda x: np.asarray(x)[:target_count], _replica(state, mesh=mesh))


class Tiling(NamedTuple):
    """The sizes of two sets' tiles; they waste few rows and need few compiled programs.

    Attributes:
        targets: rows of the target with those that fill it up, on all devices together.
        target_tile: rows of a tile of it.
        source_tile: rows of a tile of the source.
        tiles: tiles of the source in a block.
    """

    targets: int
    target_tile: int
    source_tile: int
    tiles: int


def tiling(
    source_count: int,
    target_count: int,
    devices: int,
    *,
    tile: int = TILE,
    source_tile: int = TILE,
    block: int = BLOCK,
) -> Tiling:
    """The cuts that `visit_pairs` makes, by its arguments."""
    # Every device has equally many targets, in whole tiles; those too many are zeros.
    per_device = -(-target_count // devices)
    target_tile = _tile_size(per_device, tile)
    source_tile = _tile_size(source_count, source_tile)
    tiles = min(block, power_of_two(-(-source_count // source_tile)))
    targets = -(-per_device // target_tile) * target_tile * devices
    return Tiling(targets, target_tile, source_tile, tiles)


@partial(jax.jit, static_argnames=("mesh", "visitor"))
def initial_result(target: Rows, *, mesh: jax.sharding.Mesh, visitor: Visitor) -> Any:
    """The result of all targets before the first pair."""
    return jax.lax.with_sharding_constraint(visitor.initial(target), sharding.row_sharding(mesh))


@partial(jax.jit, static_argnames=("mesh", "visitor", "tile"), donate_argnums=0)
def add_block(
    result: Any, source: Rows, target: Rows, *, mesh: jax.sharding.Mesh, visitor: Visitor, tile: int
) -> Any:
    """The result of all targets after a block of sources `[S s ...]`."""

    def device_result(_: sharding.Gather, device_rows: Sequence[Any], source: Rows) -> Any:
        def tile_result(tiles: tuple[Any, Rows]) -> Any:
            result, target = tiles
            return jax.lax.scan(
                lambda result, source: (visitor.add(result, source, target), None), result, source
            )[0]

        # One tile of targets after the other meets all sources of the block.
        tiles = tuple(_in_tiles(rows, tile) for rows in device_rows)
        return _without_tiles(jax.lax.map(tile_result, tiles))

    with sharding.mesh_context(mesh):
        return sharding.map_rows(device_result, [result, target], source)


@partial(jax.jit, static_argnames="mesh")
def _replica(result: Any, *, mesh: jax.sharding.Mesh) -> Any:
    """A copy of `result` that is whole on every device, so that every process can fetch it."""
    return jax.lax.with_sharding_constraint(result, sharding.replicated_sharding(mesh))


def _tile_size(count: int, most: int) -> int:
    """Rows of a tile that wastes little; sets of about the same small size share a program."""
    if count <= most:
        return min(most, power_of_two(count))
    # As many tiles as `most` asks for, made equal, in steps of 128 rows.
    even = -(-count // -(-count // most))
    return min(most, -(-even // 128) * 128)


def power_of_two(size: int) -> int:
    """The smallest power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()


def _in_tiles(tree: Any, tile: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, tile, *x.shape[1:]), tree)


def _without_tiles(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def _blocks(
    mesh: jax.sharding.Mesh, source: Mapping[str, np.ndarray], count: int, first: int, cut: Tiling
) -> Iterator[tuple[int, dict[str, Array]]]:
    """The sources from `first` on, each block with the row behind its last one.

    A last block that is not full is filled up, or it would be compiled for itself.
    """
    size = cut.tiles * cut.source_tile
    for start in range(first, count, size):
        end = min(start + size, count)
        number = np.full(size, -1, np.int32)
        number[: end - start] = np.arange(start, end)
        block = {name: _padded_rows(x[start:end], size) for name, x in source.items()}
        tiles = _in_tiles({**block, "number": number}, cut.source_tile)
        yield end, sharding.device_arrays(tiles, sharding.replicated_sharding(mesh))


def _padded_rows(rows: np.ndarray, size: int) -> np.ndarray:
    return np.pad(rows, [(0, size - len(rows))] + [(0, 0)] * (rows.ndim - 1))


class Count(NamedTuple):
    """Visitor that counts the sources whose every product with a target is above its `theta`.

    Attributes:
        parts: names of the matrices of features.
    """

    parts: tuple[str, ...]

    def initial(self, target: Rows) -> Integer[Array, " t"]:
        return jnp.zeros(len(target["theta"]), jnp.int32)

    def add(self, result: Array, source: Rows, target: Rows) -> Integer[Array, " t"]:
        products = [dot_products(target[name], source[name]) for name in self.parts]
        is_above = (jnp.stack(products).min(axis=0) > target["theta"][:, None]) & is_real(source)
        return result + is_above.sum(axis=1, dtype=jnp.int32)


def is_real(source: Rows) -> Bool[Array, "1 s"]:
    """False for sources that only fill a tile up."""
    return (source["number"] >= 0)[None]


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
    """The number, for each target row, of source rows whose every product with it exceeds θ.

    `count[t] = #{ s : min_k source[k][s] · target[k][t] > θ }`, products in full float32.

    Args:
        source: one matrix of features for each k, rows alike; on every process the whole.
        target: the same for the targets.
        theta: the limit; a product equal to it does not count.
        mesh: of `sharding.device_mesh`.
        tile: no array of pairs larger than `tile x tile` is made on a device.
        block: tiles of the source that a device holds together with its share of the targets.
        after_block: called on every process with how many of how many source rows are done; what
            it raises ends the counting.
        saved: a file that holds the counts so far. A call with the same arguments goes on from
            there. Process 0 reads and writes it; the caller deletes it.
    """
    # The limit goes along with the targets, so another one needs no other program.
    names = tuple(f"part{number}" for number in range(len(source)))
    limits = np.full(len(target[0]), theta, np.float32)
    # A count that was interrupted goes on, where it was of the same sets.
    key = _key(source, target, theta) if saved and jax.process_index() == 0 else ""
    done, total = _saved_counts(saved, key, len(target[0]))

    def save_and_report(end: int, fetch: Callable[[], np.ndarray]) -> None:
        if saved:
            so_far = fetch()  # every process takes part
            if jax.process_index() == 0:
                _save(saved, key, end, so_far)
        if after_block is not None:
            after_block(end, len(source[0]))

    return visit_pairs(
        Count(names),
        dict(zip(names, source, strict=True)),
        dict(zip(names, target, strict=True)) | {"theta": limits},
        mesh=mesh,
        tile=tile,
        block=block,
        first=done,
        result=total if done else None,
        after_block=save_and_report,
    )


def _key(source: Sequence[np.ndarray], target: Sequence[np.ndarray], theta: float) -> str:
    """A digest of everything that a count depends on."""
    digest = hashlib.sha256(np.float32(theta).tobytes())
    for part in (*source, *target):
        digest.update(repr((part.shape, part.dtype.str)).encode())
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _saved_counts(
    saved: Path | None, key: str, targets: int
) -> tuple[int, Integer[np.ndarray, " N"]]:
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
    done, total = sharding.value_of_first_host((done, total))
    return int(done), total


def _save(saved: Path, key: str, done: int, total: np.ndarray) -> None:
    # Renamed when whole: a count that is killed while it saves leaves the file before.
    part = saved.with_name(f"{saved.name}.part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, key=np.array(key), done=np.array(done), total=total)
    os.replace(part, saved)
