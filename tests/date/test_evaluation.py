"""DATE's measures of a split, and what is compared and shown of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from date_jax import sharding
from date_jax.data.corpus import Corpus
from date_jax.date import aligner, evaluation
from date_jax.evals.collect import collector
from tests.evals.test_collect import BATCH, padded, split


def test_an_evaluation_of_a_perfect_seeker_is_perfect() -> None:
    rows = split(37)
    rows["product_id"] = np.arange(37, dtype=np.int32)
    predict = {
        "image_embedding": lambda params, batch: jax.nn.one_hot(batch["product_id"], 40),
        "query_embedding": lambda params, batch: jax.nn.one_hot(batch["product_id"], 40),
        "box_cxcywh": lambda params, batch: batch["box_cxcywh"] + params,
        "unused": lambda params, batch: 1 / 0,
    }
    collect = collector(evaluation.required_predictions(predict), sharding.device_mesh())
    metrics, found = evaluation.split_measures(
        collect, jnp.float32(0), padded(rows), mesh=sharding.device_mesh()
    )
    assert metrics["examples"] == 37
    assert metrics["boxes"] == rows["box_mask"].sum()
    for name in ("recall_at_1", "image_to_text_recall_at_50", "mrr", "acc_at_0.75", "median_rank"):
        assert metrics[name] == 1.0
    np.testing.assert_array_equal(found["box_cxcywh"], rows["box_cxcywh"])


def test_rows_of_one_picture_are_one_entry_of_the_gallery() -> None:
    rows = split(30)
    rows["image"] = rows["image"][np.arange(30) // 3]
    rows["product_id"] = np.arange(30, dtype=np.int32)

    def of_picture(params: Any, batch: dict[str, Any]) -> jax.Array:
        return jax.nn.one_hot(batch["product_id"] // 3, 10)

    predict = {
        "image_embedding": of_picture,
        "query_embedding": of_picture,
        "box_cxcywh": lambda params, batch: batch["box_cxcywh"],
    }
    collect = collector(evaluation.required_predictions(predict), sharding.device_mesh())
    metrics = evaluation.split_measures(
        collect, jnp.float32(0), padded(rows), mesh=sharding.device_mesh()
    ).metrics
    # As three entries each the others would tie, and count against the query.
    assert metrics["recall_at_1"] == metrics["image_to_text_recall_at_1"] == 1.0


def test_pictures_that_differ_in_one_pixel_are_told_apart() -> None:
    images = np.zeros((2000, 8, 8, 3), np.uint8)
    images.reshape(2000, -1)[np.arange(2000), np.arange(2000) % 192] = 1 + np.arange(2000) // 192
    found = np.asarray(evaluation.picture_hash(None, {"image": jnp.array(images)}))
    assert len(np.unique(found, axis=0)) == 2000
    again = np.asarray(evaluation.picture_hash(None, {"image": jnp.array(images[::-1])}))
    np.testing.assert_array_equal(again[::-1], found)


def test_an_evaluation_without_boxes_measures_retrieval_only() -> None:
    rows = split(20, boxes=False)
    predict = {
        "image_embedding": lambda params, batch: jnp.ones((BATCH, 2)) * jnp.sqrt(0.5),
        "query_embedding": lambda params, batch: jnp.ones((BATCH, 2)) * jnp.sqrt(0.5),
        "box_cxcywh": lambda params, batch: jnp.zeros((BATCH, 4)),
    }
    collect = collector(evaluation.required_predictions(predict), sharding.device_mesh())
    metrics = evaluation.split_measures(
        collect, jnp.float32(0), padded(rows), mesh=sharding.device_mesh()
    ).metrics
    assert "recall_at_1" in metrics
    assert not {"boxes", "acc_at_0.5", "mean_iou"} & set(metrics)


def test_failures_are_the_rows_below_one_half_the_worst_first() -> None:
    true = np.tile([0.5, 0.5, 0.5, 0.5], (5, 1))
    box = true.copy()
    box[0, 2:] = 0.25  # a quarter
    box[1, 3] = 0.25  # exactly one half
    box[2, :2] = 0.1  # next to nothing
    box[3, :2] = 0.1  # the same, but its true box is not known
    known = np.array([True, True, True, False, True])
    rows = {"box_cxcywh": box, "true_box_cxcywh": true, "box_mask": known}
    assert evaluation.failures(rows).tolist() == [2, 0]
    assert evaluation.failures({"box_cxcywh": box}).tolist() == []
    corpus = object.__new__(Corpus)  # is read only when the file is written
    assert evaluation.failure_files(corpus, "live_test", rows | {"box_cxcywh": true}) == {}
    assert [*evaluation.failure_files(corpus, "live_test", rows)] == ["failures_live_test.png"]


def test_the_source_is_evaluated_first_whatever_its_name() -> None:
    names = ["live_val", "live_test", "mall_val", "collage_val", "other_val"]
    expected = ["mall_val", "collage_val", "live_val", "other_val"]
    assert evaluation.splits_in_order("collage+mall", names, ["val"]) == expected
    assert evaluation.splits_in_order("live", names, ["val", "test"])[:2] == [
        "live_val",
        "live_test",
    ]


def test_the_distance_of_the_domains_is_the_mmd_from_all_of_the_source() -> None:
    rng = np.random.default_rng(0)
    given = {
        name: {"image": rng.normal(i, 1, (9 + i, 4)).astype(np.float32)}
        for i, name in enumerate(("mall_val", "collage_val", "live_val"))
    }
    found = evaluation.domain_distance(["mall_val", "absent_val", "collage_val"], "live_val", given)
    both = np.concatenate([given["mall_val"]["image"], given["collage_val"]["image"]])
    expected = aligner.mmd(jnp.asarray(both), jnp.asarray(given["live_val"]["image"]))
    assert found == {"distance_image": pytest.approx(float(expected), rel=1e-5)}
    assert evaluation.domain_distance(["absent_val"], "live_val", given) == {}
