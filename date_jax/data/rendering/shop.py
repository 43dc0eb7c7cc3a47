"""The embedded data: one shop's products, rendered as catalogue pictures and as live frames.

`mall` is clean and still, `live` is crowded, tinted and noisy; the same products appear in both,
each picture with a query that fits one product in it, and that product's exact box. A picture
depends on nothing but (seed, domain, split, index): any number of workers renders the same bytes.

    python -m date_jax.data.shop --out=sheet.png      # a contact sheet of both domains
"""

import argparse
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, cast

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from date_jax.data.rendering import composition
from date_jax.data.rendering.arrangement import members
from date_jax.data.rendering.composition import Scene
from date_jax.data.rendering.look import Look
from date_jax.errors import SetupError

RENDER_VERSION = 4  # raise it when pictures change: what an older renderer prepared is redone
DOMAINS = ("mall", "live")
SPLITS = ("train", "val", "test")

LOOKS: dict[str, Look] = {
    "mall": Look(
        count=(1, 3), crowd=0.35, size=(0.42, 0.62), shown_off=0.3, rotation=10.0, shear=0.04,
        margin=0.04, cut=0.0, overlap=0.02, hard_negative=0.2, mark_said=0.5,
        own_words=0.4,
        texture=0.0, clutter=0, banner=0.6, occlusion=0.0,
        shadow=0.25, cast=0.0, brightness=(1.0, 1.0), contrast=(1.0, 1.0), blur=(0.0, 0.0),
        noise=(0.0, 0.0),
    ),
    "live": Look(
        count=(2, 5), crowd=0.06, size=(0.47, 0.66), shown_off=0.5, rotation=12.0, shear=0.06,
        margin=0.01, cut=0.02, overlap=0.08, hard_negative=0.1, mark_said=0.5,
        own_words=0.4,
        texture=0.5, clutter=1, banner=0.5, occlusion=0.1,
        shadow=0.4, cast=0.08, brightness=(0.9, 1.1), contrast=(0.9, 1.0), blur=(0.0, 0.2),
        noise=(1.0, 3.0),
    ),
}  # fmt: skip


class Picture(NamedTuple):
    """One picture-query pair. box_xyxy is normalised and tightly holds the part of the queried
    product's silhouette that lies inside the picture; where several are asked for, of each."""

    image: UInt8[np.ndarray, "S S 3"]
    query: str
    box_xyxy: Float[np.ndarray, "*M 4"]
    product_id: str
    category: str


class Encoded(NamedTuple):
    """A Picture with the image as PNG bytes."""

    png: bytes
    query: str
    box_xyxy: Float[np.ndarray, "*M 4"]
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


class Job(NamedTuple):
    """The pictures 0 to `size` of one split of one domain."""

    domain: str
    split: str
    size: int


