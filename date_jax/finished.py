"""A finished run, or an export of one: its config, its vocabulary and its network.

`api` opens it to answer. `--config.init.run=runs/one` makes it the beginning of another run, which
takes the averaged parameters of the network and the vocabulary. Optimizer, step, and what only
training uses are new.
"""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from date_jax import towers
from date_jax.data.tokenizer import Tokenizer
from date_jax.data.tokenizer_files import tokenizer_of_file, vocabulary_file
from date_jax.errors import CheckpointError, UsageError
from date_jax.networks import exported
from date_jax.networks.pretrained import WeightFile
from date_jax.run import checkpoint
from date_jax.run.user_paths import user_path
from date_jax.run.workdir import config_changes
from date_jax.tasks import ANSWERING, TASKS

# What decides on the parameters, or on what they mean; and what among it changes neither.
_NETWORK = ("model.", "modality", "data.image_size", "data.text_length")
_FREE = (
    *("model.dtype", "model.remat", "model.scan", "model.rows_at_once"),
    *("model.image.train", "model.text.train"),
    *("model.regions.count", "model.regions.overlap", "model.regions.min_score"),
)
_MOST_LINES = 5  # of a message


class Finished(NamedTuple):
    """A run or an export, of which the parameters are not read yet.

    Attributes:
        path: as the user named it.
        config: of its training.
        vocab: its vocab.txt with the rules next to it, or its tokenizer.json.
        is_export: whether it is an export.
    """

    path: Path
    config: ConfigDict
    vocab: Path
    is_export: bool

    @property
    def folder(self) -> Path:
        """The folder that its other files lie in; `path` may be that of its checkpoints."""
        return self.path if self.is_export else self.vocab.parent


class Network(NamedTuple):
    """The averaged parameters of a finished run.

    Attributes:
        model: the network's, host arrays in nested dicts.
        step: of the checkpoint; None where an export does not tell.
        warnings: of damaged checkpoints that were passed over.
    """

    model: Any
    step: int | None
    warnings: tuple[str, ...]


def finished_run(path: Path) -> Finished:
    """The run, the export or the published model in a folder; its parameters are not read yet.

    Raises:
        CheckpointError: there is none of them.
        UsageError: a published model does not answer as it is.
    """
    if towers.is_published(path):
        return Finished(path, towers.published_config(path), vocabulary_file(path), False)
    if exported.is_export(path) and not checkpoint.steps_in(path / "checkpoints"):
        return Finished(path, exported.exported_config(path), vocabulary_file(path / "text"), True)
    exported.require_parameters(path)
    directory = checkpoint.checkpoint_directory(path).resolve()
    meta = checkpoint.latest_meta(directory)
    if meta is None:
        raise CheckpointError(f"{path}: no checkpoint in it is whole; take another run")
    return Finished(path, ConfigDict(meta["config"]), vocabulary_file(directory.parent), False)


def named_run(config: ConfigDict) -> Finished | None:
    """The run, or the export, that `config.init.run` names; None where it names nothing.

    Raises:
        CheckpointError: nothing that can be read is there.
        UsageError: its network or its vocabulary is not the one that the config asks for.
    """
    name = config.get("init", {}).get("run", "")
    if not name:
        return None
    run = finished_run(user_path(name))
    require_same_network(run, config)
    if config.data.vocab:
        require_same_vocabulary(run, config)
    return run


def summary(config: ConfigDict) -> str:
    """A text that is equal on two hosts if they see the same folder at `config.init.run`."""
    name = config.get("init", {}).get("run", "")
    if not name:
        return ""
    path = user_path(name)
    names = [file.name for file in path.iterdir()] if path.is_dir() else ["no such folder"]
    return f"{sorted(names)} {checkpoint.steps_in(path / 'checkpoints')}"


