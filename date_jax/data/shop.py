"""The embedded data: one shop's products, rendered as catalogue pictures and as live frames.

`mall` is clean and still, `live` is crowded, tinted and noisy; the same products appear in both,
each picture with a query that fits one product in it, and that product's exact box. A picture
depends on nothing but (seed, domain, split, index): any number of workers renders the same bytes.

    python -m date_jax.data.shop --out=sheet.png      # a contact sheet of both domains
"""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from date_jax.data.rendering import composition
from date_jax.data.rendering.composition import Look, Scene, members

RENDER_VERSION = 1  # raise it when pictures change: what an older renderer prepared is redone
DOMAINS = ("mall", "live")
SPLITS = ("train", "val", "test")

LOOKS: dict[str, Look] = {
    "mall": Look(
        count=(1, 3), size=(0.36, 0.62), rotation=10, shear=0.04, margin=0.04, cut=0.0,
        overlap=0.02,
        hard_negative=0.7, mark_said=0.5, texture=0.0, clutter=0, banner=0.35, occlusion=0.0,
        shadow=0.25, cast=0.0, brightness=(1.0, 1.0), contrast=(1.0, 1.0), blur=(0.0, 0.0),
        noise=(0.0, 0.0),
    ),
    "live": Look(
        count=(2, 5), size=(0.28, 0.46), rotation=25, shear=0.12, margin=0.0, cut=0.1, overlap=0.12,
        hard_negative=0.7, mark_said=0.5, texture=0.8, clutter=3, banner=0.6, occlusion=0.35,
        shadow=0.4, cast=0.12, brightness=(0.75, 1.1), contrast=(0.75, 1.1), blur=(0.0, 0.5),
        noise=(2.0, 8.0),
    ),
}  # fmt: skip


class Picture(NamedTuple):
    """One picture-query pair. box_xyxy is normalised and tightly holds the part of the queried
    product's silhouette that lies inside the picture."""

    image: UInt8[np.ndarray, "S S 3"]
    query: str
    box_xyxy: Float[np.ndarray, " 4"]
    product_id: str
    category: str


class Encoded(NamedTuple):
    """A Picture with the image as PNG bytes."""

    png: bytes
    query: str
    box_xyxy: Float[np.ndarray, " 4"]
    product_id: str
    category: str


def scene(
    domain: str, index: int, *, split: str, seed: int, products: int, image_size: int
) -> Scene:
    """Picture `index` of a domain's split with everything that is known of it. The split's
    products take turns, so each is queried about equally often in either domain."""
    items = members(seed, products, split)
    rng = np.random.default_rng([seed, 3, DOMAINS.index(domain), SPLITS.index(split), index])
    return composition.scene(
        rng,
        LOOKS[domain],
        domain=domain,
        target=items[index % len(items)],
        seed=seed,
        products=products,
        split=split,
        image_size=image_size,
    )


def picture(
    domain: str, index: int, *, split: str, seed: int, products: int, image_size: int
) -> Picture:
    """Picture `index` of a domain's split."""
    made = scene(domain, index, split=split, seed=seed, products=products, image_size=image_size)
    target = made.products[0]
    return Picture(made.image, made.query, made.box_xyxy, target.id, target.category)


def encoded(made: Picture) -> Encoded:
    buffer = io.BytesIO()
    Image.fromarray(made.image).save(buffer, "PNG", compress_level=3)
    return Encoded(buffer.getvalue(), *made[1:])


class Progress:
    """One line on standard error, rewritten twice a second: done, rate, time left."""

    def __init__(self, total: int, label: str, stream: IO[str] | None = None) -> None:
        self.total, self.label, self.done = total, label, 0
        self.stream = sys.stderr if stream is None else stream
        self.start = self.last = time.monotonic()

    def advance(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.last < 0.5 and self.done < self.total:
            return
        self.last = now
        rate = self.done / max(1e-9, now - self.start)
        left = (self.total - self.done) / rate
        self.stream.write(
            f"\r{self.label}: {self.done:,} of {self.total:,} pictures, {rate:,.0f}/s, "
            f"{left:,.0f} s left   " + ("\n" if self.done == self.total else "")
        )
        self.stream.flush()


def pictures(
    domain: str,
    count: int,
    *,
    split: str,
    seed: int,
    products: int,
    image_size: int,
    workers: int = 0,
    progress: Progress | None = None,
) -> Iterator[Encoded]:
    """Pictures 0 to `count` of a domain's split, in order, rendered by `workers` processes
    (0: one a core).

    The workers are plain interpreters that load Pillow and NumPy only, each writing every n-th
    picture to its pipe. multiprocessing would import the caller's main module, and with it JAX,
    in each of them, or fork a process that already runs JAX's threads.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, count // 16))
    job = {"domain": domain, "count": count, "step": workers}
    job["options"] = {"split": split, "seed": seed, "products": products, "image_size": image_size}
    program = "from date_jax.data import shop; shop.serve()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, json.dumps(job | {"start": start})],
            stdout=subprocess.PIPE,
            pipesize=1 << 20,
            env=environment,
        )
        for start in range(workers)
    ]
    try:
        for index in range(count):
            yield pickle.load(running[index % workers].stdout)
            if progress:
                progress.advance()
    finally:
        for process in running:
            process.kill()
            process.stdout.close()
            process.wait()


def serve() -> None:
    """A worker's life: renders its share of the job in argv and writes it to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    job = json.loads(sys.argv[1])
    for index in range(job["start"], job["count"], job["step"]):
        made = encoded(picture(job["domain"], index, **job["options"]))
        pickle.dump(made, sys.stdout.buffer, protocol=pickle.HIGHEST_PROTOCOL)
    sys.stdout.buffer.flush()
