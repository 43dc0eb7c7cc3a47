"""Forms of a post's vector, lists by every way of searching, and the sheet that shows them."""

import numpy as np

from date_jax import sharding
from date_jax.capture import post_search as search
from date_jax.capture import proposal_recall as proposals
from date_jax.capture import ranked_lists
from date_jax.evals import findings

WIDTH = 4


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((*shape, 4, WIDTH)).astype(np.float32)


def test_forms_are_their_formulas() -> None:
    for t_co, v_co, t_uni, v_uni in (row for row in vectors(3)):
        post = np.stack([t_co, v_co, t_uni, v_uni])
        np.testing.assert_allclose(
            search.author(post), [*(t_co * v_co), *(t_uni * v_uni)], rtol=1e-6
        )
        expected = v_co / np.linalg.norm(v_co) + t_co / np.linalg.norm(t_co)
        np.testing.assert_allclose(search.summed(post), expected, rtol=1e-6)
        np.testing.assert_array_equal(search.text(post), t_uni)
        np.testing.assert_array_equal(search.image(post), v_uni)


def test_lists_hold_the_gallery_in_the_order_of_the_cosines() -> None:
    gallery, whole, each = vectors(30, seed=1), vectors(5, seed=2), vectors(5, 3, seed=3)
    mask = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1]], bool)
    rows = {"vectors": whole, "instance_vectors": each, "instance_mask": mask}
    lists = search.all_lists(rows, gallery, mesh=sharding.device_mesh())
    assert set(lists) == {
        *("author_round_robin", "author_max", "sum_round_robin", "sum_max"),
        *("image_by_instance", "author_whole_post", "sum_whole_post"),
        *("text_alone", "image_alone"),
    }

    def order(form: search.Form, asked: np.ndarray) -> list[int]:
        a, b = form(asked).astype(np.float64), form(gallery).astype(np.float64)
        cosine = b @ a / np.linalg.norm(b, axis=1) / np.linalg.norm(a)
        return np.argsort(-cosine).tolist()

    for query in range(5):
        for name, form in search.EMBEDDINGS.items():
            assert lists[f"{name}_whole_post"][query, :30].tolist() == order(form, whole[query])
        assert lists["text_alone"][query, :30].tolist() == order(search.text, whole[query])
        first = [order(search.summed, each[query, k])[0] for k in np.flatnonzero(mask[query])]
        taken = lists["sum_round_robin"][query, : len(set(first))].tolist()
        assert taken == list(dict.fromkeys(first))
        assert (lists["author_max"][query, 30:] == ranked_lists.NONE).all()


def test_recall_of_proposals_counts_the_true_boxes_that_are_met() -> None:
    true = np.array([[[0.3, 0.3, 0.2, 0.2], [0.7, 0.7, 0.2, 0.4], [0, 0, 0, 0]]], np.float32)
    mask = np.array([[True, True, False]])
    proposed = np.array([[[0.2, 0.2, 0.4, 0.4], [0.6, 0.5, 0.7, 0.69], [0, 0, 1, 1]]], np.float32)
    found = proposals.metrics(proposed, true, mask)
    assert found["boxes"] == 2
    assert found["proposal_recall_at_10"] == 0.5
    second = 0.1 * 0.19 / (0.2 * 0.4)
    assert abs(found["proposal_iou"] - (1 + second) / 2) < 1e-5
    nothing = proposals.metrics(proposed, true, np.zeros((1, 3), bool))
    assert nothing == {"boxes": 0.0}


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
    assert count(findings.colour(0)) > 100
    assert count(findings.colour(1)) > 100


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
