"""Near-duplicates among random rows: how many of the planted ones are found, and how fast."""

import time
from typing import Any

import jax
import numpy as np

from date_jax.pairs.vectors import host_unit_vectors
from date_jax.same_style import near_duplicates

THRESHOLD = 0.95
NOISE = 0.2  # a copy's cosine with its original is about 1 / sqrt(1 + NOISE²) = 0.98


def run(mesh: jax.sharding.Mesh, *, rows: int, planted: int, width: int) -> dict[str, Any]:
    """Random unit vectors; each of the `planted` last ones is a noisy copy of another row.

    Args:
        rows: of all.
        planted: copies among them, at most half.
        width: D.
    """
    rng = np.random.default_rng(0)
    given = host_unit_vectors(rng.standard_normal((rows, width), np.float32))
    noise = host_unit_vectors(rng.standard_normal((planted, width), np.float32))
    given[-planted:] = host_unit_vectors(given[:planted] + NOISE * noise)
    near = (given[:planted] * given[-planted:]).sum(axis=1) > THRESHOLD
    warm = near_duplicates.WINDOW * near_duplicates.AT_ONCE * mesh.size
    near_duplicates.groups(given[:warm], THRESHOLD, mesh=mesh, orders=1)
    begun = time.perf_counter()
    group = near_duplicates.groups(given, THRESHOLD, mesh=mesh)
    seconds = time.perf_counter() - begun
    together = group[:planted] == group[-planted:]
    linked = rows - len(np.unique(group))
    return {
        "rows": rows,
        "planted": planted,
        "width": width,
        "threshold": THRESHOLD,
        "orders": near_duplicates.ORDERS,
        "window": near_duplicates.WINDOW,
        "seconds": seconds,
        "rows_per_second": rows / seconds,
        "planted_above_threshold": int(near.sum()),
        "recall": float(together[near].mean()) if near.any() else None,
        "linked_beside_planted": int(linked - together.sum()),
    }
