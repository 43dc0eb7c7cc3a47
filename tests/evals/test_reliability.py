"""Measures of a confidence against loops, and by hand."""

import numpy as np
import pytest

from date_jax.evals.reliability import (
    calibration_error,
    reliability,
    risk_coverage_area,
    roc_area,
)


def answers(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows)
    confidence = rng.integers(0, 33, rows) / 32  # many are equal, some are 0 or 1
    return confidence, rng.random(rows) < confidence


def test_the_calibration_error_is_that_of_a_loop_over_bins() -> None:
    confidence, is_right = answers(300)
    expected = 0.0
    for low in range(10):
        inside = [
            i
            for i, c in enumerate(confidence)
            if low / 10 <= c < (low + 1) / 10 or (low == 9 and c == 1)
        ]
        if inside:
            gap = sum(confidence[i] - is_right[i] for i in inside)
            expected += abs(gap) / 300
    assert calibration_error(confidence, is_right) == pytest.approx(expected, abs=1e-12)


def test_a_reliability_table_counts_every_row_once_and_leaves_empty_bins_open() -> None:
    table = reliability(np.array([0.0, 0.05, 0.95, 1.0]), np.array([False, True, True, True]))
    assert table.rows.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert table.accuracy[[0, 9]].tolist() == [0.5, 1.0]
    np.testing.assert_allclose(table.confidence[[0, 9]], [0.025, 0.975])
    assert np.isnan(table.accuracy[1:9]).all()


def test_the_area_under_risk_and_coverage_is_that_of_a_loop() -> None:
    confidence, is_right = answers(200)
    order = sorted(range(200), key=lambda i: (-confidence[i], is_right[i]))
    risks = [1 - np.mean(is_right[order[:count]]) for count in range(1, 201)]
    area = risk_coverage_area(confidence, is_right)
    assert area == pytest.approx(np.mean(risks), abs=1e-12)
    # The best order knows the answers, and no order is worse than its reverse.
    assert risk_coverage_area(is_right.astype(float), is_right) < area
    assert area < risk_coverage_area(1.0 - is_right, is_right)


def test_the_area_under_the_roc_curve_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    higher, lower = rng.integers(2, 12, 40) / 10, rng.integers(0, 9, 50) / 10
    pairs = np.sign(higher[:, None] - lower[None]) / 2 + 0.5
    assert roc_area(higher, lower) == pytest.approx(pairs.mean(), abs=1e-12)
    assert roc_area(np.ones(3), np.zeros(2)) == 1.0
    assert roc_area(np.ones(3), np.ones(2)) == 0.5