def require_same_network(run: Finished, config: ConfigDict) -> None:
    """Raises UsageError where the config asks for another network than a finished run's."""
    # Tasks with a network of the same kind name its parts alike.
    ours, theirs = (ANSWERING[each.task].card for each in (config, run.config))
    if ours.rest_content != theirs.rest_content:
        raise UsageError(
            f"config.init.run={run.path}: a run of task {run.config.task}, whose network is not "
            f"that of task {config.task}"
        )
    # Only options that both have: one that is new has the value that the old run had.
    changes = {
        key: change
        for key, change in config_changes(run.config.to_dict(), config.to_dict()).items()
        if key.startswith(_NETWORK) and not key.startswith(_FREE) and not key.endswith(".dropout")
        if None not in change
    }
    if changes:
        lines = [
            f"  --config.{key}={shlex.quote(_flag_value(old))} (now {_flag_value(new)})"
            for key, (old, new) in changes.items()
        ]
        if len(lines) > _MOST_LINES:
            lines = [*lines[:_MOST_LINES], f"  and {len(lines) - _MOST_LINES} more"]
        head = f"config.init.run={run.path}: its network is another one; add its values:"
        raise UsageError("\n".join([head, *lines]))


def _flag_value(value: Any) -> str:
    """A value of a config as one types it."""
    return str(tuple(value)) if isinstance(value, list) else str(value)


def require_same_vocabulary(run: Finished, config: ConfigDict) -> None:
    """Raises UsageError where `config.data.vocab` is another vocabulary than a finished run's.

    With equally many pieces it would train, and every word begin with another word's vector.
    """
    length = config.data.text_length
    theirs = tokenizer_of_file(run.vocab, length=length)
    ours = tokenizer_of_file(user_path(config.data.vocab), length=length)
    if difference := _difference(theirs, ours):
        raise UsageError(
            f"config.data.vocab={config.data.vocab}: not the vocabulary of config.init.run, by "
            f"which its network reads words: {difference}\n"
            f"  leave config.data.vocab empty, or set --config.data.vocab={run.vocab}"
        )


def _difference(theirs: Tokenizer, ours: Tokenizer) -> str:
    """The first difference of two tokenizers; "" where they are alike."""
    if len(theirs.vocab) != len(ours.vocab):
        return f"{len(theirs.vocab):,} pieces there, {len(ours.vocab):,} here"
    for line, (one, other) in enumerate(zip(theirs.vocab, ours.vocab, strict=True), 1):
        if one != other:
            return f"line {line} is {one!r} there, {other!r} here"
    return "" if theirs.rules == ours.rules else f"rules {theirs.rules} there, {ours.rules} here"


def with_vocabulary(config: ConfigDict, vocab: Path) -> ConfigDict:
    """A config that reads texts with `vocab`, unless it names a vocabulary already."""
    if config.data.vocab:
        return config
    config = config.copy_and_resolve_references()
    config.data.vocab = str(vocab)
    return config


def weights(run: Finished) -> tuple[WeightFile, list[str]]:
    """The network's averaged parameters by path, and lines that say where they come from.

    Raises:
        CheckpointError: none is whole.
    """
    model, step, warnings = network(run)
    suffix = "" if step is None else f", step {step}"
    lines = [*(f"warning: {warning}" for warning in warnings), f"begins with {run.path}{suffix}"]
    return WeightFile(run.path, flatten_dict(model, sep="/")), lines


def network(run: Finished) -> Network:
    """The averaged parameters of the latest whole checkpoint, or those of an export.

    Raises:
        CheckpointError: none is whole.
    """
    if towers.is_published(run.path):
        tokenizer = tokenizer_of_file(run.vocab, length=run.config.data.text_length)
        return Network(towers.published_params(run.path, run.config, tokenizer), None, ())
    if run.is_export:
        step = exported.exported_meta(run.path).get("step")
        return Network(_exported_model(run), step, ())
    part = checkpoint.latest_part(run.path)
    return Network(part.params["model"], part.step, tuple(part.warnings))


def _exported_model(run: Finished) -> Any:
    """The network's parameters of an export, whose shapes its config and vocabulary tell."""
    task, config = TASKS[run.config.task], run.config
    tokenizer = tokenizer_of_file(run.vocab, length=config.data.text_length)
    learner = task.learner(config, tokenizer, {})
    shapes, _ = jax.eval_shape(learner.init, jax.random.key(0), task.example(config))
    return exported.exported_params(run.path, {"model": shapes["model"]})["model"]
