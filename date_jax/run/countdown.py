"""Progress of a long loop. Imports no JAX, for processes that only read or render pictures."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0
SECONDS_ON_A_TERMINAL = 0.5  # where one line is rewritten


def duration(seconds: float) -> str:
    """A time as people say it, `75` as `1m15s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"


class Countdown:
    """A line now and then about a long loop: what is done, how fast, and the time left.

        countdown = Countdown("reading regions", len(paths))
        for path in paths:
            read(path)
            countdown.advance()  # reading regions: 5,100 of 10,000 | 100/s | 0m49s left

    Args:
        what: what is counted, in front of each line.
        total: how many there are of it.
        say: takes a line, at most every ten seconds. Without it the lines go to standard error: on
            a terminal one line that is rewritten, in a log one every ten seconds and a last one.
    """

    def __init__(self, what: str, total: int, say: Callable[[str], None] | None = None):
        self._what, self._total, self._say = what, total, say
        self._is_live = say is None and sys.stderr.isatty()
        self._pause = SECONDS_ON_A_TERMINAL if self._is_live else SECONDS_BETWEEN_LINES
        self._done = 0
        self._start: tuple[float, int] | None = None  # when, and what was done then
        self._last_line = time.monotonic()

    def advance(self) -> None:
        """Counts one more as done."""
        self.at(self._done + 1)

    def at(self, done: int) -> None:
        """Takes note that `done` are done; a loop may begin in the middle.

        A `done` that is no further than where the loop began starts another loop, and its clock.
        """
        now, start = time.monotonic(), self._start
        if start is None or done <= start[1]:
            start = now, done
        self._start, self._done = start, done
        is_due = done > start[1] and now - self._last_line >= self._pause
        is_last = self._say is None and done >= self._total
        if is_due or is_last:
            self._last_line = now
            self._write(self._line(now, *start), is_last=is_last)

    def over(self, batches: Iterable[T], *, rows: int) -> Iterator[T]:
        """Yields `batches`, of `rows` each but the last, and reports the progress."""
        for number, batch in enumerate(batches):
            self.at(min(number * rows, self._total))
            yield batch

    def _line(self, now: float, since: float, first: int) -> str:
        """`rows: 5,100 of 10,000 | 100/s | 0m49s left`."""
        line = f"{self._what}: {self._done:,} of {self._total:,}"
        if now == since or self._done == first:  # nothing to reckon a speed from
            return line
        speed = (self._done - first) / (now - since)
        left = duration((self._total - self._done) / speed)
        return f"{line} | {speed:,.{int(speed < 10)}f}/s | {left} left"

    def _write(self, line: str, *, is_last: bool) -> None:
        if self._say is not None:
            self._say(line)
            return
        # Spaces cover what a longer line has left; the next one goes over this.
        end = "\r" if self._is_live and not is_last else "\n"
        print(line + "   " * self._is_live, end=end, file=sys.stderr, flush=True)
