"""The rendered shop: same bytes from the same seed, boxes that are exact, queries that decide."""

import dataclasses
import io
import socket

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from date_jax.data.domains import SPLITS
from date_jax.data.rendering import shop_pictures
from date_jax.data.rendering.arrangement import company, members
from date_jax.data.rendering.phrases import OWN_WORDS
from date_jax.data.rendering.products import COLOURS, PATTERNS, product
from date_jax.data.rendering.shop_scenes import CUT_LIMIT, HIDDEN_LIMIT
from date_jax.data.rendering.silhouettes import CATEGORIES, MARKS
from date_jax.data.rendering.workers import Job, encoded_picture, encoded_pictures
from date_jax.errors import SetupError, UsageError

SMALL = {"seed": 3, "products": 300, "image_size": 64}


def scenes(domain, count, split="test", **options):
    return [shop_pictures.scene(domain, i, split=split, **(SMALL | options)) for i in range(count)]


def inside_mask(points, polygon):
    """Which points [N 2] lie inside a polygon [M 2], by counting crossings of a ray."""
    x, y = points[:, None, 0], points[:, None, 1]
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, 0).T
    crosses = ((y0 <= y) != (y1 <= y)) & (
        x < x0 + (y - y0) * (x1 - x0) / np.where(y1 == y0, 1, y1 - y0)
    )
    return crosses.sum(1) % 2 == 1


def drawn_box(scene, size, fine=4):
    """The tight box of a scene's queried silhouette, drawn by ray casting instead of Pillow."""
    target = scene.products[0]
    x0, y0, x1, y1 = (scene.box_xyxy * size + [-3, -3, 3, 3]).astype(int)
    ys, xs = np.mgrid[y0 * fine : y1 * fine, x0 * fine : x1 * fine]
    points = (np.stack([xs, ys], -1).reshape(-1, 2) + 0.5) / fine
    inside = np.zeros(len(points), bool)
    for part in CATEGORIES[target.category].parts:
        outline = part.points * [target.slimness, 1] @ scene.matrix.T + scene.centre
        inside |= inside_mask(points, outline)
    share = inside.reshape(y1 - y0, fine, x1 - x0, fine).mean((1, 3))
    rows, columns = np.flatnonzero((share > 0.5).any(1)), np.flatnonzero((share > 0.5).any(0))
    box = [columns[0] + x0, rows[0] + y0, columns[-1] + 1 + x0, rows[-1] + 1 + y0]
    return np.clip(box, 0, size)


def test_any_number_of_workers_renders_the_same_bytes():
    jobs = [Job("mall", "train", 20), Job("live", "val", 14)]
    one = list(encoded_pictures(jobs, source="shop", workers=1, **SMALL))
    two = list(encoded_pictures(jobs, source="shop", workers=2, **SMALL))
    here = [
        encoded_picture(shop_pictures.picture(d, i, split=s, **SMALL))
        for d, s, n in jobs
        for i in range(n)
    ]
    for a, b, c in zip(one, two, here, strict=True):
        assert a.png == b.png == c.png
        assert a.text == b.text == c.text
        np.testing.assert_array_equal(a.box_xyxy, c.box_xyxy)


def test_another_seed_makes_another_picture():
    first, second = (
        shop_pictures.picture("live", 0, split="test", **SMALL | {"seed": s}) for s in (0, 1)
    )
    assert (first.image != second.image).mean() > 0.5


@pytest.mark.parametrize("domain", shop_pictures.DOMAINS)
def test_a_box_is_the_tight_box_of_the_silhouette_drawn_independently(domain):
    for scene in scenes(domain, 40):
        # Pillow fills the pixels that an edge passes through, so it may be a pixel wider.
        assert np.abs(drawn_box(scene, 64) - scene.box_xyxy * 64).max() <= 1


@pytest.mark.parametrize("domain", shop_pictures.DOMAINS)
def test_boxes_lie_in_the_picture_and_the_product_can_be_seen(domain):
    for scene in scenes(domain, 150):
        x0, y0, x1, y1 = scene.box_xyxy
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        assert scene.hidden <= HIDDEN_LIMIT
        assert scene.cut <= CUT_LIMIT


def test_a_product_far_outside_is_moved_back_into_the_picture(monkeypatch):
    look = dataclasses.replace(shop_pictures.LOOKS["live"], cut=0.6)
    monkeypatch.setitem(shop_pictures.LOOKS, "live", look)
    assert max(scene.cut for scene in scenes("live", 80)) <= CUT_LIMIT


def meant(query: str) -> set[str]:
    """The query's words, each domain's own ones in everybody's."""
    common = {own_word: word for word, both in OWN_WORDS.items() for own_word in both}
    return {common.get(word, word) for word in query.replace(",", "").split()}


def test_every_attribute_has_a_word_that_only_catalogues_use_and_one_that_only_sellers_use():
    assert set(OWN_WORDS) == {*CATEGORIES, *COLOURS, *PATTERNS}
    words = [*OWN_WORDS, *(word for both in OWN_WORDS.values() for word in both)]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(("domain", "own", "others"), [("mall", 0, 1), ("live", 1, 0)])
def test_as_many_words_as_the_look_says_are_the_domain_s_own(domain, own, others):
    words = [word for scene in scenes(domain, 200) for word in scene.text.replace(",", "").split()]
    counts = [
        sum(word in {both[place] for both in OWN_WORDS.values()} for word in words)
        for place in (own, others)
    ]
    common = sum(word in OWN_WORDS for word in words)
    assert counts[0] / (counts[0] + common) == pytest.approx(
        shop_pictures.LOOKS[domain].own_words, abs=0.06
    )
    assert counts[1] == 0


