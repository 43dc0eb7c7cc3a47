"""Exact search over a whole gallery, and the ranks that recall is read from; faiss beside it."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from date_jax.benchmarks import measure
from date_jax.evals import retrieval
from date_jax.pairs import neighbours
from date_jax.pairs.vectors import host_unit_vectors

K = 10


def run(
    mesh: jax.sharding.Mesh, *, gallery: int, queries: int, width: int, rounds: int
) -> dict[str, Any]:
    """Random unit vectors; each query's match is its row of the gallery with noise.

    faiss (`pip install faiss-cpu`) takes turns with ours; where it is not installed, its numbers
    are left out. Its threads are as many as the cores.

    Args:
        gallery, queries: rows; there are no more queries than rows of the gallery.
        width: D.
        rounds: turns that count, after one that warms up.
    """
    rng = np.random.default_rng(0)
    rows = host_unit_vectors(rng.standard_normal((gallery, width), np.float32))
    noise = host_unit_vectors(rng.standard_normal((queries, width), np.float32))
    asked = host_unit_vectors(rows[:queries] + noise)
    query = retrieval.row_items(asked, np.arange(queries))
    among = retrieval.row_items(rows, np.arange(gallery))
    calls: dict[str, Callable[[], Any]] = {
        "nearest": lambda: neighbours.nearest(asked, rows, K, mesh=mesh).index,
        "ranks": lambda: neighbours.ranks(query, among, mesh=mesh),
    }
    try:
        import faiss
    except ImportError:
        pass
    else:
        index = faiss.IndexFlatIP(width)
        index.add(rows)
        calls["faiss"] = lambda: index.search(asked, K)[1]
    found = {name: call() for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in list(calls)[:: 1 - 2 * (turn % 2)]:  # there and back
            begun = time.perf_counter()
            calls[name]()
            taken[name].append(time.perf_counter() - begun)
    flops = 2.0 * gallery * queries * width
    peak = measure.matmul_peak(jnp.float32, mesh, precision="highest")
    table = []
    for name, passes in (("nearest", 1), ("ranks", 2), ("faiss", 1)):
        if name in calls:
            seconds = statistics.median(taken[name])
            table.append(
                {
                    "what": name,
                    "seconds": seconds,
                    "least": min(taken[name]),
                    "most": max(taken[name]),
                    "queries_per_second": queries / seconds,
                    "share_of_peak": passes * flops / seconds / peak,
                }
            )
    report = {
        "gallery": gallery,
        "queries": queries,
        "width": width,
        "k": K,
        "matmul_peak_flops_per_second": peak,
        "recall_at_1": float(np.mean(found["ranks"] == 1)),
        "first_is_the_match": float(np.mean(found["nearest"][:, 0] == np.arange(queries))),
    }
    if "faiss" in calls:
        report["same_as_faiss"] = float(np.mean(found["nearest"] == found["faiss"]))
        ratios = [a / b for a, b in zip(taken["nearest"], taken["faiss"], strict=True)]
        report["nearest_time_over_faiss"] = statistics.median(ratios)
    return {**report, "times": table}
