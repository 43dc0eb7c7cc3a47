"""Posts from a table of photos: what a page becomes, and what training never sees."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import capture as configs
from date_jax.capture.task import TASK as CAPTURE
from date_jax.data import pipeline
from date_jax.data.files.photo_posts import photo_posts
from date_jax.errors import DataError, UsageError

HAT, SHOE, BAG = [0, 0, 8, 8], [8, 8, 16, 16], [0, 8, 8, 16]
COLOURS = {"hat": (250, 20, 20), "shoe": (20, 250, 20), "bag": (20, 20, 250)}
BOXES = {"hat": HAT, "shoe": SHOE, "bag": BAG}


def write(folder: Path, sizes: dict[str, int]) -> Path:
    """A table of pages with three products each, and of pictures of one."""
    lines: list[dict[str, Any]] = []
    for split, count in sizes.items():
        for number in range(count):
            page = Image.new("RGB", (16, 16), (255, 255, 255))
            for name, box in BOXES.items():
                page.paste(COLOURS[name], tuple(box))
                fields = {"product_id": f"{name}{number % 2}{split}", "category": name}
                fields |= {"split": split, "image": f"page_{split}{number}.png", "box": box}
                lines.append(fields | {"domain": "pages", "query": name})
                lines.append(fields | {"domain": "pages", "query": f"acme {name} {number}"})
                single = {"image": f"{name}_{split}{number}.png", "box": None, "domain": "shop"}
                lines.append(fields | single | {"query": f"acme {name} {number}"})
                Image.new("RGB", (16, 16), COLOURS[name]).save(folder / single["image"])
            page.save(folder / f"page_{split}{number}.png")
    path = folder / "photos.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def config_of(path: Path, word: str = "files") -> ConfigDict:
    config = configs.get_config(word)
    config.data.update(path=str(path), pages="pages", singles="shop")
    config.data.cache_dir = str(path.parent / "cache")
    return config


def test_a_page_is_one_post_with_the_titles_boxes_and_products_of_all_it_shows(
    tmp_path: Path,
) -> None:
    config = config_of(write(tmp_path, {"train": 2, "val": 1, "test": 2}))
    corpus = pipeline.load(config.data, "posts")
    assert corpus.sizes == {
        **{"post_train": 8, "composite_train": 2},
        **{"suite_val": 1, "composite_val": 1, "single_val": 3},
        **{"suite_test": 2, "composite_test": 2, "single_test": 6},
    }
    suite = corpus.splits["suite_test"]
    assert suite.texts[1] == "acme hat 1, acme shoe 1, acme bag 1"
    assert suite.labels()[1] == ["hat1test", "shoe1test", "bag1test"]
    assert corpus.splits["single_test"].labels() == [
        [f"{name}{number}test"] for number in range(2) for name in BOXES
    ]
    for name in ("suite_test", "composite_train"):
        records = corpus.splits[name].records
        np.testing.assert_array_equal(records.has_box(), [[True] * 3 + [False] * 3] * 2)
        expected = np.array([*BOXES.values()]) / 16
        np.testing.assert_allclose(records.box_xyxy()[:, :3], [expected] * 2, atol=1e-6)


def test_training_posts_say_neither_where_nor_what_their_products_are(tmp_path: Path) -> None:
    config = config_of(write(tmp_path, {"train": 2, "test": 1}))
    posts = pipeline.load(config.data, "posts").splits["post_train"]
    assert not posts.records.has_box().any()
    assert {*posts.records.products()} == {""}
    assert sorted(posts.texts) == sorted(
        [
            *(f"acme hat {n}, acme shoe {n}, acme bag {n}" for n in range(2)),
            *(f"acme {name} {n}" for n in range(2) for name in BOXES),
        ]
    )


def test_what_a_table_lacks_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"train": 2, "test": 1})
    config = config_of(path)
    config.data.pages = "page"
    with pytest.raises(DataError, match=r"data\.pages: no domain 'page' .*did you mean 'pages'"):
        photo_posts(config.data, most=6)
    config.data.pages = "shop"  # single products without a box
    with pytest.raises(DataError, match=r"no training picture of config\.data\.pages has a box"):
        photo_posts(config.data, most=6)
    _, rows, notes = photo_posts(config_of(path).data, most=2)
    assert notes[0] == "3 pages show more than 2 products: the first 2 count"
    assert sum(row.split == "suite_test" for row in rows) == 2
    with pytest.raises(UsageError, match="files has pictures of its own"):
        configs.get_config("files,product1m")


def test_a_batch_has_the_shapes_that_the_step_is_compiled_for(
    tmp_path: Path, tiny_capture_sizes: dict[str, Any]
) -> None:
    config = config_of(write(tmp_path, {"train": 2, "test": 1}))
    config.update_from_flattened_dict(tiny_capture_sizes)
    batch = next(CAPTURE.batches(config, CAPTURE.load(config), 0))
    for part, shapes in CAPTURE.example(config).items():
        assert {key: value.shape for key, value in batch[part].items()} == {
            key: shape.shape for key, shape in shapes.items()
        }
