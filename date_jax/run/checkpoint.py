"""Saving and restoring a run, with proof that what comes back is what was saved.

Orbax neither sums nor checks what it stores: one flipped bit restores as silently wrong weights.
So every leaf gets a fingerprint, computed where it lives, which is kept beside it and compared on
restore. A step that is damaged, half copied or half deleted is set aside, never deleted, once the
step before it has been read. The only file that imports orbax.
"""

import contextlib
import functools
import gc
import hashlib
import json
import re
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
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, UInt32
from orbax.checkpoint import checkpoint_managers

from date_jax import sharding
from date_jax.errors import CheckpointError, Preempted, SaveError

_ODD = 2654435761  # Knuth's multiplier, 2^32 over the golden ratio
_SMALLEST_SLICE = 2**20  # bytes


def _words(leaf: Array) -> Array:
    """The bits of each element as uint32, without losing or adding any."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)


def fingerprint(leaf: Array) -> UInt32[Array, ""]:
    """Sum over all elements of bits × an odd number that depends on the place, modulo 2^32.

    Multiplying by an odd number is one-to-one modulo 2^32, so a change in any single element,
    down to one bit, changes the sum. Sums of integers do not depend on their order: the
    fingerprint is the same however the array is sharded.
    """
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        place = place * leaf.shape[axis] + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    # One multiplication leaves neighbours' weights an equal step apart; mixing breaks that.
    mixed = (place + 1) * jnp.uint32(_ODD)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x2C1B3C6D)
    weight = (mixed ^ (mixed >> 13)) | 1
    return jnp.sum(_words(leaf) * weight, dtype=jnp.uint32)


@jax.jit
def _fingerprints(leaves: list[Array]) -> tuple[Array, Array]:
    finite = [jnp.all(jnp.isfinite(x)) for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([fingerprint(x) for x in leaves]), jnp.stack([*finite, jnp.array(True)])


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
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(state: Any) -> Any:
    """The state with typed random keys as their uint32 data, which is all that Orbax stores."""

    def plain(leaf: Any) -> Any:
        if not _is_key(leaf):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            data = jax.eval_shape(jax.random.key_data, leaf)
            return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)
        return jax.random.key_data(leaf)

    return jax.tree.map(plain, state)


def _with_keys(plain: Any, target: Any) -> Any:
    return jax.tree.map(
        lambda leaf, like: jax.random.wrap_key_data(leaf) if _is_key(like) else leaf, plain, target
    )


def _leaves(plain: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(plain)[0]
    }


def _described(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def steps_in(directory: Path) -> list[int]:
    """The steps that have a directory here, good or bad, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.is_dir() and p.name.isdigit())


def located(path: Path) -> Path:
    """The checkpoint directory that `path` means: itself, or `checkpoints` inside a run.

    Raises:
        CheckpointError: no step is there; names the runs that lie near.
    """
    for directory in (path, path / "checkpoints"):
        if steps_in(directory):
            return directory
    # The nearest first: inside it, deeper inside, beside it.
    roots = [(path, "*/checkpoints"), (path, "*/*/checkpoints"), (path.parent, "*/checkpoints")]
    found = dict.fromkeys(d.parent for root, pattern in roots for d in sorted(root.glob(pattern)))
    near = [run for run in found if steps_in(run / "checkpoints")]
    what = "no checkpoint in it" if path.exists() else "no such directory"
    hint = "; runs near it: " + ", ".join(map(str, near[:5])) if near else ""
    raise CheckpointError(f"{path}: {what}{hint}")


