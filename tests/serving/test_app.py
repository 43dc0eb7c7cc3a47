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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import date_jax
from date_jax.errors import UsageError

pytest.importorskip("fastapi", reason="pip install 'date_jax[serve]'")
pytest.importorskip("httpx", reason="pip install httpx")

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
