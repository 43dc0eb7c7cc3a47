"""What one picture looks like: its fingerprint, brightness and sharpness, and a small copy."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8, UInt64
from PIL import Image

from date_jax.data import decode
from date_jax.data.files import preprocess
from date_jax.data.files.preprocess import UnreadablePictureError

SIDE = 256  # pixels of the longer side at which a picture is judged, if it has as many
MAX_PIXELS = 64_000_000  # as `config.data.max_pixels`: a larger picture is not read
SMALL = 16  # pixels of a side of the small copy
_CELLS = 8  # differences of a row or column that a hash has
_DARK = 64  # grey value that nearly all pixels of a dark picture are below
_FLAT = 12  # grey values between the darkest and the brightest pixels of an empty picture
# 450 of our photos, blurred by a Gaussian of 2 px at SIDE, had 0.04 to 0.14; as they are, 0.40 on.
_BLURRED = 0.15


class Look(NamedTuple):
    """What is kept of a picture.

    Attributes:
        digest: of the file's bytes.
        difference_hash: 128 bits: whether each of 8 x 8 places is brighter than its left
            neighbour, and than its upper one.
        small: the picture at 16 x 16, the channels' values around their mean, of length 1.
        fault: "dark", "blank", "blurred" or "".
    """

    digest: bytes
    difference_hash: UInt64[np.ndarray, "2"]
    small: Float[np.ndarray, " 768"]
    fault: str


def look(path: Path) -> Look | UnreadablePictureError:
    """The look of a picture's file, or why its pixels cannot be read."""
    try:
        file = path.read_bytes()
        pixels = upright_pixels(file)
    except OSError as error:
        return UnreadablePictureError(f"cannot be opened: {error.strerror}")
    except UnreadablePictureError as error:
        return error
    image = Image.fromarray(pixels)
    return Look(
        digest=hashlib.blake2b(file, digest_size=16).digest(),
        difference_hash=_difference_hash(image),
        small=_small_copy(image),
        fault=_fault(np.asarray(image.convert("L"), np.float32)),
    )


def upright_pixels(file: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """The picture as a viewer shows it, its longer side at most SIDE.

    Raises:
        UnreadablePictureError: it cannot be decoded to the end.
    """
    # By the way of a run's pictures, without the margins; a small one is not enlarged.
    header = preprocess.header(file, max_pixels=MAX_PIXELS)
    side = min(SIDE, max(header.width, header.height))
    prepared = preprocess.prepared_file(
        file, image_size=side, fit="letterbox", max_pixels=MAX_PIXELS
    )
    (square,) = decode.pictures([prepared], side)
    size = header.width, header.height
    margins = preprocess.prepared_box(
        (0.0, 0.0, *map(float, size)), size, image_size=side, fit="letterbox"
    )
    corners = margins * side
    left, top, right, bottom = corners.round().astype(int)
    return square[top:bottom, left:right]


def _difference_hash(image: Image.Image) -> UInt64[np.ndarray, "2"]:
    """The bits of a picture that re-encoding, scaling and another brightness leave alone."""
    side = _CELLS + 1
    grey = np.asarray(image.convert("L").resize((side, side), Image.Resampling.BOX), np.int16)
    across = grey[:_CELLS, 1:] > grey[:_CELLS, :-1]
    down = grey[1:, :_CELLS] > grey[:-1, :_CELLS]
    return np.packbits(np.stack([across, down]).reshape(2, -1), axis=1).view(np.uint64)[:, 0]


def _small_copy(image: Image.Image) -> Float[np.ndarray, " 768"]:
    """The picture at SMALL x SMALL, so that a product of two copies is their correlation."""
    small = np.asarray(image.resize((SMALL, SMALL), Image.Resampling.BOX), np.float32).ravel()
    small = small - small.mean()
    return small / max(float(np.linalg.norm(small)), 1.0)


def _fault(grey: Float[np.ndarray, "H W"]) -> str:
    """What is wrong with a picture's light or focus, "" where nothing is."""
    low, high = np.percentile(grey, [1, 99])
    if high - low < _FLAT:
        return "blank"
    if np.percentile(grey, 95) < _DARK:
        return "dark"
    # The sharpest edges, by the Laplacian, as shares of the picture's contrast.
    if min(grey.shape) < 3:
        return ""
    inner = grey[1:-1, 1:-1]
    neighbours = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    edges = np.percentile(np.abs(4 * inner - neighbours), 99.5)
    return "blurred" if edges < _BLURRED * (high - low) else ""
