"""The folder of prepared data, the lock of who writes there, and TensorFlow, kept quiet."""

import contextlib
import fcntl
import functools
import io
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absl.logging
import numpy as np

from date_jax.errors import SetupError
from date_jax.run import locks
from date_jax.run.user_paths import user_path


@functools.cache
def tensorflow() -> Any:
    """The module TensorFlow, imported late (it takes 7 s), kept quiet and off the accelerators."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it only decodes, and would say so 4 times
    import tensorflow as tf

    # Or it would take the memory that JAX needs.
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf


def cache_folder(config: Any) -> Path:
    """The folder for prepared data: `cache_dir`, $DATE_JAX_CACHE or ~/.cache/date_jax.

    Raises:
        SetupError: it cannot be made or written.
    """
    path = config.cache_dir or os.environ.get("DATE_JAX_CACHE") or "~/.cache/date_jax"
    advice = "  choose another folder with --config.data.cache_dir=… or DATE_JAX_CACHE=…"
    try:
        folder = user_path(path).resolve()
    except SetupError as error:
        raise SetupError(f"no place for the data cache: {error}\n{advice}") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("a"):
            pass
    except OSError as error:
        raise SetupError(
            f"cannot write the data cache {folder}: {error.strerror}\n{advice}"
        ) from None
    return folder


def compiled_folder(config: Any) -> str:
    """The folder that keeps XLA's programs from one start to the next.

    It is $JAX_COMPILATION_CACHE_DIR, or lies in the cache of prepared data. JAX goes on without the
    former where it cannot be used.

    Raises:
        SetupError: as `cache_folder`.
    """
    folder = cache_folder(config) / "compiled"  # asked for first: no run begins without a cache
    return os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(folder)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """A lock that holds `folder` against other processes; they wait, and say so.

    Yields:
        Whether no other process can be in there: some network file systems have no locks.
    """
    with (folder / ".lock").open("a") as lock:
        # Without waiting first, so that who has to wait can say why.
        is_taken = locks.take(lock, folder, "several hosts may do the same work in it")
        if is_taken is False:
            print(f"data: waiting for another process to prepare {folder}", file=sys.stderr)
            print(f"  (if its machine is gone for good, delete {lock.name})", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield is_taken is not None


def save_npz(path: Path, **members: np.ndarray) -> None:
    """Writes an `.npz` file whole or not at all, even where others write the same one."""
    part = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.part.npz")
    try:
        np.savez(part, allow_pickle=False, **members)
        os.replace(part, path)
    finally:  # each part has another name: on a full disk they would fill the rest of it
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """A context in which TFDS does not print that it downloads, nor that it does not know a config.

    This package's own progress goes to stderr, which stays.
    """
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.logging.set_verbosity(verbosity)
