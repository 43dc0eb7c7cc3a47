"""SIGTERM and Ctrl-C: the run saves itself and leaves; a second Ctrl-C ends it at once."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from date_jax.errors import INTERRUPTED, Preempted


class Preemption:
    """A context in which SIGTERM and Ctrl-C are noticed; `is_requested` is asked now and then.

    With one process a handler sets a flag. With several, only some may get the signal, so JAX's
    coordination service spreads it and all of them see it at the same call: every process must
    call `is_requested` equally often. Until `armed` nothing could be saved, and the signal ends one
    process at once. So does a second Ctrl-C at any time, also while XLA compiles.

    Args:
        ending: gives the sentence for a run that ends without saving.

    Attributes:
        by_hand: whether Ctrl-C was the signal; with several processes it counts as SIGTERM.
    """

    def __init__(self, ending: Callable[[], str] = str) -> None:
        self.by_hand = False
        self._ending = ending
        self._signalled = False
        self._armed = False
        self._calls = 0
        self._previous: dict[int, Any] = {}
        self._wakeup: tuple[int, socket.socket] | None = None

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1:  # else the handler is JAX's own, and this would replace it
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._notice)
        # A shell ignores Ctrl-C for what it runs in its background, and so it stays.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._notice_by_hand)
            self._watch()
        return self

    def __exit__(self, *_: object) -> None:
        if self._wakeup is not None:
            before, sender = self._wakeup
            signal.set_wakeup_fd(before)
            sender.close()  # which ends the thread
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _notice(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True
        if not self._armed:
            raise Preempted(
                "asked to stop before the first step: nothing new to save; the same command goes on"
            )

    def _notice_by_hand(self, _number: int, _frame: FrameType | None) -> None:
        if not self._armed:
            raise KeyboardInterrupt
        if jax.process_count() == 1:
            self._signalled = self.by_hand = True
        else:  # JAX knows this one, and tells the other processes
            os.kill(os.getpid(), signal.SIGTERM)

    def _watch(self) -> None:
        """Starts the thread that answers Ctrl-C at once.

        Python's handlers wait until the main thread is back in Python, which compilation keeps away
        from it for a minute. The interpreter writes each signal's number into this socket before.
        """
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(sender.fileno()), sender
        threading.Thread(target=self._answer, args=(receiver,), daemon=True).start()

    def _answer(self, receiver: socket.socket) -> None:
        """Says what the first Ctrl-C does, and ends the process at the second one."""
        count = 0
        with receiver:
            while number := receiver.recv(1):
                count += number[0] == signal.SIGINT
                if number[0] != signal.SIGINT or not self._armed:
                    continue
                if count == 1:
                    print(
                        "\nstopping: this step is done and saved first; Ctrl-C again ends at once",
                        file=sys.stderr,
                        flush=True,
                    )
                else:
                    print(f"\ninterrupted: {self._ending()}", file=sys.stderr, flush=True)
                    os._exit(INTERRUPTED)

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
