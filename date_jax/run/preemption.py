"""SIGTERM: the machine will be taken away; the run saves itself and asks to be started again."""

import signal
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from date_jax.errors import Preempted


class Preemption:
    """A context in which SIGTERM is noticed; `is_requested` is asked wherever time passes.

    With one process a handler sets a flag. With several, only some may get the signal, so JAX's
    coordination service spreads it and all of them see it at the same call: every process must
    call `is_requested` equally often. Until `armed` nothing could be saved, and the signal ends one
    process at once.
    """

    def __init__(self) -> None:
        self._signalled = False
        self._armed = False
        self._calls = 0
        self._previous: Any = None

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1:  # else the handler is JAX's own, and this would replace it
            self._previous = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _notice(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True
        if not self._armed:
            raise Preempted(
                "asked to stop before the first step: nothing new to save; the same command goes on"
            )

    def arm(self) -> None:
        """Makes the signal wait to be asked for: from here on there is something to save."""
        self._armed = True

    def is_requested(self) -> bool:
        """Whether to save and leave, now; on all processes alike."""
        if jax.process_count() > 1 and not self._signalled:
            # The service names a future call, by this number, at which everybody stops; a number
            # left out would be a stop missed.
            self._calls += 1
            self._signalled = multihost_utils.reached_preemption_sync_point(self._calls)
        return self._signalled
