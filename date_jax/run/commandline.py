"""Between the shell and an entry point: a wrong command is refused in a few words, codes are right.

absl and ml_collections would answer a typo with 50 lines of traceback: so it is read here first.
"""

import contextlib
import difflib
import errno
import math
import os
import re
import runpy
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict
from ml_collections.config_flags import tuple_parser

from date_jax.errors import (
    INTERRUPTED,
    CheckpointError,
    Preempted,
    SaveError,
    SetupError,
    UsageError,
    UserError,
    nearest,
)

EXAMPLE = "--config=configs/pgda.py"
# Alike on all hosts once they have met, so only host 0 tells.
SHARED = (UsageError, CheckpointError, Preempted)
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
UNREAD = 141  # 128 + SIGPIPE, as shells count
HELP = {"help", "helpshort", "helpfull", "helpxml", "?"}
# How ml_collections reads a value of each type, and what to call that type when it cannot.
READERS: dict[type, tuple[Any, str]] = {
    bool: (flags.BooleanParser(), "true or false"),
    int: (flags.IntegerParser(), "a whole number"),
    float: (flags.FloatParser(), "a number"),
    tuple: (tuple_parser.TupleParser(), "a tuple, e.g. '(2, 2)'"),
}


def run(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> NoReturn:
    """Reads the command line into absl's flags, calls `main` with what is left, and exits.

    Exit codes: 0, 1 (a fault of ours, with its traceback), those of `errors`, 130 (Ctrl-C),
    141 (nobody reads what is printed).
    `--debug` shows the traceback of a user's mistake too.
    """
    argv = list(sys.argv if argv is None else argv)
    code = 0
    try:
        main(parse(argv, flags.FLAGS))
    except UserError as error:
        code = error.exit_code
        if "--debug" in argv:
            traceback.print_exc()
        index, met = process(argv)
        if index == 0 or met == 1 or isinstance(error, SaveError) or not isinstance(error, SHARED):
            label = "stopped" if isinstance(error, Preempted) else "error"
            place = f" on host {index}" if index else ""
            print(f"{label}{place}: {error}", file=sys.stderr)
    except KeyboardInterrupt as error:
        code = INTERRUPTED
        text = str(error) or "the same command resumes from the last checkpoint, if there is one"
        print(f"interrupted: {text}", file=sys.stderr)
    except BrokenPipeError:  # whoever read what we print has left, as `head` does
        code = UNREAD
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the exit flushes it
    except Exception as error:
        # Mostly a fault of ours: shown whole, and the other processes must not wait for it.
        code = 1
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            code = SetupError.exit_code
            print(f"error: {error}; free some space or choose another place", file=sys.stderr)
        if code == 1 or "--debug" in argv:
            traceback.print_exc()
    leave(code)


def process(argv: Sequence[str] = ()) -> tuple[int, int]:
    """This process's number and their count; the count is 1 before the processes have met."""
    jax = sys.modules.get("jax")  # a wrong command need not wait for its import
    if jax is not None and jax.distributed.is_initialized():
        return jax.process_index(), jax.process_count()
    number = re.search(r"(?:^| )--process_index[= ](\d+)", " ".join(argv))
    return int(number[1]) if number else 0, 1


def cores_worth_a_device(config: ConfigDict) -> int:
    """How many devices to make of this machine's cores, should they be all it has.

    A core of its own for a share of the batch is faster than all cores at each small operation:
    on 2 cores 320 against 225 examples a second. Shares below 16 rows are not worth their sums.

    Args:
        config: whose batches, of training and of evaluation, the devices have to divide.
    """
    from date_jax.run.subprocesses import cores  # with JAX, which a wrong command need not wait for

    most = min(len(cores()), config.batch_size // 16)
    shared = math.gcd(config.batch_size, config.eval.batch_size)
    together = config.mesh.fsdp
    right = (n for n in range(most, 1, -1) if shared % n == 0 and n % together == 0)
    return next(right, 1)


def leave(code: int) -> NoReturn:
    """Exits; past the barrier that JAX sets at the exit of several processes, where one failed."""
    index, count = process()
    if count > 1 and code not in (0, Preempted.exit_code):
        sys.stdout.flush()
        sys.stderr.flush()
        # The others would wait 5 minutes in the exit barrier for a process that failed alone.
        # Process 0 serves them all and goes last, so that they can still report what they saw.
        if index == 0:
            time.sleep(1)
        os._exit(code)
    sys.exit(code)


def parse(argv: list[str], known: flags.FlagValues) -> list[str]:
    """Parses `argv` into `known` and returns what is left of it, the program's name.

    Raises:
        UsageError: where a flag, the config file or one of its keys is unknown or unreadable.
    """
    if known is flags.FLAGS:
        app.define_help_flags()
        logging.use_absl_handler()
    names = {re.sub(r"^--?", "", argument).split("=")[0] for argument in argv[1:]}
    if not names & HELP:
        check(argv, known)
    try:
        left = known(argv)
    except flags.Error as error:
        raise UsageError(str(error)) from error
    except SystemExit:  # absl ends --help with 1, as if asking were a mistake
        sys.exit(0)
    if len(left) > 1:
        raise UsageError(
            f"{left[1]}: unexpected, every argument is a flag"
            + nearest("--" + left[1].split("=")[0], [f"--{name}" for name in known])
        )
    return left


def check(argv: Sequence[str], known: flags.FlagValues) -> None:
    """Refuses, before ml_collections does, an unknown flag, config file, config key or value.

    Raises:
        UsageError: with the nearest valid name.
    """
    given = list(flags_given(argv, known))
    paths = [value for name, value in given if name == "config"]
    for name, _ in given:
        if "config." in name or name in known or name.removeprefix("no") in known:
            continue
        if paths and name in keys(loaded_config(paths[0])):
            raise UsageError(f"--{name}: unknown flag (did you mean '--config.{name}'?)")
        hint = nearest(f"--{name}", [f"--{other}" for other in known])
        raise UsageError(f"--{name}: unknown flag{hint}; --help lists the flags")
    if "config" not in known:
        return
    if not paths:
        raise UsageError(f"--config is required, e.g. {EXAMPLE}\nthere are: {config_files()}")
    if len(paths) > 1:
        raise UsageError(f"--config is given {len(paths)} times: {', '.join(paths)}")
    for name, _ in given[: given.index(("config", paths[0]))]:
        if name.startswith(("config.", "noconfig.")):
            raise UsageError(f"--{name} stands before --config={paths[0]}: put --config first")
    choices = keys(loaded_config(paths[0]))
    for name, value in given:
        if name.startswith(("config.", "noconfig.")):
            check_override(name.split(".", 1)[1], value, choices)


def flags_given(argv: Sequence[str], known: flags.FlagValues) -> Iterator[tuple[str, str]]:
    """Name and value of every flag in `argv`; one without "=" takes the next argument."""
    rest = list(argv[1:])
    while rest and (argument := rest.pop(0)) != "--":
        if not argument.startswith("-"):
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        takes = name.startswith("config.") or (name in known and not known[name].boolean)
        if takes and not equals and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        yield name, value


def check_override(key: str, value: str, choices: dict[str, Any]) -> None:
    """Refuses `--config.<key>=<value>` where there is no such key or its type is another."""
    if key not in choices:
        raise UsageError(f"--config.{key}={value}: unknown key{key_hint(key, choices)}")
    default = choices[key]
    if isinstance(default, ConfigDict):
        first = f"--config.{key}.{next(iter(default), '')}"
        raise UsageError(
            f"--config.{key}: a section, not a value; set one of its keys, e.g. {first}"
        )
    bare = isinstance(default, bool) and not value  # --config.aligner.unbiased means true
    if type(default) in READERS and not bare:
        parser, wanted = READERS[type(default)]
        try:
            parser.parse(value)
        except (ValueError, TypeError) as error:
            raise UsageError(f"--config.{key}={value}: must be {wanted}") from error


def key_hint(key: str, choices: dict[str, Any]) -> str:
    """What an unknown key may have meant: one beside it, or of that name elsewhere, or all beside.

    A comparison of whole dotted names would let a long shared prefix outweigh the word itself.
    """
    section, _, name = key.rpartition(".")
    leaves = [path for path, value in choices.items() if not isinstance(value, ConfigDict)]
    beside = [path for path in leaves if path.rpartition(".")[0] == section]
    for paths in (beside, leaves):
        named = {path.rpartition(".")[2]: f"config.{path}" for path in reversed(paths)}
        if found := difflib.get_close_matches(name, named, n=1, cutoff=0.6):
            return f" (did you mean {named[found[0]]!r}?)"
    if beside:
        names = ", ".join(path.rpartition(".")[2] for path in beside)
        return f"; config{'.' * bool(section)}{section} has: {names}"
    return nearest(f"config.{key}", [f"config.{path}" for path in leaves])


def loaded_config(argument: str) -> ConfigDict:
    """The config that `--config=<argument>` names, a Python file with a word behind a colon.

    Raises:
        UsageError: where there is no such file, or its code fails.
    """
    path, colon, word = argument.partition(":")
    with _told_as_mistakes(argument):
        module = _module(argument)
        if "get_config" not in module:
            raise UsageError(f"{path} defines no get_config()")
        return module["get_config"](*([word] if colon else []))


def constant(argument: str, name: str, default: Any) -> Any:
    """A constant of the file that `--config=<argument>` names.

    Raises:
        UsageError: see `loaded_config`.
    """
    with _told_as_mistakes(argument):
        return _module(argument).get(name, default)


def _module(argument: str) -> dict[str, Any]:
    path = argument.partition(":")[0]
    if not Path(path).is_file():
        hint = nearest(path, config_files().split(", "))
        raise UsageError(f"no such file{hint}\nseen from {Path.cwd()}\nthere are: {config_files()}")
    return runpy.run_path(path)


@contextlib.contextmanager
def _told_as_mistakes(argument: str) -> Iterator[None]:
    """Whatever goes wrong in the config file inside is the user's to mend, with its line."""
    path = argument.partition(":")[0]
    try:
        yield
    except UserError as error:
        raise type(error)(f"--config={argument}: {error}") from error
    except Exception as error:
        inside = [at for at in traceback.extract_tb(error.__traceback__) if at.filename == path]
        line = (
            error.lineno if isinstance(error, SyntaxError) else inside[-1].lineno if inside else 0
        )
        raise UsageError(f"{path}:{line}: {type(error).__name__}: {error}") from error


def config_files() -> str:
    """The configs that there are, seen from here: "configs/pgda.py, ..."."""
    root = Path(__file__).parent.parent.parent / "configs"
    files = [path for folder in (Path("configs"), root) for path in sorted(folder.glob("*.py"))]
    choices = [path for path in files if "def get_config(" in path.read_text()]
    return ", ".join(str(path) for path in choices if path.parent == choices[0].parent)


def keys(config: ConfigDict, above: str = "") -> dict[str, Any]:
    """Every key of a config, sections too, by its dotted name."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found[above + key] = value
        if isinstance(value, ConfigDict):
            found |= keys(value, f"{above}{key}.")
    return found
