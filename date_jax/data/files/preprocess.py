"""One picture file to S x S pixels of RGB, and its boxes with it.

Files come from anywhere: nothing is decoded before its header was checked, and whatever Pillow
raises is an answer about that one file.
"""

import io
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP")
FITS = ("letterbox", "stretch")  # how a picture comes to be square
MAX_BYTES = 256 << 20
MARGIN = (127, 127, 127)  # the colour around a letterboxed picture: 0 once pixels are normalised

# Every epoch decodes a photo again, and PNG takes several times as long. At full colour resolution.
_QUALITY: dict[str, Any] = {"quality": 95, "subsampling": 0}
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)

# Pillow warns at 89 million pixels and raises at twice that; our cap is checked right after the
# header, before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


class UnreadablePictureError(Exception):
    """One file cannot be used: why, with its first bytes where they tell something."""


class Header(NamedTuple):
    """The size and orientation of a picture, known without decoding it.

    Attributes:
        width: of the upright picture, in pixels.
        height: of the upright picture, in pixels.
        is_rotated: the file holds it turned or mirrored, and says so.
    """

    width: int
    height: int
    is_rotated: bool


def header(path: Path, *, max_pixels: int) -> Header:
    """A picture's header, of which nothing is decoded.

    Args:
        path: of the file.
        max_pixels: refuses pictures with more.

    Raises:
        UnreadablePictureError: no file, not one of FORMATS, too large, or malformed.
    """
    with _opened_image(path, max_pixels) as image:
        orientation = _orientation(image)
        width, height = image.size[::-1] if orientation in _SIDEWAYS else image.size
        return Header(width, height, orientation in _UPRIGHT)


def prepared_jpeg(path: Path, *, image_size: int, fit: str, max_pixels: int) -> bytes:
    """The picture upright, in RGB over white, at `image_size` x `image_size`, as JPEG.

    Args:
        path: of a JPEG, PNG or WEBP of any size and mode.
        image_size: S.
        fit: "letterbox" keeps the aspect and fills up with MARGIN, "stretch" does not.
        max_pixels: refuses pictures with more, from the header.

    Raises:
        UnreadablePictureError: it cannot be decoded to the end.
    """
    with _opened_image(path, max_pixels) as image:
        try:
            orientation = _orientation(image)
            # A JPEG decodes at half, quarter … size for nothing; twice the wanted stays sharp.
            image.draft(image.mode, (2 * image_size, 2 * image_size))
            upright = _rgb_image(image)
        except Exception as error:  # Pillow's decoders raise anything on malformed input
            raise UnreadablePictureError(f"cannot be decoded: {_reason(error)}") from error
    if orientation in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[orientation])
    # Into its place on the canvas, which it fills but for the margins of a letterbox.
    place = _placement(*upright.size, image_size, fit)
    canvas = Image.new("RGB", (image_size, image_size), MARGIN)
    resized = upright.resize((place.width, place.height), Image.Resampling.BICUBIC)
    canvas.paste(resized, (place.left, place.top))
    jpeg = io.BytesIO()
    canvas.save(jpeg, "JPEG", **_QUALITY)
    return jpeg.getvalue()


def prepared_box(
    box_xyxy_pixels: Sequence[float], size: tuple[int, int], *, image_size: int, fit: str
) -> Float[np.ndarray, " 4"]:
    """A box, normalised, in the picture that `prepared_jpeg` makes.

    Args:
        box_xyxy_pixels: in the upright picture.
        size: width and height of the upright picture.
        image_size: S.
        fit: as in `prepared_jpeg`.
    """
    width, height = size
    place = _placement(width, height, image_size, fit)
    scale = np.array([place.width / width, place.height / height] * 2)
    corner = np.array([place.left, place.top] * 2)
    limits = np.array([width, height] * 2)
    inside = np.clip(np.asarray(box_xyxy_pixels, np.float64), 0, limits)
    return ((inside * scale + corner) / image_size).astype(np.float32)


class _Placement(NamedTuple):
    """A rectangle in the prepared picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


def _placement(width: int, height: int, image_size: int, fit: str) -> _Placement:
    """The part of the prepared picture that the original takes, in whole pixels."""
    if fit == "stretch":
        return _Placement(0, 0, image_size, image_size)
    scale = image_size / max(width, height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    return _Placement((image_size - wide) // 2, (image_size - high) // 2, wide, high)


def _opened_image(path: Path, max_pixels: int) -> Image.Image:
    """The picture with its header read and checked, nothing decoded."""
    # First what the file system says, then what the header says; no pixel is decoded.
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadablePictureError(f"cannot be opened: {error.strerror}") from error
    except ValueError as error:  # no path may hold a zero byte
        raise UnreadablePictureError(f"cannot be opened: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise UnreadablePictureError("is not a file")
    if not status.st_size:
        raise UnreadablePictureError("is empty (0 bytes)")
    if status.st_size > MAX_BYTES:
        raise UnreadablePictureError(f"has {status.st_size:,} bytes, more than {MAX_BYTES:,}")
    try:
        image = Image.open(path, formats=FORMATS)
    except PermissionError as error:
        raise UnreadablePictureError(f"cannot be opened: {error.strerror}") from error
    except UnidentifiedImageError as error:
        with path.open("rb") as file:
            start = file.read(16)
        raise UnreadablePictureError(
            f"is no JPEG, PNG or WEBP: it begins with {start!r}"
        ) from error
    except Exception as error:  # Pillow's parsers raise anything on malformed input
        raise UnreadablePictureError(f"has a broken header: {_reason(error)}") from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise UnreadablePictureError(
            f"has {width} x {height} pixels, more than config.data.max_pixels={max_pixels:,}"
        )
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 is upright, as a picture without one is taken to be."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # asking would decode all of it, in search of a late chunk
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # a broken EXIF block is no reason to lose the picture
        return 1


def _rgb_image(image: Image.Image) -> Image.Image:
    """The pixels as 8 bit RGB, over white where they are transparent."""
    if image.mode.startswith("I"):  # 16 bit grey, which Pillow would clip at 255
        sixteen = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray((sixteen >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _reason(error: Any) -> str:
    """The first line of an error's text, or its type where it has none."""
    return str(error).splitlines()[0][:100] if str(error) else type(error).__name__
