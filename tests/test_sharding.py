import jax
import jax.numpy as jnp
import numpy as np
import pytest

from date_jax import sharding


def test_the_mesh_holds_all_devices_once() -> None:
    mesh = sharding.device_mesh(2)
    assert tuple(mesh.shape.values()) == (4, 2)
    assert {device.id for device in mesh.devices.flat} == {device.id for device in jax.devices()}


@pytest.mark.parametrize("fsdp", [1, 2])
def test_devices_of_several_slices_are_one_mesh_in_the_order_of_their_hosts(
    fsdp: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As hosts with GPUs are to JAX, and pods of TPUs: it refuses to order them by itself."""
    devices = jax.devices()
    slices = property(lambda device: device.id // 4)
    monkeypatch.setattr(type(devices[0]), "slice_index", slices, raising=False)
    with pytest.raises(ValueError, match="multi-slice"):
        jax.make_mesh((8,), ("data",))
    mesh = sharding.device_mesh(fsdp, devices[::-1])
    assert mesh.shape == {"data": 8 // fsdp, "fsdp": fsdp}
    assert [*mesh.devices.flat] == devices


def test_devices_that_jax_cannot_order_are_a_mesh_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def torus(*_: object, **__: object) -> None:
        raise NotImplementedError("Failed to find assignment for logical_axis_index")

    monkeypatch.setattr(jax, "make_mesh", torus)
    mesh = sharding.device_mesh(4)
    assert mesh.shape == {"data": 2, "fsdp": 4}
    assert [*mesh.devices.flat] == jax.devices()


def test_a_mesh_that_does_not_divide_the_devices_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide the 8 devices"):
        sharding.device_mesh(3)


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ((512, 1024), (512, 512)),  # the longest dimension is split
        ((1023, 512), (1023, 256)),  # the longest that can be
        ((1023, 1025), (1023, 1025)),  # none can be
        ((64, 64), (64, 64)),  # too small to be worth it
        ((), ()),
    ],
)
def test_large_arrays_are_split_along_their_longest_dimension(
    shape: tuple[int, ...], part: tuple[int, ...]
) -> None:
    assert sharding.array_sharding(sharding.device_mesh(2), shape).shard_shape(shape) == part


def test_without_fsdp_every_parameter_is_whole_everywhere() -> None:
    sharded = sharding.array_sharding(sharding.device_mesh(1), (1024, 1024))
    assert sharded.is_fully_replicated


def test_arrays_are_born_in_their_shards() -> None:
    mesh = sharding.device_mesh(2)

    def init() -> dict[str, jax.Array]:
        return {"large": jnp.ones((512, 256)), "small": jnp.ones(3)}

    shapes = jax.eval_shape(init)
    arrays = jax.jit(init, out_shardings=sharding.tree_shardings(mesh, shapes))()
    assert arrays["large"].addressable_shards[0].data.shape == (256, 256)
    targets = sharding.sharded_shapes(shapes, sharding.tree_shardings(mesh, shapes))
    assert targets["large"].sharding == arrays["large"].sharding


def test_row_i_of_the_global_batch_is_row_i_of_the_local_one() -> None:
    mesh = sharding.device_mesh(2)
    local = {"source": {"index": np.arange(16, dtype=np.int32)}}
    placed = sharding.global_batch(mesh, local)["source"]["index"]
    assert np.array_equal(placed, local["source"]["index"])
    assert placed.addressable_shards[0].data.shape == (2,)
    devices = [shard.device for shard in placed.addressable_shards]
    assert devices == list(mesh.devices.flat)


def test_the_same_everywhere_is_on_every_device() -> None:
    table = sharding.device_arrays(
        {"weight": np.ones(5, np.float32)}, sharding.replicated_sharding(sharding.device_mesh(2))
    )
    assert table["weight"].is_fully_replicated
    assert len(table["weight"].addressable_shards) == 8
