"""The page in a real browser: what a person types, drops and clicks."""

import base64
import contextlib
import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import date_jax

pytest.importorskip("fastapi", reason="pip install 'date_jax[serve]'")
pytest.importorskip("playwright", reason="pip install playwright")

import uvicorn
from playwright.sync_api import Page, sync_playwright

from date_jax.serving import app as serving

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome")
     if (path := shutil.which(name))), None
)  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of an application that answers as long as the block lasts."""
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5)
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        socket.close()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of a browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        # The first answer may have to be compiled.
        page.set_default_timeout(120_000)
        yield page
        browser.close()


@pytest.fixture
def faults(page: Page) -> Iterator[list[str]]:
    """What the browser complains about: scripts, refused addresses, the content's policy."""
    faults: list[str] = []
    listeners: dict[str, Callable[[Any], None]] = {
        "pageerror": lambda error: faults.append(str(error)),
        "requestfailed": lambda request: faults.append(request.url),
        "console": lambda line: faults.append(line.text) if line.type == "error" else None,
    }
    for event, listener in listeners.items():
        page.on(event, listener)  # type: ignore[call-overload]
    yield faults
    for event, listener in listeners.items():
        page.remove_listener(event, listener)


@pytest.fixture(scope="module")
def file() -> bytes:
    """A picture of 50 x 30 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def drop(page: Page, file: bytes, target: str) -> None:
    """Drops a file on an element, as a person does with the mouse."""
    transfer = page.evaluate_handle(
        """(text) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "photo.png", {type: "image/png"}));
            return transfer;
        }""",
        base64.b64encode(file).decode(),
    )
    page.dispatch_event(target, "dragover", {"dataTransfer": transfer})
    page.dispatch_event(target, "drop", {"dataTransfer": transfer})


def test_words_and_a_picture_become_boxes(
    page: Page,
    faults: list[str],
    file: bytes,
    tiny_config: ConfigDict,
    untrained_run: Callable[[ConfigDict, Path], Path],
    tmp_path: Path,
) -> None:
    run = date_jax.open(untrained_run(tiny_config, tmp_path))
    with served(serving.create_app(run)) as address:
        page.goto(address)
        page.wait_for_selector("#ground:not([hidden])")
        assert not page.is_visible("#search")
        assert run.fingerprint in page.inner_text("#about")
        # A picture is wanted, then words.
        page.click("#ground")
        assert page.inner_text("#message") == "Drop a picture first."
        drop(page, file, "#drop")
        page.wait_for_selector("#picture:not([hidden])")
        page.click("#ground")
        assert page.inner_text("#message").startswith("Say what to look for")
        # The key Enter asks, too.
        page.fill("#words", "red mug; a striped blue bag")
        page.press("#words", "Enter")
        page.wait_for_selector("#drawing")
        assert page.get_attribute("#drawing", "data-boxes") == "2"
        assert page.locator("#results li").all_inner_texts() == ["red mug", "a striped blue bag"]
        (grounding,) = run.ground(file, "red mug")
        title = page.get_attribute("#results li >> nth=0", "title")
        assert title is not None
        np.testing.assert_allclose(
            [float(x) for x in title.split(", ")], grounding.box_xyxy_pixels, atol=0.51
        )
        # Anew: a chosen file, dropped anywhere on the page.
        page.click("#clear")
        assert page.locator("#drawing").count() == 0
        page.fill("#words", "one lamp")
        drop(page, file, "footer")
        page.click("#ground")
        page.wait_for_selector("#drawing")
        assert page.get_attribute("#drawing", "data-boxes") == "1"
        assert faults == []


def test_a_search_becomes_cards_and_a_click_searches_on(
    page: Page,
    faults: list[str],
    file: bytes,
    tiny_same_style: ConfigDict,
    untrained_run: Callable[[ConfigDict, Path], Path],
    tmp_path: Path,
) -> None:
    pytest.importorskip("duckdb", reason="the extra index is not installed")
    from date_jax.index import embedding
    from date_jax.index.catalogue import catalogue_of_file
    from date_jax.index.exact import open_index

    rows = [f'{{"id": "a/{n} ü", "image": "{n}.png", "text": "mug {n}"}}\n' for n in range(5)]
    (tmp_path / "offers.jsonl").write_text("".join(rows))
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(file)
    run = date_jax.open(untrained_run(tiny_same_style, tmp_path / "run"))
    embedding.embed(run, catalogue_of_file(tmp_path / "offers.jsonl"), tmp_path / "vectors")
    with served(serving.create_app(run, index=open_index(tmp_path / "vectors"))) as address:
        page.goto(address)
        page.wait_for_selector("#search:not([hidden])")
        assert page.is_visible("#style")
        page.click("#search")
        assert page.inner_text("#message") == "Type words, or drop a picture."
        page.fill("#words", "red mug")
        page.fill("#where", "text <> 'mug 3'")
        page.press("#where", "Enter")
        page.wait_for_selector(".card >> nth=3")
        cards = page.locator(".card")
        assert cards.count() == 4
        assert cards.locator("canvas").count() == 4
        # Searched on from the second: it is not among the answers.
        name = cards.nth(1).get_attribute("title")
        cards.nth(1).click()
        page.wait_for_selector("#picture:not([hidden])")
        page.wait_for_selector("#message:has-text('Answered')")
        page.wait_for_selector(".card >> nth=2")
        assert cards.count() == 3
        assert name not in [card.get_attribute("title") for card in cards.all()]
        assert faults == []
        # A filter that is none.
        page.fill("#where", "colour = 'red'")
        page.click("#search")
        page.wait_for_selector("#message.wrong:has-text(\"no column 'colour'\")")


def test_a_page_with_a_token_asks_for_it(
    page: Page,
    file: bytes,
    tiny_capture: ConfigDict,
    untrained_run: Callable[[ConfigDict, Path], Path],
    tmp_path: Path,
) -> None:
    run = date_jax.open(untrained_run(tiny_capture, tmp_path))
    with served(serving.create_app(run, token="secret")) as address:
        page.goto(address)
        page.fill("#token", "wrong")
        page.press("#token", "Tab")
        page.wait_for_selector("#message.wrong")
        page.fill("#token", "secret")
        page.press("#token", "Tab")
        page.set_input_files(
            "#file", {"name": "photo.png", "mimeType": "image/png", "buffer": file}
        )
        page.click("#instances")
        page.wait_for_selector("#drawing")
        boxes = page.get_attribute("#drawing", "data-boxes")
        assert boxes == str(len(run.instances([file], [""])[0]))
        page.goto(f"{address}/docs")
        page.wait_for_selector("text=POST /instances")


def test_a_file_that_is_no_picture_gets_a_sentence(
    page: Page,
    tiny_config: ConfigDict,
    untrained_run: Callable[[ConfigDict, Path], Path],
    tmp_path: Path,
) -> None:
    run = date_jax.open(untrained_run(tiny_config, tmp_path))
    with served(serving.create_app(run)) as address:
        page.goto(address)
        page.set_input_files(
            "#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"hello"}
        )
        page.wait_for_selector("text=The browser cannot show this file.")
        page.fill("#words", "mug")
        page.click("#ground")
        page.wait_for_selector("text=is no JPEG, PNG or WEBP")
    # The server has gone.
    page.click("#ground")
    page.wait_for_selector("text=The server does not answer.")
