"""Mistakes that the user can mend: what, where, what to do. Each kind has its exit code."""

import difflib
from collections.abc import Iterable, Sequence

INTERRUPTED = 130  # the exit code after Ctrl-C: 128 + SIGINT, as shells count


class UserError(Exception):
    """A mistake outside the code; a command prints its text, without a traceback, and exits."""

    exit_code = 1


class UsageError(UserError):
    """The command or the config is wrong."""

    exit_code = 2


class DataError(UserError):
    """A file of the user's data is missing, malformed or empty."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint or weights file cannot be used."""

    exit_code = 4


class SaveError(CheckpointError):
    """A checkpoint could not be written; one host may be the only one to know."""


class SetupError(UserError):
    """The machine lacks something: a device, space, a permission, another host."""

    exit_code = 5


class Preempted(UserError):  # noqa: N818 - an end, not an error
    """The machine was taken away and the state is saved; exit code 75 means: start me again."""

    exit_code = 75


def spelling_hint(word: str, choices: Iterable[str], *, behind: str = "") -> str:
    """The closest of the choices, to put behind an unknown word in a message; or nothing.

    >>> spelling_hint("sofmax", ["softmax", "sigmoid"])
    " (did you mean 'softmax'?)"

    Args:
        word: unknown.
        choices: all words that would do.
        behind: what stands behind the word and stays.
    """
    closest = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" (did you mean {closest[0] + behind!r}?)" if closest else ""


def together(problems: Sequence[DataError]) -> DataError:
    """One error that tells of several, of each as many lines as eight have room for.

    Args:
        problems: at least one.
    """
    room = 8 // len(problems)
    lines = [line for problem in problems for line in str(problem).splitlines()[:room]]
    return problems[0] if len(problems) == 1 else DataError("\n".join(lines))
