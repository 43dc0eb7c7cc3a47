"""Finds products in pictures: retrieval, grounding, and grounding across domains, in JAX."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from date_jax.api import Run

__version__ = "0.1.0"


def open(path: str | Path) -> "Run":
    """The network of a finished run or of an export, ready to answer; see `api.Run`.

    Raises:
        CheckpointError: there is no checkpoint and no export, or none that is whole.
        DataError: its vocabulary cannot be read.
    """
    from date_jax.api import open_run  # brings JAX along, which a mere import need not wait for

    return open_run(path)
