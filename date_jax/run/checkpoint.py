"""Saving and restoring a run, with proof that what comes back is what was saved.

A step that is damaged, half copied or half deleted is set aside, never deleted, once the step
before it has been read. What proves a step whole is in `fingerprint`. The only file that imports
Orbax.
"""

import contextlib
import dataclasses
import functools
import gc
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from date_jax import sharding
from date_jax.errors import CheckpointError, Preempted, SaveError
from date_jax.partition import merged
from date_jax.run import fingerprint

_SMALLEST_SLICE = 2**20  # bytes
_PARAMETERS = ("params", "ema")  # fields of a state that hold parameters


def steps_in(directory: Path) -> list[int]:
    """The steps that have a directory here, good or bad, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.is_dir() and p.name.isdigit())


def checkpoint_directory(path: Path) -> Path:
    """The checkpoint directory that `path` means: itself, or `checkpoints` inside a run.

    Raises:
        CheckpointError: no step is there; names the runs that lie near.
    """
    for directory in (path, path / "checkpoints"):
        if steps_in(directory):
            return directory
    # The nearest first: inside it, deeper inside, in the same folder.
    roots = [(path, "*/checkpoints"), (path, "*/*/checkpoints"), (path.parent, "*/checkpoints")]
    runs = dict.fromkeys(d.parent for root, pattern in roots for d in sorted(root.glob(pattern)))
    near = [run for run in runs if steps_in(run / "checkpoints")]
    problem = "no checkpoint in it" if path.exists() else "no such directory"
    hint = "; runs near it: " + ", ".join(map(str, near[:5])) if near else ""
    raise CheckpointError(f"{path}: {problem}{hint}")


def latest_meta(directory: Path) -> dict[str, Any] | None:
    """The JSON values that the newest step was saved with whose description is whole, if any.

    Args:
        directory: of the checkpoints.
    """
    for step in reversed(steps_in(directory)):
        # Whatever is wrong with a step, `Checkpoints.restore` will say it.
        with contextlib.suppress(Exception):
            return _verified_meta(directory / str(step) / "meta")
    return None


class Part(NamedTuple):
    """One field of a run's saved state, as host arrays; parameters with those that were frozen.

    Attributes:
        params: nested dicts of arrays.
        step: steps done.
        meta: what was saved with it, e.g. `config`.
        warnings: of later steps that are damaged.
    """

    params: dict[str, Any]
    step: int
    meta: dict[str, Any]
    warnings: list[str]


def latest_part(path: Path, field: str = "ema") -> Part:
    """One field of the state in a run's latest whole checkpoint; nothing else is read, or changed.

    Args:
        path: of the run, or of its checkpoints.
        field: of the state; the moving average of the parameters unless named.

    Raises:
        CheckpointError: there is no checkpoint, or none is whole.
    """
    # From the last step back, until one is whole.
    directory = checkpoint_directory(path).resolve()
    warnings: list[str] = []
    for step in reversed(steps_in(directory)):
        read = functools.partial(_verified_part, directory / str(step), field)
        part, problem = _attempt(read)
        if not problem:
            params, meta = part
            return Part(jax.tree.map(np.asarray, params), step, meta, warnings)
        warnings.append(f"checkpoint of step {step} is damaged ({problem})")
    raise CheckpointError("\n".join([f"{directory}: no whole checkpoint", *warnings][:7]))


def _verified_part(directory: Path, field: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """One field of a step's state, whose bits are those saved, and the step's meta."""
    meta = _verified_meta(directory / "meta")
    # Parameters are whole with those that training left as they were.
    names = (field, "frozen") if field in _PARAMETERS else (field,)
    target = {name: fingerprint.shapes_of_part(meta["leaves"], name) for name in names}
    target = {name: shapes for name, shapes in target.items() if shapes}
    arguments = ocp.args.PyTreeRestore(
        target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
    )
    parts = ocp.PyTreeCheckpointHandler().restore(directory / "state", args=arguments)
    # Names are saved from the root of the state.
    leaves = {
        f".{field}{name}": x
        for field, part in parts.items()
        for name, x in fingerprint.leaves_by_name(part).items()
    }
    fingerprint.require_undamaged(leaves, meta["leaves"])
    frozen = parts.get("frozen", {}) if field in _PARAMETERS else {}
    return merged(parts[field], frozen), meta


def _verified_meta(directory: Path) -> dict[str, Any]:
    """The JSON values that a step was saved with."""
    return fingerprint.verified_meta(ocp.JsonCheckpointHandler().restore(directory))


class LatestState(NamedTuple):
    """The saved state that a run continues from.

    Attributes:
        state: a dataclass of device arrays.
        meta: what was saved with it.
        warnings: of later steps, which were set aside.
    """

    state: Any
    meta: dict[str, Any]
    warnings: list[str]


class Checkpoints:
    """The checkpoints of one run.

        checkpoints = Checkpoints(Path("runs/one/checkpoints"), keep=2)
        checkpoints.save(100, state, {"note": "of today"})
        checkpoints.close()

    Args:
        directory: made if absent; on several hosts a file system that all of them share.
        keep: how many of the latest steps stay.
    """

    def __init__(self, directory: Path, *, keep: int):
        self.directory = directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.LatestN(n=keep),
            cleanup_tmp_directories=True,
        )
        self._manager: ocp.CheckpointManager | None = None
        self.last_step: int | None = None  # restored or handed to `save`

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Copies the state off the devices and writes it in the background.

        Args:
            step: its name; saving the same one again does nothing.
            state: a dataclass of trees of device arrays.
            meta: JSON values to come back with it.

        Raises:
            CheckpointError: the save before this one failed, or the state is not finite.
        """
        # The last save went on in the background: its failure is known by now, or at the next.
        self.raise_failure()
        if step == self.last_step:
            return
        # A state that is not finite would be restored for ever: it never gets a name.
        plain = _without_keys(state)
        leaves, is_finite = fingerprint.descriptions(plain)
        if not is_finite:
            raise CheckpointError(
                f"step {step}: the state holds NaN or infinity and was not saved; "
                f"last good step: {self.last_step}"
            )
        parts = ocp.args.Composite(
            state=ocp.args.PyTreeSave(_fields(plain)),
            meta=ocp.args.JsonSave(fingerprint.signed_meta(meta | {"leaves": leaves})),
        )
        try:
            self._open_manager().save(step, args=parts, force=True)
        except (OSError, ValueError) as error:
            raise self._failure(error, step) from error
        self.last_step = step

    def restore(
        self, target: Any, *, check: Callable[[dict[str, Any]], None]
    ) -> LatestState | None:
        """The latest step that is whole, wherever it was saved; None if nothing was saved.

        Args:
            target: the same dataclass, of `ShapeDtypeStruct` with the shardings wanted.
            check: called with a step's meta before its state is read; raises a UserError when
                this run may not continue that one.

        Raises:
            CheckpointError: there are steps, but none can be read or none fits `target`. All stay
                where they are, for what is wrong may be this machine: its memory, its disk.
        """
        # From the last step back, until one is whole.
        problems: dict[int, str] = {}
        for step in reversed(steps_in(self.directory)):
            latest, problem = self._load(step, target, check)
            if latest is None:
                problems[step] = problem
                continue
            # Only now is it known that the later steps are bad, and not this machine.
            warnings = [self._set_aside(*bad) for bad in problems.items()]
            if warnings:
                warnings.append(f"using the checkpoint of step {step}")
            self.last_step = step
            return LatestState(*latest, warnings)
        # Nothing is set aside where nothing can be read: what one has lost here is not decided.
        if problems:
            lines = [f"  step {step}: {problem}" for step, problem in problems.items()]
            head = f"{self.directory}: no whole checkpoint could be read"
            advice = "  all are left in place; where they are lost, begin in another --workdir"
            raise CheckpointError("\n".join([head, *lines[:5], advice]))
        return None

    def raise_failure(self) -> None:
        """Raises CheckpointError if a save that ran in the background has failed."""
        if self._manager is not None:
            try:
                self._manager.check_for_errors()
            except Exception as error:
                raise self._failure(error, self.last_step) from error

    def close(self) -> None:
        """Waits for the last save.

        Raises:
            CheckpointError: it failed.
        """
        if self._manager is not None:
            try:
                self._manager.wait_until_finished()
                self._manager.close()
            except Exception as error:
                raise self._failure(error, self.last_step) from error

    def _open_manager(self) -> ocp.CheckpointManager:
        """Orbax's manager of the directory, opened by the first save."""
        # Not before the bad steps are set aside: its constructor reads all of them.
        if self._manager is None:
            self._manager = ocp.CheckpointManager(
                self.directory, options=self._options, handler_registry=_handlers()
            )
        return self._manager

    def _failure(self, error: Exception, step: int | None) -> SaveError:
        """The error of a save that failed: why, the room on the disk, the good steps."""
        good = [other for other in steps_in(self.directory) if other != step]
        free = shutil.disk_usage(self.directory).free / 2**20
        reason = str(error).splitlines()[0][:200] if str(error) else f"{error!r}"
        return SaveError(
            f"{self.directory}: saving step {step} failed ({free:.0f} MiB free): {reason}\n"
            f"whole checkpoints: {good or 'none'}; free some space, then start the same command"
        )

    def _load(
        self, step: int, target: Any, check: Callable[[dict[str, Any]], None]
    ) -> tuple[tuple[Any, dict[str, Any]] | None, str]:
        """A step's state and meta, or why it is no good. Every host comes to the same end."""
        directory = self.directory / str(step)
        plain_target = _without_keys(target)
        meta, problem = _attempt(lambda: _verified_meta(directory / "meta"))
        if problem:
            return None, problem
        # A mistake that the user can mend is raised before the state is read, which may take long.
        check(meta)
        fingerprint.require_same_types(directory, meta["leaves"], plain_target)

        # The state itself, on all hosts or on none.
        arguments = ocp.args.StandardRestore(_fields(plain_target))
        handler = ocp.StandardCheckpointHandler()
        fields, problem = _attempt(lambda: handler.restore(directory / "state", args=arguments))
        if problem:
            return None, problem
        plain = dataclasses.replace(plain_target, **fields)
        # Its bits, which all hosts compute together: one that could not read would be waited for.
        leaves = fingerprint.leaves_by_name(plain)
        _, problem = _attempt(lambda: fingerprint.require_undamaged(leaves, meta["leaves"]))
        return (None, problem) if problem else ((_with_keys(plain, target), meta), "")

    def _set_aside(self, step: int, problem: str) -> str:
        """Moves a bad step out of the way; returns the warning."""
        aside = self.directory.parent / "checkpoints_set_aside" / f"{step}-{int(time.time())}"
        # No host may still be reading it, and none may go on before it is gone.
        sharding.wait_for_hosts(f"before setting aside {step}")
        if jax.process_index() == 0:
            aside.parent.mkdir(exist_ok=True)
            (self.directory / str(step)).rename(aside)
        sharding.wait_for_hosts(f"after setting aside {step}")
        return f"checkpoint of step {step} is damaged ({problem}); moved to {aside.parent}"


