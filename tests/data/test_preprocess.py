"""Where a prepared picture's pixels lie, measured by looking, and where its boxes do."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from date_jax.data import decode
from date_jax.data.files.preprocess import (
    UnreadablePictureError,
    header,
    original_box,
    prepared_box,
    prepared_file,
)

SIDE = 64
FIELD, MARK = np.array([60, 100, 200], np.uint8), np.array([200, 100, 60], np.uint8)
# By EXIF orientation, how a camera that is held so stores the upright picture's rows and columns.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda picture: picture,
    2: lambda picture: picture[:, ::-1],
    3: lambda picture: picture[::-1, ::-1],
    4: lambda picture: picture[::-1],
    5: lambda picture: picture.swapaxes(0, 1),
    6: lambda picture: picture.swapaxes(0, 1)[::-1],
    7: lambda picture: picture.swapaxes(0, 1)[::-1, ::-1],
    8: lambda picture: picture.swapaxes(0, 1)[:, ::-1],
}


def marked_files(count: int) -> Iterator[tuple[bytes, tuple[int, int], np.ndarray, str]]:
    """JPEGs of random sizes and orientations, each with a rectangle.

    Yields:
        The file, the upright picture's width and height, the rectangle's corners, and a fit.
    """
    rng = np.random.default_rng(0)
    for number in range(count):
        longer = int(rng.integers(100, 1000))
        shorter = int(longer * rng.uniform(0.35, 1))
        size = (longer, shorter) if rng.random() < 0.5 else (shorter, longer)
        low, high = rng.uniform(0.2, 0.4, 2), rng.uniform(0.6, 0.8, 2)
        corners = np.round(np.concatenate([low, high]) * [*size, *size]).astype(int)
        upright = np.full((size[1], size[0], 3), FIELD)
        upright[corners[1] : corners[3], corners[0] : corners[2]] = MARK
        orientation = int(rng.integers(1, 9))
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
        stored.save(file, "JPEG", quality=95, subsampling=int(rng.choice([0, 2])), exif=exif)
        yield file.getvalue(), size, corners, ("letterbox", "stretch")[number % 2]


def measured_places(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of all but the grey margin, in whole pixels, and of the rectangle, in fractions."""
    red_minus_blue = picture[..., 0].astype(float) - picture[..., 2]
    # The field is at -140, the rectangle at 140, the margin at 0.
    is_field = red_minus_blue < -70
    columns, rows = np.flatnonzero(is_field.any(0)), np.flatnonzero(is_field.any(1))
    content = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    # Along the middle of the rectangle, what it covers of each pixel: a sum is an edge's place.
    inside = np.argwhere(red_minus_blue > 70)
    (middle_y, middle_x), edges = inside.mean(0).round().astype(int), []
    for axis, line in enumerate((red_minus_blue[middle_y], red_minus_blue[:, middle_x])):
        share = (line[content[axis] : content[axis + 2]] + 140) / 280
        middle = (middle_x, middle_y)[axis] - content[axis]
        edges.append(content[axis] + middle - share[:middle].sum())
        edges.append(content[axis] + middle + share[middle:].sum())
    return content, np.array([edges[0], edges[2], edges[1], edges[3]])


