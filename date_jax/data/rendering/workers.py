"""Rendering by several processes: pictures come back encoded, in order, from any number of them.

The workers are plain interpreters that load Pillow and NumPy only, each writing every n-th picture
to its pipe. multiprocessing would import the caller's main module, and with it JAX, in each of
them, or fork a process that already runs JAX's threads.
"""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, cast

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from date_jax.errors import SetupError
from date_jax.run.countdown import Countdown

RENDERERS = {  # of config.data.name, the module of `data.rendering` whose `serve` renders
    "shop": "shop_pictures",
    "suites": "post_pictures",
    "suppliers": "offer_pictures",
}
PIPE_BYTES = 1 << 18  # room for a worker to run ahead of the others
PICTURES_A_WORKER = 16  # fewer do not pay for its start


class Picture(NamedTuple):
    """One rendered picture with its text, a query or a title.

    `box_xyxy` is normalised and tightly holds the part of the named product's silhouette that lies
    inside the picture; where several products are named, it holds a box of each.
    """

    image: UInt8[np.ndarray, "S S 3"]
    text: str
    box_xyxy: Float[np.ndarray, "*M 4"]
    product_id: str
    category: str


class Encoded(NamedTuple):
    """A Picture whose image is PNG bytes."""

    png: bytes
    text: str
    box_xyxy: Float[np.ndarray, "*M 4"]
    product_id: str
    category: str


class Job(NamedTuple):
    """The pictures 0 to `size` of one split of one group: a domain, or a kind of pictures."""

    group: str
    split: str
    size: int

    @property
    def name(self) -> str:
        """The name of the split that the pictures become, such as `mall_train`."""
        return f"{self.group}_{self.split}"


def encoded_picture(picture: Picture) -> Encoded:
    """The picture with its pixels as PNG, which loses nothing."""
    buffer = io.BytesIO()
    Image.fromarray(picture.image).save(buffer, "PNG", compress_level=3)
    return Encoded(buffer.getvalue(), *picture[1:])


def encoded_pictures(
    jobs: list[Job], *, source: str, workers: int = 0, **options: Any
) -> Iterator[Encoded]:
    """All pictures of all jobs, in order, with progress on standard error.

    Args:
        jobs: what to render.
        source: of RENDERERS.
        workers: processes; 0 is one a core. Their number changes no picture.
        options: of the renderer's `picture`, for all jobs.

    Raises:
        SetupError: a worker died.
    """
    # Starting a worker takes as long as rendering several pictures.
    total = sum(job.size for job in jobs)
    workers = min(workers or _core_count(), max(1, total // PICTURES_A_WORKER))
    renderer = RENDERERS[source]
    program = f"from date_jax.data.rendering import {renderer}; {renderer}.serve()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    # Worker k renders the pictures k, k + workers, k + 2 workers, ...
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, json.dumps([jobs, options, start, workers])],
            stdout=subprocess.PIPE,
            pipesize=PIPE_BYTES,
            env=environment,
        )
        for start in range(workers)
    ]
    countdown = Countdown("rendering pictures", total)
    try:
        # Reading the pipes in turn puts the pictures in order again.
        for number in range(total):
            process = processes[number % workers]
            picture = _next_picture(cast(IO[bytes], process.stdout))
            if picture is None:
                raise SetupError(
                    f"a rendering process died with exit code {process.wait()} "
                    f"at picture {number} of {total}\n"
                    f"  if memory ran out, use fewer: --config.data.{source}.workers=1"
                )
            countdown.advance()
            yield picture
    finally:  # also where nobody takes the rest
        for process in processes:
            process.kill()
            process.communicate()


def serve(picture: Callable[..., Picture]) -> None:
    """A worker's life: renders its share of the jobs in argv and writes it to standard output.

    Args:
        picture: of a domain and an index, with the split and the other options by keyword.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    jobs, options, start, workers = json.loads(sys.argv[1])
    numbered = ((domain, split, index) for domain, split, size in jobs for index in range(size))
    for domain, split, index in itertools.islice(numbered, start, None, workers):
        rendered = picture(domain, index, split=split, **options)
        _send(sys.stdout.buffer, encoded_picture(rendered))
    sys.stdout.buffer.flush()


def _send(pipe: IO[bytes], picture: Encoded) -> None:
    """Writes a line of JSON with all but the pixels, then the PNG's bytes."""
    png, text, box_xyxy, product_id, category = picture
    head = [len(png), text, box_xyxy.tolist(), product_id, category]
    pipe.write(json.dumps(head).encode() + b"\n" + png)


def _next_picture(pipe: IO[bytes]) -> Encoded | None:
    """The picture that `_send` wrote; None if the other end broke off."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        return None
    size, text, box_xyxy, product_id, category = json.loads(line)
    png = pipe.read(size)
    box = np.array(box_xyxy, np.float32)
    return Encoded(png, text, box, product_id, category) if len(png) == size else None


def _core_count() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
