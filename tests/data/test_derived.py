"""Composites of pasted products, and rows that ask by their category's word."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

from date_jax.data import pipeline
from date_jax.data.composites.category_words import category_finder
from date_jax.data.composites.cut_outs import CutOut, content_area, cut_out
from date_jax.data.composites.pasting import pasted
from date_jax.data.datasets import derived
from date_jax.data.domains import source_shares, source_splits
from date_jax.errors import DataError

SIDE = 64
WHOLE = (0, 0, SIDE, SIDE)
HERE = pipeline.Share(0, 1)
COLOURS = {"hat": (220, 30, 30), "bag": (30, 160, 40), "mug": (30, 40, 200)}
DISC = (10, 14, 50, 44)


def page(colour: tuple[int, int, int], ground: Any = "white") -> Image.Image:
    """A disc in its box on a page."""
    image = Image.new("RGB", (SIDE, SIDE), ground)
    ImageDraw.Draw(image).ellipse((DISC[0], DISC[1], DISC[2] - 1, DISC[3] - 1), fill=colour)
    return image


def cut(image: Image.Image) -> CutOut | None:
    box = np.array(DISC, np.float32) / SIDE
    return cut_out(np.asarray(image), box, area=WHOLE, surrounding=0.15)


def test_a_product_on_a_plain_page_is_cut_out_along_its_outline() -> None:
    for ground in ("white", (232, 226, 240)):
        found = cut(page(COLOURS["hat"], ground))
        assert found is not None
        assert found.is_plain
        y, x = np.mgrid[: found.mask.shape[0], : found.mask.shape[1]] + 0.5
        x0, y0, x1, y1 = found.box
        disc = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
        assert (found.mask & disc).sum() > 0.96 * (found.mask | disc).sum()


def test_a_product_on_a_dressed_page_keeps_its_whole_box() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
    found = cut(Image.fromarray(noise))
    assert found is not None
    assert not found.is_plain
    x0, y0, x1, y1 = found.box
    assert found.mask.sum() == found.mask[y0:y1, x0:x1].sum() == (x1 - x0) * (y1 - y0)


def test_white_on_white_is_no_cut_out() -> None:
    assert cut(page((250, 250, 248))) is None


def test_the_content_of_a_letterboxed_picture_is_found() -> None:
    image = np.full((SIDE, SIDE, 3), 127, np.uint8)
    image[:, 9:41] = np.random.default_rng(0).integers(0, 255, (SIDE, 32, 3))
    assert content_area(image, (127, 127, 127)) == (9, 0, 41, SIDE)


def looked_at(image: np.ndarray, channel: int) -> np.ndarray:
    """The box of all pixels of one of the colours, found by looking."""
    others = np.delete(image.astype(int), channel, axis=-1).max(-1)
    is_there = image[..., channel] > others + 45
    rows, columns = np.flatnonzero(is_there.any(1)), np.flatnonzero(is_there.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def test_a_box_is_what_is_seen_of_a_product() -> None:
    cuts = [cut(page(COLOURS[name])) for name in ("hat", "mug")]
    ground = np.full((SIDE, SIDE, 3), 120, np.uint8)
    compared = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        composite = pasted(rng, ground, cuts, area=(4, 0, SIDE, 60), sizes=(0.3, 0.6))
        for place, channel in enumerate((0, 2)):
            if composite.is_visible[place]:
                box = composite.box_xyxy[place] * SIDE
                np.testing.assert_allclose(box, looked_at(composite.image, channel), atol=2.01)
                compared += 1
    assert compared > 45


def test_a_product_that_is_mostly_hidden_is_no_answer() -> None:
    cuts = [cut(page(COLOURS[name])) for name in ("hat", "mug")]
    ground = np.full((SIDE, SIDE, 3), 120, np.uint8)
    narrow = (20, 20, 41, 41)  # room for one of them only
    for seed in range(10):
        rng = np.random.default_rng(seed)
        composite = pasted(rng, ground, cuts, area=narrow, sizes=(0.32, 0.32))
        assert composite.is_visible.tolist() == [False, True]


def test_a_query_names_a_category_in_singular_or_plural() -> None:
    named_categories = category_finder(["shoe", "shoes", "hat", "dress", "t-shirts", ""])
    assert named_categories("Red SHOES, that is") == {"shoe", "shoes"}
    assert named_categories("a t-shirt, hats, dresses") == {"t-shirts", "hat", "dress"}


def write(
    folder: Path, *, live_box: Any = None, live_category: str = "mug", **changes: Any
) -> Path:
    """A file of 9 mall pages, each of one disc, and of 6 live frames of noise."""
    rows, rng = [], np.random.default_rng(0)
    for number in range(9):
        category = list(COLOURS)[number % 3]
        red, green, blue = COLOURS[category]
        page((red + number, green, blue)).save(folder / f"{number}.png")
        row = {"image": f"{number}.png", "query": f"fine thing {number}", "box": DISC}
        rows.append(row | {"domain": "mall", "category": category, "product_id": f"p{number}"})
    for number in range(9, 15):
        noise = rng.integers(60, 140, (SIDE, SIDE, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
        row = {"image": f"{number}.png", "query": "two hats, please", "box": live_box}
        rows.append(
            row
            | {
                "domain": "live",
                "category": live_category,
                "product_id": f"{live_category}{number}",
            }
        )
    path = folder / "shop.jsonl"
    path.write_text("".join(json.dumps(r | {"split": "train"} | changes) + "\n" for r in rows))
    return path


def data_config(path: Path, **changes: Any) -> ConfigDict:
    config = ConfigDict(
        {
            **{"name": "files", "path": str(path), "cache_dir": str(path.parent / "cache")},
            **{"source": "mall", "target": "live", "image_size": SIDE, "fit": "letterbox"},
            **{"text_length": 8, "vocab": "", "vocab_size": 100, "max_pixels": 1_000_000},
            **{"bad_image_budget": 0.0, "words": 0.25},
            "paste": {"pictures": 20, "share": 0.5, "most": 3, "sizes": (0.3, 0.6)}
            | {"frame_share": 0.5, "seed": 0},
        }
    )
    config.update(changes)
    return config


def rows_of(path: Path, name: str, **changes: Any) -> dict[str, np.ndarray]:
    """All rows of a split, and their texts."""
    corpus = pipeline.load(data_config(path, **changes), "grounding")
    size = corpus.splits[name].size
    (batch,) = pipeline.eval_batches(corpus, [name], share=HERE, batch_size=size, boxes=True)
    return batch | {"texts": np.array(corpus.splits[name].texts)}


def test_boxes_categories_and_products_of_the_target_change_no_composite(tmp_path: Path) -> None:
    """Nor does it matter where and when they are made."""
    made = []
    for name, box, category in (("none", None, "mug"), ("garbage", [0.5, 3, 17, 60], "bag")):
        (tmp_path / name).mkdir()
        path = write(tmp_path / name, live_box=box, live_category=category)
        made.append(rows_of(path, "pasted_train"))
    assert len(made[0]["texts"]) > 20
    for key in ("image", "box_cxcywh", "texts"):
        np.testing.assert_array_equal(made[0][key], made[1][key])


def test_composites_show_what_they_ask_for(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path), "pasted_train")
    texts, channel_of = rows["texts"], {"hat": 0, "bag": 1, "mug": 2}
    assert {*texts} & {*COLOURS}
    assert any(text.startswith("fine thing") for text in texts)
    right = []
    for image, text, box in zip(rows["image"], texts, rows["box_cxcywh"], strict=True):
        category = text if text in channel_of else list(COLOURS)[int(text[-1]) % 3]
        # Every frame asks for hats already: a hat is pasted onto pages only.
        is_page = (image == 255).all(-1).mean() > 0.2
        assert is_page or category != "hat"
        x, y = (box[:2] * SIDE).astype(int)
        right.append(image[y, x].argmax() == channel_of[category])
    # The middle of a box may be covered by another product, but seldom is.
    assert np.mean(right) > 0.9


def test_a_word_asks_for_one_product_only(tmp_path: Path) -> None:
    path = write(tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    # The first page shows a second hat, and the second one something else.
    lines.append(lines[0] | {"product_id": "p90", "box": [0, 0, 9, 9]})
    lines.append(lines[1] | {"product_id": "p91", "box": [0, 0, 9, 9], "category": "mug"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = rows_of(path, "word_train", paste={"pictures": 0})["texts"]
    assert sorted(texts) == sorted(["hat"] * 2 + ["bag"] * 3 + ["mug"] * 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category": ""}, "no training row of mall has a category"),
        ({"box": None}, "no training row of the source has a box"),
        ({"domain": "pasted"}, "make rows of this name"),
    ],
)
def test_what_cannot_be_made_is_told(tmp_path: Path, changes: Any, message: str) -> None:
    path = write(tmp_path, **changes)
    config = data_config(path, words=0.5 if "box" not in changes else 0.0)
    if "domain" in changes:
        config.source, config.target = "pasted", ""
    with pytest.raises(DataError, match=message):
        pipeline.load(config, "grounding")


def test_shares_are_those_of_the_config() -> None:
    config = data_config(Path("shop.jsonl"))
    assert source_splits(config) == ["mall_train", "word_train", "pasted_train"]
    assert source_shares(config) == {"word_train": 0.125, "pasted_train": 0.5}
    config.paste.pictures, config.words = 0, 0.0
    assert source_splits(config) == ["mall_train"]


def test_nothing_of_the_target_but_pictures_and_queries_is_read() -> None:
    assert derived.TargetRows._fields == ("records", "texts", "pictures")
