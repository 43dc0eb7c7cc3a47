"""Pixels, percent and thousandths told apart where pictures are little larger than the scale."""

from pathlib import Path

import numpy as np
import pytest

from date_jax.data.files.box_format import check_boxes
from date_jax.data.files.photos import PhotoRow
from date_jax.data.files.preprocess import Header
from date_jax.errors import DataError


def shares(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes `[N 4]` as shares of their pictures."""
    if kind == "centred":
        size, middle = rng.uniform(0.3, 0.9, (count, 2)), rng.normal(0.5, 0.04, (count, 2))
    elif kind == "scattered":
        size = rng.uniform(0.1, 0.5, (count, 2))
        middle = size / 2 + rng.uniform(0, 1, (count, 2)) * (1 - size)
    else:  # on the left, as next to a column of words
        size = rng.uniform(0.2, 0.5, (count, 2))
        middle = np.stack([rng.uniform(0.2, 0.4, count), rng.uniform(0.3, 0.7, count)], 1)
    return np.clip(np.concatenate([middle - size / 2, middle + size / 2], 1), 0, 1)


def answer(boxes: np.ndarray, sizes: np.ndarray) -> str:
    """What the check says of boxes in pictures of these sizes; "" for nothing."""
    rows, headers = [], {}
    for line, (box, size) in enumerate(zip(boxes.tolist(), sizes.tolist(), strict=True), start=1):
        rows.append(PhotoRow(line, f"{line}.jpg", "mug", tuple(box), "mall_train", "p", ""))
        headers[f"{line}.jpg"] = Header(*size, False)
    try:
        check_boxes(Path("shop.jsonl"), rows, headers)
    except DataError as error:
        return str(error)
    return ""


def picture_sizes(kind: str, count: int, rng: np.random.Generator, scale: int) -> np.ndarray:
    """Widths and heights `[N 2]` between the scale and twice as much."""
    if kind == "equal":
        return np.full((count, 2), rng.integers(1.15 * scale, 2 * scale))
    return rng.integers(scale, 2 * scale, (count, 2))


@pytest.mark.parametrize("scale", [100, 1000])
@pytest.mark.parametrize("sizes", ["equal", "mixed"])
@pytest.mark.parametrize("kind", ["centred", "scattered"])
def test_thousandths_of_pictures_of_1100_to_2000_pixels_are_told_from_pixels(
    kind: str, sizes: str, scale: int
) -> None:
    rng = np.random.default_rng(0)
    name = {100: "percent", 1000: "thousandths"}[scale]
    for _ in range(20):
        boxes, size = shares(kind, 300, rng), picture_sizes(sizes, 300, rng, scale)
        told = answer(np.round(boxes * scale, 1), size)
        assert f"all look like {name}: multiply by width / {scale}" in told
        assert len(told.splitlines()) <= 8
        assert answer(np.round(boxes * np.tile(size, (1, 2)), 1), size) == ""


@pytest.mark.parametrize("count", [10, 30, 300])
@pytest.mark.parametrize("sizes", ["equal", "mixed"])
@pytest.mark.parametrize("kind", ["centred", "scattered", "left"])
def test_pixels_are_never_taken_for_thousandths(kind: str, sizes: str, count: int) -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        size = picture_sizes(sizes, count, rng, 1000)
        boxes = shares(kind, count, rng) * np.tile(size, (1, 2))
        assert answer(np.round(boxes), size) == ""


def test_thousandths_as_x_y_width_height_are_told_in_pictures_of_1500_pixels() -> None:
    rng = np.random.default_rng(2)
    boxes = np.round(shares("scattered", 300, rng) * 1000)
    boxes[:, 2:] -= boxes[:, :2]
    told = answer(boxes, np.full((300, 2), 1500))
    assert "all look like thousandths as x, y, width, height" in told
