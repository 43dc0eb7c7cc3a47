"""Lists all commands, and starts one.

    date_jax main --config=pgda        # as python -m date_jax.main --config=configs/pgda.py

A bare name of a config, such as pgda or pgda:files, means the one that comes with the package.
"""

import ast
import difflib
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from date_jax.errors import UsageError

_PACKAGE = Path(__file__).parent
_FIRST = ("main", "ground", "search")  # in the list; the others follow by name


def commands() -> dict[str, Path]:
    """The file of each command by its name, `main` or `data.download`."""
    files = [*_PACKAGE.glob("*.py"), *_PACKAGE.glob("data/*.py")]
    names = {
        ".".join(file.relative_to(_PACKAGE).with_suffix("").parts): file
        for file in files
        if file.stem != "__main__" and '__name__ == "__main__"' in file.read_text()
    }
    order = sorted({*names} - {*_FIRST}, key=lambda name: (name.startswith("data."), name))
    return {name: names[name] for name in (*_FIRST, *order)}


def purpose(file: Path) -> str:
    """The first line of a command's description, without running it."""
    tree = ast.parse(file.read_text())
    # A command of data/ only calls the code that has the description.
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and "main" in [name.name for name in node.names]:
            assert node.module is not None
            tree = ast.parse(_source(node.module).read_text())
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def _source(module: str) -> Path:
    """The file of a module of this package."""
    return _PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")


def listing() -> str:
    """The text that `date_jax --help` prints."""
    files = commands()
    width = max(map(len, files))
    lines = [f"  {name:{width}}  {purpose(file)}" for name, file in files.items()]
    head = "date_jax COMMAND [FLAGS]: finds products in pictures, by words or by a picture."
    return "\n".join([head, "", *lines, "", "date_jax COMMAND --help has the flags of each."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts the command that the first argument names; returns an exit code where none is."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        try:
            print(listing(), flush=True)
        except BrokenPipeError:  # the reader has left, as `head` does
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the exit flushes it
        return 0
    name, *rest = words
    files = commands()
    if name not in files:
        hint = f"name a command first, as in date_jax main {name}"
        if not name.startswith("-"):
            close = difflib.get_close_matches(name, files, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "date_jax --help lists them"
        print(f"error: {name}: unknown command; {hint}", file=sys.stderr)
        return UsageError.exit_code
    # What runs is the module as python -m would run it, which reads its flags from here.
    sys.argv = [os.fspath(files[name]), *rest]
    runpy.run_module(f"date_jax.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
