"""Sheets of queries and what was found for them: frames, colours, and more than fits."""

import numpy as np

from date_jax.evals import findings, sheets


def test_the_sheet_frames_right_posts_green_and_wrong_ones_red() -> None:
    grey = np.full((32, 32, 3), 128, np.uint8)
    box = np.array([[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]], np.float32)
    posts = np.full((2, 3, 32, 32, 3), 128, np.uint8)
    right = np.array([[True, False, False], [True, True, False]])
    finding = findings.Finding(grey, "two things", box, posts, right)
    sheet = findings.sheet([finding, finding, finding], title="suite_test")

    def count(colour: tuple[int, int, int]) -> int:
        return int((sheet == np.array(colour)).all(axis=-1).sum())

    frames = 4 * 62 * 3 - 4 * 9
    assert abs(count(findings.TRUE) / 9 - frames) < 0.05 * frames
    assert abs(count(findings.MISS) / 9 - frames) < 0.05 * frames
    assert count(sheets.distinct_colour(0)) > 100
    assert count(sheets.distinct_colour(1)) > 100


def test_a_sheet_of_more_instances_than_fit_has_the_first_of_them() -> None:
    grey, many = np.full((32, 32, 3), 128, np.uint8), 40
    box = np.tile(np.float32([0.1, 0.1, 0.4, 0.4]), (many, 1))
    posts, right = np.full((many, 1, 32, 32, 3), 128, np.uint8), np.ones((many, 1), bool)
    all_of_them = findings.Finding(grey, "many", box, posts, right)
    two = findings.Finding(grey, "two", box[:2], posts[:2], right[:2])
    sheet = findings.sheet([all_of_them], title="suite_test")
    frames = (sheet == np.array(findings.TRUE)).all(axis=-1).any(axis=1)
    lines = np.diff(np.flatnonzero(frames[findings._HEAD :])) > 1
    assert 8 <= lines.sum() <= 40
    assert len(sheet) == len(findings.sheet([two], title="suite_test"))
