"""Ways to keep and search vectors, against each other: exact, faiss, LanceDB, Qdrant."""

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from date_jax.index.extra import extra_module
from date_jax.index.parts import vector_column
from date_jax.pairs import neighbours
from date_jax.pairs.vectors import host_unit_vectors

K = 10
_ONE_BY_ONE = 50  # queries that are asked one after the other
_LOCAL_QDRANT = 20_000  # offers that Qdrant's local mode is meant for
_GRAPH = 200_000  # offers above which a graph takes too long to build
_ADDED = 10_000  # offers that are sent together

Search = Callable[[Float[np.ndarray, "Q D"]], Int[np.ndarray, "Q K"]]


def run(mesh: jax.sharding.Mesh, *, rows: int, queries: int, width: int) -> dict[str, Any]:
    """Build seconds, bytes, queries/s and recall@10 of each way that is installed here.

    A query is a row with as much noise as itself. Recall is against the exact search. Queries come
    one by one, as people ask, and all together.

    Args:
        mesh: of the exact search.
        rows: offers.
        queries: together; there are no more than offers.
        width: D.
    """
    rng = np.random.default_rng(0)
    vectors = host_unit_vectors(rng.standard_normal((rows, width), np.float32))
    noise = host_unit_vectors(rng.standard_normal((queries, width), np.float32))
    query = host_unit_vectors(vectors[rng.permutation(rows)[:queries]] + noise)
    exact, table = np.zeros((queries, K), np.int64), []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, build in _ways(vectors, mesh, Path(folder)):
            begun = time.perf_counter()
            search, size = build()
            built = time.perf_counter() - begun
            # A first call compiles or loads; then one by one, then all together.
            search(query[:1])
            begun = time.perf_counter()
            for row in range(min(queries, _ONE_BY_ONE)):
                search(query[row : row + 1])
            single = (time.perf_counter() - begun) / min(queries, _ONE_BY_ONE)
            search(query)
            begun = time.perf_counter()
            result = search(query)
            together = time.perf_counter() - begun
            exact = result if name == "exact" else exact
            hits = [len({*one} & {*other}) for one, other in zip(result, exact, strict=True)]
            table.append(
                {
                    "what": name,
                    "build_seconds": built,
                    "megabytes": size / 1e6,
                    "ms_one_query": 1000 * single,
                    "queries_per_second": queries / together,
                    "recall_at_10": float(np.mean(hits)) / K,
                }
            )
    return {"rows": rows, "queries": queries, "width": width, "ways": table}


def _ways(
    vectors: Float[np.ndarray, "N D"], mesh: jax.sharding.Mesh, folder: Path
) -> Iterator[tuple[str, Callable[[], tuple[Search, int]]]]:
    """Name and builder of each way; a builder returns a search and the bytes that it takes."""
    width = vectors.shape[1]

    def exact() -> tuple[Search, int]:
        gallery = neighbours.Gallery(vectors, mesh=mesh)
        gallery.nearest(vectors[:1], K)  # the vectors are on the devices then
        return lambda query: gallery.nearest(query, K).index, vectors.nbytes

    yield "exact", exact
    try:
        import faiss
    except ImportError:
        pass
    else:

        def faiss_way(index: Any) -> tuple[Search, int]:
            index.add(vectors)
            size = faiss.serialize_index(index).nbytes
            return lambda query: index.search(query, K)[1], size

        yield "faiss flat", lambda: faiss_way(faiss.IndexFlatIP(width))
        metric = faiss.METRIC_INNER_PRODUCT
        if len(vectors) <= _GRAPH:
            yield "faiss hnsw", lambda: faiss_way(faiss.IndexHNSWFlat(width, 32, metric))

    def store_way(store: Any, size: Callable[[], int]) -> tuple[Search, int]:
        for start in range(0, len(vectors), _ADDED):
            chunk = vectors[start : start + _ADDED]
            ids = [str(row) for row in range(start, start + len(chunk))]
            texts = [""] * len(chunk)
            columns = {"id": ids, "text": texts, "path": texts, "vector": vector_column(chunk)}
            store.add(extra_module("pyarrow").table(columns))

        def rows_of(query: np.ndarray) -> np.ndarray:
            return np.array([[int(hit.id) for hit in line] for line in store.search(query, K)])

        return rows_of, size()

    if _is_installed("lancedb"):
        from date_jax.index.lancedb import LanceStore

        def lance_bytes() -> int:
            return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

        yield "LanceDB", lambda: store_way(LanceStore(str(folder)), lance_bytes)
    if _is_installed("qdrant_client") and len(vectors) <= _LOCAL_QDRANT:
        from date_jax.index.qdrant import QdrantStore

        yield "Qdrant, local", lambda: store_way(QdrantStore(":memory:"), lambda: vectors.nbytes)


def _is_installed(name: str) -> bool:
    """Whether a module is there."""
    import importlib.util

    return importlib.util.find_spec(name) is not None
