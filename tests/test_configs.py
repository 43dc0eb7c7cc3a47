"""Every config, with every argument it documents, gives data and a step that fit each other: new
ones unasked. Whole runs of each task are other files' matter."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import pgda
from date_jax import config as rules
from date_jax import sharding
from date_jax.capture.task import TASK as CAPTURE
from date_jax.data import pipeline
from date_jax.data.sources import PAIRED
from date_jax.run.workdir import flat
from date_jax.same_style.task import TASK as SAME_STYLE
from date_jax.step import train_step
from date_jax.tasks import TASKS
from tests.data import test_photo_posts, test_product1m

FOLDER = Path(__file__).parent.parent / "configs"
SAME_WHEN_SMALL = {"pretrained", "vit_b16"}  # as no word and as vit_s14, with the tiny sizes
FILES = sorted(path for path in FOLDER.glob("*.py") if "def get_config(" in path.read_text())


def arguments(name: str) -> list[str]:
    """What may stand behind the colon: nothing, each word, and what the file's text names."""
    module = importlib.import_module(f"configs.{name}")
    words = {*getattr(module, "WORDS", ())} - SAME_WHEN_SMALL
    documented = re.findall(rf"configs/{name}\.py:([\w,]+)", module.__doc__)
    return sorted({"", *words, *documented})


CASES = [
    pytest.param(file.stem, argument, id=f"{file.stem}:{argument}")
    for file in FILES
    for argument in arguments(file.stem)
]


def small_config(
    config: ConfigDict, tiny_config: ConfigDict, tiny_sizes: dict[str, dict[str, Any]]
) -> ConfigDict:
    """`config` with the sizes of the tiny configs, as far as it has their keys."""
    usual, tiny = (flat(c.to_dict()) for c in (pgda.get_config(), tiny_config))
    sizes = {key: value for key, value in tiny.items() if value != usual[key]}
    sizes |= tiny_sizes.get(config.task, {})
    if config.model.image.kind == "vit":
        sizes |= {"model.image.patch": 4, "model.image.depths": (2,), "model.image.heads": (2,)}
        sizes |= {"model.image.vit.positions": 4, "data.image_size": 32}
    keys = flat(config.to_dict())
    config.update_from_flattened_dict({k: v for k, v in sizes.items() if k in keys})
    return config


def write_photos(corpus: pipeline.Corpus, folder: Path) -> Path:
    """Writes the rendered shop as a user's photos: equal shapes, so nothing is compiled again."""
    lines = []
    for name, split in corpus.splits.items():
        batches = pipeline.eval_batches(
            corpus, [name], share=pipeline.Share.here(), batch_size=16, boxes=True
        )
        images = np.concatenate([batch["image"] for batch in batches])[: split.size]
        boxes = np.round(split.records.box_xyxy() * corpus.image_size).astype(int).tolist()
        for row, (image, box) in enumerate(zip(images, boxes, strict=True)):
            file = f"{name}_{row}.png"
            Image.fromarray(image).save(folder / file)
            line = {
                "image": file,
                "query": split.texts[row],
                "box": box,
                "domain": name.rpartition("_")[0],
                "product_id": str(split.numbers["product_id"][row]),
                "split": name.rpartition("_")[2],
            }
            lines.append(json.dumps(line) + "\n")
    (folder / "photos.jsonl").write_text("".join(lines))
    return folder / "photos.jsonl"