@pytest.mark.parametrize("domain", shop_pictures.DOMAINS)
def test_a_query_fits_exactly_one_product_of_its_picture(domain):
    neighbours = 0
    for scene in scenes(domain, 200, split="train"):
        words = meant(scene.text)
        named_patterns = words & set(PATTERNS)
        fitting = [
            item
            for item in scene.products
            if {item.category, item.colour} <= words
            and (not named_patterns or item.pattern in named_patterns)
        ]
        assert fitting == [scene.products[0]], scene.text
        neighbours += len(scene.products) - 1
    assert neighbours > 100


@pytest.mark.parametrize("hard", [0.0, 0.4, 1.0])
def test_as_many_neighbours_share_category_or_colour_as_the_look_says(hard):
    # One in ten of the alike differs in its pattern alone, or there is no such product.
    rng, alike = np.random.default_rng(0), []
    shop_of = (SMALL["seed"], SMALL["products"], "train")
    for target in members(*shop_of):
        _, *others = company(rng, target, shop_of, 3, hard=hard, pattern=True)
        alike += [x.category == target.category or x.colour == target.colour for x in others]
    assert np.mean(alike) == pytest.approx(hard, abs=0.06 * (hard > 0))


def test_splits_share_no_product_and_are_eight_to_one_to_one():
    numbers = [{item.number for item in members(0, 200, split)} for split in SPLITS]
    assert [len(split) for split in numbers] == [160, 20, 20]
    assert len(set.union(*numbers)) == 200


def test_all_products_of_a_picture_are_of_its_split():
    allowed = {item.number for item in members(SMALL["seed"], SMALL["products"], "val")}
    for scene in scenes("live", 30, split="val"):
        assert {item.number for item in scene.products} <= allowed


def test_a_product_is_shown_in_both_domains_in_other_views():
    for mall, live in zip(scenes("mall", 30), scenes("live", 30), strict=True):
        assert mall.products[0] == live.products[0]
        assert np.abs(mall.matrix - live.matrix).max() > 0.1


def test_products_are_distinct_identities_of_many_kinds():
    products = [product(0, number) for number in range(3000)]
    identities = {(p.category, p.colour, p.pattern, p.mark, p.second) for p in products}
    assert len(identities) == len(products)
    assert len({p.id for p in products}) == len(products)
    assert len(CATEGORIES) >= 12
    assert {p.category for p in products} == set(CATEGORIES)
    assert {p.colour for p in products} == set(COLOURS)
    assert {p.mark for p in products} == set(MARKS)


@pytest.mark.parametrize("size", [64, 384])
@pytest.mark.parametrize("domain", shop_pictures.DOMAINS)
def test_the_same_code_renders_every_size(domain, size):
    entry = shop_pictures.picture(domain, 0, split="train", **SMALL | {"image_size": size})
    assert entry.image.shape == (size, size, 3)
    assert entry.image.dtype == np.uint8
    assert entry.product_id == "p000000"
    assert entry.category in meant(entry.text)


def test_a_worker_that_dies_is_reported(capfd):
    with pytest.raises(SetupError, match="rendering process died with exit code 1"):
        list(encoded_pictures([Job("mall", "none", 3)], source="shop", workers=1, **SMALL))
    assert "KeyError: 'none'" in capfd.readouterr().err


def test_a_contact_sheet_holds_a_tile_a_picture():
    sheet = shop_pictures.domain_sheet(columns=3, rows=1, split="test", **SMALL)
    assert sheet.width > 3 * 192
    assert sheet.height > 2 * 192


def data_config(**changed):
    options = {"pictures": 20, "products": 20, "seed": 3, "workers": 1} | changed
    domains = {"source": "mall", "target": "live"}
    return ConfigDict({"image_size": 64, **domains, "shop": options})


def test_the_builder_writes_six_splits_without_a_network(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    from date_jax.data.datasets.shop import builder

    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    tfds.disable_progress_bar()
    shop_builder = builder(data_config(), tmp_path)
    shop_builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    sizes = {name: split.num_examples for name, split in shop_builder.info.splits.items()}
    assert sizes == {
        f"{domain}_{split}": count
        for domain in ("mall", "live")
        for split, count in (("train", 16), ("val", 2), ("test", 2))
    }
    source = shop_builder.as_data_source(
        "live_train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    for row in (0, 9):
        record = source[row]
        wanted = shop_pictures.picture(
            "live", row, split="train", seed=3, products=20, image_size=64
        )
        image = np.asarray(Image.open(io.BytesIO(record["image"])))
        np.testing.assert_array_equal(image, wanted.image)
        np.testing.assert_array_equal(record["box_xyxy"], wanted.box_xyxy)
        assert record["text"].decode() == wanted.text
        assert record["product_id"].decode() == wanted.product_id
        assert record["row"] == row
        assert record["has_box"]


def test_whatever_changes_a_picture_changes_the_cache_name_and_workers_do_not(monkeypatch):
    from date_jax.data.datasets.shop import ShopConfig

    base = ShopConfig(workers=1).name
    assert ShopConfig(workers=2).name == base
    changed = [{"image_size": 32}, {"pictures": 50}, {"products": 30}, {"seed": 1}]
    assert len({base, *(ShopConfig(**options).name for options in changed)}) == 5
    look = dataclasses.replace(shop_pictures.LOOKS["live"], blur=(0.0, 2.0))
    monkeypatch.setitem(shop_pictures.LOOKS, "live", look)
    assert ShopConfig().name != base


@pytest.mark.parametrize("key", ["pictures", "products"])
def test_too_few_for_three_splits_are_refused(key, tmp_path):
    from date_jax.data.datasets.shop import builder

    with pytest.raises(UsageError, match=rf"config\.data\.shop\.{key}=9.*at least 10"):
        builder(data_config(**{key: 9}), tmp_path)
