"""Measurements in child processes: a line of JSON in, a line of JSON out.

A process decides once how many threads it has, and two frameworks in one process fight over them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from date_jax import errors
from date_jax.errors import SetupError, UserError
from date_jax.run import subprocesses

Answers = dict[str, Any]


class Child:
    """A process of `python -m module` that answers, until the `with` block ends.

    Args:
        module: one that calls `answer`.
        cores: what it may use.
        environment: variables that this process does not have, or has with another value.
    """

    def __init__(
        self, module: str, cores: Sequence[int], environment: Mapping[str, str] | None = None
    ):
        self._module = module
        with subprocesses.pin_to(cores):
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **(environment or {})},
            )

    def ask(self, question: Mapping[str, Any]) -> Answers:
        """The answer of the process to a question, both JSON values.

        Raises:
            UserError: the one that the process raised.
            SetupError: the process died.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        # Question and answer are a line each; a dead process gives a broken pipe or no line.
        try:
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SetupError(
                f"{self._module} ended with exit code {self._process.wait()}; why stands above"
            )
        # A user's mistake there is raised here, and so is printed as one of this process.
        reply = json.loads(line)
        if "error" in reply:
            raise getattr(errors, reply["kind"])(reply["error"])
        return reply

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


def answer(handle: Callable[[Answers], Answers]) -> None:
    """Answers every line on standard input, until there is none.

    Args:
        handle: of one question. What it prints goes to standard error.
    """
    # Libraries print what they like: standard output is for replies alone.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            reply = handle(json.loads(line))
        except UserError as error:
            reply = {"error": str(error), "kind": type(error).__name__}
        print(json.dumps(reply), file=replies, flush=True)
