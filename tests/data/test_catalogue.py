"""The catalogue of several suppliers, its mined pairs, and what training may know of them."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import same_style as configs
from date_jax.data import pipeline
from date_jax.data.clicks import training_pairs
from date_jax.data.rendering import offer_pictures
from date_jax.data.rendering.offer_scenes import catalogue_product
from date_jax.data.rendering.parts import NUMBERED, PARTS
from date_jax.errors import UsageError
from date_jax.same_style.task import TASK as SAME_STYLE

PRODUCTS, SIZE = 60, 16


def small() -> ConfigDict:
    config = configs.get_config()
    config.batch_size, config.data.image_size = 8, SIZE
    config.data.suppliers.update(products=PRODUCTS, workers=1)
    config.data.clicks.update(rows=20_000, min_support=2)
    return config


@pytest.fixture(scope="module")
def corpus() -> pipeline.Corpus:
    return SAME_STYLE.load(small())


def rendered_offer(place: int, split: str = "train") -> Any:
    options = {"seed": 0, "products": PRODUCTS, "image_size": SIZE}
    return offer_pictures.picture("offer", place, split=split, **options)


def test_each_product_has_offers_of_several_suppliers() -> None:
    offers = offer_pictures.shelf(0, PRODUCTS, "train")
    assert len({offer.id for offer in offers}) == len(offers)
    for product in {offer.product for offer in offers}:
        names = [offer.supplier for offer in offers if offer.product == product]
        assert len(names) == len(set(names)) >= 2


def test_no_product_is_in_two_splits() -> None:
    products = [
        {offer.product for offer in offer_pictures.shelf(0, PRODUCTS, split)}
        for split in ("train", "val", "test")
    ]
    assert sum(map(len, products)) == len(set.union(*products)) == PRODUCTS


def test_only_exact_copies_of_one_product_s_picture_share_a_hash(
    corpus: pipeline.Corpus,
) -> None:
    hashes = corpus.splits["offer_train"].records.texts("image_hash")
    offers = offer_pictures.shelf(0, PRODUCTS, "train")
    for one, first in zip(hashes, offers, strict=True):
        for other, second in zip(hashes, offers, strict=True):
            copies = first.copies == second.copies == "exact" and first.product == second.product
            assert (one == other) == (copies or first is second)


def test_parts_are_told_apart_by_a_number_or_by_words_alone() -> None:
    worded, numbered = [], []
    for offer in offer_pictures.shelf(0, 3000, "train"):
        item = catalogue_product(0, offer.product)
        if item.category in PARTS:
            (numbered if item.category in NUMBERED else worded).append(item)
    assert {item.mark for item in worded} == {""}
    looks = {item[1:] for item in worded}
    assert len(looks) == len(PARTS) - len(NUMBERED)
    assert len({item[1:] for item in numbered}) == len({item.number for item in numbered})


def test_a_prepared_offer_is_the_rendered_one(corpus: pipeline.Corpus) -> None:
    split = corpus.splits["offer_val"]
    images = pipeline.pictures(corpus, "offer_val", np.arange(split.size))
    products = split.products()
    for place, offer in enumerate(offer_pictures.shelf(0, PRODUCTS, "val")):
        expected = rendered_offer(place, "val")
        np.testing.assert_array_equal(images[place], expected.image)
        assert split.texts[place] == expected.text
        same = [o.product == offer.product for o in offer_pictures.shelf(0, PRODUCTS, "val")]
        assert (products == products[place]).tolist() == same


def test_most_mined_pairs_show_one_product(corpus: pipeline.Corpus) -> None:
    products = corpus.splits["offer_train"].products()[corpus.pairs]
    assert len(corpus.pairs) > 20
    assert (products[:, 0] == products[:, 1]).mean() > 0.6
    supplier = np.array(corpus.splits["offer_train"].records.texts("supplier"))[corpus.pairs]
    assert (supplier[:, 0] != supplier[:, 1]).all()


def first_batches(config: ConfigDict, corpus: Any, start: int = 0, count: int = 3) -> list[Any]:
    return list(islice(SAME_STYLE.batches(config, corpus, start), count))


def same(one: Any, other: Any) -> bool:
    return all(
        np.array_equal(a[side][key], b[side][key])
        for a, b in zip(one, other, strict=True)
        for side in ("trigger", "offer")
        for key in a[side]
    )


def test_training_never_sees_which_offers_show_the_same_product(
    corpus: pipeline.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small()
    before = first_batches(config, corpus)

    def refuse(*_: object) -> None:
        raise AssertionError("training asks for the ground truth")

    monkeypatch.setattr("date_jax.data.prepared.PreparedSplit.products", refuse)
    assert same(before, first_batches(config, corpus))
    for batch in before:
        assert batch.keys() == {"trigger", "offer"}
        for side in batch.values():
            assert side.keys() == {"image", "text", "text_mask", "index", "mask"}


def test_the_rules_never_see_which_offers_show_the_same_product(
    corpus: pipeline.Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    columns = []
    mined = training_pairs.click_rules.mined_pairs

    def seen(log: Any, offers: Any, *rest: Any, **options: Any) -> Any:
        columns.extend([*log.columns, *offers.columns])
        return mined(log, offers, *rest, **options)

    monkeypatch.setattr(training_pairs.click_rules, "mined_pairs", seen)
    split = corpus.splits["offer_train"].records
    pairs = training_pairs.mined_pairs(split, small().data.clicks, tmp_path)
    np.testing.assert_array_equal(pairs.rows, corpus.pairs)
    assert columns
    assert "product_id" not in columns


def test_an_epoch_has_every_pair_once_in_each_direction(corpus: pipeline.Corpus) -> None:
    config = small()
    config.batch_size = 2
    batches = first_batches(config, corpus, count=len(corpus.pairs))
    read_pairs = [
        pair
        for batch in batches
        for pair in zip(batch["trigger"]["index"], batch["offer"]["index"], strict=True)
    ]
    pairs = [tuple(pair) for pair in corpus.pairs]
    assert sorted(read_pairs) == sorted([*pairs, *(pair[::-1] for pair in pairs)])


def test_a_batch_holds_the_pictures_and_titles_of_its_rows(corpus: pipeline.Corpus) -> None:
    (batch,) = first_batches(small(), corpus, start=5, count=1)
    for side in batch.values():
        images = pipeline.pictures(corpus, "offer_train", side["index"])
        np.testing.assert_array_equal(side["image"], images)
        np.testing.assert_array_equal(
            side["text"], corpus.splits["offer_train"].text[side["index"]]
        )


def test_batches_do_not_depend_on_where_a_run_began_nor_on_the_number_of_processes(
    corpus: pipeline.Corpus,
) -> None:
    config = small()
    uninterrupted = first_batches(config, corpus, count=4)
    assert same(uninterrupted[2:], first_batches(config, corpus, start=2, count=2))
    streams = [
        pipeline.pair_batches(
            corpus, share=pipeline.Share(index, 2), batch_size=8, seed=config.seed, start_step=0
        )
        for index in range(2)
    ]
    parts = [list(islice(stream, 4)) for stream in streams]
    joined = [
        {
            side: {key: np.concatenate([a[side][key], b[side][key]]) for key in a[side]}
            for side in ("trigger", "offer")
        }
        for a, b in zip(*parts, strict=True)
    ]
    assert same(uninterrupted, joined)


def test_a_rule_that_is_none_is_refused(corpus: pipeline.Corpus, tmp_path: Any) -> None:
    config = small().data.clicks
    config.without = "category,relevanc"
    with pytest.raises(UsageError, match=r"no rule 'relevanc' \(did you mean 'relevance'\?\)"):
        training_pairs.mined_pairs(corpus.splits["offer_train"].records, config, tmp_path)
