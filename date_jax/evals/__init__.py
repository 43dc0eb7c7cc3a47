"""Evaluation of one split: retrieval in both directions, and grounding where it has boxes."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from date_jax.evals import grounding, retrieval
from date_jax.evals.collect import Collect, Predict

PREDICTIONS = ("image_embedding", "query_embedding", "box_cxcywh")


class Evaluation(NamedTuple):
    """Attributes:
    metrics: by name, see `retrieval.metrics` and `grounding.metrics`; and `examples`.
    box_cxcywh: the predicted box of every row of the split, float32 `[N 4]`.
    """

    metrics: dict[str, float]
    box_cxcywh: np.ndarray


def evaluated(predict: Predict) -> Predict:
    """Those of a task's predictions which `evaluate` needs its collector to make."""
    return {name: predict[name] for name in PREDICTIONS}


def evaluate(
    collect: Collect,
    params: Any,
    batches: Iterable[dict[str, np.ndarray]],
    *,
    image_id: np.ndarray | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Evaluation:
    """The metrics of one split, exact for any number of rows and the same on every process.

    Args:
        collect: `collector(evaluated(task.predict), mesh)`, made once for all splits.
        params: the network's.
        batches: this process's evaluation batches of the split, with boxes.
        image_id: `[N]`, equal for rows that share a picture; None: every row has its own.
        should_stop: see `collector`.

    Raises:
        Preempted: `should_stop` said so.
    """
    rows = collect(params, batches, should_stop=should_stop)
    box = rows["box_cxcywh"]
    metrics = {"examples": float(len(box))}
    metrics |= retrieval.metrics(
        rows["image_embedding"], rows["query_embedding"], rows["product_id"], image_id=image_id
    )
    if "box_mask" in rows:
        metrics |= grounding.metrics(box, rows["true_box_cxcywh"], rows["box_mask"])
    return Evaluation(metrics, box)
