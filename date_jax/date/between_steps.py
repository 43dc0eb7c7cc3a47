"""What PG-DA asks of the loop: who is in the batch when, and the refresh of the pseudo boxes."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from date_jax import boxes
from date_jax.data import pipeline
from date_jax.data.domains import split_names
from date_jax.date import pseudo_boxes
from date_jax.date.adaptive import adapts, align_start, pseudo_start
from date_jax.errors import Preempted
from date_jax.evals.collect import Collect, collector
from date_jax.run.countdown import Countdown
from date_jax.task import Task


def stage(config: ConfigDict, step: int) -> int:
    """1: the source alone; 2: aligned with the target; 3: with pseudo boxes."""
    return 1 + (step >= align_start(config)) + (step >= pseudo_start(config))


def batches(config: ConfigDict, corpus: Any, first_step: int) -> Iterator[dict[str, Any]]:
    """This process's part of the batch of each step from `first_step`, without end.

    The target joins at stage 2, and has no boxes.
    """
    options = {"batch_size": config.batch_size, "share": pipeline.Share.here()}
    source = pipeline.train_batches(
        corpus,
        split_names(config.data.source, "train"),
        seed=config.seed,
        start_step=first_step,
        boxes=True,
        **options,
    )
    target = None
    for step in itertools.count(first_step):
        batch = {"source": next(source)}
        if step >= align_start(config):
            if target is None:
                target = pipeline.train_batches(
                    corpus,
                    split_names(config.data.target, "train"),
                    seed=config.seed + 1,
                    start_step=step,
                    boxes=False,
                    **options,
                )
            batch["target"] = next(target)
        yield batch


def no_pseudo_boxes(config: ConfigDict, corpus: Any) -> dict[str, np.ndarray]:
    """The table as it is before the first refresh: a row for each target picture, none weighs."""
    names = split_names(config.data.get("target", ""), "train")
    count = sum(corpus.splits[name].size for name in names)
    count = max(count, 1)  # without a target one row that nobody reads: Orbax saves no empty array
    return {
        "box_cxcywh": np.full((count, 4), 0.5, np.float32),
        "weight": np.zeros(count, np.float32),
    }


def true_boxes(config: ConfigDict, corpus: Any) -> dict[str, np.ndarray]:
    """`box_cxcywh [N 4]` and `box_mask [N]` of the target's training rows: the oracle's table.

    For anyone else they only measure how good the pseudo boxes are.
    """
    names = split_names(config.data.target, "train")
    records = [corpus.splits[name].records for name in names]
    xyxy = np.concatenate([split.box_xyxy() for split in records]).astype(np.float32)
    has_box = np.concatenate([split.has_box() for split in records]).astype(bool)
    return {"box_cxcywh": np.asarray(boxes.cxcywh(jnp.asarray(xyxy))), "box_mask": has_box}


class PseudoBoxes:
    """Makes the table anew when it is time.

    Args:
        task: of `tasks.build`.
        mesh: what the embedding of the two data sets is spread over.
        folder: of the run; holds what is counted so far while pairs are.
        say: takes a line about that.
    """

    def __init__(
        self,
        task: Task,
        config: ConfigDict,
        corpus: Any,
        mesh: jax.sharding.Mesh,
        *,
        folder: Path,
        say: Callable[[str], None],
    ):
        self._config, self._corpus, self._mesh = config, corpus, mesh
        self._folder, self._say = folder, say

        def made(*names: str) -> Collect:
            predict = {name: task.predict[name] for name in names}
            return collector(predict, mesh, rows_at_once=config.model.rows_at_once)

        self._embed = made("image_embedding", "query_embedding")
        self._teach = made("pseudo_box_cxcywh", "agreement")

    def begins(self, step: int) -> bool:
        """Whether `step` is the first with pseudo boxes."""
        return step == pseudo_start(self._config)

    def due(self, step: int) -> bool:
        """Whether a refresh comes before step `step`: of the oracle's table once."""
        if not (adapts(self._config) and self._config.pseudo_boxes.weight):
            return False
        since = step - pseudo_start(self._config)
        if self._config.method == "oracle":
            return since == 0
        return (
            self._config.method == "date"
            and since >= 0
            and since % self._config.pseudo_boxes.every == 0
        )

    def refreshed(
        self, params: Any, teacher: Any, step: int, should_stop: Callable[[], bool]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """The table from now on, and what there is to know of it.

        Args:
            params: the network that embeds both data sets.
            teacher: the network whose boxes they are.
            step: steps done.
            should_stop: see `collector`.
        """
        config = self._config
        truth = true_boxes(config, self._corpus)
        if config.method == "oracle":
            weight = truth["box_mask"].astype(np.float32)
            table = {"box_cxcywh": truth["box_cxcywh"], "weight": weight}
            return table, {"selected": float(weight.sum())}
        start = pseudo_start(config)
        what = f"step {step} | source rows compared with the target"
        countdown = Countdown(what, self._size(config.data.source), self._say)

        def after_block(done: int, rows: int) -> None:
            if done < rows and should_stop():
                raise Preempted("stopped while pairs were counted")
            countdown.at(done)

        refreshed = pseudo_boxes.refresh(
            self._embed,
            self._teach,
            params,
            teacher,
            lambda: self._all_rows(config.data.source, step),
            lambda: self._all_rows(config.data.target, step),
            config.pseudo_boxes,
            mesh=self._mesh,
            progress=(step - start) / max(config.steps - start, 1),
            rng=jax.random.fold_in(jax.random.key(config.seed), step),
            truth=truth,
            should_stop=should_stop,
            counting=pseudo_boxes.Counting(self._folder, after_block),
        )
        return refreshed.table, refreshed.metrics

    def _all_rows(self, domains: str, step: int) -> Iterator[dict[str, np.ndarray]]:
        names, rows = split_names(domains, "train"), self._config.eval.batch_size
        batches = pipeline.eval_batches(
            self._corpus,
            names,
            share=pipeline.Share.here(),
            batch_size=rows,
            boxes=False,
        )
        what = f"step {step} | {domains} pictures looked at"
        return Countdown(what, self._size(domains), self._say).over(batches, rows=rows)

    def _size(self, domains: str) -> int:
        """How many training rows these domains have together."""
        return sum(self._corpus.splits[name].size for name in split_names(domains, "train"))