def _handlers() -> ocp.handlers.DefaultCheckpointHandlerRegistry:
    """Who writes what; each device writes a share of a large copied array, the first a small one.

    Left alone, Orbax cuts every array into as many pieces as there are devices, each of them a
    small program to compile. On GPUs the first writes all, for their copies may come to differ in
    the last bit: sums in no fixed order are their default.
    """
    arrays = ocp.type_handlers.ArrayHandler(
        use_replica_parallel=jax.default_backend() != "gpu",
        min_slice_bytes_for_replica_parallel=_SMALLEST_SLICE,
    )
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
    trees = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    handlers.add("state", ocp.args.PyTreeSave, trees)
    handlers.add("meta", ocp.args.JsonSave, ocp.JsonCheckpointHandler())
    return handlers


def _is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed random key."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_keys(state: Any) -> Any:
    """The state with typed random keys as their uint32 data, which is all that Orbax stores."""

    def data(leaf: Any) -> Any:
        """The leaf, or the data of a key; of a shape the shape of the data."""
        if not _is_key(leaf):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            shape = jax.eval_shape(jax.random.key_data, leaf)
            return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=leaf.sharding)
        return jax.random.key_data(leaf)

    return jax.tree.map(data, state)


def _with_keys(plain: Any, target: Any) -> Any:
    """The state again, with typed random keys where `target` has them."""
    return jax.tree.map(
        lambda leaf, like: jax.random.wrap_key_data(leaf) if _is_key(like) else leaf, plain, target
    )


