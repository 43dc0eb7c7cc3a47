"""Shardings of arrays: the only file that names a mesh axis.

Two axes. `data` splits the rows of a batch; `fsdp` splits them too and, with them, the large
parameters. Everything is `jit` over this mesh: XLA writes the collectives.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

_AXES = ("data", "fsdp")
_MIN_SHARDED = 2**16  # elements; gathering anything smaller costs more than keeping it everywhere


def device_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices as `("data", "fsdp")`, `fsdp` of them side by side on the second axis.

    Args:
        fsdp: how many parts a large parameter is cut into.
        devices: to use in place of all.

    Raises:
        ValueError: the number of devices is no multiple of `fsdp`.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if count % fsdp:
        raise ValueError(f"mesh.fsdp={fsdp} does not divide the {count} devices")
    shape = (count // fsdp, fsdp)

    # Explicit axes, the default, would turn every sharding hint into an assertion.
    kinds = (AxisType.Auto,) * len(_AXES)
    # Each TPU slice, and each host with GPUs, is one; JAX orders the devices within one alone.
    slices = {getattr(device, "slice_index", 0) for device in devices}
    # It cannot where `fsdp` is no product of the sides of a TPU's torus.
    with contextlib.suppress(NotImplementedError):
        if len(slices) == 1:
            mesh = jax.make_mesh(shape, _AXES, axis_types=kinds, devices=devices)
            owners = [d.process_index for d in mesh.devices.flat]
            if owners == sorted(owners):
                return mesh

    # A process reads a run of consecutive rows, so its devices must be neighbours.
    devices = sorted(devices, key=lambda d: (d.process_index, d.id))
    return Mesh(np.array(devices).reshape(shape), _AXES, axis_types=kinds)


def replicated_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of arrays that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def row_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its rows split over all devices."""
    return NamedSharding(mesh, PartitionSpec(_AXES))


def tree_bytes_per_device(tree: Any, *, devices: int, fsdp: int) -> int:
    """Bytes that each device holds of a tree that lies by `tree_shardings`.

    Args:
        tree: of anything with a `.shape` and a `.dtype`.
        devices: their number; none need be here.
        fsdp: see `device_mesh`.
    """
    mesh = AbstractMesh((devices // fsdp, fsdp), _AXES)
    return sum(
        math.prod(array_sharding(mesh, leaf.shape).shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def array_sharding(mesh: Mesh | AbstractMesh, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of an array: by its longest dimension that `fsdp` divides, if it is large.

    Args:
        mesh: of `device_mesh`.
        shape: of a parameter, or of the optimizer's state for it.
    """
    # The longest dimension leaves the most for each part.
    fsdp = mesh.shape["fsdp"]
    fits = [d for d in range(len(shape)) if shape[d] % fsdp == 0]
    if fsdp == 1 or not fits or int(np.prod(shape)) < _MIN_SHARDED:
        return replicated_sharding(mesh)
    longest = max(fits, key=lambda d: shape[d])
    return NamedSharding(mesh, PartitionSpec(*(None,) * longest, "fsdp"))


def tree_shardings(mesh: Mesh, shapes: Any) -> Any:
    """The `array_sharding` of every leaf: what `jit(init, out_shardings=...)` takes.

    Args:
        mesh: of `device_mesh`.
        shapes: tree of anything with a `.shape`, e.g. from `jax.eval_shape`.
    """
    return jax.tree.map(lambda leaf: array_sharding(mesh, leaf.shape), shapes)


def sharded_shapes(shapes: Any, shardings: Any) -> Any:
    """Shapes with shardings in them, `ShapeDtypeStruct`s: the targets of a restore."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def global_batch(mesh: Mesh, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The global batch, of which this process places its rows on its devices.

    Args:
        mesh: of `device_mesh`.
        batch: arrays `[B/P ...]` of P processes, possibly nested; process p has the p-th part.

    Returns:
        The same tree of global arrays `[B ...]`.
    """
    sharding = row_sharding(mesh)
    return jax.tree.map(
        lambda local: jax.make_array_from_process_local_data(sharding, local), dict(batch)
    )


# A device's rows -> the rows of all devices.
Gather: TypeAlias = Callable[[jax.Array], jax.Array]


def mesh_context(mesh: Mesh) -> AbstractContextManager[Any]:
    """A context in which code that is traced knows the mesh, as `map_rows` needs to."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def rows_per_device(count: int) -> int:
    """The number of rows of each device, of `count` in a batch; all where no mesh is known.

    Raises:
        ValueError: the devices cannot have equally many.
    """
    mesh = jax.sharding.get_abstract_mesh()
    size = 1 if mesh.empty else mesh.size
    if count % size:
        raise ValueError(f"{count} rows cannot be split over {size} devices")
    return count // size


def map_rows(function: Callable[..., Any], rows: Sequence[Any], *shared: Any) -> Any:
    """Calls `function(all_rows, rows, *shared)` on every device with its rows, and joins them.

    `all_rows(x)` gives the rows of all devices: one exchange, and one in the backward pass,
    wherever inside it is used. The gradient of what is shared is exchanged once. Where no mesh is
    known, one device has all rows.

    Args:
        function: of rows `[B/N ...]`, to rows `[B/N ...]` or a tree of them.
        rows: arrays `[B ...]`, or trees of them, that are split.
        shared: arrays, or trees of them, that every device has whole.
    """
    # On one device, and in a test without a mesh, it is a plain call.
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(lambda x: x, rows, *shared)

    def device_rows(rows: Sequence[Any], *shared: Any) -> Any:
        return function(lambda x: jax.lax.all_gather(x, _AXES, tiled=True), rows, *shared)

    # Rows come in and go out split; what is shared comes whole.
    split, replicated = PartitionSpec(_AXES), PartitionSpec()
    specs = ([split] * len(rows), *[replicated] * len(shared))
    return jax.shard_map(device_rows, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)(
        list(rows), *shared
    )


def device_arrays(tree: Any, sharding: Sharding) -> Any:
    """Host arrays, equal on all processes, as new arrays that live in `sharding`.

    Args:
        tree: arrays of their global shapes, or what NumPy makes them of.
        sharding: of every leaf, e.g. of `replicated_sharding` or `row_sharding`.
    """

    def device_array(leaf: Any) -> jax.Array:
        local = np.asarray(leaf)
        return jax.make_array_from_callback(local.shape, sharding, lambda part: local[part])

    return jax.tree.map(device_array, tree)


def values_of_hosts(local: np.ndarray) -> np.ndarray:
    """A small array of each process, `[...]`, stacked as `[P ...]` on every process."""
    if jax.process_count() == 1:
        return np.asarray(local)[None]
    return np.asarray(multihost_utils.process_allgather(local))


def value_of_first_host(tree: Any) -> Any:
    """Process 0's tree of host arrays, on every process; the others pass arrays of those shapes."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.broadcast_one_to_all(tree)


def wait_for_hosts(name: str) -> None:
    """Waits until every process has come here with the same `name`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
