"""The contrastive loss in tiles beside the whole matrix: memory and time as the batch grows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from date_jax import contrastive, sharding
from date_jax.benchmarks import measure

SIZES = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
WIDTH = 256
DENSE_BYTES = 4e9  # in one memory; what needs more is compiled, and not run


def run(mesh: jax.sharding.Mesh, *, rounds: int, most: int) -> dict[str, Any]:
    """A row for each batch size: temporary bytes of a device and seconds of value and gradient.

    Args:
        rounds: calls that count.
        most: the largest batch.
    """
    return {"width": WIDTH, "rows": [row(mesh, b, rounds) for b in SIZES if b <= most]}


def row(mesh: jax.sharding.Mesh, batch: int, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {"batch": batch}
    rng = np.random.default_rng(0)

    def unit_rows() -> np.ndarray:
        x = rng.standard_normal((batch, WIDTH), np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    identity = rng.integers(0, 8 * batch, (batch, 2)).astype(np.uint32)
    local = {"query": unit_rows(), "image": unit_rows(), "identity": identity}
    spread = sharding.global_batch(mesh, local)
    given = [spread[name] for name in ("query", "image", "identity")]
    for name, tile in (("tiled", contrastive.TILE), ("dense", batch)):

        def loss(query: Any, image: Any, identity: Any, tile: int = tile) -> Any:
            with sharding.traced_on(mesh):
                scale = jnp.float32(14.3)
                return contrastive.softmax(query, image, identity, scale=scale, tile=tile).mean()

        program = jax.jit(jax.value_and_grad(loss, (0, 1)))
        compiled = program.lower(*given).compile()
        found[f"{name}_bytes"] = measure.bytes_per_device(compiled)["temporary"]
        sharing = mesh.size if jax.default_backend() == "cpu" else 1
        runs = name == "tiled" or found["dense_bytes"] * sharing < DENSE_BYTES
        call = lambda compiled=compiled: compiled(*given)  # noqa: E731
        found[f"{name}_seconds"] = (
            measure.seconds(call, rounds=rounds, warm_up=1).median if runs else None
        )
    return found
