"""IoU of boxes on the host against plain intervals, and the measures by hand."""

import numpy as np
import pytest

from date_jax.evals import grounding


def iou_of_one(a: np.ndarray, b: np.ndarray) -> float:
    """By areas of plain intervals."""

    def sides(box: np.ndarray) -> list[tuple[float, float]]:
        return [
            (max(0.0, c - s / 2), min(1.0, c + s / 2))
            for c, s in zip(box[:2], box[2:], strict=True)
        ]

    overlap = area_a = area_b = 1.0
    for (a0, a1), (b0, b1) in zip(sides(a), sides(b), strict=True):
        overlap *= max(0.0, min(a1, b1) - max(a0, b0))
        area_a *= a1 - a0
        area_b *= b1 - b0
    return overlap / (area_a + area_b - overlap)


def boxes(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(0, 1, (rows, 2)), rng.uniform(0.05, 0.9, (rows, 2))], axis=1)


def test_iou_is_that_of_a_loop_with_boxes_cut_at_the_border() -> None:
    a, b = boxes(200, 0), boxes(200, 1)
    expected = [iou_of_one(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(grounding.clamped_iou(a, b), expected, atol=1e-12)


def test_boxes_without_area_have_no_overlap() -> None:
    nothing = np.array([[0.5, 0.5, 0.0, 0.0]])
    assert grounding.clamped_iou(nothing, nothing).tolist() == [0.0]


def test_metrics_by_hand() -> None:
    true = np.tile([0.25, 0.25, 0.5, 0.5], (5, 1))
    predicted = np.array(
        [
            [0.25, 0.25, 0.5, 0.5],  # 1
            [0.25, 0.125, 0.5, 0.25],  # exactly 0.5: a hit
            [0.75, 0.75, 0.5, 0.5],  # 0: they touch in a corner
            [0.0, 0.0, 1.0, 1.0],  # 1 once it is cut at the border
            [0.75, 0.75, 0.1, 0.1],  # has no true box
        ]
    )
    mask = np.array([True, True, True, True, False])
    assert grounding.metrics(predicted, true, mask) == {
        "acc_at_0.5": 0.75,
        "acc_at_0.75": 0.5,
        "mean_iou": pytest.approx(2.5 / 4),
        "boxes": 4.0,
    }


def test_a_split_without_boxes_has_no_accuracy() -> None:
    assert grounding.metrics(boxes(3, 0), boxes(3, 1), np.zeros(3, bool)) == {"boxes": 0.0}
