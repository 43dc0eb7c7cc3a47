"""All parts of a run, put together: what the loop and the things it does besides share."""

import dataclasses
import json
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from date_jax import features, finished, sharding
from date_jax.data import mirrored_words
from date_jax.data.tokenizer_files import require_same_rules, vocabulary_file
from date_jax.errors import CheckpointError, SetupError, UserError
from date_jax.finished import Finished
from date_jax.networks import freezing, pretrained
from date_jax.networks.layouts import KINDS
from date_jax.networks.pretrained import WeightFile
from date_jax.partition import merged
from date_jax.run import progress, workdir
from date_jax.run.checkpoint import Checkpoints, latest_meta, steps_in
from date_jax.run.preemption import Preemption
from date_jax.run.progress import Progress
from date_jax.run.record import Record
from date_jax.step import State, Step, train_step
from date_jax.task import Between, Evaluate, Task
from date_jax.tasks import TASKS

LAYOUT = 2  # of a saved state; raise it when the fields of `State` or a memory's names change


@dataclasses.dataclass(frozen=True)
class Job:
    """The parts of a run that the loop shares; made by `prepare`.

    Attributes:
        identity: what tells this start from others: the code, and the fingerprint of the data.
        ready: when the data was ready, by `time.perf_counter`.
    """

    config: ConfigDict
    directory: Path
    task: Task
    corpus: Any
    mesh: jax.sharding.Mesh
    step: Step
    between: Between | None
    evaluate: Evaluate
    checkpoints: Checkpoints
    progress: Progress
    record: Record
    preemption: Preemption
    identity: dict[str, str]
    ready: float

    def label(self, step: int) -> str:
        """The part of the training that `step` belongs to, for the console; "" where all is one."""
        return self.between.label(step) if self.between else ""


def prepare(config: ConfigDict, directory: Path, preemption: Preemption) -> tuple[Job, State]:
    """All parts of the loop, and the state: the latest saved one, or the first."""
    begun = time.perf_counter()
    # What hosts and disks hold, before anything is computed.
    saved = steps_in(directory / "checkpoints")
    workdir.require_equal_hosts({"what it sees of --workdir": saved})
    read_on_all_hosts(lambda: require_readable(directory), "--workdir")
    begin = Beginning(None, {}, []) if saved else beginning(config)
    # The data, which must be the same on all hosts.
    task = TASKS[config.task]
    config, loaded = configs_with_vocabulary(config, directory, begin.run)
    corpus = read_on_all_hosts(lambda: task.load(loaded), "its data")
    ready = time.perf_counter()
    identity = {"code": workdir.code_version(), "data": corpus.fingerprint}
    weights_digest = pretrained.digest(begin.files)
    workdir.require_equal_hosts({"data": identity["data"], "weights": weights_digest})
    if "text" in begin.files:
        text = begin.files["text"].path
        pretrained.require_same_vocabulary(text, corpus.tokenizer.vocab)
        require_same_rules(text, corpus.tokenizer, config.data.vocab)

    # The learner and its step on the mesh; nothing is compiled yet.
    mesh = sharding.device_mesh(config.mesh.fsdp)
    learner = task.learner(config, corpus.tokenizer, corpus.sizes)
    step = train_step(config, learner, mesh, task.example(config))
    shapes = merged(step.shapes.params, step.shapes.frozen)
    weights, report = pretrained.initial_values(shapes["model"], begin.files)

    # The state: the latest saved one, if it is of the same run, or the first.
    workdir.require_space(directory, step.shapes, keep=config.checkpoint.keep)
    checkpoints = Checkpoints(directory / "checkpoints", keep=config.checkpoint.keep)
    changes: dict[str, tuple[Any, Any]] = {}

    def require_same_run(meta: dict[str, Any]) -> None:
        require_same_layout(directory, meta)
        changes.update(workdir.config_changes(meta["config"], config.to_dict()))
        if meta["data"] != identity["data"]:
            changes["data"] = ("other data", "this data")
        workdir.require_same_run(directory, changes)

    restored = checkpoints.restore(step.shapes, check=require_same_run)
    state, meta, warnings = restored or (first_state(step, weights), {}, [])

    # What the run tells, and what happens between its steps.
    console = Progress(directory, first_step=int(state.step))
    record = Record(meta.get("record"), begun=begun)
    record.book_lost_time(console.dropped_until)
    # What frozen parts of the network say of the data, where it is computed once.
    if config.get("init", {}).get("keep", False) and task.kept is not None:
        corpus = features.with_features(
            config,
            corpus,
            state.frozen["model"],
            task.kept(config, corpus),
            say=console.say,
            should_stop=preemption.is_requested,
        )
    between = None
    if task.between is not None:
        between = task.between(config, corpus, learner, mesh, folder=directory, say=console.say)
    job = Job(
        config=config,
        directory=directory,
        task=task,
        corpus=corpus,
        mesh=mesh,
        step=step,
        between=between,
        evaluate=task.evaluator(config, corpus, learner, mesh),
        checkpoints=checkpoints,
        progress=console,
        record=record,
        preemption=preemption,
        identity=identity,
        ready=ready,
    )

    # What the user reads before the first step.
    if config.optim.backbone_scale < 1 and not (restored or begin.files):
        report = [
            "warning: the extractors begin with random numbers and learn at "
            f"{config.optim.backbone_scale} of the rate; config.init names published weights"
        ]
    if not restored:
        report += warnings_of_frozen(config.model, step.shapes.frozen, weights)
    lines = [*begin.lines, *report, *(f"warning: {warning}" for warning in warnings)]
    if corpus.regions is None:  # a detector's regions are not mirrored
        train = [split for name, split in corpus.splits.items() if name.endswith("_train")]
        texts = [text for split in train for text in split.texts]
        lines += mirrored_words.notes(texts, corpus.tokenizer, config.augment.flip)
    # A resumed run also says what has changed since it was saved.
    if restored:
        lines.append(f"going on at step {int(state.step)} of {config.steps}")
        lines += [f"  {key}: {old} before, {new} now" for key, (old, new) in changes.items()]
        if meta["code"] != identity["code"]:
            lines.append("  the code has changed since then")
    introduce(job, lines)
    return job, state


