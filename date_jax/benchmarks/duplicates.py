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
    """Recall and seconds on random unit vectors, the last of them noisy copies of other rows.

    Args:
        rows: of all.
        planted: copies among them, at most half.
        width: D.
    """
    # The first rows have their copies at the end; not every copy comes out near enough.
    rng = np.random.default_rng(0)
    vectors = host_unit_vectors(rng.standard_normal((rows, width), np.float32))
    noise = host_unit_vectors(rng.standard_normal((planted, width), np.float32))
    vectors[-planted:] = host_unit_vectors(vectors[:planted] + NOISE * noise)
    near = (vectors[:planted] * vectors[-planted:]).sum(axis=1) > THRESHOLD

    # A call of one block on each device compiles; the next is timed.
    block = near_duplicates.WINDOW * near_duplicates.AT_ONCE * mesh.size
    near_duplicates.groups(vectors[:block], THRESHOLD, mesh=mesh, orders=1)
    begun = time.perf_counter()
    group = near_duplicates.groups(vectors, THRESHOLD, mesh=mesh)
    seconds = time.perf_counter() - begun

    # A link between rows that are not copies would be a mistake.
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
