"""Opens the run that a command asks."""

import jax
from ml_collections import ConfigDict

from date_jax.api import Run, open_run
from date_jax.data.cache import compiled_folder


def opened_run(path: str) -> Run:
    """The run of a command, whose programs are kept for the next start.

    Args:
        path: of a run's folder, or of an export.

    Raises:
        CheckpointError, DataError, UsageError: see `api.open_run`.
        SetupError: there is no place for the programs.
    """
    # The run may be of another machine, whose cache is not here.
    folder = compiled_folder(ConfigDict({"cache_dir": ""}))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return open_run(path)
