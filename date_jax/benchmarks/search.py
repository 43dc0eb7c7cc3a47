"""Exact search over a gallery, and the ranks that recall is read from, compared with faiss."""

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
    """Seconds and recall on random unit vectors; a query is its row of the gallery with noise.

    faiss (`pip install faiss-cpu`) takes turns with ours; where it is not installed, its numbers
    are left out. Its threads are as many as the cores.

    Args:
        gallery, queries: rows; there are no more queries than rows of the gallery.
        width: D.
        rounds: turns that count, after one that warms up.
    """
    # Rows of length 1; a query is one of them with as much noise as itself.
    rng = np.random.default_rng(0)
    vectors = host_unit_vectors(rng.standard_normal((gallery, width), np.float32))
    noise = host_unit_vectors(rng.standard_normal((queries, width), np.float32))
    query_vectors = host_unit_vectors(vectors[:queries] + noise)
    query_items = retrieval.row_items(query_vectors, np.arange(queries))
    gallery_items = retrieval.row_items(vectors, np.arange(gallery))

    # What is timed: `ranks` compares every pair twice, and faiss may not be installed.
    calls: dict[str, Callable[[], Any]] = {
        "nearest": lambda: neighbours.nearest_rows(query_vectors, vectors, K, mesh=mesh).index,
        "ranks": lambda: neighbours.ranks(query_items, gallery_items, mesh=mesh),
    }
    passes = {"nearest": 1, "ranks": 2, "faiss": 1}
    try:
        import faiss
    except ImportError:
        pass
    else:
        index = faiss.IndexFlatIP(width)
        index.add(vectors)
        calls["faiss"] = lambda: index.search(query_vectors, K)[1]

    # Turns go there and back, so that a machine that grows slower is unfair to none.
    results = {name: call() for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in list(calls)[:: 1 - 2 * (turn % 2)]:
            begun = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - begun)

    # A pass over all pairs is one matrix product.
    flops = 2.0 * gallery * queries * width
    peak = measure.matmul_peak(jnp.float32, mesh, precision="highest")
    table = []
    for name in calls:
        seconds = statistics.median(times[name])
        table.append(
            {
                "what": name,
                "seconds": seconds,
                "least": min(times[name]),
                "most": max(times[name]),
                "queries_per_second": queries / seconds,
                "share_of_peak": passes[name] * flops / seconds / peak,
            }
        )
    # The right answer is known: query n was made of row n of the gallery.
    report = {
        "gallery": gallery,
        "queries": queries,
        "width": width,
        "k": K,
        "matmul_peak_flops_per_second": peak,
        "recall_at_1": float(np.mean(results["ranks"] == 1)),
        "first_is_the_match": float(np.mean(results["nearest"][:, 0] == np.arange(queries))),
    }
    # Turn by turn, so that a busy moment of the machine hits both.
    if "faiss" in calls:
        report["same_as_faiss"] = float(np.mean(results["nearest"] == results["faiss"]))
        ratios = [a / b for a, b in zip(times["nearest"], times["faiss"], strict=True)]
        report["nearest_time_over_faiss"] = statistics.median(ratios)
    return {**report, "times": table}
