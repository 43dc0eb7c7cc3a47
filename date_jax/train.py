"""The only loop: a task's loss becomes a trained network, and can be stopped at any time.

At the top of step n, n steps are done. In this order: save, evaluate, refresh the pseudo boxes,
train. So a restart from the checkpoint of n repeats whatever had not been finished at n.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from date_jax import adaptation, evals, evaluation, progress, sharding
from date_jax.errors import DataError, Preempted, UsageError
from date_jax.evals import pictures
from date_jax.job import Job, prepared
from date_jax.preemption import Preemption
from date_jax.train_step import State
from date_jax.workdir import Workdir

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
    batches = adaptation.batches(config, job.corpus, step)
    pending: list[Pending] = []  # one at most
    skipped: list[Pending] = []  # in a row
    compiled: set[Any] = set()
    trace = Trace(job.directory / "profile", profile)
    if profile and not (first <= profile.start < config.steps):
        job.progress.say(f"warning: nothing is traced, for step {profile.start} does not come")
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
        named = "; ".join(f"{domain} {rows}" for domain, rows in done.rows.items())
        job.progress.say(f"step {done.step}: not finite, update left out; rows: {named}")
        if len(skipped) >= MAX_SKIPPED:
            raise DataError(
                f"{len(skipped)} updates in a row were not finite, up to step {done.step}\n"
                f"  rows of the last: {named[:300]}\n"
                "  look at these rows, or lower --config.optim.learning_rate"
            )
    else:
        skipped.clear()
    if done.step % config.log.every == 0 or done.step == config.steps:
        means, lap = job.record.means(), job.record.lap()
        stage = adaptation.stage(config, done.step - 1)
        job.progress.say(progress.window_line(done.step, config.steps, stage, means, lap))
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
    return saves or (step > 0 and step % config.eval.every == 0) or job.pseudo_boxes.due(step)


def with_duties_done(job: Job, state: State, step: int, first: int) -> State:
    """Saves, evaluates and refreshes the pseudo boxes as is due at `step`."""
    config = job.config
    if step > first and step % config.checkpoint.every == 0:
        save(job, state, step)
    if step > 0 and step % config.eval.every == 0:
        names = evaluation.splits_of_kind(job.corpus, "val")
        found = evaluate(job, state, step, names)
        for name in shown(config, names, "val"):
            show(job, step, name, found[name].box_cxcywh, "eval")
    if job.pseudo_boxes.due(step):
        return with_new_boxes(job, state, step)
    return state


def save(job: Job, state: State, step: int) -> None:
    """Writes the checkpoint of `step`, in the background."""
    meta = {"config": job.config.to_dict(), "record": job.record.saved(), **job.identity}
    job.checkpoints.save(step, state, meta)
    job.record.book("save")


def evaluate(job: Job, state: State, step: int, names: list[str]) -> dict[str, evals.Evaluation]:
    """Evaluates the moving average on the splits `names`, and says and writes what comes out."""
    found = {}
    for name, evaluated in evaluation.evaluations(
        job.collect,
        state.ema,
        job.corpus,
        names,
        batch_size=job.config.eval.batch_size,
        mesh=job.mesh,
        should_stop=job.preemption.requested,
    ):
        found[name] = evaluated
        job.progress.say(f"step {step} | {name}: {progress.evaluation_line(evaluated.metrics)}")
    scalars = {f"eval/{n}/{k}": v for n, e in found.items() for k, v in e.metrics.items()}
    job.progress.write(step, scalars)
    job.record.book("evaluate")
    return found


def with_new_boxes(job: Job, state: State, step: int) -> State:
    """The state with a new table of pseudo boxes, and at their start the frozen teacher."""
    if state.teacher is not None and job.pseudo_boxes.begins(step):
        state = dataclasses.replace(state, teacher=jax.tree.map(jnp.copy, state.ema))
    teacher = state.ema if state.teacher is None else state.teacher
    table, metrics = job.pseudo_boxes.refreshed(
        state.params, teacher, step, job.preemption.requested
    )
    job.record.add_pseudo_boxes(step, metrics)
    job.progress.say(f"step {step} | pseudo boxes: {progress.numbers(metrics)}")
    job.progress.write(step, {f"pseudo_boxes/{name}": value for name, value in metrics.items()})
    name = adaptation.splits(job.config.data.target, "train")[0]
    rows = job.corpus.splits[name].size
    box, chosen = table["box_cxcywh"][:rows], table["weight"][:rows] > 0
    show(job, step, name, box, "pseudo_boxes", chosen=chosen)
    job.record.book("refresh")
    return dataclasses.replace(state, pseudo_boxes=sharding.everywhere(job.mesh, table))


def shown(config: ConfigDict, names: list[str], kind: str) -> list[str]:
    """Of the evaluated splits `names` the one to look at: the target's first, else the last."""
    wanted = [name for name in adaptation.splits(config.data.target, kind) if name in names]
    return (wanted or names[::-1])[:1]


def show(
    job: Job,
    step: int,
    name: str,
    box_cxcywh: np.ndarray,
    label: str,
    *,
    count: int = 12,
    chosen: np.ndarray | None = None,
) -> np.ndarray | None:
    """Draws `count` pictures of a split for TensorBoard; returns them on host 0."""
    if jax.process_index() > 0:
        return None
    title = f"{name}, step {step}"
    sheet = evaluation.sheet(
        job.corpus, name, box_cxcywh, job.config, count=count, title=title, chosen=chosen
    )
    job.progress.picture(step, f"{label}/{name}", sheet)
    return sheet


def finished(job: Job, state: State) -> dict[str, Any]:
    """Evaluates the trained network, writes results.json and predictions.png, returns the former.

    Raises:
        CheckpointError: the last save failed.
    """
    config, record = job.config, job.record
    names = evaluation.splits_of_kind(job.corpus, "val", "test")
    found = evaluate(job, state, config.steps, names)
    job.checkpoints.close()
    record.book("save")
    metrics = {name: evaluated.metrics for name, evaluated in found.items()}
    seconds = record.totals["train_seconds"]
    results = {
        "eval": metrics,
        "pseudo_boxes": record.pseudo_boxes,
        "examples_per_second": record.totals["examples"] / seconds if seconds else None,
        "wall_seconds": record.seconds,
        "seconds": record.spent(),
        "steps": config.steps,
        "config": config.to_dict(),
    }
    for name in shown(config, names, "test"):
        sheet = show(job, config.steps, name, found[name].box_cxcywh, "test", count=24)
        if sheet is not None:
            pictures.write(job.directory / "predictions.png", sheet)
    if jax.process_index() == 0:
        (job.directory / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    job.progress.say(progress.evaluation_table(metrics))
    job.progress.say(f"time went into {progress.spent_line(results['seconds'])}")
    spent = progress.duration(record.seconds)
    job.progress.say(f"done in {spent}: {job.directory}/results.json and predictions.png")
    return results
