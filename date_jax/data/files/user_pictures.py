"""The pictures that a user asks about, from any source, prepared as the training's were."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image, ImageOps

from date_jax.data import decode
from date_jax.data.files import photos
from date_jax.data.files.preprocess import UnreadablePictureError, header, prepared_file
from date_jax.run.user_paths import user_path


class UserPicture(NamedTuple):
    """A picture as a network sees it.

    Attributes:
        pixels: RGB, of the size that the network was trained on.
        size: width and height of the picture as a viewer shows it, in pixels.
    """

    pixels: UInt8[np.ndarray, "S S 3"]
    size: tuple[int, int]


Source: TypeAlias = str | Path | bytes | Image.Image | np.ndarray | UserPicture


def user_picture(source: Source, data: ConfigDict) -> UserPicture:
    """A picture prepared as those of the training were.

    Args:
        source: a path, the bytes of a JPEG, PNG or WEBP file, a PIL image, or RGB uint8 `[H W 3]`.
        data: `config.data` of the run: `image_size`, `fit` and `max_pixels` are read.

    Raises:
        UnreadablePictureError: it cannot be read to the end; its text says why, without a name.
    """
    if isinstance(source, UserPicture):
        return source
    if isinstance(source, np.ndarray):
        source = _image_of_array(source)
    if not isinstance(source, str | Path | bytes | Image.Image):
        raise UnreadablePictureError(
            f"is of type {type(source).__name__}; give a path, a file's bytes, a PIL image, or RGB "
            "as uint8 [H W 3]"
        )
    # Pixels at hand take the way of a file, so that there is one way for all.
    if isinstance(source, Image.Image):
        png = io.BytesIO()
        try:
            ImageOps.exif_transpose(source).save(png, "PNG", compress_level=1)
        except (OSError, ValueError) as error:  # closed, cut, or of a mode that PNG lacks
            raise UnreadablePictureError(f"is a PIL image that cannot be read: {error}") from None
        source = png.getvalue()
    if isinstance(source, str):
        if advice := photos.naming_advice(Path(), source):
            raise UnreadablePictureError(advice)
        source = user_path(source)
    # The size first: it takes the header alone.
    size = header(source, max_pixels=data.max_pixels)
    file = prepared_file(
        source, image_size=data.image_size, fit=data.fit, max_pixels=data.max_pixels
    )
    return UserPicture(decode.pictures([file], data.image_size)[0], (size.width, size.height))


def user_pictures(
    sources: list[Source], data: ConfigDict
) -> list[UserPicture | UnreadablePictureError]:
    """The pictures of many sources, or for each why it cannot be read; several at a time."""

    def picture(source: Source) -> UserPicture | UnreadablePictureError:
        try:
            return user_picture(source, data)
        except UnreadablePictureError as error:
            return error

    if len(sources) < 2:
        return [picture(source) for source in sources]
    # Decoders let other threads go on meanwhile.
    with ThreadPoolExecutor() as threads:
        return [*threads.map(picture, sources)]


def _image_of_array(pixels: np.ndarray) -> Image.Image:
    """An array of RGB or grey pixels as an image."""
    is_picture = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3)
    if pixels.dtype != np.uint8 or not is_picture or not pixels.size:
        raise UnreadablePictureError(
            f"is an array of {pixels.dtype} {list(pixels.shape)}; give RGB as uint8 [H W 3]"
        )
    return Image.fromarray(pixels)
