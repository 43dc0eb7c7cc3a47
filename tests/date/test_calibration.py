"""Queries for what a picture does not show, and what is fitted on the answers to them."""

import csv
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from date_jax import boxes, sharding
from date_jax.data import pipeline
from date_jax.date import calibration, confidence
from date_jax.date.calibration import Answers

FEATURES = len(confidence.NAMES)


def test_an_absent_query_belongs_to_no_row_of_the_picture() -> None:
    rng = np.random.default_rng(0)
    picture = np.stack([np.arange(300) // 3, np.zeros(300, int)], axis=1).astype(np.uint32)
    product = rng.integers(0, 12, 300)
    text = rng.integers(0, 3, (300, 2))  # nine texts
    rows = calibration.absent_query_rows(picture, product, text)
    assert (rows >= 0).mean() > 0.9
    for row, other in enumerate(rows):
        same = np.flatnonzero(picture[:, 0] == picture[row, 0])
        if other >= 0:
            assert product[other] not in product[same]
            assert text[other].tolist() not in text[same].tolist()
    np.testing.assert_array_equal(rows, calibration.absent_query_rows(picture, product, text))


def test_where_all_show_one_product_nothing_is_absent() -> None:
    picture = np.stack([np.arange(5), np.arange(5)], axis=1)
    rows = calibration.absent_query_rows(picture, np.zeros(5, int), np.arange(10).reshape(5, 2))
    assert rows.tolist() == [-1] * 5
    assert calibration.absent_query_rows(picture[:1], np.zeros(1, int), np.zeros((1, 2), int)) == -1


def square_in_each(rows: int) -> dict[str, jnp.ndarray]:
    """Pictures with a white square on black, and the box around it; the last row has no box."""
    rng = np.random.default_rng(0)
    image, low = np.zeros((rows, 32, 32, 3), np.uint8), rng.integers(4, 16, (rows, 2))
    for row, (x, y) in enumerate(low):
        image[row, y : y + 10, x : x + 10] = 255
    xyxy = np.concatenate([low, low + 10], axis=1).astype(np.float32) / 32
    return {
        "image": jnp.asarray(image),
        "text": jnp.asarray(rng.integers(0, 9, (rows, 4)).astype(np.int32)),
        "text_mask": jnp.ones((rows, 4), bool),
        "box_cxcywh": boxes.cxcywh(jnp.asarray(xyxy)),
        "box_mask": jnp.arange(rows) < rows - 1,
        "index": jnp.asarray(rng.permutation(rows).astype(np.int32)),
    }


def test_a_strong_view_belongs_to_its_row_whatever_the_batch(tiny_config: ConfigDict) -> None:
    batch, swap_table = square_in_each(6), jnp.arange(9)[::-1]
    view, box = calibration.strong_batch(batch, tiny_config, swap_table)
    order = jnp.array([4, 2, 0])
    some = {name: value[order] for name, value in batch.items()}
    view_of_some, box_of_some = calibration.strong_batch(some, tiny_config, swap_table)
    for name in ("text", "index"):
        np.testing.assert_array_equal(view_of_some[name], view[name][order])
    np.testing.assert_allclose(view_of_some["image"], view["image"][order], atol=1e-3)
    np.testing.assert_allclose(box_of_some, box[order], atol=1e-6)
    # They differ from the pictures, and from each other.
    change = np.asarray(view["image"]) - np.asarray(batch["image"], np.float32)
    assert (np.abs(change) > 3).mean() > 0.2
    assert len(np.unique(np.asarray(box), axis=0)) == 6
    # A text is mirrored where its picture is: all of its words or none.
    mirrored = np.asarray(view["text"] != batch["text"]) | np.asarray(batch["text"] == 4)
    assert set(mirrored.mean(axis=1)) <= {1.0, *np.asarray(batch["text"] == 4).mean(axis=1)}


def test_without_augmentation_a_strong_view_is_the_picture(tiny_config: ConfigDict) -> None:
    for name in tiny_config.augment:
        off = 1.0 if name in ("zoom_in", "zoom_out", "aspect") else 0.0
        tiny_config.augment[name] = tiny_config.augment[name] if name == "ramp" else off
    batch = square_in_each(5)
    view, box = calibration.strong_batch(batch, tiny_config, jnp.arange(9))
    np.testing.assert_allclose(view["image"], batch["image"], atol=1e-3)
    np.testing.assert_allclose(box[:4], batch["box_cxcywh"][:4], atol=1e-6)


def test_every_picture_is_asked_twice_and_of_a_large_split_every_second_batch(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, mesh = pipeline.load(tiny_config.data, "grounding"), sharding.device_mesh()
    split = corpus.splits["mall_train"]

    def features(params: Any, batch: dict[str, Any]) -> jax.Array:
        query = batch["text"].astype(jnp.float32).sum(axis=1, keepdims=True)
        row = batch["index"][:, None].astype(jnp.float32)
        return jnp.concatenate([row, query, jnp.zeros((len(row), FEATURES - 2))], axis=1)

    predict = {
        "confidence_features": features,
        "box_cxcywh": lambda params, batch: batch["box_cxcywh"],
        "picture": lambda params, batch: jnp.stack([batch["index"]] * 2, axis=1),
    }

    def asked() -> Answers:
        read = calibration.answer_reader(tiny_config, corpus, predict, mesh)
        return read("mall_train", None, lambda: False)

    everything = asked()
    assert everything.is_right.all()
    assert everything.present[:, 0].tolist() == list(range(split.size))
    np.testing.assert_array_equal(everything.present[:, 1], split.text.sum(axis=1))
    assert everything.absent[:, 0].tolist() == list(range(split.size))
    assert (everything.absent[:, 1] != everything.present[:, 1]).mean() > 0.9
    # Half of the batches: rows 0 to 7, 16 to 23 and so on.
    monkeypatch.setattr(calibration, "_ROWS", -(-split.size // 2))
    expected = [row for row in range(split.size) if row // 8 % 2 == 0]
    assert asked().present[:, 0].tolist() == expected


def answers(rows: int, seed: int) -> Answers:
    """Boxes whose first feature tells whether they are right; where nothing is shown it is low."""
    rng = np.random.default_rng(seed)
    present = rng.normal(1.0, 1.0, (rows, FEATURES))
    is_right = rng.random(rows) < 1 / (1 + np.exp(-3 * present[:, 0]))
    return Answers(present, is_right, rng.normal(-1.0, 1.0, (rows, FEATURES)))


def test_the_confidence_is_right_on_other_rows_and_low_where_nothing_is_shown() -> None:
    fitted = calibration.calibration_of([answers(600, 0), answers(400, 1)], ["a_val", "b_val"])
    assert fitted is not None
    assert (fitted.splits, fitted.rows) == (("a_val", "b_val"), 2000)
    test = answers(1000, 2)
    metrics = calibration.metrics(fitted, test)
    assert metrics["ece"] < 0.08
    assert metrics["confidence"] == pytest.approx(test.is_right.mean(), abs=0.06)
    assert metrics["aurc"] < 0.6 * (1 - test.is_right.mean())
    assert metrics["absent_auc"] > 0.9
    assert metrics["absent_confidence"] < 0.2


def test_without_true_boxes_there_is_neither_calibration_nor_measure() -> None:
    empty = Answers(np.zeros((0, FEATURES)), np.zeros(0, bool), np.zeros((0, FEATURES)))
    assert calibration.calibration_of([], []) is None
    assert calibration.calibration_of([empty], ["mall_val"]) is None
    fitted = calibration.calibration_of([answers(50, 0)], ["mall_val"])
    assert fitted is not None
    assert calibration.metrics(fitted, empty) == {}
    assert not calibration.files(fitted, "live_test", empty)


def test_the_reliability_table_counts_the_pairs_as_they_are(tmp_path: Path) -> None:
    fitted, test = calibration.calibration_of([answers(300, 0)], ["mall_val"]), answers(200, 3)
    assert fitted is not None
    ((name, write),) = calibration.files(fitted, "live_test", test).items()
    write(tmp_path / name)
    assert name == "reliability_live_test.csv"
    rows = [*csv.DictReader((tmp_path / name).read_text().splitlines())]
    assert sum(int(row["rows"]) for row in rows) == 200
    right = sum(int(row["rows"]) * float(row["right"]) for row in rows)
    assert right == pytest.approx(test.is_right.sum(), abs=0.2)
    assert all(float(row["from"]) <= float(row["confidence"]) <= float(row["to"]) for row in rows)
