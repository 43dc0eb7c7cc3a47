"""What a run looks at while it learns: metrics of whole splits, and sheets of pictures."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8
from ml_collections import ConfigDict

from date_jax import evals
from date_jax.data import pipeline
from date_jax.evals import pictures
from date_jax.evals.collect import Collect

_SCANNED = 4096  # rows of a split among which pictures are chosen


def splits_of_kind(corpus: pipeline.Corpus, *kinds: str) -> list[str]:
    """The splits of every domain that are one of `kinds`, e.g. `val`."""
    return [name for name in corpus.splits if name.rpartition("_")[2] in kinds]


def evaluations(
    collect: Collect,
    params: Any,
    corpus: pipeline.Corpus,
    names: list[str],
    *,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    should_stop: Callable[[], bool],
) -> Iterator[tuple[str, evals.Evaluation]]:
    """Name and evaluation of each split, as each is done.

    Args:
        collect: of `evals.evaluated(task.predict)`.
        params: the network's.
        corpus: of `pipeline.load`.
        names: of its splits.
        batch_size: of the global batch.
        mesh: of `sharding.device_mesh`.
        should_stop: ends the work with `Preempted`.
    """
    for name in names:
        batches = pipeline.eval_batches(
            corpus,
            [name],
            batch_size=batch_size,
            boxes=True,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        yield name, evals.evaluate(collect, params, batches, mesh=mesh, should_stop=should_stop)


def sheet(
    corpus: pipeline.Corpus,
    name: str,
    box_cxcywh: Float[np.ndarray, "N 4"],
    config: ConfigDict,
    *,
    count: int,
    title: str,
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
