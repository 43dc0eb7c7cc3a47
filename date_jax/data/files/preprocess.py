"""One picture file to S x S pixels of RGB, and boxes there and back.

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

from date_jax.data import decode
from date_jax.run import git_lfs

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


def header(source: Path | bytes, *, max_pixels: int) -> Header:
    """A picture's header, of which nothing is decoded.

    Args:
        source: a file's path, or what such a file holds.
        max_pixels: refuses pictures with more.

    Raises:
        UnreadablePictureError: no file, not one of FORMATS, too large, or malformed.
    """
    with _opened_image(source, max_pixels) as image:
        return _header(image)


def prepared_file(source: Path | bytes, *, image_size: int, fit: str, max_pixels: int) -> bytes:
    """The picture upright, in RGB over white, at `image_size` x `image_size`, as JPEG or PNG.

    A JPEG or PNG that is such a picture already is kept byte for byte: nothing is lost, and a
    picture that a network was trained on is the same when a user asks about it.

    Args:
        source: a JPEG, PNG or WEBP of any size and mode: its path, or the file's bytes.
        image_size: S.
        fit: "letterbox" keeps the aspect and fills up with MARGIN, "stretch" does not.
        max_pixels: refuses pictures with more, from the header.

    Raises:
        UnreadablePictureError: it cannot be decoded to the end.
    """
    with _opened_image(source, max_pixels) as image:
        orientation = _orientation(image)
        width, height, is_turned = _header(image)
        is_ready = image.size == (image_size, image_size) and not is_turned
        is_ready = is_ready and image.format in ("JPEG", "PNG") and image.mode == "RGB"
        try:
            # A JPEG decodes at half, quarter … size for nothing; twice the wanted stays sharp. The
            # picture is then the `area` of its pixels: the last ones may reach over its border.
            draft = image.draft(image.mode, (2 * image_size, 2 * image_size))
            area = draft[1] if draft else (0, 0, *image.size)
            pixels = _rgb_image(image)
            file = _file_bytes(source) if is_ready else b""
        except Exception as error:  # Pillow's decoders raise anything on malformed input
            raise UnreadablePictureError(f"cannot be decoded: {_reason(error)}") from error
    if file and _is_read_alike(file, pixels):
        return file
    # Into its place on the canvas, which it fills but for the margins of a letterbox. That follows
    # from the header's size, as it does for boxes, not from the size that was decoded.
    place = _placement(width, height, image_size, fit)
    size = (place.height, place.width) if orientation in _SIDEWAYS else (place.width, place.height)
    resized = pixels.resize(size, Image.Resampling.BICUBIC, box=area)
    if is_turned:
        resized = resized.transpose(_UPRIGHT[orientation])
    canvas = Image.new("RGB", (image_size, image_size), MARGIN)
    canvas.paste(resized, (place.left, place.top))
    jpeg = io.BytesIO()
    canvas.save(jpeg, "JPEG", **_QUALITY)
    return jpeg.getvalue()


def upright_image(source: Path | bytes, *, longest: int, max_pixels: int) -> Image.Image:
    """The picture as a viewer shows it, in RGB over white, for people.

    Args:
        source: a JPEG, PNG or WEBP: its path, or the file's bytes.
        longest: pixels of its longer side at most; a larger one is made smaller.
        max_pixels: refuses pictures with more, from the header.

    Raises:
        UnreadablePictureError: it cannot be decoded to the end.
    """
    with _opened_image(source, max_pixels) as image:
        orientation = _orientation(image)
        try:
            image.draft(image.mode, (longest, longest))
            pixels = _rgb_image(image)
        except Exception as error:  # Pillow's decoders raise anything on malformed input
            raise UnreadablePictureError(f"cannot be decoded: {_reason(error)}") from error
    pixels.thumbnail((longest, longest))
    return pixels.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else pixels


def prepared_box(
    box_xyxy_pixels: Sequence[float], size: tuple[int, int], *, image_size: int, fit: str
) -> Float[np.ndarray, " 4"]:
    """A box, normalised, in the picture that `prepared_file` makes.

    Args:
        box_xyxy_pixels: in the upright picture.
        size: width and height of the upright picture.
        image_size: S.
        fit: as in `prepared_file`.
    """
    scale, corner = _scale_and_corner(size, image_size, fit)
    inside = np.clip(np.asarray(box_xyxy_pixels, np.float64), 0, [*size, *size])
    return ((inside * scale + corner) / image_size).astype(np.float32)


def original_box(
    box_xyxy: Float[np.ndarray, "*N 4"], size: tuple[int, int], *, image_size: int, fit: str
) -> Float[np.ndarray, "*N 4"]:
    """Boxes of a prepared picture in the picture it was made of: the way back of `prepared_box`.

    Args:
        box_xyxy: normalised corners in the picture that `prepared_file` makes.
        size: width and height of the upright original, as in its `header`.
        image_size: S.
        fit: as in `prepared_file`.

    Returns:
        Corners in pixels of the upright original, cut at its border, in float64.
    """
    scale, corner = _scale_and_corner(size, image_size, fit)
    box_xyxy_pixels = (np.asarray(box_xyxy, np.float64) * image_size - corner) / scale
    return np.clip(box_xyxy_pixels, 0, [*size, *size])


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


def _scale_and_corner(
    size: tuple[int, int], image_size: int, fit: str
) -> tuple[Float[np.ndarray, " 4"], Float[np.ndarray, " 4"]]:
    """By what a box of the original is multiplied, and what is then added, both in pixels."""
    place = _placement(*size, image_size, fit)
    scale = np.array([place.width / size[0], place.height / size[1]] * 2)
    return scale, np.array([place.left, place.top] * 2, np.float64)


def _opened_image(source: Path | bytes, max_pixels: int) -> Image.Image:
    """The picture with its header read and checked, nothing decoded."""
    # First how long the file is, then what the header says; no pixel is decoded.
    length = len(source) if isinstance(source, bytes) else _file_length(source)
    if not length:
        raise UnreadablePictureError("is empty (0 bytes)")
    if length > MAX_BYTES:
        raise UnreadablePictureError(f"has {length:,} bytes, more than {MAX_BYTES:,}")
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        image = Image.open(file, formats=FORMATS)
    except PermissionError as error:
        raise UnreadablePictureError(f"cannot be opened: {error.strerror}") from error
    except UnidentifiedImageError as error:
        start = _file_bytes(source, 64)
        if git_lfs.is_pointer(start):
            raise UnreadablePictureError(
                f"is a Git LFS pointer, not the picture: {git_lfs.WAY_OUT}"
            ) from error
        raise UnreadablePictureError(
            f"is no JPEG, PNG or WEBP: it begins with {start[:16]!r}"
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


def _file_length(path: Path) -> int:
    """The number of bytes of a regular file, from the file system.

    Raises:
        UnreadablePictureError: there is no such file, or it is something else.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadablePictureError(f"cannot be opened: {error.strerror}") from error
    except ValueError as error:  # no path may hold a zero byte
        raise UnreadablePictureError(f"cannot be opened: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise UnreadablePictureError("is not a file")
    return status.st_size


def _file_bytes(source: Path | bytes, count: int = -1) -> bytes:
    """The first `count` bytes of a file, all of them without a count."""
    if isinstance(source, bytes):
        return source if count < 0 else source[:count]
    with source.open("rb") as file:
        return file.read(count)


def _header(image: Image.Image) -> Header:
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation in _SIDEWAYS else image.size
    return Header(width, height, orientation in _UPRIGHT)


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


def _is_read_alike(file: bytes, pixels: Image.Image) -> bool:
    """Whether a run, which reads prepared pictures in another way, sees the same pixels."""
    try:
        (picture,) = decode.pictures([file], pixels.width)
    except (ValueError, OSError):
        return False
    return np.array_equal(picture, np.asarray(pixels))


def _reason(error: Any) -> str:
    """The first line of an error's text, or its type where it has none."""
    return str(error).splitlines()[0][:100] if str(error) else type(error).__name__
