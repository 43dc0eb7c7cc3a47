"""Vector databases answer as the exact search does; what each cannot do is refused."""

import atexit
import contextlib
import functools
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from date_jax.errors import UsageError
from date_jax.index.exact import Index, open_index
from date_jax.index.stores import Store, copy_index, tables_of_index
from date_jax.pairs.vectors import host_unit_vectors
from tests.index.test_exact_index import random_folder

pyarrow = pytest.importorskip("pyarrow", reason="the extra index is not installed")
pytest.importorskip("duckdb", reason="the extra index is not installed")


def lance(folder: Path) -> Any:
    pytest.importorskip("lancedb", reason="pip install lancedb: outside the lock file")
    from date_jax.index.lancedb import LanceStore

    return LanceStore(str(folder / "lance"))


def qdrant(folder: Path) -> Any:
    """In Qdrant's local mode, which runs in this process."""
    pytest.importorskip("qdrant_client", reason="pip install qdrant-client: outside the lock file")
    from date_jax.index.qdrant import QdrantStore

    return QdrantStore(":memory:")


@functools.cache
def qdrant_server() -> str:
    """The address of a server that lives as long as the tests; they are skipped without one."""
    program = shutil.which("qdrant")
    if program is None:
        pytest.skip("no program `qdrant` is in PATH: its local mode alone is tried")
    folder = tempfile.mkdtemp(prefix="date_jax_qdrant_")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "QDRANT__SERVICE__HOST": "127.0.0.1",
        "QDRANT__SERVICE__HTTP_PORT": str(port),
        "QDRANT__SERVICE__GRPC_PORT": "0",
        "QDRANT__STORAGE__STORAGE_PATH": folder,
        "QDRANT__TELEMETRY_DISABLED": "true",
    }
    process = subprocess.Popen([program], cwd=folder, env=os.environ | settings)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(process.kill)
    # It answers a second or two after its start.
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/readyz", timeout=5):
            return address
        time.sleep(0.2)
    raise TimeoutError(f"{program} does not answer at {address}")


def qdrant_by_address(folder: Path) -> Any:
    """In a server, as a cluster is asked; each test has a collection to itself."""
    pytest.importorskip("qdrant_client", reason="pip install qdrant-client: outside the lock file")
    from date_jax.index.qdrant import QdrantStore

    return QdrantStore(qdrant_server(), name=folder.name)


Made = Callable[[Path], Store]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(random_folder(tmp_path_factory.mktemp("index") / "vectors"))


@pytest.fixture
def queries() -> np.ndarray:
    generator = np.random.default_rng(1)
    return host_unit_vectors(generator.standard_normal((5, 16)).astype(np.float32))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", [lance, qdrant, qdrant_by_address])
@pytest.mark.parametrize(
    "where",
    [
        "",
        "price >= 100 and price < 180.5",
        "price between 20 and 60 or id = 'o7'",
        "not (price < 250 or text = 'mug 260')",
        "price in (1, 2, 3) and path <> '2.jpg'",
        "150 < price",
        "text is not null and not price is null",
        "price > 1000",
    ],
)
def test_a_store_finds_what_the_exact_search_does(
    index: Index, queries: np.ndarray, tmp_path: Path, made: Made, where: str
) -> None:
    store = made(tmp_path)
    copy_index(index, store)
    expected = index.search(queries, 10, where)
    for line, exact in zip(store.search(queries, 10, where), expected, strict=True):
        assert [hit.id for hit in line] == [hit.id for hit in exact]
        np.testing.assert_allclose(
            [hit.score for hit in line], [hit.score for hit in exact], atol=1e-5
        )
        assert [hit.fields for hit in line] == [hit.fields for hit in exact]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", [lance, qdrant, qdrant_by_address])
def test_offers_are_replaced_and_removed_by_their_ids(
    index: Index, queries: np.ndarray, tmp_path: Path, made: Made
) -> None:
    store = made(tmp_path)
    assert store.search(queries, 3) == [[]] * 5
    store.delete(["o1"])
    copy_index(index, store)
    (rows,) = tables_of_index(index)
    # o7 gets the vector of o8 and another price; o8 goes.
    changed = rows.slice(8, 1).set_column(
        rows.column_names.index("id"), "id", pyarrow.array(["o7"])
    )
    store.add(changed)
    store.delete(["o8", "it's not there"])
    (line,) = store.search(index.vectors[[8]], 300)
    assert len(line) == 299
    assert line[0].id == "o7"
    assert line[0].score == pytest.approx(1.0, abs=1e-5)
    assert line[0].fields["price"] == 8.0
    assert "o8" not in [hit.id for hit in line]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", [lance, qdrant, qdrant_by_address])
@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("prise < 3", "no column 'prise'"),
        ("1=1; drop table offers", "syntax error"),
        ("exists(select 1)", "may not hold a subquery"),
        ("read_text('/etc/passwd') = ''", "no function"),
    ],
)
def test_a_strangers_filter_is_checked_before_a_store_sees_it(
    index: Index, queries: np.ndarray, tmp_path: Path, made: Made, where: str, message: str
) -> None:
    store = made(tmp_path)
    copy_index(index, store)
    with pytest.raises(UsageError, match=message):
        store.search(queries, 3, where)


@pytest.mark.filterwarnings("ignore")
def test_what_qdrant_does_not_know_is_refused(
    index: Index, queries: np.ndarray, tmp_path: Path
) -> None:
    store = qdrant(tmp_path)
    copy_index(index, store)
    for where in ("text like '%1%'", "price + 1 > 3", "text < 'm'", "price = text"):
        with pytest.raises(UsageError, match="Qdrant's filters know"):
            store.search(queries, 3, where)


@pytest.mark.filterwarnings("ignore")
def test_a_table_of_lance_is_opened_again(
    index: Index, queries: np.ndarray, tmp_path: Path
) -> None:
    copy_index(index, lance(tmp_path))
    again = lance(tmp_path).search(queries, 4, "text like '%1%'")
    exact = index.search(queries, 4, "text like '%1%'")
    assert [[hit.id for hit in line] for line in again] == [[h.id for h in line] for line in exact]
