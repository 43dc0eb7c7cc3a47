"""Retrieval and grounding, with a target domain or without: what tasks pgda and date ask for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8
from ml_collections import ConfigDict

from date_jax import adaptation, evals, tasks
from date_jax.courses.course import Course, Evaluate, Evaluated
from date_jax.data import pipeline
from date_jax.data.tokenizer import MIRRORED
from date_jax.errors import DataError
from date_jax.evals import pictures
from date_jax.evals.collect import collector
from date_jax.tasks.task import Task

_SCANNED = 4096  # rows of a split among which pictures are chosen


def load(config: ConfigDict) -> pipeline.Corpus:
    """The data set of `config.data`.

    Raises:
        DataError: see `pipeline.load`; or boxes shall be learnt and there are none.
    """
    corpus = pipeline.load(config.data)
    require_learnable(config, corpus.splits)
    return corpus


def require_learnable(config: ConfigDict, there: Mapping[str, Any]) -> None:
    """Raises DataError if boxes shall be learnt and not one training row of the source has one."""
    if not config.object_seeker.weight:
        return
    names = adaptation.splits(config.data.source, "train")
    if not any(there[name].arrays()["has_box"].any() for name in names):
        raise DataError(
            f"config.data.source: not one training row of {config.data.source} has a box\n"
            "  nothing can be grounded; for retrieval alone: --config=configs/date.py "
            "--config.object_seeker.weight=0"
        )


def task(config: ConfigDict, corpus: pipeline.Corpus) -> Task:
    """What `config.task` names, for the corpus' vocabulary."""
    tokenizer = corpus.tokenizer
    mirrored = jnp.asarray(tokenizer.swap_table(MIRRORED))
    return tasks.build(config, len(tokenizer.vocab), mirrored)


def evaluator(
    config: ConfigDict, corpus: pipeline.Corpus, task: Task, mesh: jax.sharding.Mesh
) -> Evaluate:
    """Measures retrieval, and grounding where there are boxes, on splits of every domain."""
    collect = collector(evals.evaluated(task.predict), mesh, rows_at_once=config.model.rows_at_once)

    def evaluate(
        params: Any, kinds: Sequence[str], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[str, Evaluated]]:
        for name in (name for name in corpus.splits if name.rpartition("_")[2] in kinds):
            batches = pipeline.eval_batches(
                corpus,
                [name],
                batch_size=config.eval.batch_size,
                boxes=True,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )
            found = evals.evaluate(collect, params, batches, mesh=mesh, should_stop=should_stop)
            drawn = partial(sheet, corpus, name, found.box_cxcywh, config)
            yield name, Evaluated(found.metrics, drawn)

    return evaluate


def shown(config: ConfigDict, names: Sequence[str], kind: str) -> str | None:
    """The target's first split of that kind, else the last of all."""
    wanted = [name for name in adaptation.splits(config.data.target, kind) if name in names]
    return next(iter(wanted or names[::-1]), None)


def sheet(
    corpus: pipeline.Corpus,
    name: str,
    box_cxcywh: Float[np.ndarray, "N 4"],
    config: ConfigDict,
    count: int,
    title: str,
    *,
    chosen: Bool[np.ndarray, " N"] | None = None,
) -> UInt8[np.ndarray, "Y X 3"]:
    """`count` pictures of a split with query, true and predicted box; one host can make it.

    Args:
        corpus: of `pipeline.load`.
        name: of the split.
        box_cxcywh: predicted boxes of its rows.
        config: the run's.
        count: of pictures, spread over the split's first rows.
        title: above them.
        chosen: rows whose box is trained on, as a pseudo box.
    """
    split = corpus.splits[name]
    rows = pictures.spread(min(split.size, _SCANNED), count)
    found: dict[str, list[np.ndarray]] = {"image": [], "box_cxcywh": [], "box_mask": []}
    batches = pipeline.eval_batches(corpus, [name], batch_size=config.eval.batch_size, boxes=True)
    for batch in batches:
        wanted = np.isin(batch["index"], rows) & batch["mask"]
        for key, parts in found.items():
            parts.append(batch[key][wanted])
        if batch["index"][-1] >= rows[-1]:
            break
    image, true, has_box = (np.concatenate(parts) for parts in found.values())
    return pictures.grid(
        image,
        [split.queries[row] for row in rows],
        true,
        box_cxcywh[rows],
        true_mask=has_box,
        pseudo_cxcywh=None if chosen is None else box_cxcywh[rows],
        pseudo_mask=None if chosen is None else chosen[rows],
        title=title,
    )


COURSE = Course(
    load=load,
    task=task,
    batches=adaptation.batches,
    evaluator=evaluator,
    shown=shown,
    terms=("loss", "box", "image", "iou", "target_image", "pseudo"),
    columns=("acc_at_0.5", "acc_at_0.75", "mean_iou", "recall_at_1", "recall_at_10"),
)
