"""Commands side by side: each with its share of the cores and its own log, stopped together."""

import contextlib
import itertools
import os
import platform
import shlex
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from date_jax.errors import Preempted
from date_jax.run.countdown import duration

STOP_SECONDS = 120  # for children to save themselves; the longest they cannot hear is compilation
LINES_OF_LOG = 5  # of the log of one that failed


class Command(NamedTuple):
    """A program to run: its name, its arguments, and the log that its output goes to."""

    name: str
    arguments: list[str]
    log: Path


def run_all(
    commands: Sequence[Command], *, jobs: int, title: str, outcome: Callable[[Command], str]
) -> None:
    """Runs all, `jobs` at a time, and prints a line as each is done; one that fails stops no other.

    Args:
        commands: in the order in which to start them.
        jobs: at most the number of cores.
        title: a line above the output of each in its log.
        outcome: of a command that ended well, for its line.

    Raises:
        Preempted, KeyboardInterrupt: on SIGTERM and Ctrl-C, when the children have saved and left.
    """
    pending = [*commands]
    running: dict[int, tuple[Command, subprocess.Popen, float]] = {}  # by slot
    seconds: list[float] = []  # that each took
    with _notice(signal.SIGTERM, signal.SIGINT) as signals:
        try:
            while (pending or running) and not signals:
                # A free slot takes the next command, with the slot's share of the cores.
                free = [slot for slot in range(jobs) if slot not in running]
                for slot in free[: len(pending)]:
                    command = pending.pop(0)
                    process = _start(command, title, core_shares(jobs)[slot])
                    running[slot] = command, process, time.monotonic()
                time.sleep(0.1)

                # What has ended gives its slot back and gets its line.
                for slot, (command, process, begun) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[slot]
                    seconds.append(time.monotonic() - begun)
                    left = len(pending) + len(running)
                    eta = duration(statistics.fmean(seconds) * left / jobs)
                    print(
                        f"[{len(commands) - left}/{len(commands)}] {command.name} | "
                        f"took {duration(seconds[-1])}, about {eta} left | "
                        f"{_end(command, process.returncode, outcome)}",
                        flush=True,
                    )
        finally:
            _stop([process for _, process, _ in running.values()])
    if signals:
        stop = Preempted if signals[0] == signal.SIGTERM else KeyboardInterrupt
        left = len(pending) + len(running)
        raise stop(f"{left} of {len(commands)} runs are not done; the same command goes on")


def cores() -> list[int]:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else [*range(os.cpu_count() or 1)]


def processor() -> str:
    """The processor's name, as well as this system tells."""
    if (description := Path("/proc/cpuinfo")).exists():
        for line in description.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def core_shares(jobs: int) -> list[list[int]]:
    """The cores, dealt to `jobs` slots as evenly as can be."""
    numbers = cores()
    bounds = [slot * len(numbers) // jobs for slot in range(jobs + 1)]
    return [numbers[a:b] for a, b in itertools.pairwise(bounds)]


def _end(command: Command, code: int, outcome: Callable[[Command], str]) -> str:
    """The end of a command in words: its outcome, or its exit code and the end of its log."""
    if code == 0:
        return outcome(command)
    lines = command.log.read_text(errors="replace").splitlines()[-LINES_OF_LOG:]
    return "\n    ".join([f"failed, exit code {code}; the end of {command.log}:", *lines])


def _start(command: Command, title: str, share: list[int]) -> subprocess.Popen:
    """Starts the command on these cores: XLA makes as many threads as it has cores."""
    command.log.parent.mkdir(parents=True, exist_ok=True)
    program, *rest = command.arguments
    with command.log.open("a") as log, pin_to(share):
        log.write(f"{title}\n# {shlex.join([Path(program).name, *rest])}\n")
        log.flush()
        return subprocess.Popen(
            command.arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # or Ctrl-C in the terminal ends it before it can save
        )


@contextlib.contextmanager
def pin_to(share: Sequence[int]) -> Iterator[None]:
    """Pins processes started inside, with all of their threads, to these cores (on Linux)."""
    pins = hasattr(os, "sched_setaffinity")
    before = cores()
    if pins:
        os.sched_setaffinity(0, share)  # a child inherits it
    try:
        yield
    finally:
        if pins:
            os.sched_setaffinity(0, before)


def _stop(processes: list[subprocess.Popen]) -> None:
    """Asks the processes to save and leave, and waits for them."""
    if processes:
        print(f"stopping {len(processes)} runs; they save first", flush=True)
    for process in processes:
        process.terminate()
    until = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _notice(*numbers: signal.Signals) -> Iterator[list[int]]:
    """Signals that come inside are listed, in place of what they would do."""
    signals: list[int] = []

    def append(number: int, _: object) -> None:
        signals.append(number)

    previous = {number: signal.signal(number, append) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
