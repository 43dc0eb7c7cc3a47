"""Losses that compare all rows of a batch, in tiles and whole: memory and time as it grows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from date_jax import sharding
from date_jax.benchmarks import measure
from date_jax.date import aligner
from date_jax.pairs import contrastive
from date_jax.pairs.tiles import TILE
from date_jax.pairs.vectors import host_unit_vectors

SIZES = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
WIDTH = 256
PATIENCE = 20.0  # seconds for the calls of one size; a larger one is called twice, and once counts
DENSE_BYTES = 4e9  # in one memory; what needs more is compiled, and not run
SCALE, BIAS, TEMPERATURE = 14.3, -10.0, 10.0  # with which training begins


def softmax(
    query: jax.Array, image: jax.Array, identity: jax.Array, tile: int, *, prior: float = 0.0
) -> jax.Array:
    """The contrastive loss of the image seeker where `image_seeker.loss` is softmax."""
    options: dict[str, Any] = {"prior_temperature": prior, "tile": tile}
    return contrastive.softmax(query, image, identity, scale=jnp.float32(SCALE), **options).mean()


def sigmoid(query: jax.Array, image: jax.Array, identity: jax.Array, tile: int) -> jax.Array:
    """The contrastive loss of the image seeker where `image_seeker.loss` is sigmoid."""
    options: dict[str, Any] = {"bias": jnp.float32(BIAS), "tile": tile}
    return contrastive.sigmoid(query, image, identity, scale=jnp.float32(SCALE), **options).mean()


def mmd(source: jax.Array, target: jax.Array, _: jax.Array, tile: int) -> jax.Array:
    """The distance of the MMD aligner, of one feature."""
    return aligner.mmd(source, target, tile=tile)


LOSSES: dict[str, Callable[..., jax.Array]] = {
    "contrastive": softmax,
    "dual_softmax": partial(softmax, prior=TEMPERATURE),
    "sigmoid": sigmoid,
    "mmd": mmd,
}


def run(mesh: jax.sharding.Mesh, *, rounds: int, most: int) -> dict[str, Any]:
    """A table for each loss, a row for each batch.

    A row has the temporary bytes of a device, the median seconds of value and gradient, and their
    spread: from least to most, as a share of the median.

    Args:
        rounds: calls that count, fewer where they take long.
        most: the largest batch.
    """
    batches = [batch for batch in SIZES if batch <= most]
    tables = {
        name: [row(loss, mesh, batch, rounds) for batch in batches] for name, loss in LOSSES.items()
    }
    return {"width": WIDTH, **tables}


def row(
    loss: Callable[..., jax.Array], mesh: jax.sharding.Mesh, batch: int, rounds: int
) -> dict[str, Any]:
    """One loss at one size; the whole form is not run where it would not fit."""
    # Random unit vectors of both sides; few rows are of one product.
    rng = np.random.default_rng(0)
    identity = rng.integers(0, 8 * batch, (batch, 2)).astype(np.uint32)
    left, right = (
        host_unit_vectors(rng.standard_normal((batch, WIDTH), np.float32)) for _ in range(2)
    )
    local = {"left": left, "right": right, "identity": identity}
    batch_on_mesh = sharding.global_batch(mesh, local)
    arguments = [batch_on_mesh[name] for name in local]

    measures: dict[str, Any] = {"batch": batch}
    for name, tile in (("tiled", TILE), ("dense", batch)):

        def value(left: Any, right: Any, identity: Any, tile: int = tile) -> Any:
            with sharding.mesh_context(mesh):
                return loss(left, right, identity, tile)

        gradient = jax.jit(jax.value_and_grad(value, (0, 1)))
        program = gradient.lower(*arguments).compile()
        temporary = measure.bytes_per_device(program)["temporary"]
        measures |= {f"{name}_bytes": temporary, f"{name}_seconds": None, f"{name}_spread": None}

        # The devices made of a CPU share its memory.
        devices = mesh.size if jax.default_backend() == "cpu" else 1
        if name == "tiled" or temporary * devices < DENSE_BYTES:
            seconds = measure.seconds(
                partial(program, *arguments), rounds=rounds, warm_up=1, at_most=PATIENCE
            )
            measures[f"{name}_seconds"] = seconds.median
            measures[f"{name}_spread"] = (seconds.most - seconds.least) / seconds.median
    return measures
