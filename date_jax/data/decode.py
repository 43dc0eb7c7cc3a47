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


def picture_files(records: Iterable[bytes]) -> list[bytes]:
    """The JPEG or PNG file in each of some serialised records."""
    parse = tensorflow().train.Example.FromString
    return [parse(record).features.feature["image"].bytes_list.value[0] for record in records]


def is_jpeg(file: bytes) -> bool:
    """Whether a picture's file is a JPEG, by its first bytes."""
    return file.startswith(b"\xff\xd8")


def pictures(files: Sequence[bytes], side: int) -> UInt8[np.ndarray, "B S S 3"]:
    """The RGB pictures in some JPEG or PNG files, all of `side` x `side` pixels.

    Raises:
        ValueError, OSError: one of them is damaged or of another size.
    """
    batch = _aligned_array((len(files), side, side, 3))
    # One after the other: the work is in the decoders, which let other threads go on meanwhile.
    for file, place in zip(files, batch, strict=True):
        if is_jpeg(file):
            _check_size(simplejpeg.decode_jpeg(file, buffer=place), side)
        else:
            picture = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
            _check_size(picture, side)
            place[:] = picture
    return batch


def _aligned_array(shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """An array, not yet filled, that begins at a multiple of _ALIGNED bytes."""
    size = int(np.prod(shape))
    buffer = np.empty(size + _ALIGNED, np.uint8)
    start = -buffer.ctypes.data % _ALIGNED
    return buffer[start : start + size].reshape(shape)


def _check_size(picture: UInt8[np.ndarray, "H W 3"], side: int) -> None:
    height, width, _ = picture.shape
    if (height, width) != (side, side):
        raise ValueError(f"a picture is {width} x {height}, not {side} x {side}")
