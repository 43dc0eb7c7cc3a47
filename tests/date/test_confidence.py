"""The features of a box, the regression of hits on them, and the file that holds it."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from date_jax.date import confidence
from date_jax.errors import DataError

NAMES = ("telling", "noise", "constant")


def pairs(rows: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of which the first tells how likely a box is right, whether it is, weights."""
    rng = np.random.default_rng(rows)
    values = np.stack([rng.normal(5, 3, rows), rng.normal(-2, 0.1, rows), np.ones(rows)], axis=1)
    is_right = rng.random(rows) < 1 / (1 + np.exp(-(values[:, 0] - 4)))
    return values, is_right, rng.choice([0.1, 1.0], rows)


def test_the_fit_is_the_minimum_that_another_optimizer_finds() -> None:
    values, is_right, weight = pairs()
    calibration = confidence.fit(values, is_right, weight, names=NAMES)
    x = (values - calibration.mean) / calibration.scale

    def cost(c: np.ndarray) -> float:
        z = x @ c[:-1] + c[-1]
        fit = weight @ (np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - is_right * z)
        return fit + (c[:-1] ** 2).sum() / 2 + 0.0005 * c[-1] ** 2

    best = minimize(cost, np.zeros(4), method="BFGS", options={"gtol": 1e-6}).x
    assert calibration.coefficients == pytest.approx(best[:-1], abs=1e-4)
    assert calibration.intercept == pytest.approx(best[-1], abs=1e-4)


def test_the_fit_is_right_on_the_average_and_follows_the_telling_feature() -> None:
    values, is_right, _ = pairs(4000)
    calibration = confidence.fit(values, is_right, np.ones(4000), names=NAMES)
    p = confidence.probability(calibration, values)
    assert p.mean() == pytest.approx(is_right.mean(), abs=1e-4)
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-(values[:, 0] - 4))), atol=0.05)


@pytest.mark.parametrize("outcome", [False, True])
def test_boxes_that_are_all_alike_give_a_finite_confidence(outcome: bool) -> None:
    values, _, weight = pairs(50)
    calibration = confidence.fit(values, np.full(50, outcome), weight, names=NAMES)
    p = confidence.probability(calibration, values)
    assert np.isfinite(p).all()
    assert (np.abs(p - outcome) < 0.05).all()


def test_features_that_are_not_finite_have_no_confidence() -> None:
    values, is_right, weight = pairs(50)
    calibration = confidence.fit(values, is_right, weight, names=NAMES)
    values[3, 0], values[4, 1] = np.nan, np.inf
    assert np.flatnonzero(np.isnan(confidence.probability(calibration, values))).tolist() == [3, 4]


def test_a_calibration_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values, is_right = rng.normal(size=(30, len(confidence.NAMES))), rng.random(30) < 0.5
    calibration = confidence.fit(values, is_right, np.ones(30), splits=["mall_val"])
    assert confidence.read(tmp_path) is None
    confidence.write(calibration, tmp_path / confidence.FILE)
    restored = confidence.read(tmp_path)
    assert restored is not None
    assert (restored.splits, restored.rows, restored.names) == (("mall_val",), 30, confidence.NAMES)
    np.testing.assert_array_equal(
        confidence.probability(restored, values), confidence.probability(calibration, values)
    )


def test_a_calibration_that_does_not_fit_is_refused_with_what_to_do(tmp_path: Path) -> None:
    values, is_right, weight = pairs(30)
    path = tmp_path / confidence.FILE
    confidence.write(confidence.fit(values, is_right, weight, names=NAMES), path)
    with pytest.raises(DataError, match="not those of this version"):
        confidence.read(tmp_path)
    path.write_text(json.dumps({"features": 3}))
    with pytest.raises(DataError, match="cannot be read"):
        confidence.read(tmp_path)


def network_that_finds_white(variables: Any, image: Any, text: Any, text_mask: Any) -> Any:
    """Draws the box around the bright pixels, shrunk by `params`; its picture vector is (1, 0) if
    more than half of a view is bright, else (0, 1)."""
    side = image.shape[1]
    bright = image.mean(axis=-1) > 1.0
    place = (jnp.arange(side) + 0.5) / side
    corners = []
    for axis in (2, 1):  # rows away: x; columns away: y
        seen = bright.any(axis=3 - axis)
        low = jnp.where(seen, place[None], 2.0).min(axis=1) - 0.5 / side
        high = jnp.where(seen, place[None], -2.0).max(axis=1) + 0.5 / side
        corners.append((low, high))
    (x0, x1), (y0, y1) = corners
    box = jnp.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1)
    share = bright.mean(axis=(1, 2))
    is_full = (share > 0.5).astype(jnp.float32)
    picture = jnp.stack([is_full, 1 - is_full], axis=1)
    query = jnp.tile(jnp.array([[1.0, 0.0]]), (len(image), 1))
    return {"box_cxcywh": box, "query_embedding": query, "image_embedding": picture}


def test_close_ups_of_a_good_box_show_the_product_and_the_same_box() -> None:
    image = np.zeros((8, 32, 32, 3), np.uint8)
    image[:, 8:16, 12:20] = 255  # a white square, a sixteenth of the picture
    batch = {"image": jnp.asarray(image), "text": jnp.zeros((8, 2), int), "text_mask": None}
    values = np.asarray(confidence.features(network_that_finds_white, {"model": {}}, batch))
    named = dict(zip(confidence.NAMES, values[0], strict=True))
    assert named["similarity"] == 0.0  # the whole picture is black for the most part
    assert named["similarity_close_up_1.0"] == 1.0
    assert named["similarity_close_up_2.0"] == 0.0  # a quarter of it
    assert min(named[f"agreement_close_up_{margin}"] for margin in confidence.MARGINS) > 0.85
    assert values.shape == (8, len(confidence.NAMES))
