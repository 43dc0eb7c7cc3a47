"""Paths as users write them: `~` is a home, in flags and in configs alike.

A shell expands `~` only at the beginning of a word, so `--workdir=~/run` arrives as it was typed.
"""

import os
import re
from pathlib import Path

from date_jax.errors import SetupError, UsageError

# A scheme, whose slashes a path has lost one of, or a host as web pages have it: //host.example/.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/+\S|//[\w-]+(\.[\w-]+)+/\S", re.IGNORECASE)
_TILDE = re.compile(r"~[\w.-]*(/|$)")


def is_address(text: str) -> bool:
    """Whether a text is an address of a web page or of a store, and no path of this machine.

    >>> [is_address(text) for text in ("https://a.example/b.jpg", "//a.example/b.jpg", "C:/b.jpg")]
    [True, True, False]
    """
    return bool(_ADDRESS.match(text))


def way_to_file(address: str) -> str:
    """The words of a message that say how what an address names becomes a file of this machine.

    >>> way_to_file("file:///data/shop.csv")
    'write the path without file://'

    Args:
        address: of which `is_address` is true.
    """
    scheme = address.partition(":")[0].lower()
    if scheme == "file":
        return "write the path without file://"
    if scheme in ("http", "https"):
        return f"fetch it first: curl -LO {address[:100]}, and name the file"
    return "copy it to this machine first, and name the file"


def user_path(text: str | Path) -> Path:
    """A user's path with `~` and `~name` as the home that they stand for.

    Raises:
        UsageError: it is an address.
        SetupError: there is no such home, as in a container whose user has none.
    """
    if is_address(str(text)):
        raise UsageError(
            f"{str(text)[:100]} is an address, and files are read from this machine\n"
            f"  {way_to_file(str(text))}"
        )
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
