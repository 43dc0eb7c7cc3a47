"""All parts of a run, put together: what the loop and the things it does besides share."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.date import between_steps as adaptation
from date_jax.errors import SetupError, UserError
from date_jax.networks import pretrained
from date_jax.run import progress, workdir
from date_jax.run.checkpoint import Checkpoints, steps_in
from date_jax.run.preemption import Preemption
from date_jax.run.progress import Progress, Record
from date_jax.step import State, Step, train_step
from date_jax.task import Course, Evaluate
from date_jax.tasks import COURSES


@dataclasses.dataclass(frozen=True)
class Job:
    """What the parts of the loop share; made by `prepared`."""

    config: ConfigDict
    directory: Path
    course: Course
    corpus: Any
    mesh: jax.sharding.Mesh
    step: Step
    pseudo_boxes: adaptation.PseudoBoxes | None  # None where the config has none
    evaluate: Evaluate
    checkpoints: Checkpoints
    progress: Progress
    record: Record
    preemption: Preemption
    identity: dict[str, str]
    ready: float  # when the data was, by `time.perf_counter`


def prepared(config: ConfigDict, directory: Path, preemption: Preemption) -> tuple[Job, State]:
    """All parts of the loop, and the state: the latest saved one, or the first."""
    begun = time.perf_counter()
    saved = steps_in(directory / "checkpoints")
    workdir.require_equal_hosts({"what it sees of --workdir": saved})
    published = {} if saved else on_all_hosts(lambda: pretrained.given(config), "config.init")
    course = COURSES[config.task]
    corpus = on_all_hosts(lambda: course.load(config), "its data")
    ready = time.perf_counter()
    identity = {"code": workdir.code_version(), "data": corpus.fingerprint}
    workdir.require_equal_hosts({"data": identity["data"], "weights": pretrained.digest(published)})
    if "text" in published:
        pretrained.require_same_vocabulary(published["text"][0], corpus.tokenizer.vocab)
    mesh = sharding.device_mesh(config.mesh.fsdp)
    task = course.task(config, corpus)
    example = next(course.batches(config, corpus, 0))
    step = train_step(config, task, mesh, example, adaptation.no_pseudo_boxes(config, corpus))
    weights, report = pretrained.replaced(step.shapes.params["model"], published)
    workdir.require_space(directory, step.shapes, keep=config.checkpoint.keep)
    checkpoints = Checkpoints(directory / "checkpoints", keep=config.checkpoint.keep)
    changes: dict[str, tuple[Any, Any]] = {}

    def require_same_run(meta: dict[str, Any]) -> None:
        changes.update(workdir.config_changes(meta["config"], config.to_dict()))
        if meta["data"] != identity["data"]:
            changes["data"] = ("other data", "this data")
        workdir.require_same_run(directory, changes)

    found = checkpoints.restore(step.shapes, check=require_same_run)
    state, meta, warnings = found or (first_state(step, weights), {}, [])
    shown = Progress(directory, first_step=int(state.step))
    record = Record(meta.get("record"), begun=begun)
    record.lose(shown.dropped_until)
    job = Job(
        config=config,
        directory=directory,
        course=course,
        corpus=corpus,
        mesh=mesh,
        step=step,
        pseudo_boxes=adaptation.PseudoBoxes(
            task, config, corpus, mesh, folder=directory, say=shown.say
        )
        if "pseudo_boxes" in config
        else None,
        evaluate=course.evaluator(config, corpus, task, mesh),
        checkpoints=checkpoints,
        progress=shown,
        record=record,
        preemption=preemption,
        identity=identity,
        ready=ready,
    )
    if config.optim.backbone_scale < 1 and not (found or any(config.get("init", {}).values())):
        report = [
            "warning: the extractors begin with random numbers and learn at "
            f"{config.optim.backbone_scale} of the rate; config.init names published weights"
        ]
    lines = [*report, *(f"warning: {warning}" for warning in warnings)]
    if found:
        lines.append(f"going on at step {int(state.step)} of {config.steps}")
        lines += [f"  {key}: {old} before, {new} now" for key, (old, new) in changes.items()]
        if meta["code"] != identity["code"]:
            lines.append("  the code has changed since then")
    introduce(job, lines)
    return job, state


def on_all_hosts(read: Callable[[], Any], what: str) -> Any:
    """What `read()` gives; where it fails on one host it fails on all.

    Args:
        read: the same on all of them.
        what: it reads, for the message.

    Raises:
        UserError: that of `read` where all fail.
        SetupError: where only some do: on these with the reason, on the others naming the first.
    """
    value, problem = None, None
    try:
        value = read()
    except UserError as error:
        problem = error
    failed = sharding.values_of_hosts(np.array(problem is not None))
    if problem is not None and failed.all():
        raise problem
    if problem is not None:
        raise SetupError(str(problem)) from problem
    if failed.any():
        raise SetupError(f"host {failed.argmax()} cannot read {what}; it says why itself")
    return value


def first_state(step: Step, weights: dict[str, np.ndarray]) -> State:
    """The state before the first step, with published weights in it, each placed where it lives.

    Args:
        weights: of `pretrained.replaced`: host arrays by the parameters' paths.
    """
    state = step.init()

    def with_weights(params: Any) -> Any:
        leaves = flatten_dict(params["model"], sep="/")
        for name, value in weights.items():
            leaves[name] = sharding.device_arrays(value, leaves[name].sharding)
        return params | {"model": unflatten_dict(leaves, sep="/")}

    if not weights:
        return state
    return dataclasses.replace(
        state,
        params=with_weights(state.params),
        ema=with_weights(state.ema),
        teacher=None if state.teacher is None else with_weights(state.teacher),
    )


def introduce(job: Job, lines: list[str]) -> None:
    """Says what will run and where, and writes down config, vocabulary and parameters."""
    devices, mesh = jax.devices(), job.mesh.shape
    sizes = ", ".join(f"{name} {size}" for name, size in mesh.items())
    kind = devices[0].device_kind
    job.progress.say(f"run {job.directory}")
    job.progress.say(f"{len(devices)} x {kind} on {jax.process_count()} host(s), mesh: {sizes}")
    parameters = progress.parameter_lines(job.step.shapes.params, job.directory / "parameters.txt")
    for line in [*job.corpus.notes, *parameters, *lines]:
        job.progress.say(line)
    if jax.process_index() == 0:
        text = json.dumps(job.config.to_dict(), indent=2)
        (job.directory / "config.json").write_text(text + "\n")
        job.corpus.tokenizer.save_vocab(job.directory / "vocab.txt")