class Trained(NamedTuple):
    """A part of a run's state, as host arrays, with what is known of it.

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


def trained(path: Path, part: str = "ema") -> Trained:
    """One part of the latest whole checkpoint of a run; nothing else is read, or changed.

    Args:
        path: of the run, or of its checkpoints.
        part: name of the state's field.

    Raises:
        CheckpointError: none is there, or none is whole.
    """
    directory = located(path).resolve()
    warnings: list[str] = []
    for step in reversed(steps_in(directory)):
        meta, problem = _guarded(functools.partial(_signed_meta, directory / str(step) / "meta"))
        if not problem:
            target = {part: _shapes(meta["leaves"], part)}
            read = functools.partial(_part, directory / str(step) / "state", target)
            found, problem = _guarded(read)
        if not problem:
            read_leaves = _leaves(found[part])
            problem = _changed({f".{part}{name}": x for name, x in read_leaves.items()}, meta)
        if not problem:
            return Trained(jax.tree.map(np.asarray, found[part]), step, meta, warnings)
        warnings.append(f"checkpoint of step {step} is damaged ({problem})")
    raise CheckpointError("\n".join([f"{directory}: no whole checkpoint", *warnings][:7]))


class Checkpoints:
    """The checkpoints of one run.

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
            state: tree of device arrays.
            meta: JSON values to come back with it.

        Raises:
            CheckpointError: the save before this one failed, or the state is not finite.
        """
        self.raise_failure()
        if step == self.last_step:
            return
        plain = _plain(state)
        leaves = _leaves(plain)
        prints, finite = jax.device_get(_fingerprints(list(leaves.values())))
        if not finite.all():
            raise CheckpointError(
                f"step {step}: the state holds NaN or infinity and was not saved; "
                f"last good step: {self.last_step}"
            )
        body = json.dumps(
            meta
            | {
                "leaves": {
                    name: [_described(leaf), int(value)]
                    for (name, leaf), value in zip(leaves.items(), prints, strict=True)
                }
            }
        )
        signed = {"body": body, "sha256": hashlib.sha256(body.encode()).hexdigest()}
        try:
            self._opened().save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(plain), meta=ocp.args.JsonSave(signed)
                ),
                force=True,
            )
        except (OSError, ValueError) as error:
            raise self._failure(error, step) from error
        self.last_step = step

    def restore(
        self, target: Any, *, check: Callable[[dict[str, Any]], None]
    ) -> tuple[Any, dict[str, Any], list[str]] | None:
        """The latest step that is whole, wherever it was saved.

        Args:
            target: tree of `ShapeDtypeStruct` with the shardings wanted.
            check: called with a step's meta before its state is read; raises a UserError when
                this run may not continue that one.

        Returns:
            State, meta and warnings about steps that were set aside; None if nothing was saved.

        Raises:
            CheckpointError: there are steps, but none can be read or none fits `target`. All stay
                where they are, for what is wrong may be this machine: its memory, its disk.
        """
        bad: dict[int, str] = {}
        for step in reversed(steps_in(self.directory)):
            found, problem = self._load(step, target, check)
            if found is not None:
                state, meta = found
                warnings = [self._set_aside(*each) for each in bad.items()]
                if warnings:
                    warnings.append(f"using the checkpoint of step {step}")
                self.last_step = step
                return state, meta, warnings
            bad[step] = problem
        if bad:
            lines = [f"  step {step}: {problem}" for step, problem in bad.items()]
            raise CheckpointError(
                "\n".join(
                    [
                        f"{self.directory}: no whole checkpoint could be read",
                        *lines[:5],
                        "  all are left in place; where they are lost, begin in another --workdir",
                    ]
                )
            )
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

    def _opened(self) -> ocp.CheckpointManager:
        # Not before the bad steps are set aside: its constructor reads all of them.
        if self._manager is None:
            self._manager = ocp.CheckpointManager(
                self.directory, options=self._options, handler_registry=_handlers()
            )
        return self._manager

    def _failure(self, error: Exception, step: int | None) -> SaveError:
        whole = [other for other in steps_in(self.directory) if other != step]
        free = shutil.disk_usage(self.directory).free / 2**20
        return SaveError(
            f"{self.directory}: saving step {step} failed "
            f"({free:.0f} MiB free): {str(error).splitlines()[0][:200] if str(error) else error!r}"
            f"\nwhole checkpoints: {whole or 'none'}; free some space, then start the same command"
        )

    def _load(
        self, step: int, target: Any, check: Callable[[dict[str, Any]], None]
    ) -> tuple[tuple[Any, dict[str, Any]] | None, str]:
        """The step, or why it is no good. Every host comes to the same end."""
        directory = self.directory / str(step)
        plain_target = _plain(target)
        meta, problem = _guarded(lambda: _signed_meta(directory / "meta"))
        if problem:
            return None, problem
        check(meta)
        _require_same_leaves(directory, meta["leaves"], _leaves(plain_target))
        handler = ocp.StandardCheckpointHandler()
        plain, problem = _guarded(
            lambda: handler.restore(
                directory / "state", args=ocp.args.StandardRestore(plain_target)
            )
        )
        if problem:
            return None, problem
        if problem := _changed(_leaves(plain), meta):
            return None, problem
        return (_with_keys(plain, target), meta), ""

    def _set_aside(self, step: int, problem: str) -> str:
        """Moves a bad step out of the way; returns the warning."""
        aside = self.directory.parent / "checkpoints_set_aside" / f"{step}-{int(time.time())}"
        sharding.wait_for_hosts(f"before setting aside {step}")
        if jax.process_index() == 0:
            aside.parent.mkdir(exist_ok=True)
            (self.directory / str(step)).rename(aside)
        sharding.wait_for_hosts(f"after setting aside {step}")
        return f"checkpoint of step {step} is damaged ({problem}); moved to {aside.parent}"


@contextlib.contextmanager
def _quiet_cleaning() -> Iterator[None]:
    """What was begun inside and never ended is collected without a word.

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


