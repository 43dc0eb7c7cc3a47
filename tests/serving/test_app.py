"""The server's routes: what they answer, what they refuse, and that they live on."""

import base64
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import date_jax
from date_jax.errors import UsageError
from date_jax.index import embedding
from date_jax.index.catalogue import Catalogue, catalogue_of_file
from date_jax.index.exact import open_index
from date_jax.seek import seek

pytest.importorskip("fastapi", reason="pip install 'date_jax[serve]'")
pytest.importorskip("httpx", reason="pip install httpx")
pytest.importorskip("duckdb", reason="the extra index is not installed")

from fastapi.testclient import TestClient

from date_jax.serving import app as serving
from date_jax.serving.limits import Limits, require_safe

LOCAL = "http://127.0.0.1"


def encoded(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def bomb() -> str:
    """A PNG of 60,000 x 60,000 pixels in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


PIXELS = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
PICTURE = encoded(PIXELS)


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    return {}


@pytest.fixture
def folder(
    tiny_config: ConfigDict,
    folders: dict[str, Path],
    untrained_run: Callable[[ConfigDict, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    if "date" not in folders:
        folders["date"] = untrained_run(tiny_config, tmp_path_factory.mktemp("date"))
    return folders["date"]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Eight offers, one of which has no picture and one an id that looks like a path."""
    folder = tmp_path_factory.mktemp("offers")
    generator, lines = np.random.default_rng(1), []
    for number in range(8):
        name = f"{number}.png" if number else ""
        if name:
            pixels = generator.integers(0, 256, (900, 1350, 3) if number == 7 else (40, 60, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
        offer_id = "mugs/red ü&?.png" if number == 7 else f"o{number}"
        row = {"id": offer_id, "image": name, "text": f"red mug {number}", "price": number}
        lines.append(json.dumps(row) + "\n")
    (folder / "offers.jsonl").write_text("".join(lines))
    return catalogue_of_file(folder / "offers.jsonl")


def indexed(run: Any, catalogue: Catalogue, folder: Path) -> Any:
    """The index of the catalogue as a run sees it."""
    embedding.embed(run, catalogue, folder)
    return open_index(folder)


@pytest.fixture
def searched(folder: Path, catalogue: Catalogue) -> Iterator[TestClient]:
    run = date_jax.open(folder)
    index = indexed(run, catalogue, folder / "vectors")
    with TestClient(
        serving.create_app(run, index=index), base_url=LOCAL, raise_server_exceptions=False
    ) as client:
        yield client


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    app = serving.create_app(date_jax.open(folder), limits=Limits(body_bytes=200_000))
    with TestClient(app, base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client


def test_a_grounding_is_the_runs_own(client: TestClient, folder: Path) -> None:
    queries = ["red mug", "a striped blue bag"]
    answer = client.post("/ground", json={"image": PICTURE, "queries": queries})
    assert answer.status_code == 200
    content = answer.json()
    assert (content["width"], content["height"]) == (50, 30)
    groundings = date_jax.open(folder).ground(PIXELS, queries)
    for row, query, grounding in zip(content["answers"], queries, groundings, strict=True):
        assert row["query"] == query
        np.testing.assert_allclose(row["box"], grounding.box_xyxy_pixels, atol=1e-3)
        assert row["score"] is None


def test_the_products_of_a_picture_are_the_runs_own(
    tiny_capture: ConfigDict, tmp_path: Path, untrained_run: Callable[[ConfigDict, Path], Path]
) -> None:
    run = date_jax.open(untrained_run(tiny_capture, tmp_path))
    with TestClient(serving.create_app(run), base_url=LOCAL) as client:
        assert client.get("/about").json()["questions"] == ["embed_products", "instances"]
        answer = client.post("/instances", json={"image": PICTURE, "title": "red mug"}).json()
        assert client.post("/ground", json={}).status_code == 404
    (instances,) = run.instances([PIXELS], ["red mug"])
    assert len(answer["answers"]) == len(instances)
    for row, instance in zip(answer["answers"], instances, strict=True):
        np.testing.assert_allclose(row["embedding"], instance.embedding, atol=1e-5)


def test_a_search_is_that_of_python(
    searched: TestClient, folder: Path, catalogue: Catalogue
) -> None:
    run, index = date_jax.open(folder), open_index(folder / "vectors")
    assert "search" in searched.get("/about").json()["questions"]
    questions: list[dict[str, Any]] = [
        {"words": "striped red mug", "count": 5},
        {"words": "blue bag", "where": "price < 4"},
        {"image": PICTURE},
        {"image": PICTURE, "words": "red mug"},
        {"id": "mugs/red ü&?.png", "count": 3},
        {"words": "red mug", "old": "red", "new": "blue"},
    ]
    for question in questions:
        answer = searched.post("/search", json=question)
        assert answer.status_code == 200, answer.text
        asked = {{"id": "offer_id", "image": "picture"}.get(k, k): v for k, v in question.items()}
        if "picture" in asked:
            asked["picture"] = base64.b64decode(PICTURE)
        (line,) = seek(run, index, **({"count": 12} | asked))
        (group,) = answer.json()["groups"]
        assert [row["id"] for row in group["answers"]] == [found.id for found in line.offers]
        assert len(group["answers"]) > 2
        for row, found in zip(group["answers"], line.offers, strict=True):
            np.testing.assert_allclose(row["score"], found.score, atol=1e-5)
            assert row["text"] == found.fields["text"]
            assert row["fields"]["price"] == found.fields["price"]
            assert (row["box"] is None) == (found.box_xyxy_pixels is None)
            if row["box"]:
                np.testing.assert_allclose(row["box"], found.box_xyxy_pixels, atol=1e-2)
                assert (row["width"], row["height"]) in ((60, 40), (1350, 900))


def test_searches_at_the_same_time_share_batches(searched: TestClient) -> None:
    words = [f"red mug {number}" for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        together = list(
            pool.map(lambda text: searched.post("/search", json={"words": text}).json(), words)
        )
    alone = [searched.post("/search", json={"words": text}).json() for text in words]
    for one, other in zip(together, alone, strict=True):
        ids = [[row["id"] for row in answer["groups"][0]["answers"]] for answer in (one, other)]
        assert ids[0] == ids[1]
    text = searched.get("/metrics").text
    (count,) = re.findall(r'batch_rows_count{question="search: embed_texts"} ([\d.]+)', text)
    assert 16 < float(count) < 32


def test_the_picture_of_an_offer_is_small_and_of_the_index(searched: TestClient) -> None:
    answer = searched.get("/picture/mugs%2Fred%20%C3%BC%26%3F.png")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (640, 427)
    for name in ("o0", "o99", "1.png", "..%2F1.png", "%2Fetc%2Fpasswd", "..%2F..%2Fetc%2Fpasswd"):
        answer = searched.get(f"/picture/{name}")
        assert answer.status_code == 404, name
        assert 3 < len(answer.json()["error"]) < 200


def test_same_style_transfers_and_capture_answers_each_product(
    tiny_same_style: ConfigDict,
    tiny_capture: ConfigDict,
    catalogue: Catalogue,
    tmp_path: Path,
    untrained_run: Callable[[ConfigDict, Path], Path],
) -> None:
    for config, question in (
        (tiny_same_style, {"words": "red mug", "old": "red", "new": "blue"}),
        (tiny_same_style, {"image": PICTURE, "words": "red mug"}),
        (tiny_capture, {"image": PICTURE, "words": "red mug"}),
    ):
        run = date_jax.open(untrained_run(config, tmp_path / str(len(question)) / config.task))
        picture_offers = Catalogue(*(
            field[1:] if isinstance(field, list) else field for field in catalogue[:-1]
        ), catalogue.fields.slice(1))  # fmt: skip
        index = indexed(run, picture_offers, tmp_path / f"{config.task}_vectors")
        with TestClient(serving.create_app(run, index=index), base_url=LOCAL) as client:
            assert ("style" in client.get("/about").json()["questions"]) == (
                config.task == "same_style"
            )
            groups = client.post("/search", json=question).json()["groups"]
        picture = base64.b64decode(PICTURE) if "image" in question else None
        rest = {key: value for key, value in question.items() if key != "image"}
        lines = seek(run, index, picture=picture, count=12, **rest)
        assert len(groups) == len(lines)
        for group, line in zip(groups, lines, strict=True):
            assert [row["id"] for row in group["answers"]] == [found.id for found in line.offers]


BAD_SEARCHES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "count 0": {"words": "mug", "count": 0},
    "count 1e9": {"words": "mug", "count": 1_000_000_000},
    "count NaN": {"words": "mug", "count": "NaN"},
    "unknown id": {"id": "o99"},
    "a path as id": {"id": 2 * "../" + "etc/passwd"},
    "long id": {"id": "o" * 501},
    "unknown column": {"words": "mug", "where": "colour = 'red'"},
    "half a filter": {"words": "mug", "where": "price <"},
    "another statement": {"words": "mug", "where": "1=1; DROP TABLE offers"},
    "closing bracket": {"words": "mug", "where": "1=1) UNION SELECT 1 FROM (SELECT 1"},
    "a file": {"words": "mug", "where": "price IN (SELECT 1 FROM read_csv('/etc/passwd'))"},
    "a function": {"words": "mug", "where": "getenv('HOME') = ''"},
    "a comment": {"words": "mug", "where": "1=1 --"},
    "long filter": {"words": "mug", "where": "price < 1 " + "or price < 1 " * 50},
    "half a transfer": {"words": "mug", "old": "red"},
    "no picture": {"image": "aGVsbG8="},
    "bomb": {"image": bomb()},
    "id and picture": {"id": "o1", "image": PICTURE},
}


def test_a_malformed_search_gets_a_status_and_a_sentence(searched: TestClient) -> None:
    for name, question in BAD_SEARCHES.items():
        answer = searched.post("/search", json=question)
        expected = 200 if name == "a comment" else 422
        assert answer.status_code == expected, (name, answer.text)
        if expected == 200:
            continue
        text = answer.json()["error"]
        assert 3 < len(text) < 200, name
        assert "\n" not in text, name
        assert "Traceback" not in text, name
    answer = searched.post("/search", json={"words": "mug", "where": "price > 1000"})
    assert answer.json()["groups"][0]["answers"] == []


def test_odd_pictures_are_answered(client: TestClient) -> None:
    picture = Image.fromarray(PIXELS)
    grey = np.random.default_rng(0).integers(0, 2**16, (30, 50)).astype(np.uint16)
    turned = [picture.rotate(90)]
    for image, kind, options in (
        (picture.resize((1, 1)), "PNG", {}),
        (picture.resize((1, 3000)), "PNG", {}),
        (picture.convert("CMYK"), "JPEG", {}),
        (picture, "WEBP", {"save_all": True, "append_images": turned}),
        (Image.fromarray(grey), "PNG", {}),
        (picture.convert("1"), "PNG", {}),
    ):
        file = io.BytesIO()
        image.save(file, kind, **options)
        body = {"image": base64.b64encode(file.getvalue()).decode(), "queries": ["mug"]}
        answer = client.post("/ground", json=body)
        assert answer.status_code == 200, (kind, answer.text)
        assert (answer.json()["width"], answer.json()["height"]) == image.size


MALFORMED: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "no body": ("POST", "/ground", {}, 422),
    "not JSON": ("POST", "/ground", {"content": b"{image: mug"}, 422),
    "a list": ("POST", "/ground", {"json": [1, 2]}, 422),
    "bytes": ("POST", "/ground", {"content": bytes(range(256))}, 422),
    "half a letter": ("POST", "/ground", {"content": b'{"image": "\xc3"}'}, 422),
    "deep": ("POST", "/ground", {"content": b"[" * 50_000}, 422),
    "huge": ("POST", "/ground", {"content": b"x" * 300_000}, 413),
    "huge, in pieces": ("POST", "/ground", {"content": iter([b"x" * 100_000] * 3)}, 413),
    "no picture": ("POST", "/ground", {"json": {"queries": ["mug"]}}, 422),
    "no query": ("POST", "/ground", {"json": {"image": PICTURE}}, 422),
    "no queries": ("POST", "/ground", {"json": {"image": PICTURE, "queries": []}}, 422),
    "a number": ("POST", "/ground", {"json": {"image": PICTURE, "queries": [7]}}, 422),
    "a text": ("POST", "/ground", {"json": {"image": PICTURE, "queries": "mug"}}, 422),
    "null": ("POST", "/ground", {"json": {"image": None, "queries": ["mug"]}}, 422),
    "long": ("POST", "/ground", {"json": {"image": PICTURE, "queries": ["m" * 501]}}, 422),
    "many": ("POST", "/ground", {"json": {"image": PICTURE, "queries": ["mug"] * 65}}, 422),
    "unknown": ("POST", "/ground", {"json": {"image": PICTURE, "queries": ["m"], "k": 1}}, 422),
    "no base64": ("POST", "/ground", {"json": {"image": "***", "queries": ["mug"]}}, 422),
    "a path": ("POST", "/ground", {"json": {"image": "/etc/passwd", "queries": ["mug"]}}, 422),
    "an address": ("POST", "/ground", {"json": {"image": "http://x/1.jpg", "queries": ["m"]}}, 422),
    "no picture's bytes": (
        "POST",
        "/ground",
        {"json": {"image": "aGVsbG8=", "queries": ["m"]}},
        422,
    ),
    "empty": ("POST", "/ground", {"json": {"image": "", "queries": ["mug"]}}, 422),
    "cut": ("POST", "/ground", {"json": {"image": PICTURE[:2000], "queries": ["mug"]}}, 422),
    "bomb": ("POST", "/ground", {"json": {"image": bomb(), "queries": ["mug"]}}, 422),
    "GET": ("GET", "/ground", {}, 405),
    "nowhere": ("GET", "/nowhere", {}, 404),
    "up": ("GET", "/page/" + 2 * "../" + "api.py", {}, 404),
    "up, coded": ("GET", "/page/%2e%2e/app.py", {}, 404),
    "another site": ("GET", "/about", {"headers": {"host": "shop.example"}}, 421),
    "no length": ("POST", "/ground", {"headers": {"content-length": "many"}}, 400),
}


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_whatever_is_malformed_gets_a_status_and_a_sentence(client: TestClient) -> None:
    for name, (method, path, options, status) in MALFORMED.items():
        answer = client.request(method, path, **options)
        assert answer.status_code == status, (name, answer.text)
        text = answer.json()["error"]
        assert 3 < len(text) < 200, name
        assert "\n" not in text, name
        assert "Traceback" not in text, name
        assert PICTURE[:50] not in text, name
    assert client.post("/ground", json={"image": PICTURE, "queries": ["mug"]}).status_code == 200


def test_a_server_with_a_token_tells_nothing_without_it(folder: Path) -> None:
    app = serving.create_app(date_jax.open(folder), token="secret")
    with TestClient(app, base_url="http://shop.example") as client:
        for headers in ({}, {"authorization": "secret"}, {"authorization": "Bearer wrong"}):
            answer = client.get("/about", headers=headers)
            assert answer.status_code == 401
            assert "Authorization: Bearer" in answer.json()["error"]
        assert client.get("/about", headers={"authorization": "Bearer secret"}).status_code == 200
        assert client.get("/").status_code == 200
        assert client.get("/healthz").status_code == 200


def test_other_machines_may_ask_with_a_token_alone() -> None:
    require_safe("127.0.0.1", "")
    require_safe("0.0.0.0", "secret")
    with pytest.raises(UsageError, match="without a password"):
        require_safe("0.0.0.0", "")


def test_the_server_tells_when_it_is_ready_and_counts_what_it_does(client: TestClient) -> None:
    deadline = time.monotonic() + 120
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert client.get("/readyz").json()["platform"] == "cpu"
    client.post("/ground", json={"image": PICTURE, "queries": ["mug"]})
    client.get("/nowhere/42")
    text = client.get("/metrics").text
    assert 'date_jax_requests_total{route="/ground",status="200"} 1.0' in text
    assert 'date_jax_requests_total{route="none",status="404"} 1.0' in text
    assert 'date_jax_batch_rows_count{question="ground"} 1.0' in text
    assert "date_jax_ready 1.0" in text


def test_the_page_asks_for_nothing_outside(client: TestClient) -> None:
    """Every address in its files is a path of the server; the browser is told to allow no other."""
    for path in ("/", "/docs", "/page/app.js", "/page/docs.js", "/page/style.css"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert not re.findall(r"(?:https?:)?//[a-z]", re.sub(r"(?m)^\s*//.*$", "", answer.text)), (
            path
        )
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert client.get("/openapi.json").json()["paths"].keys() >= {"/ground", "/readyz"}


def test_sigterm_answers_what_was_asked_and_ends(folder: Path, root: Path) -> None:
    command = [sys.executable, "-m", "date_jax.serve", f"--workdir={folder}", "--port=0"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    server = subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    try:
        assert server.stdout is not None
        address = re.search(r"http://\S+", server.stdout.readline())
        assert address is not None
        body = json.dumps({"image": PICTURE, "queries": ["red mug"]}).encode()
        request = urllib.request.Request(
            f"{address[0]}/ground", body, {"content-type": "application/json"}
        )
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"{address[0]}/healthz", timeout=10):
                    break
            except OSError:
                time.sleep(0.2)
        # Asked, and told to end before it can have compiled the answer.
        answers: list[int] = []

        def ask() -> None:
            with urllib.request.urlopen(request, timeout=120) as answer:
                answers.append(len(json.load(answer)["answers"]))

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.5)
        server.send_signal(signal.SIGTERM)
        thread.join(120)
        assert answers == [1]
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.communicate()
