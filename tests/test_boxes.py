import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from date_jax import boxes


def corners(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.uniform(0, 1, (rows, 2, 2)), axis=1)
    return ends.reshape(rows, 4).astype(np.float32)


def iou_and_giou(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Of two boxes, by counting the cells of the grid that all their edges draw."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    xs, ys = (sorted([a[i], a[i + 2], b[i], b[i + 2]]) for i in (0, 1))
    both = either = 0.0
    for x0, x1 in itertools.pairwise(xs):
        for y0, y1 in itertools.pairwise(ys):
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            inside = [box[0] < x < box[2] and box[1] < y < box[3] for box in (a, b)]
            both += all(inside) * (x1 - x0) * (y1 - y0)
            either += any(inside) * (x1 - x0) * (y1 - y0)
    hull = (xs[-1] - xs[0]) * (ys[-1] - ys[0])
    return both / either, both / either - (hull - either) / hull


def test_corners_and_centres_turn_into_each_other() -> None:
    assert boxes.xyxy(jnp.array([0.5, 0.25, 0.5, 0.25])).tolist() == [0.25, 0.125, 0.75, 0.375]
    xyxy = corners(50, 0)
    centre = boxes.cxcywh(jnp.array(xyxy))
    np.testing.assert_allclose(centre[:, 0] * 2, xyxy[:, 0] + xyxy[:, 2], atol=1e-6)
    np.testing.assert_allclose(centre[:, 3], xyxy[:, 3] - xyxy[:, 1], atol=1e-6)
    np.testing.assert_allclose(boxes.xyxy(centre), xyxy, atol=1e-6)


def test_iou_and_giou_are_those_of_counted_cells() -> None:
    a, b = corners(300, 1), corners(300, 2)
    expected = np.array([iou_and_giou(x, y) for x, y in zip(a, b, strict=True)])
    assert (expected[:, 0] == 0).any()
    assert (expected[:, 0] > 0.3).any()
    np.testing.assert_allclose(boxes.iou(jnp.array(a), jnp.array(b)), expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(boxes.giou(jnp.array(a), jnp.array(b)), expected[:, 1], atol=1e-5)


def test_a_box_overlaps_itself_fully() -> None:
    a = jnp.array(corners(20, 3))
    np.testing.assert_allclose(boxes.iou(a, a), 1.0, atol=1e-6)
    np.testing.assert_allclose(boxes.giou(a, a), 1.0, atol=1e-6)


def test_giou_of_disjoint_boxes_is_negative_and_falls_with_their_distance() -> None:
    still = jnp.array([[0.0, 0.0, 0.1, 0.1]] * 3)
    away = jnp.array([[0.1 * n, 0.0, 0.1 * n + 0.1, 0.1] for n in (2, 4, 8)])
    actual = boxes.giou(still, away)
    np.testing.assert_allclose(boxes.iou(still, away), 0.0)
    np.testing.assert_allclose(actual, [-1 / 3, -3 / 5, -7 / 9], atol=1e-6)


@pytest.mark.parametrize(
    "box", [[0.5, 0.5, 0.5, 0.5], [0.2, 0.3, 0.2, 0.9], [0.8, 0.8, 0.2, 0.2]], ids=str
)
def test_boxes_without_area_give_finite_values_and_gradients(box: list[float]) -> None:
    """A point, a line, and a box whose corners are swapped."""
    empty = jnp.array([box])
    full = jnp.array([[0.0, 0.0, 1.0, 1.0]])
    for other in (empty, full):
        assert boxes.iou(empty, other).tolist() == [0.0]
        for function in (boxes.iou, boxes.giou):
            value, gradient = jax.value_and_grad(lambda a, f=function, o=other: f(a, o).sum())(
                empty
            )
            assert np.isfinite(value)
            assert np.isfinite(gradient).all()