def write_offers(corpus: pipeline.Corpus, folder: Path) -> None:
    """Writes the rendered catalogue as a user's own and as published pairs."""
    rows, offers_of_product = [], {}
    for name, split in corpus.splits.items():
        records = split.records
        products = records.products()
        ids, suppliers = records.texts("offer_id"), records.texts("supplier")
        images = pipeline.pictures(corpus, name, np.arange(split.size))
        for row, (offer, image) in enumerate(zip(ids, images, strict=True)):
            Image.fromarray(image).save(folder / f"{offer}.png")
            line = [offer, split.texts[row], suppliers[row], "c", f"{offer}.png", products[row]]
            rows.append([*line, name.rpartition("_")[2]])
            offers_of_product.setdefault(products[row], []).append((offer, split.texts[row]))
    names = ["offer_id", "title", "supplier", "category", "image", "product_id", "split"]
    table = [names, *rows]
    (folder / "offers.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in table))
    ids = corpus.splits[PAIRED].records.texts("offer_id")
    pairs = "".join(f"{ids[one]},{ids[other]}\n" for one, other in corpus.pairs)
    (folder / "pairs.csv").write_text(f"trigger_id,offer_id\n{pairs}")
    objects = [
        {"cate_name": "c", "trigger_id": one, "trigger_title": title, "trigger_img": "", "label": 1}
        | {"recall_id": other, "recall_title": other_title, "recall_img": ""}
        for (one, title), *others in offers_of_product.values()
        for other, other_title in others
    ]
    (folder / "pairs.json").write_text(json.dumps(objects))


def write_posts(config: ConfigDict, corpus: pipeline.Corpus, folder: Path) -> None:
    """Writes rendered posts as the files that the config asks for, and sets its paths to them."""
    if config.data.name == "product1m":
        test_product1m.write_lists(corpus, folder, test_product1m.published_labels)
        test_product1m.write_pictures(corpus, folder)
        config.data.update(path=str(folder), images=str(folder))
    if config.model.regions.kind == "precomputed":
        test_product1m.write_regions(corpus, folder / "regions", count=6)
        config.data.regions = str(folder / "regions")


def shapes_of(batch: dict[str, dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """Shape and dtype of each array, without the dtype in which a detector wrote its regions."""
    return {
        (part, key): (value.shape, "" if key == "regions" else np.dtype(value.dtype))
        for part, rows in batch.items()
        for key, value in rows.items()
    }


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_every_config_gives_data_and_a_step_that_fit(
    name: str,
    argument: str,
    tiny_config: ConfigDict,
    tiny_capture_sizes: dict[str, Any],
    tiny_same_style_sizes: dict[str, Any],
    tmp_path: Path,
) -> None:
    config = importlib.import_module(f"configs.{name}").get_config(argument)
    if config.data.name in ("files", "published") and config.task == "same_style":
        rendered = importlib.import_module("configs.same_style").get_config()
        rendered = small_config(rendered, tiny_config, {"same_style": tiny_same_style_sizes})
        write_offers(SAME_STYLE.load(rendered), tmp_path)
        file = {"files": "offers.csv", "published": "pairs.json"}[argument]
        config.data.update(path=str(tmp_path / file), images=str(tmp_path))
        config.data.pairs = str(tmp_path / "pairs.csv")
    elif config.task == "capture" and {"product1m", "precomputed"} & set(argument.split(",")):
        rendered = importlib.import_module("configs.capture").get_config()
        rendered = small_config(rendered, tiny_config, {"capture": tiny_capture_sizes})
        write_posts(config, CAPTURE.load(rendered), tmp_path)
    elif config.task == "capture" and config.data.name == "files":
        photos = test_photo_posts.write(tmp_path, {"train": 2, "test": 1})
        config.data.update(path=str(photos), pages="pages", singles="shop")
    elif config.data.name == "files":
        config.data.path = str(write_photos(pipeline.load(tiny_config.data, "grounding"), tmp_path))
    counts: dict[str, Any] = {"device_count": jax.device_count(), "process_count": 1}
    rules.validate(config, **counts)
    tiny_sizes = {"capture": tiny_capture_sizes, "same_style": tiny_same_style_sizes}
    config = small_config(config, tiny_config, tiny_sizes)
    rules.validate(config, **counts)
    task = TASKS[config.task]
    corpus = task.load(config)
    # The last step's batch: every stage's data are in it.
    batch = next(task.batches(config, corpus, config.steps - 1))
    example = task.example(config)
    assert shapes_of(example) == shapes_of(batch)
    mesh = sharding.device_mesh(config.mesh.fsdp)
    sizes = {name: split.size for name, split in corpus.splits.items()}
    learner = task.learner(config, corpus.tokenizer, sizes)
    step = train_step(config, learner, mesh, example)
    # Traced, and not compiled: that takes a tenth of the time.
    state, metrics = step.update.eval_shape(step.shapes, batch)
    assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, step.shapes)
    assert all(metric.shape == () for metric in metrics.values())
    assert {"loss", "gradient_norm", "skipped"} <= set(metrics)


def test_a_config_opens_with_its_command_its_time_and_the_numbers_to_expect() -> None:
    for file in FILES:
        text = importlib.import_module(f"configs.{file.stem}").__doc__
        _, command, expectation, *_ = text.split("\n\n")
        assert f"--config=configs/{file.name}" in command, file.name
        assert re.search(r"takes [^.]* minutes on [^.]* core", expectation), file.name
        assert re.search(r"[Ee]xpect [^;]* \d\.\d+ ± \d\.\d+", expectation), file.name
