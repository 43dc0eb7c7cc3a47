"""The input pipeline alone, on one core and more, and the raw decoding of the same pictures."""

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
READY_BATCHES = 8  # that the pipeline may have made before a measurement begins


def run(config: ConfigDict, *, rounds: int) -> dict[str, Any]:
    """A table with a row for each number of cores: pictures a second of both, and their ratio.

    The two take turns; rates and share are medians over the rounds, with the least and most share.

    Args:
        config: the training examples of its source are read.
        rounds: in each, both are measured twice.
    """
    # Numbers of cores: the powers of two, and all that there are.
    cores = subprocesses.cores()
    counts = {1 << n for n in range(len(cores).bit_length())} | {len(cores)}
    question = {"config": json.loads(config.to_json()), "rounds": rounds}
    rows = []
    for count in sorted(counts):
        # An accelerator is this process's.
        on_cpu = {"JAX_PLATFORMS": "cpu"}
        with Child("date_jax.benchmarks.input", cores[:count], on_cpu) as child:
            rates = child.ask(question)
        shares = [a / b for a, b in zip(rates["pipeline"], rates["raw"], strict=True)]
        rows.append(
            {
                "cores": count,
                "examples_per_second": statistics.median(rates["pipeline"]),
                "raw_decodes_per_second": statistics.median(rates["raw"]),
                "share": statistics.median(shares),
                "least": min(shares),
                "most": max(shares),
            }
        )
    return {**rates["about"], "rates": rows}


def rates_of_rounds(question: dict[str, Any]) -> dict[str, Any]:
    """The rates of each round on the cores of this process, and what was read.

    Args:
        question: `config` as a dict, and `rounds`.

    Returns:
        `pipeline` and `raw`, pictures a second by round; `about`, what was read.
    """
    # The pipeline that training reads, and some of its pictures as they lie in the records.
    config = ConfigDict(question["config"])
    corpus = pipeline.load(config.data, "grounding")
    names = split_names(config.data.source, "train")
    files = _some_files(corpus, names)
    batches = pipeline.train_batches(
        corpus,
        names,
        share=pipeline.Share.here(),
        batch_size=config.batch_size,
        seed=0,
        start_step=0,
        boxes=True,
    )
    decoder, decode_raw = _raw_decoder(files, config.data.image_size)
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]

    def pipeline_rate() -> float:
        """Pictures a second of the pipeline, without those that it has made ahead."""
        for _ in range(READY_BATCHES):
            next(batches)
        return _rate(lambda: len(next(batches)["image"]))

    rates: dict[str, list[float]] = {"pipeline": [], "raw": []}
    with ThreadPool(len(subprocesses.cores())) as pool:

        def raw_rate() -> float:
            """Pictures a second of the decoder, in as many threads as there are cores."""
            time.sleep(0.5)  # the pipeline makes its batches ahead first
            return _rate(lambda: sum(pool.imap_unordered(decode_raw, chunks)))

        # Both twice a round, there and back: a machine that grows slower is unfair to neither.
        pipeline_rate(), raw_rate()  # warm up
        for _ in range(question["rounds"]):
            pipeline_first, raw_first = pipeline_rate(), raw_rate()
            raw_last, pipeline_last = raw_rate(), pipeline_rate()
            rates["pipeline"].append((pipeline_first + pipeline_last) / 2)
            rates["raw"].append((raw_first + raw_last) / 2)
    about = {
        "data": f"{config.data.name}, {config.data.image_size} px",
        "raw_decoder": decoder,
        "kilobytes_per_picture": float(np.mean([len(file) for file in files])) / 1e3,
        "batch_size": config.batch_size,
    }
    return {**rates, "about": about}


def _rate(work: Callable[[], int]) -> float:
    """Pictures a second of `work`, which returns how many it made."""
    begun, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - begun) < SECONDS:
        count += work()
    return count / seconds


def _some_files(corpus: pipeline.Corpus, names: list[str]) -> list[bytes]:
    """Some of the picture files in the records of these splits."""
    records = Records([corpus.splits[name].records for name in names])
    rows = np.random.default_rng(0).permutation(len(records))[:PICTURES]
    return decode.picture_files(records[rows])


def _raw_decoder(files: list[bytes], side: int) -> tuple[str, Callable[[list[bytes]], int]]:
    """The name of the fastest decoder here that reads all of these pictures, and the decoder.

    It returns how many files it has decoded. JPEGs go into one array again and again, which stays
    in the processor's cache: no pixels are kept.

    Args:
        files: JPEG, PNG or both.
        side: of the pictures, in pixels.
    """
    if all(map(decode.is_jpeg, files)):

        def from_jpeg(files: list[bytes]) -> int:
            pixels = np.empty((side, side, 3), np.uint8)
            for file in files:
                simplejpeg.decode_jpeg(file, buffer=pixels)
            return len(files)

        return "libjpeg-turbo (simplejpeg)", from_jpeg

    def from_png(files: list[bytes]) -> int:
        for file in files:
            Image.open(io.BytesIO(file)).load()
        return len(files)

    return "libpng (Pillow)", from_png


if __name__ == "__main__":
    answer(rates_of_rounds)
