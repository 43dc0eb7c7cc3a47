"""A post's embeddings, and lists by every way of searching: against a sort in float64."""

import numpy as np

from date_jax import sharding
from date_jax.capture import post_search, ranked_lists

WIDTH = 4


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((*shape, 4, WIDTH)).astype(np.float32)


def test_embeddings_are_their_formulas() -> None:
    for t_co, v_co, t_uni, v_uni in (row for row in vectors(3)):
        post = np.stack([t_co, v_co, t_uni, v_uni])
        np.testing.assert_allclose(
            post_search.author_embedding(post), [*(t_co * v_co), *(t_uni * v_uni)], rtol=1e-6
        )
        expected = v_co / np.linalg.norm(v_co) + t_co / np.linalg.norm(t_co)
        np.testing.assert_allclose(post_search.sum_embedding(post), expected, rtol=1e-6)
        np.testing.assert_array_equal(post_search.text_embedding(post), t_uni)
        np.testing.assert_array_equal(post_search.image_embedding(post), v_uni)


def order(embedding: post_search.Embedding, query: np.ndarray, gallery: np.ndarray) -> list[int]:
    """The gallery by its cosine with one query, in float64."""
    a, b = embedding(query).astype(np.float64), embedding(gallery).astype(np.float64)
    cosine = b @ a / np.linalg.norm(b, axis=1) / np.linalg.norm(a)
    return np.argsort(-cosine).tolist()


def test_lists_hold_the_gallery_in_the_order_of_the_cosines() -> None:
    gallery, posts, instances = vectors(30, seed=1), vectors(5, seed=2), vectors(5, 3, seed=3)
    mask = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1]], bool)
    rows = {"vectors": posts, "instance_vectors": instances, "instance_mask": mask}
    lists, nearest = post_search.search_results(rows, gallery, mesh=sharding.device_mesh())
    assert set(lists) == {
        *("author_round_robin", "author_max", "sum_round_robin", "sum_max"),
        *("image_by_instance", "author_whole_post", "sum_whole_post"),
        *("text_alone", "image_alone"),
    }
    for query in range(5):
        for name, embedding in post_search.WHOLE_POST.items():
            expected = order(embedding, posts[query], gallery)
            assert lists[name][query, :30].tolist() == expected
        for name, embedding in post_search.EMBEDDINGS.items():
            expected = [order(embedding, instances[query, k], gallery) for k in range(3)]
            assert nearest[name][query].tolist() == expected
        best = [int(nearest["sum"][query, k, 0]) for k in np.flatnonzero(mask[query])]
        merged = lists["sum_round_robin"][query, : len(set(best))].tolist()
        assert merged == list(dict.fromkeys(best))
        assert (lists["author_max"][query, 30:] == ranked_lists.NONE).all()
