import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from date_jax import sharding
from date_jax.errors import Preempted
from date_jax.evals import collect as collecting
from date_jax.evals.collect import collector, not_finite_notes

BATCH = 16


def split(size: int, *, boxes: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(size)
    rows = {
        "image": rng.integers(0, 255, (size, 4, 4, 3), np.uint8),
        "index": np.arange(size, dtype=np.int32),
        "product_id": rng.integers(0, 5, size).astype(np.int32),
    }
    if boxes:
        rows["box_cxcywh"] = rng.uniform(0.2, 0.6, (size, 4)).astype(np.float32)
        rows["box_mask"] = rng.random(size) < 0.7
    return rows


def padded(rows: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    size = len(rows["index"])
    for start in range(0, size, BATCH):
        real = min(BATCH, size - start)
        take = np.r_[start : start + real, np.zeros(BATCH - real, np.int64)]
        yield {name: value[take] for name, value in rows.items()} | {
            "mask": np.arange(BATCH) < real
        }


def image_sum(params: Any, batch: dict[str, Any]) -> jax.Array:
    return params * batch["image"].astype(jnp.float32).sum((1, 2, 3))


@pytest.mark.parametrize("rows_at_once", [0, 1])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 48, 50])
def test_every_row_comes_once_and_in_order(size: int, rows_at_once: int) -> None:
    rows = split(size)
    collect = collector({"sum": image_sum}, sharding.device_mesh(), rows_at_once=rows_at_once)
    found = collect(jnp.float32(2), padded(rows))
    np.testing.assert_array_equal(found["index"], np.arange(size))
    np.testing.assert_array_equal(found["sum"], 2.0 * rows["image"].sum((1, 2, 3)))
    np.testing.assert_array_equal(found["product_id"], rows["product_id"])
    np.testing.assert_array_equal(found["box_mask"], rows["box_mask"])
    np.testing.assert_array_equal(found["true_box_cxcywh"], rows["box_cxcywh"])
    assert "mask" not in found


def test_batches_without_boxes_give_no_boxes() -> None:
    collect = collector({"sum": image_sum}, sharding.device_mesh())
    found = collect(jnp.float32(1), padded(split(9, boxes=False)))
    assert set(found) == {"sum", "index", "product_id"}


def test_a_second_collection_compiles_nothing() -> None:
    traced = []

    def counted(params: Any, batch: dict[str, Any]) -> jax.Array:
        traced.append(1)
        return image_sum(params, batch)

    collect = collector({"sum": counted}, sharding.device_mesh())
    for size, scale in [(40, 1.0), (7, 2.0)]:
        collect(jnp.float32(scale), padded(split(size)))
    assert len(traced) == 1


def test_the_batch_behind_is_fetched_after_the_next_is_dispatched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    def watched() -> Iterator[dict[str, np.ndarray]]:
        for number, batch in enumerate(padded(split(64))):
            seen.append(f"asked {number}")
            yield batch

    def fetched(running: Any) -> dict[str, np.ndarray]:
        seen.append("fetched")
        return real_rows(running)

    real_rows = collecting._real_rows
    monkeypatch.setattr(collecting, "_real_rows", fetched)
    collect = collector({"sum": image_sum}, sharding.device_mesh())
    assert len(collect(jnp.float32(1), watched())["sum"]) == 64
    order = "asked 0, asked 1, fetched, asked 2, fetched, asked 3, fetched, fetched"
    assert seen == order.split(", ")


def test_a_stop_ends_the_collection_before_the_next_batch() -> None:
    answers = itertools.chain([False, False], itertools.repeat(True))
    served = []

    def watched() -> Iterator[dict[str, np.ndarray]]:
        for batch in padded(split(100)):
            served.append(1)
            yield batch

    collect = collector({"sum": image_sum}, sharding.device_mesh())
    with pytest.raises(Preempted):
        collect(jnp.float32(1), watched(), should_stop=lambda: next(answers))
    assert len(served) == 3


def test_an_empty_split_is_refused() -> None:
    collect = collector({"sum": image_sum}, sharding.device_mesh())
    with pytest.raises(ValueError, match="no batch"):
        collect(jnp.float32(1), iter([]))


def test_predictions_that_are_not_finite_are_counted_by_kind() -> None:
    boxes, vectors = np.full((4, 4), 0.5, np.float32), np.ones((4, 8), np.float32)
    rows = {"box_cxcywh": boxes, "image_embedding": vectors, "query_embedding": vectors.copy()}
    # The truth and numbers that are no floats are no predictions.
    rows |= {"true_box_cxcywh": np.full((4, 4), np.nan), "index": np.arange(4)}
    assert not_finite_notes(rows) == ()
    boxes[1:, 2] = np.nan
    (note,) = not_finite_notes(rows)
    assert note.startswith("3 of 4 boxes are not finite")
    assert "--config.optim.learning_rate" in note
    vectors[0, 0] = np.inf
    _, note = not_finite_notes(rows)
    assert note.startswith("1 of 8 embeddings are not finite")