def _fields(state: Any) -> dict[str, Any]:
    """The fields of a state by name, as Orbax stores them, without those that are empty dicts.

    So a field that most runs leave empty is not missed in checkpoints of the time before it.
    """
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    is_empty = {name: isinstance(value, dict) and not value for name, value in fields.items()}
    return {name: value for name, value in fields.items() if not is_empty[name]}


def _attempt(read: Callable[[], Any]) -> tuple[Any, str]:
    """The value of `read`, or its error's first line; an error on one host is one on all.

    Orbax raises whatever its layers raise on a damaged file, so anything counts but a SIGTERM,
    which comes as an exception too where one process has nothing to save yet.
    """
    value, problem = None, ""
    with _silent_collection():
        try:
            value = read()
        except Exception as error:
            # A stop is no damage, whatever was made of it on its way up.
            if stop := _preemption_behind(error):
                raise stop from None
            first = (str(error).splitlines() or [""])[0]
            is_ours = isinstance(error, fingerprint.DamageError)
            problem = (first if is_ours else f"{type(error).__name__}: {first}")[:160]
        # What Orbax has dropped half read is collected here, where nobody hears of it.
        if problem:
            gc.collect()
    if sharding.values_of_hosts(np.array(bool(problem))).any() and not problem:
        problem = "another host could not read it"
    return value, problem


@contextlib.contextmanager
def _silent_collection() -> Iterator[None]:
    """A context in which Python is silent about work that was begun and never ended.

    Orbax reads all arrays at once; when one fails it drops the others half read, and Python would
    print a traceback for each.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        sys.unraisablehook = hook


def _preemption_behind(error: BaseException | None) -> Preempted | None:
    """The SIGTERM that this error is or was raised in the course of."""
    while error is not None and not isinstance(error, Preempted):
        error = error.__cause__ or error.__context__
    return error
