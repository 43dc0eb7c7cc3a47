"""The training batches of DATE (2304.03669), and the stages that decide who is in them."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from date_jax.data import pipeline
from date_jax.data.domains import source_shares, source_splits, split_names
from date_jax.task import Batch, KeptSplit, record_shapes

OTHER_ZOOM = 1.25  # how far a teacher's other view zooms out where it may not be a mirrored one
WHOLE_WINDOW = (0.0, 0.0, 1.0, 1.0)
METHODS = ("date", "source_only", "oracle")  # what PG-DA sees of the target, by config.method
PAIR = ("image", "text", "text_mask", "product_id")  # what every row of both domains has
BOX = ("box_cxcywh", "box_mask")  # what rows of the source have besides


def adapts(config: ConfigDict) -> bool:
    """Whether a run of PG-DA ever sees its target; `source_only` does not."""
    return config.method != "source_only"


def align_start(config: ConfigDict) -> int:
    """The first step of stage 2; a run that never sees its target stays in stage 1."""
    return int(config.stages.align * config.steps) if adapts(config) else config.steps


def pseudo_start(config: ConfigDict) -> int:
    """The first step at which pseudo boxes may be made, which is where stage 3 begins."""
    return int(config.stages.pseudo * config.steps) if adapts(config) else config.steps


def checks_itself(config: ConfigDict) -> bool:
    """Whether a run of PG-DA adapts only where its own boxes on the target seem right enough.

    The oracle has true boxes, and a run without pseudo boxes draws none. Configs of earlier
    versions have no such key.
    """
    pseudo = config.pseudo_boxes
    return config.method == "date" and pseudo.weight > 0 and pseudo.get("self_check", 0.0) > 0


def is_refresh(config: ConfigDict, step: int) -> bool:
    """Whether the table of pseudo boxes is made anew before step `step`.

    A run that checks itself does so from stage 2 on. The oracle's table is made once; so is that of
    a teacher that draws `once`, unless a check may have refused it at first.
    """
    since = step - pseudo_start(config)
    if not (adapts(config) and config.pseudo_boxes.weight):
        return False
    if checks_itself(config) and step == align_start(config):
        return True
    is_single = config.method == "oracle" or (
        config.pseudo_boxes.get("once", False) and not checks_itself(config)
    )
    return since == 0 if is_single else since >= 0 and since % config.pseudo_boxes.every == 0


def next_refresh(config: ConfigDict, step: int) -> int:
    """The next step after `step` before which there is a refresh; beyond the run where none is."""
    later = range(step + 1, config.steps)
    return next((s for s in later if is_refresh(config, s)), config.steps)


def stage(config: ConfigDict, step: int) -> int:
    """The stage of a step: 1, the source alone; 2, aligned with the target; 3, pseudo boxes."""
    return 1 + (step >= align_start(config)) + (step >= pseudo_start(config))


def other_view(config: ConfigDict) -> tuple[tuple[float, ...], bool]:
    """Window and flip of a teacher's other view: mirrored, or smaller where it may not be."""
    if config.augment.flip > 0:
        return WHOLE_WINDOW, True
    margin = (OTHER_ZOOM - 1) / 2
    return (-margin, -margin, 1 + margin, 1 + margin), False


def vocabulary(tokenizer: Any) -> tuple[int, Array]:
    """The number of pieces, and the piece that each becomes in a mirrored picture."""
    return len(tokenizer.vocab), jnp.asarray(tokenizer.swap_table())


def supervised_example(config: ConfigDict) -> Batch:
    """The shapes of a batch with boxes."""
    return {"source": record_shapes(config, *PAIR, *BOX)}


def adaptive_example(config: ConfigDict) -> Batch:
    """The shapes of a batch of the last stage that the run reaches."""
    example = supervised_example(config)
    return example | {"target": record_shapes(config, *PAIR)} if adapts(config) else example


def supervised_batches(config: ConfigDict, corpus: Any, first_step: int) -> Iterator[Batch]:
    """The part `{source}` of this process in each step's batch from `first_step`, without end."""
    for batch in _source_stream(config, corpus, first_step):
        yield {"source": batch}


def adaptive_batches(config: ConfigDict, corpus: Any, first_step: int) -> Iterator[Batch]:
    """The part of this process in the batch of each step from `first_step`, without end.

    The target joins at stage 2, and has no boxes.
    """
    source = _source_stream(config, corpus, first_step)
    target = None
    for step in itertools.count(first_step):
        batch = {"source": next(source)}
        if step >= align_start(config):
            if target is None:
                target = _target_stream(config, corpus, step)
            batch["target"] = next(target)
        yield batch


def _source_stream(config: ConfigDict, corpus: Any, first_step: int) -> Iterator[dict[str, Any]]:
    """The training rows of the source: its own, composites of them, and those with a word."""
    return pipeline.train_batches(
        corpus,
        source_splits(config.data),
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=first_step,
        boxes=True,
        share=pipeline.Share.here(),
        shares=source_shares(config.data),
        views=config.data.get("views", 0),
    )


def _target_stream(config: ConfigDict, corpus: Any, first_step: int) -> Iterator[dict[str, Any]]:
    """The training rows of the target, in another order than the source's, without boxes."""
    return pipeline.train_batches(
        corpus,
        split_names(config.data.target, "train"),
        batch_size=config.batch_size,
        seed=config.seed + 1,
        start_step=first_step,
        boxes=False,
        share=pipeline.Share.here(),
        views=config.data.get("views", 0),
    )


def supervised_kept(config: ConfigDict, corpus: Any) -> list[KeptSplit]:
    """The splits whose features training on boxes, and its evaluation, read."""
    sources = [KeptSplit(name, views=True) for name in source_splits(config.data)]
    evaluated = [name for name in corpus.splits if name.endswith(("_val", "_test"))]
    return [*sources, *(KeptSplit(name, plain=True) for name in evaluated)]


def adaptive_kept(config: ConfigDict, corpus: Any) -> list[KeptSplit]:
    """The same with those of the target, without its boxes.

    They are the same for every method, so that all read one folder of features.
    """
    splits = supervised_kept(config, corpus)
    # Ranking by count embeds the source's own rows as they are.
    if config.pseudo_boxes.rank == "count":
        source_names = split_names(config.data.source, "train")
        splits = [
            split._replace(plain=split.name in source_names or split.plain) for split in splits
        ]
    targets = split_names(config.data.target, "train")
    look = other_view(config)
    # A self-check is calibrated on the source's validation rows.
    if config.pseudo_boxes.get("self_check", 0.0) > 0:
        known = split_names(config.data.source, "val")
        splits = [s._replace(other=look) if s.name in known else s for s in splits]
    return [*splits, *(KeptSplit(name, plain=True, views=True, other=look) for name in targets)]
