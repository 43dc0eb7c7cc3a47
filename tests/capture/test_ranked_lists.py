"""Merged lists and Product1M's measures: known rows, and a slow count written from the formulas."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from date_jax.capture import ranked_lists
from date_jax.capture.ranked_lists import NONE

GALLERY = ["A", "A", "A", "B", "B", "C", "D"]  # g1 to g7


def padded(some: list[list[int]], width: int) -> np.ndarray:
    return np.array([row + [NONE] * (width - len(row)) for row in some], np.int64)


@pytest.mark.parametrize(
    ("labels", "found", "at", "expected"),
    [
        ("AB", "1642753", 4, (0.805556, 0.75, 0.75, 0.604167)),
        ("AAB", "1642753", 4, (0.805556, 0.75, 1.0, None)),
        ("AB", "671", 10, (0.333333, 0.333333, 0.166667, None)),
        ("C", "162", 10, (0.0, 0.0, 1.0, None)),
    ],
)
def test_the_measures_of_known_lists(
    labels: str, found: str, at: int, expected: tuple[float | None, ...]
) -> None:
    wanted, gallery = ranked_lists.label_numbers([list(labels)], GALLERY)
    lists = padded([[int(g) - 1 for g in found]], 10)
    each = ranked_lists.scores(lists, wanted, gallery, at)
    names = ("average_precision", "precision", "average_recall", "standard_average_precision")
    for name, value in zip(names, expected, strict=True):
        if value is not None:
            assert each[name][0] == pytest.approx(value, abs=1e-6), name


def counted(found: list[int], labels: list[str], gallery: list[str], at: int) -> list[float]:
    """One query, as the formulas read; nothing of the module is used."""
    posts_of: dict[str, list[int]] = {}
    for post, label in enumerate(gallery):
        posts_of.setdefault(label, []).append(post)
    possible = sum(len(posts_of.get(label, [])) for label in labels)
    k = min(at, possible, len(found))
    hits, total = 0, 0.0
    for i in range(k):
        if gallery[found[i]] in labels:
            hits += 1
            total += hits / (i + 1)
    recall = 0.0
    for label, times in Counter(labels).items():
        e = min(at // len(labels) * times, len(posts_of.get(label, [])))
        got = sum(gallery[post] == label for post in found[:at])
        recall += min(got, e) / e if e else 0.0
    right = {post for label in labels for post in posts_of.get(label, [])}
    so_far, standard = 0, 0.0
    for i, post in enumerate(found[:at], 1):
        if post in right:
            so_far += 1
            standard += so_far / i
    return [
        total / hits if hits else 0.0,
        hits / k if k else 0.0,
        recall / len(set(labels)),
        standard / min(len(right), at) if right else 0.0,
    ]


def test_the_measures_are_those_of_a_slow_count_on_random_lists() -> None:
    rng = np.random.default_rng(0)
    for case in range(40):
        names = [f"label{n}" for n in range(rng.integers(2, 9))]
        gallery = rng.choice(names[:-1], rng.integers(3, 40)).tolist()
        labels = [rng.choice(names, rng.integers(1, 7)).tolist() for _ in range(25)]
        found = [
            rng.permutation(len(gallery))[: rng.integers(0, len(gallery) + 1)].tolist()
            for _ in labels
        ]
        at = int(rng.choice([1, 3, 4, 10, 50]))
        wanted, numbers = ranked_lists.label_numbers(labels, gallery)
        each = ranked_lists.scores(padded(found, 50), wanted, numbers, at)
        slow = [counted(f, y, gallery, at) for f, y in zip(found, labels, strict=True)]
        np.testing.assert_allclose(
            np.stack([*each.values()], 1), slow, atol=1e-12, err_msg=str(case)
        )


def merged_by_loop(index: np.ndarray, score: np.ndarray, mask: np.ndarray, how: str) -> list[int]:
    """One query's."""
    instances, length = index.shape
    offers = [
        (rank if how == "round_robin" else -score[i, rank], i, rank)
        for i in range(instances)
        for rank in range(length)
        if mask[i] and index[i, rank] != NONE
    ]
    taken: list[int] = []
    for _, i, rank in sorted(offers):
        if index[i, rank] not in taken:
            taken.append(int(index[i, rank]))
    return taken[: ranked_lists.MOST]


@pytest.mark.parametrize("how", ["round_robin", "max"])
def test_merged_lists_are_those_of_a_loop(how: str) -> None:
    rng = np.random.default_rng(1)
    queries, instances, length = 30, 4, 60
    index = np.stack([rng.permutation(90)[:length] for _ in range(queries * instances)])
    index = index.reshape(queries, instances, length)
    index[:5, 0, 40:] = NONE
    score = -np.sort(-rng.random(index.shape), axis=-1)
    mask = rng.random((queries, instances)) < 0.7
    lists = ranked_lists.merged_lists(index, score, mask, how=how)
    assert lists.shape == (queries, ranked_lists.MOST)
    for row in range(queries):
        expected = merged_by_loop(index[row], score[row], mask[row], how)
        np.testing.assert_array_equal(lists[row, : len(expected)], expected)
        assert (lists[row, len(expected) :] == NONE).all()


def test_lists_are_written_as_the_official_script_reads_them(tmp_path: Path) -> None:
    lists = padded([[2, 0], [], [1]], 4)
    ranked_lists.write(tmp_path / "lists.txt", lists, ["q1", "q2", "q3"], ["a", "b", "c"])
    assert (tmp_path / "lists.txt").read_text() == "q1,c,a\nq2\nq3,b\n"