def _guarded(read: Callable[[], Any]) -> tuple[Any, str]:
    """What `read` gives, or the first line of its error; an error on one host is one on all.

    Orbax raises whatever its layers raise on a damaged file, so anything counts but a SIGTERM,
    which comes as an exception too where one process has nothing to save yet.
    """
    value, problem = None, ""
    with _quiet_cleaning():
        try:
            value = read()
        except Exception as error:
            if stop := _stop_behind(error):
                raise stop from None
            first = (str(error).splitlines() or [""])[0]
            problem = f"{type(error).__name__}: {first}"[:160]
        if problem:
            gc.collect()
    if sharding.rows_of_hosts(np.array(bool(problem))).any() and not problem:
        problem = "another host could not read it"
    return value, problem


def _stop_behind(error: BaseException | None) -> Preempted | None:
    """The SIGTERM that this error is or was raised in the course of."""
    while error is not None and not isinstance(error, Preempted):
        error = error.__cause__ or error.__context__
    return error


def _changed(leaves: dict[str, Any], meta: dict[str, Any]) -> str:
    """Which of the arrays are not what was saved; "" if all are."""
    prints = np.asarray(_fingerprints(list(leaves.values()))[0])
    known = meta["leaves"]
    wrong = [n for n, value in zip(leaves, prints, strict=True) if known[n][1] != int(value)]
    return f"its bits have changed in {', '.join(wrong[:3])}" if wrong else ""


def _shapes(leaves: dict[str, Any], part: str) -> dict[str, Any]:
    """The tree of one part, read from the names and descriptions that are saved with a step."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = {}
    for name, (described, _) in leaves.items():
        if name.startswith(f".{part}["):
            dtype, _, shape = described.partition("[")
            place = tuple(re.findall(r"\['([^']*)'\]", name))
            shapes[place] = jax.ShapeDtypeStruct(json.loads(f"[{shape}"), dtype, sharding=here)
    return unflatten_dict(shapes)


def _part(directory: Path, target: Any) -> Any:
    """What `target` holds of a larger saved tree."""
    arguments = ocp.args.PyTreeRestore(
        target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
    )
    return ocp.PyTreeCheckpointHandler().restore(directory, args=arguments)


def _signed_meta(directory: Path) -> dict[str, Any]:
    signed = ocp.JsonCheckpointHandler().restore(directory)
    if hashlib.sha256(signed["body"].encode()).hexdigest() != signed["sha256"]:
        raise ValueError("its description has changed")
    return json.loads(signed["body"])


def _require_same_leaves(directory: Path, saved: dict[str, Any], target: dict[str, Any]) -> None:
    """Orbax would cast another dtype silently, so names, shapes and dtypes are compared first."""
    wanted = {name: _described(leaf) for name, leaf in target.items()}
    differ = [
        f"  {name}: saved {saved.get(name, ['nothing'])[0]}, now {wanted.get(name, 'nothing')}"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name, [None])[0] != wanted.get(name)
    ]
    if differ:
        raise CheckpointError(
            "\n".join([f"{directory}: saved by another model ({len(differ)} arrays)", *differ[:5]])
        )
