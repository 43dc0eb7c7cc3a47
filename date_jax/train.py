"""The only loop: a task's loss becomes a trained network, and can be stopped at any time.

At the top of step n, n steps are done. In this order: save, evaluate, refresh the pseudo boxes,
train. So a restart from the checkpoint of n repeats whatever had not been finished at n.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.data.domains import split_names
from date_jax.date import between_steps as adaptation
from date_jax.date import evaluation as grounding
from date_jax.errors import DataError, Preempted, UsageError
from date_jax.evals import sheets as pictures
from date_jax.job import Job, prepared
from date_jax.run import progress
from date_jax.run.preemption import Preemption
from date_jax.run.workdir import Workdir
from date_jax.step import State
from date_jax.task import Evaluated

MAX_SKIPPED = 10  # updates in a row that were not finite


class Pending(NamedTuple):
    """A step that is on its way, its metrics not fetched yet."""

    step: int
    metrics: dict[str, jax.Array]
    rows: dict[str, list[int]]


def train(config: ConfigDict, directory: Path, *, profile: range = range(0)) -> dict[str, Any]:
    """Begins, or goes on with, the run in `directory`.

    Args:
        config: validated.
        directory: for checkpoints, logs and results; on several hosts one that all share.
        profile: steps to trace into `directory/profile`, for Perfetto or TensorBoard.

    Returns:
        What results.json holds.

    Raises:
        Preempted: the machine asked for itself back; all that was done is saved.
        UserError: see `errors`.
        KeyboardInterrupt: with a text that says what is saved.
    """
    with Preemption() as preemption, Workdir(directory):
        job, state = prepared(config, directory, preemption)
        try:
            state = trained(job, state, profile)
            results = finished(job, state)
        except (Preempted, KeyboardInterrupt) as stop:
            job.checkpoints.close()
            saved = job.checkpoints.last_step
            what = "nothing was saved" if saved is None else f"step {saved} is saved in {directory}"
            raise type(stop)(f"{what}; the same command goes on") from None
        finally:
            job.progress.close()
        return results


def trained(job: Job, state: State, profile: range = range(0)) -> State:
    """The state after the last step.

    Raises:
        Preempted: after saving.
        DataError: too many updates in a row were not finite.
        CheckpointError: a save failed.
    """
    config, record = job.config, job.record
    step = first = int(state.step)
    batches = job.course.batches(config, job.corpus, step)
    pending: list[Pending] = []  # one at most
    skipped: list[Pending] = []  # in a row
    compiled: set[Any] = set()
    # Of its own for each host: the profiler takes whatever it finds there for its own.
    trace = Trace(job.directory / "profile" / f"host{jax.process_index()}", profile)
    if profile and not range(max(first, profile.start), min(config.steps, profile.stop)):
        steps = f"{profile.start} to {profile.stop - 1}"
        job.progress.say(f"warning: nothing is traced, for none of steps {steps} comes")
    job.preemption.arm()
    record.book("setup")
    try:
        while step < config.steps:
            if is_due(job, step, first):
                settle(job, pending, skipped)
                state = with_duties_done(job, state, step, first)
            if job.preemption.requested():
                raise Preempted("")
            job.checkpoints.raise_failure()
            trace.at(step, pending)
            asked = time.perf_counter()
            local = next(batches)
            batch = sharding.global_batch(job.mesh, local)
            waited = time.perf_counter() - asked
            state, metrics = job.step.update(state, batch)
            step += 1
            # The devices are busy with this step while the host looks at the one before.
            settle(job, pending, skipped)
            rows = {domain: part["index"].tolist() for domain, part in local.items()}
            pending.append(Pending(step, metrics, rows))
            if tuple(batch) in compiled:
                record.train(examples=config.batch_size * len(batch), wait=waited)
            else:
                compiled.add(tuple(batch))
                jax.block_until_ready(metrics)
                if len(compiled) == 1:
                    passed = time.perf_counter() - job.ready
                    job.progress.say(f"first training step {passed:.0f} s after the data was ready")
                record.book("compile")
    except Preempted:
        settle(job, pending, skipped)
        save(job, state, step)
        raise
    finally:
        trace.end(pending)
    settle(job, pending, skipped)
    save(job, state, step)
    return state


def steps_to_trace(text: str) -> range:
    """`20:23` as steps 20 to 22, none for ""; raises UsageError for anything else."""
    if not text:
        return range(0)
    first, _, after = text.partition(":")
    if not (first.isdecimal() and after.isdecimal() and int(first) < int(after)):
        raise UsageError(f"--profile={text}: must be two steps, first:after-the-last, e.g. 20:23")
    return range(int(first), int(after))


class Trace:
    """The profiler's, over some steps.

    Args:
        directory: where it is written.
        steps: none for no trace.
    """

    def __init__(self, directory: Path, steps: range):
        self._directory, self._steps, self._runs = directory, steps, False

    def at(self, step: int, pending: list[Pending]) -> None:
        """Begins or ends at the top of `step`; the step on its way is waited for."""
        if step in self._steps and not self._runs:
            self._wait(pending)
            jax.profiler.start_trace(str(self._directory), create_perfetto_trace=True)
            self._runs = True
        elif step not in self._steps:
            self.end(pending)

    def end(self, pending: list[Pending]) -> None:
        """Writes what there is, if it runs."""
        if self._runs:
            self._wait(pending)
            jax.profiler.stop_trace()
            self._runs = False

    def _wait(self, pending: list[Pending]) -> None:
        jax.block_until_ready([each.metrics for each in pending])


def settle(job: Job, pending: list[Pending], skipped: list[Pending]) -> None:
    """Fetches the metrics of the step on its way, waiting for it; a line when a window is full.

    Args:
        pending: emptied.
        skipped: the steps in a row before it whose update was left out; brought up to date.
    """
    if not pending:
        return
    done = pending.pop()
    config = job.config
    metrics = {name: float(value) for name, value in jax.device_get(done.metrics).items()}
    if job.record.add(metrics):
        skipped.append(done)
        # All of the global batch: what is not finite may have come from any host's share of it.
        rows = {
            name: sharding.values_of_hosts(np.array(of)).ravel() for name, of in done.rows.items()
        }
        named = "; ".join(f"{domain} {of.tolist()}" for domain, of in rows.items())
        job.progress.say(f"step {done.step}: not finite, update left out; rows: {named}")
        if len(skipped) >= MAX_SKIPPED:
            first = "; ".join(f"{domain} {of[:12].tolist()}" for domain, of in rows.items())
            raise DataError(
                f"{len(skipped)} updates in a row were not finite, up to step {done.step}\n"
                f"  rows of the last, the first of each domain: {first}; all are named above\n"
                "  look at these rows, or lower --config.optim.learning_rate"
            )
    else:
        skipped.clear()
    if done.step % config.log.every == 0 or done.step == config.steps:
        means, lap = job.record.means(), job.record.lap()
        stage = adaptation.stage(config, done.step - 1)
        job.progress.say(
            progress.window_line(done.step, config.steps, stage, means, lap, job.course.terms)
        )
        job.progress.write(
            done.step,
            {f"train/{name}": mean for name, mean in means.items()}
            | {f"time/{name}": value for name, value in lap.items()}
            | {"time/run_seconds": job.record.seconds},
        )


def is_due(job: Job, step: int, first: int) -> bool:
    """Whether anything but training comes at the top of `step`."""
    config = job.config
    saves = step > first and step % config.checkpoint.every == 0
    return saves or (step > 0 and step % config.eval.every == 0) or refreshes(job, step)


def refreshes(job: Job, step: int) -> bool:
    """Whether the pseudo boxes are made anew at the top of `step`."""
    return job.pseudo_boxes is not None and job.pseudo_boxes.due(step)


def with_duties_done(job: Job, state: State, step: int, first: int) -> State:
    """Saves, evaluates and refreshes the pseudo boxes as is due at `step`."""
    config = job.config
    if step > first and step % config.checkpoint.every == 0:
        save(job, state, step)
    if step > 0 and step % config.eval.every == 0:
        found = evaluate(job, state, step, "val")
        if name := job.course.shown(config, [*found], "val"):
            show(job, step, f"eval/{name}", partial(found[name].sheet, 12, f"{name}, step {step}"))
    if refreshes(job, step):
        return with_new_boxes(job, state, step)
    return state


def save(job: Job, state: State, step: int) -> None:
    """Writes the checkpoint of `step`, in the background."""
    meta = {"config": job.config.to_dict(), "record": job.record.saved(), **job.identity}
    job.checkpoints.save(step, state, meta)
    job.record.book("save")


def evaluate(job: Job, state: State, step: int, *kinds: str) -> dict[str, Evaluated]:
    """Evaluates the moving average on splits of these kinds, says and writes what comes out."""
    found = {}
    for name, evaluated in job.evaluate(state.ema, kinds, job.preemption.requested):
        found[name] = evaluated
        line = progress.evaluation_line(evaluated.metrics, job.course.columns)
        job.progress.say(f"step {step} | {name}: {line}")
    metrics = {name: evaluated.metrics for name, evaluated in found.items()}
    scalars = {f"eval/{n}/{k}": v for n, of in metrics.items() for k, v in of.items()}
    job.progress.write(step, scalars)
    # What has a part in its name is one of many, and in the last evaluation anyway.
    shown = {n: {k: v for k, v in of.items() if "/" not in k} for n, of in metrics.items()}
    job.record.add_evaluation(step, shown)
    job.record.book("evaluate")
    return found


def with_new_boxes(job: Job, state: State, step: int) -> State:
    """The state with a new table of pseudo boxes, and at their start the frozen teacher."""
    assert job.pseudo_boxes is not None
    if state.teacher is not None and job.pseudo_boxes.begins(step):
        state = dataclasses.replace(state, teacher=jax.tree.map(jnp.copy, state.ema))
    teacher = state.ema if state.teacher is None else state.teacher
    table, metrics = job.pseudo_boxes.refreshed(
        state.params, teacher, step, job.preemption.requested
    )
    job.record.add_pseudo_boxes(step, metrics)
    job.progress.say(f"step {step} | pseudo boxes: {progress.numbers(metrics)}")
    job.progress.write(step, {f"pseudo_boxes/{name}": value for name, value in metrics.items()})
    name = split_names(job.config.data.target, "train")[0]
    rows = job.corpus.splits[name].size
    box, chosen = table["box_cxcywh"][:rows], table["weight"][:rows] > 0
    title = f"{name}, step {step}"
    shown = pictures.spread(rows, 12)
    drawn = partial(grounding.sheet, job.corpus, name, box, shown, title, chosen=chosen)
    show(job, step, f"pseudo_boxes/{name}", drawn)
    job.record.book("refresh")
    return dataclasses.replace(
        state, pseudo_boxes=sharding.device_arrays(table, sharding.replicated_sharding(job.mesh))
    )


def show(job: Job, step: int, label: str, drawn: Callable[[], np.ndarray]) -> np.ndarray | None:
    """Draws a sheet of pictures for TensorBoard; returns it on host 0."""
    if jax.process_index() > 0:
        return None
    sheet = drawn()
    job.progress.picture(step, label, sheet)
    return sheet


def finished(job: Job, state: State) -> dict[str, Any]:
    """Evaluates the trained network, writes results.json, predictions.png and what else the course
    keeps of each split; returns the first.

    Raises:
        CheckpointError: the last save failed.
    """
    config, record = job.config, job.record
    found = evaluate(job, state, config.steps, "val", "test")
    job.checkpoints.close()
    record.book("save")
    metrics = {name: evaluated.metrics for name, evaluated in found.items()}
    seconds = record.totals["train_seconds"]
    results = {
        "eval": metrics,
        "pseudo_boxes": record.pseudo_boxes,
        "history": record.history,
        "examples_per_second": record.totals["examples"] / seconds if seconds else None,
        "wall_seconds": record.seconds,
        "seconds": record.spent(),
        "steps": config.steps,
        "data": job.identity["data"],
        "config": config.to_dict(),
    }
    written = "results.json"
    if name := job.course.shown(config, [*found], "test"):
        title = f"{name}, step {config.steps}"
        sheet = show(job, config.steps, f"test/{name}", partial(found[name].sheet, 24, title))
        if sheet is not None:
            pictures.write(job.directory / "predictions.png", sheet)
            written += " and predictions.png"
    if jax.process_index() == 0:
        for evaluated in found.values():
            for file, write in evaluated.files.items():
                write(job.directory / file)
        (job.directory / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    job.progress.say(progress.evaluation_table(metrics, job.course.columns))
    job.progress.say(f"time went into {progress.spent_line(results['seconds'])}")
    spent = progress.duration(record.seconds)
    job.progress.say(f"done in {spent}: {job.directory}/{written}")
    return results
