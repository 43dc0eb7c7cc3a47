"""The refresh of the pseudo boxes, which PG-DA does between steps now and then."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from date_jax import boxes, sharding
from date_jax.data import pipeline
from date_jax.data.domains import split_names
from date_jax.date import batches, evaluation, pseudo_boxes
from date_jax.errors import Preempted
from date_jax.evals import sheets
from date_jax.evals.collect import Collect, collector
from date_jax.partition import merged
from date_jax.run.countdown import Countdown
from date_jax.task import Between, Change, Learner, ShouldStop

SHEET = 12  # pictures of the target on the sheet of a refresh


def between(
    config: ConfigDict,
    corpus: Any,
    learner: Learner,
    mesh: jax.sharding.Mesh,
    *,
    folder: Path,
    say: Callable[[str], None],
) -> Between:
    """The refresh of the pseudo boxes; see `task.MakeBetween` for the arguments."""
    refreshed_table = table_maker(config, corpus, learner, mesh, folder=folder, say=say)
    target = split_names(config.data.target, "train")[:1]

    def run(state: Any, step: int, should_stop: ShouldStop) -> Change:
        memory = state.memory
        # A frozen teacher is the average network as it is where stage 3 begins.
        if memory.sharded and step == batches.pseudo_start(config):
            memory = memory._replace(sharded={"teacher": jax.tree.map(jnp.copy, state.ema)})
        teacher = memory.sharded["teacher"] if memory.sharded else state.ema
        params, teacher = (merged(tree, state.frozen) for tree in (state.params, teacher))
        # The new table takes the place of the old one on every device.
        table, metrics = refreshed_table(params, teacher, step, should_stop)
        replicated = {
            **memory.replicated,
            "pseudo_boxes": sharding.device_arrays(table, sharding.replicated_sharding(mesh)),
        }
        # One sheet shows which boxes are trained on now.
        drawn = {
            name: partial(table_sheet, corpus, name, table, f"{name}, step {step}")
            for name in target
        }
        return Change(memory._replace(replicated=replicated), metrics, drawn)

    return Between(
        name="pseudo_boxes",
        title="pseudo boxes",
        due=partial(is_due, config),
        run=run,
        label=lambda step: f"stage {batches.stage(config, step)}",
    )


def is_due(config: ConfigDict, step: int) -> bool:
    """Whether a refresh comes before step `step`; of the oracle's true boxes there is one."""
    since = step - batches.pseudo_start(config)
    if not (batches.adapts(config) and config.pseudo_boxes.weight) or since < 0:
        return False
    return since == 0 if config.method == "oracle" else since % config.pseudo_boxes.every == 0


def true_boxes(config: ConfigDict, corpus: Any) -> dict[str, np.ndarray]:
    """`box_cxcywh [N 4]` and `box_mask [N]` of the target's training rows: the oracle's table.

    For anyone else they only measure how good the pseudo boxes are.
    """
    names = split_names(config.data.target, "train")
    records = [corpus.splits[name].records for name in names]
    xyxy = np.concatenate([split.box_xyxy() for split in records]).astype(np.float32)
    has_box = np.concatenate([split.has_box() for split in records]).astype(bool)
    return {"box_cxcywh": np.asarray(boxes.cxcywh(jnp.asarray(xyxy))), "box_mask": has_box}


def table_maker(
    config: ConfigDict,
    corpus: Any,
    learner: Learner,
    mesh: jax.sharding.Mesh,
    *,
    folder: Path,
    say: Callable[[str], None],
) -> Callable[..., tuple[dict[str, np.ndarray], dict[str, float]]]:
    """The function `(params, teacher, step, should_stop) -> (table, metrics)` of a refresh.

    `params` embed both data sets where the config ranks by count; the boxes are those of the
    network `teacher`. Make it once: its first use compiles.

    Args:
        mesh: the embedding of the data sets is spread over it.
        folder: of the run; holds what is counted so far while pairs are.
        say: takes a line about the progress.
    """

    # One program embeds both data sets, another draws the boxes.
    def collector_of(*names: str) -> Collect:
        predict = {name: learner.predict[name] for name in names}
        return collector(predict, mesh, rows_at_once=config.model.rows_at_once)

    embed = collector_of("image_embedding", "query_embedding")
    draw = collector_of("pseudo_box_cxcywh", "agreement")

    def all_rows(domains: str, step: int) -> Iterator[dict[str, np.ndarray]]:
        """One pass over the training rows of some domains, without their boxes."""
        # Each process reads its own share; the boxes of the target must stay unread.
        names, batch_size = split_names(domains, "train"), config.eval.batch_size
        rows = pipeline.eval_batches(
            corpus,
            names,
            batch_size=batch_size,
            boxes=False,
            share=pipeline.Share.here(),
        )
        countdown = Countdown(f"step {step} | {domains} pictures embedded", size(domains), say)
        return countdown.over(rows, rows=batch_size)

    def size(domains: str) -> int:
        """The number of training rows of some domains."""
        return sum(corpus.splits[name].size for name in split_names(domains, "train"))

    def ranking(params: Any, step: int, should_stop: ShouldStop) -> pseudo_boxes.Ranking:
        """The targets ranked by the number of source rows that resemble them."""
        # Counting takes long, so it reports its progress and stops between blocks when asked to.
        what = f"step {step} | source rows compared with the target"
        countdown = Countdown(what, size(config.data.source), say)

        def after_block(done: int, rows: int) -> None:
            if done < rows and should_stop():
                raise Preempted("stopped while pairs were counted")
            countdown.at(done)

        # Both data sets as they are now; the pairs of their rows are counted in blocks.
        source, target = (
            embed(params, all_rows(domains, step), should_stop=should_stop)
            for domains in (config.data.source, config.data.target)
        )
        return pseudo_boxes.resemblance(
            source,
            target,
            config.pseudo_boxes,
            mesh=mesh,
            rng=jax.random.fold_in(jax.random.key(config.seed), step),
            counting=pseudo_boxes.Counting(folder, after_block),
        )

    def table(
        params: Any, teacher: Any, step: int, should_stop: ShouldStop
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        # The oracle's boxes are the true ones; for others these only measure.
        truth = true_boxes(config, corpus)
        if config.method == "oracle":
            weight = truth["box_mask"].astype(np.float32)
            return {"box_cxcywh": truth["box_cxcywh"], "weight": weight}, {
                "selected": float(weight.sum())
            }
        # The teacher's boxes, and the share of them that the stage trusts by now.
        rows = draw(teacher, all_rows(config.data.target, step), should_stop=should_stop)
        start = batches.pseudo_start(config)
        by_count = config.pseudo_boxes.rank == "count"
        return pseudo_boxes.refresh(
            rows,
            config.pseudo_boxes,
            progress=(step - start) / max(config.steps - start, 1),
            ranking=ranking(params, step, should_stop) if by_count else None,
            truth=truth,
        )

    return table


def table_sheet(corpus: Any, name: str, table: dict[str, np.ndarray], title: str) -> np.ndarray:
    """A sheet of a target split's rows with their pseudo boxes, those trained on in blue."""
    size = corpus.splits[name].size
    chosen = table["weight"][:size] > 0
    rows = sheets.spread_rows(size, SHEET)
    box = table["box_cxcywh"][:size]
    return evaluation.sheet(corpus, name, box, rows, title, chosen=chosen)
