"""The rendered posts: what they show, name and box; who meets whom; and reading them back."""

import functools

import numpy as np
import pytest
from ml_collections import ConfigDict

from date_jax.data import pipeline
from date_jax.data.rendering import post_pictures, post_scenes
from date_jax.data.rendering.phrases import OWN_WORDS
from date_jax.data.rendering.products import product
from date_jax.data.rendering.silhouettes import CATEGORIES
from date_jax.data.rendering.workers import Picture
from date_jax.errors import UsageError

SMALL = {"seed": 3, "products": 200, "unseen": 4, "image_size": 48}
UNSEEN = set(list(CATEGORIES)[-4:])


@functools.cache
def pictures_of(kind: str, split: str, count: int) -> list[Picture]:
    return [post_pictures.picture(kind, i, split=split, **SMALL) for i in range(count)]


def items(picture: Picture) -> list:
    return [product(SMALL["seed"], int(label[1:])) for label in picture.product_id.split("#;#")]


@pytest.fixture(scope="module")
def queries() -> list[Picture]:
    return pictures_of("suite", "test", 150)


def test_suites_show_two_to_six_products_and_2_8_on_average(queries: list[Picture]) -> None:
    counts = [len(query.box_xyxy) for query in queries]
    assert min(counts) == 2
    assert 4 <= max(counts) <= 6
    assert np.mean(counts) == pytest.approx(2.8, abs=0.15)
    assert [len(items(query)) for query in queries] == counts


def test_a_title_names_all_products_of_its_picture(queries: list[Picture]) -> None:
    for query in [
        *queries[:40],
        *pictures_of("post", "train", 20),
        *pictures_of("single", "val", 10),
    ]:
        for item in items(query):
            for word in (item.category, item.colour, item.pattern):
                names = {word, OWN_WORDS[word][0]}
                assert names & set(query.text.split()), (query.text, item)


def test_every_box_holds_one_product_and_boxes_are_apart(queries: list[Picture]) -> None:
    for query in queries:
        low, high = query.box_xyxy[:, :2], query.box_xyxy[:, 2:]
        assert (low >= 0).all()
        assert (high <= 1).all()
        assert (high - low > 0.08).all()
        both = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
        common = np.clip(both, 0, None).prod(-1) - np.diag((high - low).prod(-1))
        assert (common.max(axis=1) <= 0.1 * (high - low).prod(-1)).all()


def test_a_box_holds_what_a_product_changes() -> None:
    """In a composite, which has no film over it: its strong edges lie in the boxes."""
    rng = np.random.default_rng(0)
    composite = post_scenes.composite(
        rng, post_scenes.random_products(rng, items(pictures_of("suite", "test", 1)[0]), 2), 64
    )
    edges = np.abs(np.diff(composite.image.astype(int), axis=1)).sum(-1) > 120
    ys, xs = np.nonzero(edges)
    x, y = (xs + 1) / 64, (ys + 0.5) / 64
    inside = np.zeros(len(x), bool)
    for x0, y0, x1, y1 in composite.box_xyxy + np.array([-1, -1, 1, 1]) / 64:
        inside |= (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    assert len(x) > 20
    assert inside.mean() > 0.95


def test_splits_share_no_product_and_training_no_unseen_category() -> None:
    numbers = {
        split: {item.number for picture in pictures for item in items(picture)}
        for split, pictures in {
            "train": pictures_of("post", "train", 60),
            "val": pictures_of("suite", "val", 40) + pictures_of("single", "val", 20),
            "test": pictures_of("suite", "test", 40) + pictures_of("unseen", "test", 20),
        }.items()
    }
    assert not numbers["train"] & numbers["val"]
    assert not numbers["train"] & numbers["test"]
    assert not numbers["val"] & numbers["test"]
    training = (
        post_pictures.shelf("post", "train", 3, 200, 4),
        post_pictures.shelf("composite", "train", 3, 200, 4),
    )
    assert not {item.category for shelf in training for item in shelf} & UNSEEN
    assert {
        item.category for picture in pictures_of("unseen", "test", 30) for item in items(picture)
    } <= UNSEEN


def test_half_of_the_training_posts_show_one_product() -> None:
    alone = np.mean([len(post.box_xyxy) == 1 for post in pictures_of("post", "train", 200)])
    assert alone == pytest.approx(post_pictures.SINGLES, abs=0.1)


def test_composites_have_neither_title_nor_label() -> None:
    for composite in pictures_of("composite", "train", 10):
        assert composite.text == composite.product_id == ""
        assert len(composite.box_xyxy) >= 2


@pytest.fixture(scope="module")
def config() -> ConfigDict:
    counts = {"posts": 48, "composites": 16, "queries": 12, "views": 2, "products": 100}
    return ConfigDict(
        {
            "name": "suites",
            "cache_dir": "",
            "regions": "",
            "image_size": 32,
            "text_length": 28,
            "vocab": "",
            "vocab_size": 400,
            "suites": {**counts, "unseen": 6, "seed": 0, "workers": 1},
        }
    )


def test_posts_are_read_back_as_they_were_rendered(config: ConfigDict) -> None:
    corpus = pipeline.load(config, "posts")
    assert {name: split.size for name, split in corpus.splits.items()} == {
        "post_train": 48,
        "composite_train": 16,
        **{f"composite_{split}": 12 for split in ("val", "test")},
        **{f"suite_{split}": 12 for split in ("val", "test")},
        **{f"single_{split}": 20 for split in ("val", "test")},
        "unseen_test": 12,
    }
    options = {key: config.suites[key] for key in ("seed", "products", "unseen")}
    expected = [
        post_pictures.picture("suite", i, split="test", image_size=32, **options) for i in range(12)
    ]
    (batch,) = pipeline.eval_batches(
        corpus, ["suite_test"], share=pipeline.Share(0, 1), batch_size=12, boxes=True
    )
    split = corpus.splits["suite_test"]
    for row, picture in enumerate(expected):
        np.testing.assert_array_equal(batch["image"][row], picture.image)
        assert split.texts[row] == picture.text
        assert split.labels()[row] == picture.product_id.split("#;#")
        count = len(picture.box_xyxy)
        assert batch["box_mask"][row].tolist() == [n < count for n in range(6)]
        box = batch["box_cxcywh"][row, :count]
        corners = np.concatenate([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], 1)
        np.testing.assert_allclose(corners, picture.box_xyxy, atol=1e-6)
    chosen = pipeline.pictures(corpus, "suite_test", np.array([5, 2]))
    np.testing.assert_array_equal(chosen, batch["image"][[5, 2]])


def test_the_vocabulary_comes_from_training_titles_alone(config: ConfigDict) -> None:
    corpus = pipeline.load(config, "posts")
    vocabulary = set(corpus.tokenizer.vocab)
    assert "mug" in vocabulary
    assert not {"umbrella", "guitar", "camera"} & vocabulary, "these categories are unseen"


def test_shelves_that_would_be_empty_are_refused(config: ConfigDict) -> None:
    few = config.copy_and_resolve_references()
    few.suites.products = 20
    with pytest.raises(UsageError, match=r"leave \d products for"):
        pipeline.load(few, "posts")
    few.suites.update(products=100, unseen=17)  # of 16 categories
    with pytest.raises(UsageError, match="leave 0 products for post_train"):
        pipeline.load(few, "posts")
