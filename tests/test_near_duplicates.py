"""Near-duplicates: against all pairs and their connected components."""

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from date_jax import near_duplicates, sharding


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


@pytest.mark.parametrize("rows", [1, 3, 60])
def test_where_one_window_holds_all_groups_are_those_of_all_pairs(rows: int) -> None:
    given = planted(rows, rows // 2, 0.1)
    found = near_duplicates.groups(given, 0.9, mesh=sharding.device_mesh(), orders=2, window=256)
    assert pairs_of(found) == pairs_of(whole(given, 0.9))


def test_many_windows_miss_next_to_nothing_and_link_nothing_wrongly() -> None:
    given = planted(800, 200, 0.1)
    found = near_duplicates.groups(given, 0.95, mesh=sharding.device_mesh(), window=64)
    right = pairs_of(whole(given, 0.95))
    assert pairs_of(found) <= right
    assert len(pairs_of(found)) >= 0.98 * len(right)
    assert {(800 + i, i) for i in range(200)} <= right
