"""The pictures of prepared records, decoded into one array.

By libjpeg-turbo and Pillow: TensorFlow's own decoding takes longer and is less exact, as its
default is the fast cosine transform.
"""

import io
from collections.abc import Iterable, Sequence

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from date_jax.data.cache import tensorflow

_ALIGNED = 64  # bytes; TensorFlow takes an array that begins at a multiple of it without copying it


def encoded(records: Iterable[bytes]) -> list[bytes]:
    """The file of each serialised record's picture."""
    example = tensorflow().train.Example.FromString
    return [example(each).features.feature["image"].bytes_list.value[0] for each in records]


def is_jpeg(file: bytes) -> bool:
    """From its first bytes."""
    return file.startswith(b"\xff\xd8")


def pictures(files: Sequence[bytes], side: int) -> UInt8[np.ndarray, "B S S 3"]:
    """RGB pictures of `side` x `side`, each from a JPEG or PNG file.

    Raises:
        ValueError, OSError: one of them is damaged or of another size.
    """
    batch = _empty((len(files), side, side, 3))
    # One after the other: the work is in the decoders, which let other threads go on meanwhile.
    for file, place in zip(files, batch, strict=True):
        if is_jpeg(file):
            _check(simplejpeg.decode_jpeg(file, buffer=place), side)
        else:
            found = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
            _check(found, side)
            place[:] = found
    return batch


def _empty(shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    size = int(np.prod(shape))
    room = np.empty(size + _ALIGNED, np.uint8)
    start = -room.ctypes.data % _ALIGNED
    return room[start : start + size].reshape(shape)


def _check(picture: UInt8[np.ndarray, "H W 3"], side: int) -> None:
    height, width, _ = picture.shape
    if (height, width) != (side, side):
        raise ValueError(f"a picture is {width} x {height}, not {side} x {side}")
