"""The only loop: a task's loss becomes a trained network, and can be stopped at any time.

At the top of step n, n steps are done. In this order: save, evaluate, do what the task does between
steps, train. So a restart from the checkpoint of n repeats whatever had not been finished at n.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.errors import DataError, Preempted, UsageError
from date_jax.evals import sheets
from date_jax.job import LAYOUT, Job, prepare
from date_jax.partition import merged
from date_jax.run import progress
from date_jax.run.checkpoint import steps_in
from date_jax.run.countdown import duration
from date_jax.run.preemption import Preemption
from date_jax.run.workdir import Workdir
from date_jax.step import State, learning_rates
from date_jax.task import Evaluation

MAX_SKIPPED = 10  # updates in a row that were not finite


class Pending(NamedTuple):
    """A step that is on its way, its metrics not fetched yet."""

    step: int
    metrics: dict[str, jax.Array]
    rows: dict[str, list[int]]


def train(
    config: ConfigDict, directory: Path, *, profile: range = range(0), command: str = ""
) -> dict[str, Any]:
    """Begins, or goes on with, the run in `directory`.

    Args:
        config: validated.
        directory: for checkpoints, logs and results; on several hosts one that all share.
        profile: steps to trace into `directory/profile`, for Perfetto or TensorBoard.
        command: the shell's words that go on with the run; "" where the caller has none.

    Returns:
        What results.json holds.

    Raises:
        Preempted: the machine asked for itself back; all that was done is saved.
        UserError: see `errors`.
        KeyboardInterrupt: the user did, and all is saved too.
    """

    def ending() -> str:
        """The sentence for a run that stops: what is saved, and how to go on."""
        saved = steps_in(directory / "checkpoints")
        what = f"step {saved[-1]} is saved in {directory}" if saved else "nothing was saved"
        return f"{what}; to go on:\n  {command}" if command else f"{what}; the same command goes on"

    with Preemption(ending) as preemption, Workdir(directory):
        try:
            job, state = prepare(config, directory, preemption)
        except (Preempted, KeyboardInterrupt) as stop:
            raise type(stop)(ending()) from None
        try:
            state = train_to_end(job, state, profile)
            results = finish(job, state)
        except (Preempted, KeyboardInterrupt) as stop:
            job.checkpoints.close()
            kind = KeyboardInterrupt if preemption.by_hand else type(stop)
            raise kind(ending()) from None
        finally:
            job.progress.close()
        return results


def train_to_end(job: Job, state: State, profile: range = range(0)) -> State:
    """Trains from the step that `state` is at to the last one; returns the last state.

    Raises:
        Preempted: after saving.
        DataError: too many updates in a row were not finite.
        CheckpointError: a save failed.
    """
    config, record = job.config, job.record
    step = first = int(state.step)
    batches = job.task.batches(config, job.corpus, step)
    pending: Pending | None = None
    skipped: list[Pending] = []  # in a row
    compiled: dict[Any, float] = {}  # seconds that it took, by the form of a batch
    # Each host has a folder: the profiler takes whatever it finds there for its own.
    trace = Trace(job.directory / "profile" / f"host{jax.process_index()}", profile)
    if profile and not range(max(first, profile.start), min(config.steps, profile.stop)):
        steps = f"{profile.start} to {profile.stop - 1}"
        job.progress.say(f"warning: nothing is traced, for none of steps {steps} comes")
    job.preemption.arm()
    record.book("setup")
    try:
        while step < config.steps:
            # What comes at the top of a step; it sees the metrics of the step before.
            duties = duties_at(job, step, first)
            if any(duties):
                skipped = settle(job, pending, skipped)
                pending = None
                state = fulfil(job, state, step, duties)
            if job.preemption.is_requested():
                raise Preempted("")
            job.checkpoints.raise_failure()
            trace.begin_or_end(step, pending)
            # The batch, and its step on its way.
            begun = time.perf_counter()
            local = next(batches)
            batch = sharding.global_batch(job.mesh, local)
            waited = time.perf_counter() - begun
            if tuple(batch) not in compiled:
                previous = max(compiled.values(), default=None)
                params = merged(state.params, state.frozen)
                job.progress.say(progress.compiling_line(params, previous=previous))
            state, metrics = job.step.update(state, batch)
            step += 1
            # The devices are busy with this step while the host looks at the one before.
            skipped = settle(job, pending, skipped)
            rows = {part: values["index"].tolist() for part, values in local.items()}
            pending = Pending(step, metrics, rows)
            # The first batch of each form waits for its compilation, which counts apart.
            if tuple(batch) in compiled:
                record.book_step(examples=config.batch_size * len(batch), wait=waited)
            else:
                jax.block_until_ready(metrics)
                compiled[tuple(batch)] = time.perf_counter() - begun
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

    def begin_or_end(self, step: int, pending: Pending | None) -> None:
        """Begins or ends at the top of `step`; the step on its way is waited for."""
        if step in self._steps and not self._runs:
            self._wait(pending)
            jax.profiler.start_trace(str(self._directory), create_perfetto_trace=True)
            self._runs = True
        elif step not in self._steps:
            self.end(pending)

    def end(self, pending: Pending | None) -> None:
        """Writes what there is, if it runs."""
        if self._runs:
            self._wait(pending)
            jax.profiler.stop_trace()
            self._runs = False

    def _wait(self, pending: Pending | None) -> None:
        jax.block_until_ready(pending and pending.metrics)


def settle(job: Job, pending: Pending | None, skipped: list[Pending]) -> list[Pending]:
    """Fetches the metrics of the step on its way; prints a line when a window is full.

    Args:
        pending: the step; None for none.
        skipped: the steps in a row before it whose update was left out.

    Returns:
        The steps in a row, up to this one, whose update was left out.

    Raises:
        DataError: these are too many.
    """
    if pending is None:
        return skipped
    # The values of the step, or its place among those that were left out.
    config, step = job.config, pending.step
    metrics = {name: float(value) for name, value in jax.device_get(pending.metrics).items()}
    if job.record.add(metrics):
        skipped = [*skipped, pending]
        report_skipped_update(job, skipped)
    else:
        skipped = []
    # The means of the window that ends here, for the console and for the files.
    if step % config.log.every == 0 or step == config.steps:
        means, lap = job.record.take_means(), job.record.end_lap()
        label = job.label(step - 1)
        job.progress.say(
            progress.window_line(step, config.steps, label, means, lap, job.task.terms)
        )
        job.progress.add_scalars(
            step,
            {f"train/{name}": mean for name, mean in means.items()}
            | {"train/learning_rate": float(learning_rates(config)(step - 1))}
            | {f"time/{name}": value for name, value in lap.items()}
            | {"time/run_seconds": job.record.seconds},
        )
    return skipped


def report_skipped_update(job: Job, skipped: list[Pending]) -> None:
    """Prints the rows of the last step whose update was left out.

    Raises:
        DataError: there were too many such steps in a row.
    """
    # All of the global batch: what is not finite may have come from any host's share of it.
    step, _, local_rows = skipped[-1]
    rows = {
        part: sharding.values_of_hosts(np.array(index)).ravel().tolist()
        for part, index in local_rows.items()
    }
    every = "; ".join(f"{part} {index}" for part, index in rows.items())
    job.progress.say(f"step {step}: not finite, update left out; rows: {every}")
    if len(skipped) >= MAX_SKIPPED:
        first = "; ".join(f"{part} {index[:12]}" for part, index in rows.items())
        raise DataError(
            f"{len(skipped)} updates in a row were not finite, up to step {step}\n"
            f"  rows of the last, the first of each domain: {first}; all are named above\n"
            "  look at these rows, or lower --config.optim.learning_rate"
        )


class Duties(NamedTuple):
    """The work at the top of a step before training goes on, in this order."""

    save: bool
    evaluate: bool
    between: bool


def duties_at(job: Job, step: int, first: int) -> Duties:
    """The duties at `step` of a start that began at step `first`."""
    config = job.config
    return Duties(
        save=step > first and step % config.checkpoint.every == 0,
        evaluate=step > 0 and step % config.eval.every == 0,
        between=job.between is not None and job.between.due(step),
    )


def fulfil(job: Job, state: State, step: int, duties: Duties) -> State:
    """Does the duties of a step; returns the state to go on with."""
    if duties.save:
        save(job, state, step)
    if duties.evaluate:
        evaluations = evaluate(job, state, step, "val")
        if name := job.task.highlight(job.config, [*evaluations], "val"):
            draw = partial(evaluations[name].sheet, 12, f"{name}, step {step}")
            show(job, step, f"eval/{name}", draw)
    if duties.between:
        state = run_between(job, state, step)
    return state


def save(job: Job, state: State, step: int) -> None:
    """Writes the checkpoint of `step`, in the background."""
    meta = {
        "layout": LAYOUT,
        "config": job.config.to_dict(),
        "record": job.record.to_json(),
        **job.identity,
    }
    job.checkpoints.save(step, state, meta)
    job.record.book("save")


def evaluate(job: Job, state: State, step: int, *kinds: str) -> dict[str, Evaluation]:
    """Evaluates the moving average on splits of these kinds; prints and writes what comes out."""
    evaluations: dict[str, Evaluation] = {}
    average = merged(state.ema, state.frozen)
    for name, evaluation in job.evaluate(average, kinds, job.preemption.is_requested):
        evaluations[name] = evaluation
        line = progress.evaluation_line(evaluation.metrics, job.task.columns)
        job.progress.say(f"step {step} | {name}: {line}")
        for note in evaluation.notes:
            job.progress.say(f"step {step} | {name}: {note}")
    metrics = {name: evaluation.metrics for name, evaluation in evaluations.items()}
    scalars = {f"eval/{n}/{k}": v for n, values in metrics.items() for k, v in values.items()}
    job.progress.add_scalars(step, scalars)
    # What has a part in its name is one of many, and in the last evaluation anyway.
    history = {
        name: {key: value for key, value in values.items() if "/" not in key}
        for name, values in metrics.items()
    }
    job.record.add_evaluation(step, history)
    job.record.book("evaluate")
    return evaluations


def run_between(job: Job, state: State, step: int) -> State:
    """Runs what the task does between steps; returns the state with the memory that comes of it."""
    assert job.between is not None
    name = job.between.name
    change = job.between.run(state, step, job.preemption.is_requested)
    job.record.add_change(step, change.metrics)
    job.progress.say(f"step {step} | {job.between.title}: {progress.numbers(change.metrics)}")
    job.progress.add_scalars(
        step, {f"{name}/{key}": value for key, value in change.metrics.items()}
    )
    for label, draw in change.sheets.items():
        show(job, step, f"{name}/{label}", draw)
    job.record.book("refresh")
    return dataclasses.replace(state, memory=change.memory)


def show(job: Job, step: int, label: str, draw: Callable[[], np.ndarray]) -> np.ndarray | None:
    """Draws a sheet of pictures for TensorBoard; returns it on host 0."""
    if jax.process_index() > 0:
        return None
    sheet = draw()
    job.progress.add_picture(step, label, sheet)
    return sheet


def finish(job: Job, state: State) -> dict[str, Any]:
    """Evaluates the trained network, and writes what the run leaves behind.

    That is results.json, predictions.png and what else the task keeps of each split. Returns the
    first.

    Raises:
        CheckpointError: the last save failed.
    """
    config, record = job.config, job.record
    evaluations = evaluate(job, state, config.steps, "val", "test")
    job.checkpoints.close()
    record.book("save")
    # results.json: the measures, and how the run came to them.
    metrics = {name: evaluation.metrics for name, evaluation in evaluations.items()}
    seconds = record.totals["train_seconds"]
    results = {
        "eval": metrics,
        **({job.between.name: record.changes} if job.between else {}),
        "history": record.history,
        "examples_per_second": record.totals["examples"] / seconds if seconds else None,
        "wall_seconds": record.seconds,
        "seconds": record.seconds_by_kind(),
        "steps": config.steps,
        "data": job.identity["data"],
        "config": config.to_dict(),
    }
    # A sheet of the split that people look at first, and the files of all splits.
    written = "results.json"
    if name := job.task.highlight(config, [*evaluations], "test"):
        draw = partial(evaluations[name].sheet, 24, f"{name}, step {config.steps}")
        sheet = show(job, config.steps, f"test/{name}", draw)
        if sheet is not None:
            sheets.write(job.directory / "predictions.png", sheet)
            written += " and predictions.png"
    if jax.process_index() == 0:
        for evaluation in evaluations.values():
            for file, write in evaluation.files.items():
                write(job.directory / file)
        (job.directory / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    # The last lines on the console.
    job.progress.say(progress.evaluation_table(metrics, job.task.columns))
    job.progress.say(f"time went into {progress.spent_line(results['seconds'])}")
    spent = duration(record.seconds)
    job.progress.say(f"done in {spent}: {job.directory}/{written}")
    return results
