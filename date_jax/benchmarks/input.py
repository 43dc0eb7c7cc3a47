"""The input pipeline alone, on one core and more, beside the raw decoding of the same pictures."""

import io
import json
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import simplejpeg
from ml_collections import ConfigDict
from PIL import Image

from date_jax.benchmarks.children import Child, answer
from date_jax.data import decode, pipeline
from date_jax.data.domains import split_names
from date_jax.data.prepared import Records
from date_jax.run import subprocesses

SECONDS = 1.5  # that one measurement lasts, at least
PICTURES = 512  # that are decoded raw, again and again
CHUNK = 16  # of them that a thread takes at a time
MADE_AHEAD = 8  # batches that may be ready when a measurement begins


def run(config: ConfigDict, *, rounds: int) -> dict[str, Any]:
    """A row for each number of cores: pictures a second of both, the first as a share of the other.

    The two take turns; rates and share are medians over the rounds, with the least and most share.

    Args:
        config: the training examples of its source are read.
        rounds: in each, both are measured twice.
    """
    cores = subprocesses.cores()
    counts = {1 << n for n in range(len(cores).bit_length())} | {len(cores)}
    question = {"config": json.loads(config.to_json()), "rounds": rounds}
    rows = []
    for count in sorted(counts):
        # An accelerator is this process's.
        on_cpu = {"JAX_PLATFORMS": "cpu"}
        with Child("date_jax.benchmarks.input", cores[:count], on_cpu) as child:
            found = child.ask(question)
        shares = [a / b for a, b in zip(found["pipeline"], found["raw"], strict=True)]
        rows.append(
            {
                "cores": count,
                "examples_per_second": statistics.median(found["pipeline"]),
                "raw_decodes_per_second": statistics.median(found["raw"]),
                "share": statistics.median(shares),
                "least": min(shares),
                "most": max(shares),
            }
        )
    return {**found["about"], "rates": rows}


def measured(question: dict[str, Any]) -> dict[str, Any]:
    """Rates of each round on the cores of this process, and what was read."""
    config = ConfigDict(question["config"])
    corpus = pipeline.load(config.data, "grounding")
    names = split_names(config.data.source, "train")
    encoded = _encoded(corpus, names)
    batches = pipeline.train_batches(
        corpus,
        names,
        share=pipeline.Share.here(),
        batch_size=config.batch_size,
        seed=0,
        start_step=0,
        boxes=True,
    )
    decoder, decode_raw = _raw_decoder(encoded[0], config.data.image_size)
    chunks = [encoded[i : i + CHUNK] for i in range(0, len(encoded), CHUNK)]

    def piped() -> float:
        for _ in range(MADE_AHEAD):
            next(batches)
        return _rate(lambda: len(next(batches)["image"]))

    rates: dict[str, list[float]] = {"pipeline": [], "raw": []}
    with ThreadPool(len(subprocesses.cores())) as pool:

        def raw() -> float:
            time.sleep(0.5)  # the pipeline makes its batches ahead first
            return _rate(lambda: sum(pool.imap_unordered(decode_raw, chunks)))

        piped(), raw()  # warm up
        for _ in range(question["rounds"]):
            first, *both, last = piped(), raw(), raw(), piped()
            rates["pipeline"].append((first + last) / 2)
            rates["raw"].append(statistics.fmean(both))
    about = {
        "data": f"{config.data.name}, {config.data.image_size} px",
        "raw_decoder": decoder,
        "kilobytes_per_picture": float(np.mean([len(x) for x in encoded])) / 1e3,
        "batch_size": config.batch_size,
    }
    return {**rates, "about": about}


def _rate(work: Callable[[], int]) -> float:
    """Pictures a second of `work`, which says how many it made."""
    begun, made = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < SECONDS:
        made += work()
    return made / spent


def _encoded(corpus: pipeline.Corpus, names: list[str]) -> list[bytes]:
    """Some pictures as they lie in the records."""
    records = Records([corpus.splits[name].records for name in names])
    some = np.random.default_rng(0).permutation(len(records))[:PICTURES]
    return decode.picture_files(records[some])


def _raw_decoder(picture: bytes, side: int) -> tuple[str, Callable[[list[bytes]], int]]:
    """The fastest known here for pictures like this one, and its name; it returns how many it was
    given. Nothing is kept, so JPEGs go into one array again and again, which stays in the cache."""
    if decode.is_jpeg(picture):

        def from_jpeg(files: list[bytes]) -> int:
            into = np.empty((side, side, 3), np.uint8)
            for file in files:
                simplejpeg.decode_jpeg(file, buffer=into)
            return len(files)

        return "libjpeg-turbo (simplejpeg)", from_jpeg

    def from_png(files: list[bytes]) -> int:
        for file in files:
            Image.open(io.BytesIO(file)).load()
        return len(files)

    return "libpng (Pillow)", from_png


if __name__ == "__main__":
    answer(measured)
