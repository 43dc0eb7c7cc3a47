"""Signals that end a run: what each does before and after there is something to save."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from date_jax.run.commandline import resuming_command

CODE = """
import hashlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from date_jax.run.preemption import Preemption
with Preemption(lambda: "step 7 is saved") as preemption:
    if sys.argv[1] == "armed":
        preemption.arm()
        print("ready", flush=True)
        # As while XLA compiles: a long call into C, during which no handler of Python runs.
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000)
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(13)
"""


@contextlib.contextmanager
def child(root: Path, state: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, state],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_second_ctrl_c_ends_a_run_at_once(root: Path) -> None:
    with child(root, "armed") as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n"
        line = process.stderr.readline()
        assert line.startswith("stopping: ")
        assert "Ctrl-C again ends at once" in line
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
        assert process.stderr.read() == "\ninterrupted: step 7 is saved\n"


def test_a_first_ctrl_c_ends_a_run_that_has_nothing_to_save(root: Path) -> None:
    with child(root, "unarmed") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 13


@pytest.mark.parametrize("arguments", [["--seed=1"], ["--seed=1", "--workdir=/runs/a b"]])
def test_the_command_that_goes_on_names_its_folder(arguments: list[str]) -> None:
    command = resuming_command("date_jax.main", arguments, Path("/runs/a b"))
    assert command.endswith(" -m date_jax.main --seed=1 '--workdir=/runs/a b'")