def test_pixels_and_boxes_of_500_sizes_lie_in_the_same_place() -> None:
    draft_sizes = 0
    for file, size, corners, fit in marked_files(500):
        options: dict[str, Any] = {"image_size": SIDE, "fit": fit}
        prepared = prepared_file(file, max_pixels=10**6, **options)
        (picture,) = decode.pictures([prepared], SIDE)
        content, rectangle = measured_places(picture)
        assert header(file, max_pixels=10**6)[:2] == size
        whole = prepared_box([0.0, 0.0, *map(float, size)], size, **options) * SIDE
        np.testing.assert_allclose(whole, content, atol=1e-4, err_msg=f"{size} {fit}")
        box = prepared_box([*map(float, corners)], size, **options) * SIDE
        np.testing.assert_allclose(rectangle, box, atol=0.25, err_msg=f"{size} {fit}")
        draft_sizes += min(size) >= 4 * SIDE
    assert draft_sizes > 100  # of JPEGs that are decoded at a fraction of their size


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_a_box_comes_back_from_the_prepared_picture(fit: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        size = (int(rng.integers(1, 5000)), int(rng.integers(1, 5000)))
        corners = np.sort(rng.uniform(0, 1, (2, 2)), axis=0).reshape(4) * [*size, *size]
        box = prepared_box(corners.tolist(), size, image_size=SIDE, fit=fit)
        back = original_box(box, size, image_size=SIDE, fit=fit)
        assert back.dtype == np.float64
        # The box is float32: 1e-7 of the prepared side, which is the picture's longer side.
        np.testing.assert_allclose(back, corners, atol=2e-7 * max(size))


def test_boxes_of_any_shape_come_back_cut_at_the_border_of_the_original() -> None:
    # 200 x 100 is 64 x 32 of 64 x 64, so that y is from 0.25 to 0.75.
    boxes = np.array([[[0.0, 0.25, 1.0, 0.75], [0.5, 0.5, 0.75, 0.625]], [[0, 0, 1, 1]] * 2])
    expected = [[[0, 0, 200, 100], [100, 50, 150, 75]], [[0, 0, 200, 100]] * 2]
    back = original_box(boxes, (200, 100), image_size=SIDE, fit="letterbox")
    np.testing.assert_allclose(back, expected)


def noise_file(kind: str, mode: str = "RGB", side: int = SIDE, **options: Any) -> bytes:
    """A picture of smooth noise with a black corner, as a file."""
    noise = np.random.default_rng(2).integers(0, 256, (8, 8, 3), np.uint8)
    picture = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
    picture.paste((0, 0, 0), (0, 0, 8, 8))
    file = io.BytesIO()
    picture.convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
@pytest.mark.parametrize(
    "file",
    [
        noise_file("PNG"),
        noise_file("JPEG", quality=60),
        noise_file("JPEG", quality=90, subsampling=0, progressive=True),
        noise_file("JPEG", subsampling=1, optimize=True),
    ],
)
def test_a_picture_of_the_prepared_size_is_kept_and_read_as_it_is(file: bytes, fit: str) -> None:
    prepared = prepared_file(file, image_size=SIDE, fit=fit, max_pixels=10**6)
    assert prepared == file
    (picture,) = decode.pictures([prepared], SIDE)
    np.testing.assert_array_equal(picture, np.asarray(Image.open(io.BytesIO(file))))


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    "file",
    [
        noise_file("WEBP", lossless=True),
        noise_file("JPEG", "L"),
        noise_file("JPEG", "CMYK"),
        noise_file("PNG", "RGBA"),
        noise_file("PNG", transparency=(0, 0, 0)),
        noise_file("PNG", "P"),
        noise_file("JPEG", exif=exif_of(6)),
        noise_file("PNG", exif=exif_of(3)),
        noise_file("PNG", side=SIDE + 1),
    ],
)
def test_a_picture_that_is_not_yet_as_it_has_to_be_becomes_a_jpeg(file: bytes) -> None:
    prepared = prepared_file(file, image_size=SIDE, fit="letterbox", max_pixels=10**6)
    assert prepared != file
    assert decode.is_jpeg(prepared)
    assert decode.pictures([prepared], SIDE).shape == (1, SIDE, SIDE, 3)


def test_the_bytes_of_a_file_are_answered_as_the_file_is(tmp_path: Any) -> None:
    options: dict[str, Any] = {"image_size": SIDE, "fit": "letterbox", "max_pixels": 10_000}
    jpeg = noise_file("JPEG", side=96)
    for content in (
        jpeg,
        noise_file("PNG"),
        jpeg[:400],
        b"",
        b"<html>",
        noise_file("PNG", side=101),
    ):
        path = tmp_path / "one"
        path.write_bytes(content)
        answers = []
        for source in (path, content):
            try:
                answers.append(
                    (header(source, max_pixels=10_000), prepared_file(source, **options))
                )
            except UnreadablePictureError as error:
                answers.append(str(error))
        assert answers[0] == answers[1]
    assert "10201" in answers[1] or "101 x 101" in answers[1]
