import numpy as np
import pytest

from date_jax import sharding
from date_jax.evals import retrieval
from date_jax.pairs import neighbours


def ranks_by_sorting(
    query: np.ndarray, gallery: np.ndarray, query_product: list[set], gallery_product: list[set]
) -> np.ndarray:
    """One query after the other; among equal scores the wrong ones come first."""
    found = []
    for vector, wanted in zip(query, query_product, strict=True):
        entries = [
            (-float(vector @ other), bool(wanted & products))
            for other, products in zip(gallery, gallery_product, strict=True)
        ]
        order = [right for _, right in sorted(entries)]  # False sorts before True
        found.append(order.index(True) + 1 if True in order else len(order) + 1)
    return np.array(found)


def test_three_queries_by_hand() -> None:
    image = np.eye(3, dtype=np.float32)
    query = np.array([[0.9, 0.5, 0.1], [0.8, 0.3, 0.5], [0.3, 0.2, 0.1]], np.float32)
    # Text to image: ranks 1, 3, 3. Image to text, by columns: ranks 1, 2, 2 (0.1 ties at 3).
    found = retrieval.metrics(
        image, query, np.arange(3), image_id=np.arange(3), mesh=sharding.device_mesh()
    )
    assert found["recall_at_1"] == pytest.approx(1 / 3)
    assert found["recall_at_5"] == found["recall_at_10"] == found["recall_at_50"] == 1.0
    assert found["median_rank"] == 3.0
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert found["image_to_text_recall_at_1"] == pytest.approx(1 / 3)
    assert found["image_to_text_mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert found["image_to_text_median_rank"] == 2.0


@pytest.mark.parametrize("tile", [1, 3, 7, 64])
def test_ranks_are_those_of_a_sort_for_every_tile(tile: int) -> None:
    rng = np.random.default_rng(0)
    # Small whole numbers: products are exact and often equal.
    image = rng.integers(-2, 3, (41, 4)).astype(np.float32)
    query = rng.integers(-2, 3, (41, 4)).astype(np.float32)
    product = rng.integers(0, 15, 41)
    sets = [{p} for p in product.tolist()]
    found = neighbours.ranks(
        retrieval.row_items(query, product),
        retrieval.row_items(image, product),
        mesh=sharding.device_mesh(),
        tile=tile,
    )
    np.testing.assert_array_equal(found, ranks_by_sorting(query, image, sets, sets))


@pytest.mark.parametrize("tile", [2, 5, 100])
def test_a_picture_of_several_rows_stands_once_in_the_gallery(tile: int) -> None:
    rng = np.random.default_rng(1)
    image_id = rng.integers(0, 12, 30) * 7
    product = rng.integers(0, 9, 30)
    of_picture = {i: rng.integers(-2, 3, 4).astype(np.float32) for i in np.unique(image_id)}
    image = np.stack([of_picture[i] for i in image_id])
    query = rng.integers(-2, 3, (30, 4)).astype(np.float32)
    gallery = np.stack(list(of_picture.values()))
    shown = [set(product[image_id == i].tolist()) for i in of_picture]
    wanted = [{p} for p in product.tolist()]
    pictures = retrieval.picture_items(image, product, image_id)
    texts = retrieval.row_items(query, product)
    np.testing.assert_array_equal(
        neighbours.ranks(texts, pictures, mesh=sharding.device_mesh(), tile=tile),
        ranks_by_sorting(query, gallery, wanted, shown),
    )
    np.testing.assert_array_equal(
        neighbours.ranks(pictures, texts, mesh=sharding.device_mesh(), tile=tile),
        ranks_by_sorting(gallery, query, shown, wanted),
    )


def test_equal_embeddings_rank_last() -> None:
    rng = np.random.default_rng(2)
    same = rng.normal(size=(1, 64)).astype(np.float32)
    same = np.repeat(same / np.linalg.norm(same), 100, axis=0)
    # Rounding that differs from row to row must not break the tie.
    noisy = same + rng.normal(size=same.shape).astype(np.float32) * 1e-8
    found = retrieval.metrics(
        noisy, same, np.arange(100), image_id=np.arange(100), mesh=sharding.device_mesh()
    )
    assert found["median_rank"] == 100.0
    assert found["recall_at_50"] == found["image_to_text_recall_at_50"] == 0.0


def test_what_is_not_a_number_ranks_last() -> None:
    broken = np.full((5, 3), np.nan, np.float32)
    found = retrieval.metrics(
        broken, broken, np.arange(5), image_id=np.arange(5), mesh=sharding.device_mesh()
    )
    assert found["median_rank"] == 5.0
    assert found["recall_at_1"] == found["image_to_text_recall_at_1"] == 0.0


def test_another_picture_of_the_product_is_a_right_answer() -> None:
    image = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    query = np.array([[0.6, 0.8], [1, 0], [0, 1]], np.float32)
    for product, expected in [([4, 4, 9], 1.0), ([0, 1, 2], 1 / 3)]:
        found = retrieval.metrics(
            image, query, np.array(product), image_id=np.arange(3), mesh=sharding.device_mesh()
        )
        assert found["recall_at_1"] == pytest.approx(expected)


def test_a_query_without_a_match_comes_behind_the_gallery() -> None:
    query = retrieval.row_items(np.ones((1, 2), np.float32), np.array([5]))
    gallery = retrieval.row_items(np.ones((3, 2), np.float32), np.array([1, 2, 3]))
    assert neighbours.ranks(query, gallery, mesh=sharding.device_mesh()).tolist() == [4]
