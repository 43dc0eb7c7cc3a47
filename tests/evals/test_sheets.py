from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from date_jax.evals import sheets

GREEN, ORANGE, BLUE = (34, 197, 94), (255, 122, 0), (59, 130, 246)


def holds(sheet: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((sheet[44:] == np.array(colour)).all(axis=-1).any())  # below the legend


def gray(rows: int, size: int = 64) -> np.ndarray:
    return np.full((rows, size, size, 3), 120, np.uint8)


def boxes(rows: int, centre: float) -> np.ndarray:
    return np.tile(np.array([centre, centre, 0.3, 0.3]), (rows, 1))


def test_every_kind_of_box_is_drawn_in_its_colour() -> None:
    texts = ["a", "b", "c"]
    far = np.full(3, False)
    sheet = sheets.box_sheet(gray(3), texts, boxes(3, 0.3), boxes(3, 0.7), true_mask=far)
    assert not holds(sheet, GREEN)
    assert holds(sheet, ORANGE)
    assert not holds(sheet, BLUE)
    sheet = sheets.box_sheet(
        gray(3), texts, boxes(3, 0.3), boxes(3, 0.7), pseudo_cxcywh=boxes(3, 0.5)
    )
    assert holds(sheet, GREEN)
    assert holds(sheet, ORANGE)
    assert holds(sheet, BLUE)
    none = sheets.box_sheet(
        gray(3), texts, boxes(3, 0.3), boxes(3, 0.7), pseudo_cxcywh=boxes(3, 0.5), pseudo_mask=far
    )
    assert not holds(none, BLUE)


def test_a_pseudo_box_covers_the_predicted_box_that_it_is() -> None:
    same = {"predicted_cxcywh": boxes(1, 0.5), "pseudo_cxcywh": boxes(1, 0.5)}
    sheet = sheets.box_sheet(gray(1), [""], boxes(1, 0.3), **same)
    below = sheet[44:]  # the head names all colours
    assert holds(below, BLUE)
    assert not holds(below, ORANGE)


def test_pictures_are_enlarged_and_laid_out_in_lines() -> None:
    one = sheets.box_sheet(gray(1), ["x"], boxes(1, 0.4), boxes(1, 0.5))
    assert min(one.shape[:2]) >= 192
    four = sheets.box_sheet(gray(4), ["x"] * 4, boxes(4, 0.4), boxes(4, 0.5), columns=2)
    eight = sheets.box_sheet(gray(8), ["x"] * 8, boxes(8, 0.4), boxes(8, 0.5), columns=2)
    assert eight.shape[1] == four.shape[1]
    assert eight.shape[0] > 1.8 * four.shape[0] - 100
    large = sheets.box_sheet(gray(1, 300), ["x"], boxes(1, 0.4), boxes(1, 0.5))
    assert large.shape[1] >= 300


@pytest.mark.parametrize(
    "query", ["", "word " * 200, "w" * 500, "ein Übergrößenträger, 红色的杯子"]
)
def test_any_query_is_drawn(query: str) -> None:
    sheet = sheets.box_sheet(gray(1), [query], boxes(1, 0.4), boxes(1, 0.5), title=query)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] < 260


def test_boxes_beyond_the_border_and_without_area_are_drawn() -> None:
    odd = np.array([[0.0, 0.0, 3.0, 3.0], [1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 1.0]])
    assert holds(sheets.box_sheet(gray(3), ["", "", ""], odd, odd), ORANGE)


def test_the_same_rows_are_shown_each_time() -> None:
    assert sheets.spread_rows(1000, 5).tolist() == [0, 250, 500, 749, 999]
    assert sheets.spread_rows(3, 8).tolist() == [0, 1, 2]
    rows = (gray(2), ["a", "b"], boxes(2, 0.4), boxes(2, 0.5))
    np.testing.assert_array_equal(sheets.box_sheet(*rows), sheets.box_sheet(*rows))


def test_a_written_picture_is_read_back(tmp_path: Path) -> None:
    sheet = sheets.box_sheet(gray(1), ["mug"], boxes(1, 0.4), boxes(1, 0.5))
    sheets.write(tmp_path / "predictions.png", sheet)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "predictions.png")), sheet)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_boxes_that_are_not_finite_are_left_out(value: float) -> None:
    wrong = np.array([[0.5, 0.5, value, 0.3], [0.5, 0.5, 0.3, 0.3]], np.float32)
    sheet = sheets.box_sheet(gray(2), ["", ""], boxes(2, 0.3), wrong)
    assert not holds(sheet[:, : sheet.shape[1] // 2], ORANGE)
    assert holds(sheet[:, sheet.shape[1] // 2 :], ORANGE)
    picture = Image.fromarray(gray(1)[0])
    sheets.draw_box(picture, wrong[0], ORANGE)
    np.testing.assert_array_equal(np.array(picture), gray(1)[0])
