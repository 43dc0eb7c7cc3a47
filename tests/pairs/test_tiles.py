"""A batch in chunks is the batch: rows in their order, one gradient, on any mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from date_jax import sharding
from date_jax.pairs.tiles import map_chunks

WIDTH = 3


def network(shared: dict[str, Any], rows: dict[str, Any], chunk: Any) -> dict[str, Any]:
    number = jnp.zeros(()) if chunk is None else chunk.astype(jnp.float32)
    return {
        "y": jnp.tanh(rows["x"] @ shared["kernel"]) * rows["weight"][:, None],
        "norm": (rows["x"] ** 2).sum(axis=1),
        "chunk": jnp.full(len(rows["weight"]), number),
        "scale": jnp.exp(shared["log_scale"]),
    }


def parameters_and_rows(count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(count)
    shared = {
        "kernel": rng.standard_normal((WIDTH, WIDTH), np.float32),
        "log_scale": np.float32(0.7),
    }
    x, weight = rng.standard_normal((count, WIDTH), np.float32), rng.random(count, np.float32)
    return shared, {"x": x, "weight": weight}


@pytest.mark.parametrize(
    ("count", "devices", "at_once", "size"),
    [
        (12, 1, 0, 12),
        (12, 1, 4, 4),
        (12, 1, 5, 4),
        (12, 1, 99, 12),
        (7, 1, 3, 1),
        (1, 1, 4, 1),
        (48, 8, 2, 2),
        (48, 8, 4, 3),
    ],
)
def test_values_and_gradients_of_a_batch_in_chunks_are_those_of_the_whole(
    count: int, devices: int, at_once: int, size: int
) -> None:
    shared, rows = parameters_and_rows(count)
    mesh = sharding.device_mesh(2 if devices > 1 else 1, jax.devices()[:devices])

    def loss(shared: Any, rows: Any, at_once: int) -> tuple[Any, Any]:
        with sharding.mesh_context(mesh):
            outputs = map_chunks(network, shared, rows, at_once=at_once)
        # Over all pairs, as the contrastive losses are.
        value = (
            outputs["scale"] * jnp.sin(outputs["y"] @ outputs["y"].T).mean()
            + outputs["norm"].mean()
        )
        return value, outputs

    def value_and_gradient(at_once: int) -> Any:
        grad = jax.value_and_grad(lambda p, r: loss(p, r, at_once), (0, 1), has_aux=True)
        return jax.jit(grad)(shared, sharding.global_batch(mesh, rows))

    (value, outputs), gradient = value_and_gradient(at_once)
    (expected, its_outputs), its_gradient = value_and_gradient(0)
    numbers = np.asarray(outputs.pop("chunk")).astype(int)
    assert numbers.tolist() == [n // size for n in range(count)]
    assert not its_outputs.pop("chunk").any()
    same = lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6)  # noqa: E731
    jax.tree.map(same, (value, outputs, gradient), (expected, its_outputs, its_gradient))


def test_the_gradient_is_exchanged_once_and_not_in_the_loop() -> None:
    shared, rows = parameters_and_rows(64)
    mesh = sharding.device_mesh()

    def loss(shared: Any, rows: Any) -> Any:
        with sharding.mesh_context(mesh):
            return map_chunks(network, shared, rows, at_once=2)["y"].mean()

    program = jax.jit(jax.grad(loss)).lower(shared, sharding.global_batch(mesh, rows)).compile()
    computations = program.as_text().split("\n\n")
    with_exchange = [c for c in computations if " all-reduce(" in c or " all-reduce-start(" in c]
    assert [c.lstrip().startswith("ENTRY") for c in with_exchange] == [True]
    assert " while(" in program.as_text()


def test_rows_that_the_devices_cannot_share_are_refused() -> None:
    shared, rows = parameters_and_rows(12)
    with (
        sharding.mesh_context(sharding.device_mesh()),
        pytest.raises(ValueError, match="12 rows cannot be split over 8 devices"),
    ):
        map_chunks(network, shared, jax.tree.map(jnp.asarray, rows), at_once=1)
