"""Evaluation of one split: retrieval in both directions, and grounding where it has boxes."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer

from date_jax.evals import grounding, retrieval
from date_jax.evals.collect import Collect, Predict

PREDICTIONS = ("image_embedding", "query_embedding", "box_cxcywh")


class Evaluation(NamedTuple):
    """Attributes:
    metrics: by name, see `retrieval.metrics` and `grounding.metrics`; and `examples`.
    rows: what was collected of every row of the split, by name; see `collector`.
    """

    metrics: dict[str, float]
    rows: dict[str, np.ndarray]


def evaluated(predict: Predict) -> Predict:
    """What `evaluate` needs its collector to make: some of a task's predictions, and `picture`."""
    return {name: predict[name] for name in PREDICTIONS} | {"picture": picture}


def picture(params: Any, batch: dict[str, Any]) -> Integer[Array, "B 2"]:
    """A number of 64 bits, in two halves, that only rows with the same picture share.

    Random weights times the bytes, modulo 2³²: two pictures collide once in about 10¹⁵ pairs.
    """
    pixels = batch["image"].reshape(len(batch["image"]), 1, -1).astype(jnp.uint32)
    weights = jax.random.bits(jax.random.key(0), (1, 2, pixels.shape[-1]), jnp.uint32)
    return (pixels * weights).sum(axis=-1, dtype=jnp.uint32)


def evaluate(
    collect: Collect,
    params: Any,
    batches: Iterable[dict[str, np.ndarray]],
    *,
    mesh: jax.sharding.Mesh,
    should_stop: Callable[[], bool] | None = None,
) -> Evaluation:
    """The metrics of one split, exact for any number of rows and the same on every process.

    Args:
        collect: `collector(evaluated(task.predict), mesh, ...)`, made once for all splits.
        params: the network's.
        batches: this process's evaluation batches of the split, with boxes.
        mesh: of `sharding.device_mesh`.
        should_stop: see `collector`.

    Raises:
        Preempted: `should_stop` said so.
    """
    rows = collect(params, batches, should_stop=should_stop)
    metrics = {"examples": float(len(rows["box_cxcywh"]))}
    # A picture of several products has a row for each, and stands in the gallery once.
    _, image_id = np.unique(rows["picture"], axis=0, return_inverse=True)
    pairs = rows["image_embedding"], rows["query_embedding"], rows["product_id"]
    metrics |= retrieval.metrics(*pairs, image_id=image_id, mesh=mesh)
    if "box_mask" in rows:
        boxes = rows["box_cxcywh"], rows["true_box_cxcywh"], rows["box_mask"]
        metrics |= grounding.metrics(*boxes)
    return Evaluation(metrics, rows)
