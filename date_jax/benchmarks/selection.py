"""Counting over all pairs, as the pseudo-box generator does: its share of the matmul peak."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from date_jax import all_pairs
from date_jax.benchmarks import measure


def run(
    mesh: jax.sharding.Mesh, *, sources: int, targets: int, width: int, modalities: int
) -> dict[str, Any]:
    """Random unit vectors; the second of two calls counts, the first compiles.

    Args:
        sources, targets: rows of the two sets.
        width: D.
        modalities: matrices of features a row has.
    """
    rng = np.random.default_rng(0)

    def features(rows: int) -> list[np.ndarray]:
        made = [rng.standard_normal((rows, width), np.float32) for _ in range(modalities)]
        return [x / np.linalg.norm(x, axis=1, keepdims=True) for x in made]

    source, target = features(sources), features(targets)
    theta = 2.0 / width**0.5
    taken = []
    for _ in range(2):
        begun = time.perf_counter()
        found = all_pairs.counts(source, target, theta, mesh=mesh)
        taken.append(time.perf_counter() - begun)
    flops = 2.0 * sources * targets * width * modalities
    peak = measure.matmul_peak(jnp.float32, mesh, precision="highest")  # as the counts are
    return {
        "sources": sources,
        "targets": targets,
        "width": width,
        "modalities": modalities,
        "seconds": taken[1],
        "seconds_with_compilation": taken[0],
        "flops_per_second": flops / taken[1],
        "matmul_peak_flops_per_second": peak,
        "share_of_peak": flops / taken[1] / peak,
        "mean_count": float(found.mean()),
    }