class Beginning(NamedTuple):
    """The numbers that a new run begins with, in place of random ones.

    Attributes:
        run: that `config.init.run` names; None where it names none.
        files: the weights of `config.init`, by kind of extractor; "run" has those of all.
        lines: that report them, for the console.
    """

    run: Finished | None
    files: dict[str, WeightFile]
    lines: list[str]


def beginning(config: ConfigDict) -> Beginning:
    """What `config.init` names, read; each host must see the same.

    Raises:
        UserError: see `finished.named_run` and `pretrained.weight_files`.
    """
    workdir.require_equal_hosts({"what it sees of config.init.run": finished.summary(config)})
    files = read_on_all_hosts(lambda: pretrained.weight_files(config), "config.init")
    run = read_on_all_hosts(lambda: finished.named_run(config), "config.init.run")
    lines: list[str] = []
    if run is not None:
        weights = read_on_all_hosts(lambda: finished.weights(run), "config.init.run")
        files["run"], lines = weights
    return Beginning(run, files, lines)


def configs_with_vocabulary(
    config: ConfigDict, directory: Path, run: Finished | None
) -> tuple[ConfigDict, ConfigDict]:
    """The config of a run, and the one that its data are loaded with.

    A run that begins with another one reads words as that one did. It keeps the vocabulary in its
    folder, where whoever goes on finds it, so that the other run may be deleted.

    Args:
        config: as the user wrote it.
        directory: of the run.
        run: that it begins with now; None where it begins otherwise, or goes on.
    """
    if not config.get("init", {}).get("run", ""):
        return config, config
    vocab = directory.absolute() / (run.vocab if run else vocabulary_file(directory)).name
    saved_config = finished.with_vocabulary(config, vocab)
    return saved_config, finished.with_vocabulary(config, run.vocab if run else vocab)


def require_readable(directory: Path) -> None:
    """Refuses a run of another layout before its data are read, which may take long.

    Raises:
        CheckpointError: see `require_same_layout`.
    """
    meta = latest_meta((directory / "checkpoints").resolve())
    if meta is not None:
        require_same_layout(directory, meta)


def require_same_layout(directory: Path, meta: dict[str, Any]) -> None:
    """Refuses a run whose state was saved in another layout than LAYOUT.

    Raises:
        CheckpointError: `meta` names another layout, or none.
    """
    if meta.get("layout") != LAYOUT:
        raise CheckpointError(
            f"{directory}: its checkpoints were saved by another version of date_jax, whose states "
            "have another layout\n  use the run with that version, or train again in another "
            "--workdir"
        )


def read_on_all_hosts(read: Callable[[], Any], what: str) -> Any:
    """The value of `read()`; where it fails on one host it fails on all.

    Args:
        read: a function that is the same on all of them.
        what: the thing that it reads, for the message.

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
        weights: of `pretrained.initial_values`: host arrays by the parameters' paths.
    """
    state = step.init()

    def with_weights(params: Any) -> Any:
        leaves = flatten_dict(params.get("model", {}), sep="/")
        for name in weights.keys() & leaves.keys():
            leaves[name] = sharding.device_arrays(weights[name], leaves[name].sharding)
        return params | {"model": unflatten_dict(leaves, sep="/")} if leaves else params

    if not weights:
        return state
    trees = {name: with_weights(getattr(state, name)) for name in ("params", "ema", "frozen")}
    return dataclasses.replace(state, **trees)


def warnings_of_frozen(model: ConfigDict, frozen: Any, weights: Collection[str]) -> list[str]:
    """Warnings about extractors that keep the random numbers that they begin with.

    Args:
        model: `config.model`.
        frozen: of `State`, or its shapes.
        weights: paths of what does not begin with random numbers.
    """
    lines = []
    for kind in KINDS:
        # Vectors begin with constants: biases, scales, an offset.
        random = [
            path.removeprefix(f"{kind}_extractor/")
            for path, leaf in flatten_dict(frozen.get("model", {}), sep="/").items()
            if path.startswith(f"{kind}_extractor/") and len(leaf.shape) > 1 and path not in weights
        ]
        if random:
            train = freezing.choice(model, kind)
            lines.append(
                f"warning: config.model.{kind}.train={train} keeps {len(random)} arrays of random "
                f"numbers, e.g. {random[0]}; name weights in config.init, or train more"
            )
    return lines


def introduce(job: Job, lines: list[str]) -> None:
    """Prints what will run and where, and writes config, vocabulary and parameters."""
    devices, mesh = jax.devices(), job.mesh.shape
    sizes = ", ".join(f"{name} {size}" for name, size in mesh.items())
    kind = devices[0].device_kind
    job.progress.say(f"run {job.directory}")
    job.progress.say(f"{len(devices)} x {kind} on {jax.process_count()} host(s), mesh: {sizes}")
    shapes, path = job.step.shapes, job.directory / "parameters.txt"
    parameters = progress.parameter_lines(shapes.params, shapes.frozen, path)
    watch = f"curves: {progress.tensorboard_command(job.directory)}"
    for line in [*job.corpus.notes, *parameters, *lines, watch]:
        job.progress.say(line)
    if jax.process_index() == 0:
        text = json.dumps(job.config.to_dict(), indent=2)
        (job.directory / "config.json").write_text(text + "\n")
        job.corpus.tokenizer.save(job.directory)
