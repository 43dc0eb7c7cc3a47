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
from date_jax.date import batches, evaluation, pseudo_boxes, self_check
from date_jax.errors import Preempted
from date_jax.evals import sheets
from date_jax.evals.collect import Collect, collector
from date_jax.partition import merged
from date_jax.run.countdown import Countdown
from date_jax.task import Between, Change, Learner, Memory, ShouldStop

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

    start = batches.pseudo_start(config)

    def run(state: Any, step: int, should_stop: ShouldStop) -> Change:
        memory = state.memory
        # A teacher that draws once has nothing more to say.
        if config.pseudo_boxes.get("once", False):
            weight = np.asarray(memory.replicated["pseudo_boxes"]["weight"])
            if weight.any():
                return Change(memory, {"selected": float((weight > 0).sum())})
        # A frozen teacher is the average network as it is where stage 3 begins, or where it first
        # passes the check.
        begins = step == start or (step > start and not was_adapting(memory))
        if memory.sharded and begins:
            memory = memory._replace(sharded={"teacher": jax.tree.map(jnp.copy, state.ema)})
        has_teacher = memory.sharded and step >= start
        teacher = memory.sharded["teacher"] if has_teacher else state.ema
        params, teacher = (merged(tree, state.frozen) for tree in (state.params, teacher))
        # The new table takes the place of the old one on every device.
        table, metrics = refreshed_table(params, teacher, step, should_stop)
        changes: dict[str, Any] = {"pseudo_boxes": table}
        if "adapts" in metrics:
            say(self_check.line(config, step, metrics["expected_precision"]))
            changes["adapts"] = np.asarray(metrics["adapts"], np.float32)
        placed = sharding.device_arrays(changes, sharding.replicated_sharding(mesh))
        replicated = {**memory.replicated, **placed}
        # One sheet shows which boxes are trained on now.
        drawn = {
            name: partial(table_sheet, corpus, name, table, f"{name}, step {step}")
            for name in target
        }
        return Change(memory._replace(replicated=replicated), metrics, drawn)

    return Between(
        name="pseudo_boxes",
        title="pseudo boxes",
        due=partial(batches.is_refresh, config),
        run=run,
        label=lambda step: f"stage {batches.stage(config, step)}",
    )


def was_adapting(memory: Memory) -> bool:
    """Whether the last self-check was passed; True where a run does not check itself."""
    return bool(np.asarray(memory.replicated.get("adapts", 1.0)) > 0)


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
    drawn = ["pseudo_box_cxcywh", "agreement"]
    drawn += [
        name for name in ("pseudo_deviation", "liking", "heat_inside") if name in learner.predict
    ]
    estimate = None
    if batches.checks_itself(config):
        drawn += [name for name in self_check.columns(corpus, learner) if name not in drawn]
        estimate = self_check.estimator(config, corpus, learner, mesh)
    draw = collector_of(*drawn)

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
            exact = {"box_cxcywh": truth["box_cxcywh"], "weight": weight}
            if "pseudo_deviation" in learner.predict:
                exact["deviation"] = np.zeros_like(truth["box_cxcywh"])
            return exact, {"selected": float(weight.sum())}
        # The teacher's boxes, and the share of them that the stage trusts by now.
        rows = draw(teacher, all_rows(config.data.target, step), should_stop=should_stop)
        start = batches.pseudo_start(config)
        by_count = config.pseudo_boxes.rank == "count"
        expected = None
        if estimate is not None:
            expected = estimate(teacher, rows, should_stop)
        new_table, metrics = pseudo_boxes.refresh(
            rows,
            config.pseudo_boxes,
            progress=(step - start) / max(config.steps - start, 1),
            ranking=ranking(params, step, should_stop) if by_count else None,
            expected_precision=expected,
            truth=truth,
        )
        # A check in stage 2 only decides on the aligner.
        if step < start:
            new_table["weight"] = np.zeros_like(new_table["weight"])
            metrics["selected"] = 0.0
        return new_table, metrics

    return table


def table_sheet(corpus: Any, name: str, table: dict[str, np.ndarray], title: str) -> np.ndarray:
    """A sheet of a target split's rows with their pseudo boxes, those trained on in blue."""
    size = corpus.splits[name].size
    chosen = table["weight"][:size] > 0
    rows = sheets.spread_rows(size, SHEET)
    box = table["box_cxcywh"][:size]
    return evaluation.sheet(corpus, name, box, rows, title, chosen=chosen)
