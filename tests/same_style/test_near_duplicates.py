"""Near-duplicates: against all pairs and their connected components."""

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from date_jax import sharding
from date_jax.same_style import near_duplicates


def planted(rows: int, copies: int, noise: float) -> np.ndarray:
    """Random unit vectors, and behind them noisy copies of the first ones."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 16))
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    y = x[:copies] + noise * rng.normal(size=(copies, 16)) / 4
    both = np.concatenate([x, y / np.linalg.norm(y, axis=1, keepdims=True)])
    return both.astype(np.float32)


def pairs_of(group: np.ndarray) -> set[tuple[int, int]]:
    return {(i, j) for i in range(len(group)) for j in range(i) if group[i] == group[j]}


def whole(rows: np.ndarray, threshold: float) -> np.ndarray:
    return connected_components(rows @ rows.T > threshold, directed=False)[1]


@pytest.mark.parametrize(("rows", "threshold"), [(1, 0.9), (3, 0.9), (60, 0.9), (60, 0.5)])
def test_where_one_window_holds_all_groups_are_those_of_all_pairs(
    rows: int, threshold: float
) -> None:
    given = planted(rows, rows // 2, 0.1)
    mesh = sharding.device_mesh()
    found = near_duplicates.groups(given, threshold, mesh=mesh, orders=1, window=256)
    right = whole(given, threshold)
    assert pairs_of(found) == pairs_of(right)
    if threshold < 0.9:  # chains: far fewer pairs are near than are connected
        near = np.tril(given @ given.T > threshold, -1)
        assert 1.5 * near.sum() < len(pairs_of(right))
        assert len(set(right)) > 2


def test_what_is_near_to_two_rows_that_are_not_near_each_other_joins_them() -> None:
    given = np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32)
    found = near_duplicates.groups(given, 0.5, mesh=sharding.device_mesh(), orders=1)
    assert len(set(found)) == 1


def test_many_windows_miss_next_to_nothing_and_link_nothing_wrongly() -> None:
    given = planted(800, 200, 0.1)
    found = near_duplicates.groups(given, 0.95, mesh=sharding.device_mesh(), window=64)
    right = pairs_of(whole(given, 0.95))
    assert pairs_of(found) <= right
    assert len(pairs_of(found)) >= 0.98 * len(right)
    assert {(800 + i, i) for i in range(200)} <= right
