"""Exact search in a folder of vectors: against a sort by NumPy, with and without a filter."""

from pathlib import Path

import numpy as np
import pytest

from date_jax.errors import UsageError
from date_jax.index import parts
from date_jax.index.exact import Index, open_index
from date_jax.pairs.vectors import host_unit_vectors

pyarrow = pytest.importorskip("pyarrow", reason="the extra index is not installed")


def random_folder(folder: Path, rows: int = 300, width: int = 16) -> Path:
    """A folder as `embed` writes it, with random vectors in two parts."""
    generator = np.random.default_rng(0)
    vectors = host_unit_vectors(generator.standard_normal((rows, width)).astype(np.float32))
    ids = [f"o{row}" for row in range(rows)]
    table = pyarrow.table(
        {
            "id": ids,
            "text": [f"mug {row}" for row in range(rows)],
            "path": ["" if row % 2 else f"{row}.jpg" for row in range(rows)],
            "vector": parts.vector_column(vectors),
            "price": [float(row) for row in range(rows)],
            "picture_bytes": [0] * rows,
            "picture_mtime": [0] * rows,
            "picture_sha256": [""] * rows,
        }
    )
    folder.mkdir()
    entries = []
    for number, half in enumerate((table[: rows // 2], table[rows // 2 :])):
        part = parts.Part(half, (), "network", "embed_images")
        path = parts.write_part(folder, number, 2, part)
        entries.append(parts.manifest_entry(path, part))
    manifest = {"format": parts.FORMAT, "network": "network", "task": "pgda", "width": width}
    manifest |= {"question": "embed_images", "count": rows, "pictures": "/photos"}
    manifest["columns"] = {"id": "sku", "path": "image", "text": ""}
    parts.write_manifest(folder, {**manifest, "parts": entries})
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(random_folder(tmp_path_factory.mktemp("index") / "vectors"))


@pytest.fixture
def queries() -> np.ndarray:
    generator = np.random.default_rng(1)
    return host_unit_vectors(generator.standard_normal((3, 16)).astype(np.float32))


@pytest.mark.parametrize("where", ["", "price >= 100 and price < 180", "sku = 'o7'"])
def test_hits_are_those_of_a_full_sort(index: Index, queries: np.ndarray, where: str) -> None:
    allowed = {"": range(300), "sku = 'o7'": [7]}.get(where, range(100, 180))
    scores = queries.astype(np.float64) @ index.vectors.T.astype(np.float64)
    hits = index.search(queries, 8, where)
    for row, line in enumerate(hits):
        order = sorted(allowed, key=lambda place: -scores[row, place])[:8]
        assert [hit.id for hit in line] == [f"o{place}" for place in order]
        np.testing.assert_allclose([hit.score for hit in line], scores[row, order], atol=1e-6)


def test_a_hit_has_the_catalogues_columns_and_its_picture(index: Index) -> None:
    ((hit, other),) = index.search(index.vectors[[4]], 2)
    assert hit.id == "o4"
    assert hit.score == pytest.approx(1.0, abs=1e-6)
    assert hit.fields == {"text": "mug 4", "path": "4.jpg", "price": 4.0}
    assert index.picture(hit) == Path("/photos/4.jpg")
    assert other.id != "o4"
    assert index.picture(index.hit(5, 0.0)) is None
    assert index.row("o299") == 299
    with pytest.raises(UsageError, match=r"no offer 'o300' .did you mean 'o"):
        index.row("o300")


def test_what_cannot_be_searched_is_refused(index: Index, queries: np.ndarray) -> None:
    assert index.search(queries, 4, "price > 1000") == [[], [], []]
    assert index.search(queries[:0], 4) == []
    with pytest.raises(UsageError, match="count=0"):
        index.search(queries, 0)
    with pytest.raises(UsageError, match="vectors have 16 numbers, and the question's 8"):
        index.search(queries[:, :8], 4)
    with pytest.raises(UsageError, match="there are: id, text, path, price, sku, image"):
        index.search(queries, 4, "colour = 'red'")