class Progress:
    """Done, rate and time left on standard error: one line that is rewritten twice a second, or
    in a log a line every ten seconds."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.live = sys.stderr.isatty()
        self.start = self.last = time.monotonic()

    def advance(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.last < (0.5 if self.live else 10) and self.done < self.total:
            return
        self.last = now
        rate = self.done / max(1e-9, now - self.start)
        print(
            f"rendering the shop: {self.done:,} of {self.total:,} pictures, {rate:,.0f}/s, "
            f"{(self.total - self.done) / rate:,.0f} s left   ",
            end="\r" if self.live and self.done < self.total else "\n",
            file=sys.stderr,
            flush=True,
        )


def pictures(
    jobs: list[Job], *, workers: int = 0, renderer: str = "shop", **options: Any
) -> Iterator[Encoded]:
    """All pictures of all jobs, in order, rendered by `workers` processes (0: one a core), with
    a line of progress on standard error.

    Args:
        renderer: the module of `data.rendering` whose `serve` renders, by its `picture`.
        options: of that `picture`, for all jobs.

    The workers are plain interpreters that load Pillow and NumPy only, each writing every n-th
    picture to its pipe. multiprocessing would import the caller's main module, and with it JAX,
    in each of them, or fork a process that already runs JAX's threads.

    Raises:
        SetupError: a worker died.
    """
    total = sum(job.size for job in jobs)
    workers = min(workers or _cores(), max(1, total // 16))
    program = f"from date_jax.data.rendering import {renderer}; {renderer}.serve()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, json.dumps([jobs, options, start, workers])],
            stdout=subprocess.PIPE,
            pipesize=1 << 18,  # room to run ahead of the others
            env=environment,
        )
        for start in range(workers)
    ]
    progress = Progress(total)
    try:
        for number in range(total):
            process = running[number % workers]
            made = _received(cast(IO[bytes], process.stdout))
            if made is None:
                raise SetupError(
                    f"a rendering process died with exit code {process.wait()} "
                    f"at picture {number} of {total}\n"
                    f"  if memory ran out, use fewer: --config.data.{renderer}.workers=1"
                )
            progress.advance()
            yield made
    finally:
        for process in running:
            process.kill()
            process.communicate()


def serve(made: Callable[..., Picture] = picture) -> None:
    """A worker's life: renders its share of the jobs in argv and writes it to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    jobs, options, start, workers = json.loads(sys.argv[1])
    numbered = ((domain, split, index) for domain, split, size in jobs for index in range(size))
    for domain, split, index in itertools.islice(numbered, start, None, workers):
        _send(sys.stdout.buffer, encoded(made(domain, index, split=split, **options)))
    sys.stdout.buffer.flush()


def _send(pipe: IO[bytes], made: Encoded) -> None:
    """A line of JSON with all but the picture, then the picture's bytes."""
    png, query, box_xyxy, product_id, category = made
    head = [len(png), query, box_xyxy.tolist(), product_id, category]
    pipe.write(json.dumps(head).encode() + b"\n" + png)


def _received(pipe: IO[bytes]) -> Encoded | None:
    """What `_send` wrote; None if the other end broke off."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        return None
    size, query, box_xyxy, product_id, category = json.loads(line)
    png = pipe.read(size)
    box = np.array(box_xyxy, np.float32)
    return Encoded(png, query, box, product_id, category) if len(png) == size else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def contact_sheet(
    *, columns: int, rows: int, split: str, seed: int, products: int, image_size: int
) -> Image.Image:
    """The first `columns` x `rows` products of a split, each as mall picture and, below it, as
    live frame, with the box and the query."""
    tile, gap = max(image_size, 192), 12
    height = max(12, tile // 20)
    text, font = 3 * height + gap, ImageFont.load_default(height)
    size = (columns * (tile + gap) + gap, rows * 2 * (tile + text) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number in range(columns * rows):
        for level, domain in enumerate(DOMAINS):
            made = picture(
                domain, number, split=split, seed=seed, products=products, image_size=image_size
            )
            x = gap + number % columns * (tile + gap)
            y = gap + (2 * (number // columns) + level) * (tile + text)
            scaled = Image.fromarray(made.image).resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(scaled, (x, y))
            box = (made.box_xyxy * tile + np.array([x, y, x, y])).tolist()
            draw.rectangle(box, outline=(228, 30, 90), width=max(2, tile // 96))
            words = _wrapped(made.query, tile, font)
            draw.multiline_text((x, y + tile + 3), words, fill=(40, 40, 50), font=font, spacing=2)
    return sheet


def _wrapped(words: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """`words` broken into lines of at most `width` pixels."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m date_jax.data.shop", description=__doc__)
    parser.add_argument("--out", default="sheet.png", help="the PNG file to write")
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--products", type=int, default=2_000)
    parser.add_argument("--image_size", type=int, default=64)
    options = vars(parser.parse_args())
    out = options.pop("out")
    contact_sheet(**options).save(out)
    print(f"wrote {out}")
