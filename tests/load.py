"""Asks a server as many clients at once, for a few seconds each, and prints the times.

    python -m date_jax.serve --workdir=runs/one --index=vectors &
    python -m tests.load --url=http://127.0.0.1:8000 --image=photo.png --clients=1,8,32 --seconds=10

By hand: it measures a machine, and proves nothing. `--vectors` makes an index of random vectors.
"""

import argparse
import base64
import http.client
import json
import re
import threading
import time
import urllib.parse
from pathlib import Path

import numpy as np


def random_index(workdir: str, folder: Path, count: int) -> None:
    """Writes an index of random unit vectors that belongs to a run, with its own writer."""
    import pyarrow

    import date_jax
    from date_jax.index import parts
    from date_jax.index.parts import Part

    run = date_jax.open(workdir)
    width = run.embed_texts(["?"]).shape[1]
    vectors = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    number = np.arange(count)
    texts = [f"offer {n}" for n in number]
    table = pyarrow.table(
        {"id": [f"o{n}" for n in number], "text": texts, "path": [""] * count,
         "vector": parts.vector_column(vectors), "price": number % 100}
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    part = Part(table, (), run.fingerprint, "embed_images")
    path = parts.write_part(folder, 0, 1, part)
    parts.write_manifest(
        folder,
        {"format": parts.FORMAT, "network": run.fingerprint, "question": "embed_images",
         "task": run.config.task, "columns": {"id": "id", "path": "", "text": "text"},
         "pictures": str(folder), "parts": [parts.manifest_entry(path, part)]},
    )  # fmt: skip


def resident(url: urllib.parse.SplitResult) -> float:
    """The server's memory in MB, of its own numbers."""
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    match = re.search(r"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)
    return float(match[1]) / 1e6 if match else float("nan")


def measure(
    url: urllib.parse.SplitResult, path: str, bodies: list[bytes], clients: int, seconds: float
) -> str:
    """A line: requests a second, and what half, 95 % and 99 % of them took at most."""
    times: list[float] = []
    failures: list[int] = []
    end = time.monotonic() + seconds

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
        while time.monotonic() < end:
            start = time.monotonic()
            body = bodies[(number + len(times)) % len(bodies)]
            connection.request("POST", path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            times.append(time.monotonic() - start)
            if answer.status != 200:
                failures.append(answer.status)
        connection.close()

    start = time.monotonic()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(times) / (time.monotonic() - start)
    if not times:
        raise SystemExit(f"{url.netloc}: does not answer")
    half, most, nearly_all = np.percentile(times, (50, 95, 99)) * 1e3
    return (
        f"| `{path}` | {clients} | {rate:.1f} | {half:.0f} | {most:.0f} | {nearly_all:.0f} "
        f"| {len(times)} | {len(failures)} | {resident(url):.0f} |"
    )


def main() -> None:
    """Parses the flags, and prints a line for each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--image", type=Path, help="to ask /ground with")
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--routes", default="/ground,/search")
    parser.add_argument("--requests", type=int, default=0, help="so many of /search; memory alone")
    parser.add_argument("--vectors", type=Path, help="make this index of random vectors, and end")
    parser.add_argument("--workdir", default="", help="the run that --vectors belongs to")
    parser.add_argument("--count", type=int, default=100_000, help="of random vectors")
    values = parser.parse_args()
    if values.vectors:
        random_index(values.workdir, values.vectors, values.count)
        return
    url = urllib.parse.urlsplit(values.url)
    words = [f"{colour} {product}" for colour in ("red", "blue") for product in ("mug", "bag")]
    bodies = {"/search": [json.dumps({"words": text}).encode() for text in words]}
    if values.image:
        image = base64.b64encode(values.image.read_bytes()).decode()
        bodies["/ground"] = [
            json.dumps({"image": image, "queries": [text]}).encode() for text in words
        ]
    if values.requests:
        print(f"before: {resident(url):.0f} MB")
        done = 0
        while done < values.requests:
            line = measure(url, values.routes.split(",")[0], bodies[values.routes.split(",")[0]],
                           int(values.clients.split(",")[-1]), values.seconds)  # fmt: skip
            done += int(line.split("|")[7])
            print(f"after {done:,} requests: {resident(url):.0f} MB", flush=True)
        return
    print("| route | clients | requests/s | p50 ms | p95 ms | p99 ms | requests | failed | MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for route in values.routes.split(","):
        for clients in values.clients.split(","):
            print(
                measure(url, route, bodies[route], int(clients), values.seconds),
                flush=True,
            )


if __name__ == "__main__":
    main()
