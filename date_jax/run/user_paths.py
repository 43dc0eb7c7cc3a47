"""Paths as users write them: `~` is a home, in flags and in configs alike.

A shell expands `~` only at the beginning of a word, so `--workdir=~/run` arrives as it was typed.
"""

import os
import re
from pathlib import Path

from date_jax.errors import SetupError

_TILDE = re.compile(r"~[\w.-]*(/|$)")


def user_path(text: str | Path) -> Path:
    """A user's path with `~` and `~name` as the home that they stand for.

    Raises:
        SetupError: there is no such home, as in a container whose user has none.
    """
    path = os.path.expanduser(text)
    if _TILDE.match(path):  # left as it is where nobody has that home
        home = Path(path).parts[0]
        raise SetupError(
            f"{path}: there is no home folder {home} here\n"
            "  set HOME to a folder, or write the path without ~"
        )
    return Path(path)


def expanded_flag(argument: str) -> str:
    """An argument of a command line, its value expanded as by `user_path` where it begins with `~`.

    Keys of a config stay as they are typed, for they are saved with the run: who opens one of their
    paths calls `user_path`.

    >>> expanded_flag("--config.data.path=~/shop.jsonl")
    '--config.data.path=~/shop.jsonl'
    """
    flag = re.match(r"--?(?!config\.)\w+=(?=~)", argument)
    start = flag.end() if flag else 0
    if not _TILDE.match(argument, start):
        return argument
    return argument[:start] + str(user_path(argument[start:]))
