"""Between the shell and an entry point: a wrong command is refused in a few words, codes are right.

absl and ml_collections would answer a typo with 50 lines of traceback: so it is read here first.
"""

import atexit
import contextlib
import difflib
import errno
import math
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict

from date_jax.errors import (
    INTERRUPTED,
    CheckpointError,
    Preempted,
    SaveError,
    SetupError,
    UsageError,
    UserError,
    spelling_hint,
)
from date_jax.run import subprocesses
from date_jax.run.config_file import (
    check_override,
    config_files,
    config_from_file,
    packaged,
    values_by_key,
)
from date_jax.run.user_paths import expanded_flag
from date_jax.run.usual_words import usual_word_hint

EXAMPLE = "--config=configs/pgda.py"
# Alike on all hosts once they have met, so only host 0 prints them.
SAME_ON_ALL_HOSTS = (UsageError, CheckpointError, Preempted)
DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
READER_HAS_LEFT = 141  # the exit code: 128 + SIGPIPE, as shells count
HELP_FLAGS = {"help", "helpshort", "helpfull", "helpxml", "?"}


def run(
    main: Callable[[list[str]], None], argv: Sequence[str] | None = None, *, words: int = 0
) -> NoReturn:
    """Reads the command line into absl's flags, calls `main` with what is left, and exits.

    Of what is left `main` gets the program's name and up to `words` arguments that are no flags.

    Exit codes: 0, 1 (a fault of ours, with its traceback), those of `errors`, 130 (Ctrl-C),
    141 (nobody reads what is printed).
    `--debug` shows the traceback of a user's mistake too.
    """
    code = 0
    # Registered before JAX is imported, and so called after all that it has to do at the exit.
    if argv is None:
        atexit.register(lambda: end(code))
    argv = list(sys.argv if argv is None else argv)
    try:
        rest = parse(argv, flags.FLAGS, words=words)
        require_32_bits(os.environ)
        main(rest)
    except UserError as error:
        code = error.exit_code
        if "--debug" in argv:
            traceback.print_exc()
        # Once the processes have met, what all of them know is printed by the first alone.
        index, count = process(argv)
        is_shared = isinstance(error, SAME_ON_ALL_HOSTS) and not isinstance(error, SaveError)
        if index == 0 or count == 1 or not is_shared:
            label = "stopped" if isinstance(error, Preempted) else "error"
            place = f" on host {index}" if index else ""
            print(f"{label}{place}: {error}", file=sys.stderr)
    except SystemExit as stop:  # after --help
        code = int(stop.code or 0)
    except KeyboardInterrupt as error:
        code = INTERRUPTED
        text = str(error) or "the same command resumes from the last checkpoint, if there is one"
        print(f"interrupted: {text}", file=sys.stderr)
    except BrokenPipeError:  # the reader of what we print has left, as `head` does
        code = READER_HAS_LEFT
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the exit flushes it
    except Exception as error:
        # Mostly a fault of ours: shown whole, and the other processes must not wait for it.
        code = 1
        if isinstance(error, OSError) and error.errno in DISK_IS_FULL:
            code = SetupError.exit_code
            print(f"error: {error}; free some space or choose another place", file=sys.stderr)
        if code == 1 or "--debug" in argv:
            traceback.print_exc()
    leave(code)


def end(code: int) -> None:
    """Ends the process at its exit, before Python and TensorFlow take themselves apart for seconds.

    A tiny run on 2 cores ended 1.2 s after its last line, and 2.6 s without this.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def resuming_command(module: str, arguments: Sequence[str], workdir: Path) -> str:
    """The command, as one types it into a shell, that goes on with the run in `workdir`.

        .venv/bin/python -m date_jax.main --config=configs/pgda.py --workdir=runs/one

    Args:
        module: of the program.
        arguments: those that the run was started with; a default folder would be new each time.
        workdir: of the run.
    """
    python = Path(sys.executable)
    # As short as it can be typed here; a virtual environment's link must not be followed.
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    names = [argument.lstrip("-").partition("=")[0] for argument in arguments]
    where = [] if "workdir" in names else [f"--workdir={workdir}"]
    return shlex.join([str(python), "-m", module, *arguments, *where])


def process(argv: Sequence[str] = ()) -> tuple[int, int]:
    """The number of this process and the count of all, which is 1 before they have met."""
    jax = sys.modules.get("jax")  # a wrong command need not wait for its import
    if jax is not None and jax.distributed.is_initialized():
        return jax.process_index(), jax.process_count()
    number = re.search(r"(?:^| )--process_index[= ](\d+)", " ".join(argv))
    return int(number[1]) if number else 0, 1


def require_32_bits(environ: Mapping[str, str]) -> None:
    """Refuses a shell that makes JAX compute with 64 bits, before anything is computed.

    A run would train to its first checkpoint, which has no form for such numbers.

    Raises:
        SetupError: JAX_ENABLE_X64 is on in `environ`, by any word that JAX reads as true.
    """
    value = environ.get("JAX_ENABLE_X64", "")
    if value.lower() in ("y", "yes", "t", "true", "on", "1"):
        raise SetupError(
            f"JAX_ENABLE_X64={value} is set in this shell, but a run computes and saves numbers of "
            "32 bits\n  unset JAX_ENABLE_X64"
        )


def require_devices() -> None:
    """Makes JAX look for its devices.

    Raises:
        SetupError: it finds none; see `device_error`.
    """
    import jax

    try:
        jax.devices()
    except (AssertionError, RuntimeError, ValueError) as error:
        raise device_error(error, os.environ) from error


def device_error(error: Exception, environ: Mapping[str, str]) -> SetupError:
    """The error that tells the user why JAX does not start.

    Args:
        error: of JAX; its AssertionError for a platform that is not installed has no text.
        environ: the shell's variables; JAX_PLATFORMS is often the reason.
    """
    lines = str(error).splitlines()
    platforms = environ.get("JAX_PLATFORMS")
    if isinstance(error, AssertionError):
        lines = ["a platform has no plugin here"]
    text = f"JAX finds no devices or hosts: {lines[0] if lines else type(error).__name__}"
    if platforms:
        text += (
            f"\n  JAX_PLATFORMS={platforms} is set in this shell: unset JAX_PLATFORMS, or install "
            "the JAX of that platform,\n  as pip install 'jax[cuda13]' does for GPUs"
        )
    return SetupError(text)


def cores_worth_a_device(config: ConfigDict) -> int:
    """The number of devices to make of this machine's cores, if it has no accelerator.

    One core for each share of the batch is faster than all cores at each small operation: on 2
    cores 320 against 225 examples a second. Shares below 16 rows are not worth their sums.

    Args:
        config: whose batches, of training and of evaluation, the devices have to divide.
    """
    most = min(len(subprocesses.cores()), config.batch_size // 16)
    divisible = math.gcd(config.batch_size, config.eval.batch_size)
    counts = (n for n in range(most, 1, -1) if divisible % n == 0 and n % config.mesh.fsdp == 0)
    return next(counts, 1)


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


def parse(argv: list[str], definitions: flags.FlagValues, *, words: int = 0) -> list[str]:
    """Parses `argv` into `definitions` and returns what is left: the program's name and words.

    Args:
        argv: the command line.
        definitions: the flags that there are.
        words: arguments, at most, that are no flags.

    Raises:
        UsageError: where a flag, the config file or one of its keys is unknown or unreadable.
        SetupError: a path begins with a home that is not there.
    """
    if definitions is flags.FLAGS:
        app.define_help_flags()
        logging.use_absl_handler()
    argv = [expanded_flag(argument) for argument in argv]
    if "config" in definitions:
        argv = with_config_file(argv)
    names = {re.sub(r"^--?", "", argument).split("=")[0] for argument in argv[1:]}
    if not names & HELP_FLAGS:
        check(argv, definitions)
    try:
        rest = definitions(argv)
    except flags.Error as error:
        raise UsageError(str(error)) from error
    except SystemExit:  # absl ends --help with 1, as if asking were a mistake
        sys.exit(0)
    if len(rest) > 1 + words > 1:
        raise UsageError(f"{rest[1 + words]}: unexpected, put several words into quotes")
    if len(rest) > 1 + words:
        raise UsageError(
            f"{rest[1]}: unexpected, every argument is a flag"
            + spelling_hint("--" + rest[1].split("=")[0], [f"--{name}" for name in definitions])
        )
    return rest


def with_config_file(argv: Sequence[str]) -> list[str]:
    """The command line with the file in place of a bare `--config=pgda`."""
    words = list(argv)
    for number, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in ("--config", "-config"):
            if equals:
                words[number] = f"{flag}={packaged(value)}"
            elif number + 1 < len(words):
                words[number + 1] = packaged(words[number + 1])
    return words


def check(argv: Sequence[str], definitions: flags.FlagValues) -> None:
    """Refuses, before ml_collections does, an unknown flag, config file, config key or value.

    Raises:
        UsageError: with the nearest valid name.
    """
    flag_list = list(flags_in(argv, definitions))
    paths = [value for name, value in flag_list if name == "config"]

    # First the flags: one may be a key of the config that lacks its prefix.
    for name, _ in flag_list:
        if "config." in name or name in definitions or name.removeprefix("no") in definitions:
            continue
        keys = values_by_key(config_from_file(paths[0])) if paths else {}
        raise UsageError(f"--{name}: unknown flag{flag_hint(name, definitions, keys)}")
    if "config" not in definitions:
        return

    # Then --config itself: once, and in front of what changes it, as ml_collections wants it.
    if not paths:
        example = EXAMPLE if Path(EXAMPLE.partition("=")[2]).is_file() else "--config=pgda"
        raise UsageError(f"--config is required, e.g. {example}\nthere are: {config_files()}")
    if len(paths) > 1:
        raise UsageError(f"--config is given {len(paths)} times: {', '.join(paths)}")
    for name, _ in flag_list[: flag_list.index(("config", paths[0]))]:
        if name.startswith(("config.", "noconfig.")):
            raise UsageError(f"--{name} stands before --config={paths[0]}: put --config first")

    # Last its keys and their values.
    defaults = values_by_key(config_from_file(paths[0]))
    for name, value in flag_list:
        if name.startswith(("config.", "noconfig.")):
            check_override(name.split(".", 1)[1], value, defaults)


def flag_hint(name: str, definitions: flags.FlagValues, keys: Iterable[str]) -> str:
    """A hint for an unknown flag: a key of the config, what other programs call so, a close flag.

    Args:
        name: of the unknown flag.
        definitions: all flags that there are; absl's own, such as --verbosity, are no close ones.
        keys: of the config.
    """
    own = [
        other
        for other in definitions
        if not (definitions.find_module_defining_flag(other) or "").startswith("absl")
    ]
    # A key that lacks its prefix, and perhaps its section: learning_rate is optim.learning_rate.
    matches = [key for key in keys if key == name or key.endswith(f".{name}")]
    if matches:
        return f" (did you mean '--config.{min(matches, key=len)}'?)"
    hint = usual_word_hint(name, [*keys, *(f"--{other}" for other in own)], prefix="--")
    # Without the dashes, which would make every flag a little like every other.
    closest = difflib.get_close_matches(name, own, n=1, cutoff=0.6)
    if closest and not hint:
        hint = f" (did you mean '--{closest[0]}'?)"
    return f"{hint}; --help lists the flags"


def flags_in(argv: Sequence[str], definitions: flags.FlagValues) -> Iterator[tuple[str, str]]:
    """Name and value of every flag in `argv`; one without "=" takes the next argument."""
    rest = list(argv[1:])
    while rest and (argument := rest.pop(0)) != "--":
        if not argument.startswith("-"):
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        is_switch = name in definitions and definitions[name].boolean
        takes_value = name.startswith("config.") or (name in definitions and not is_switch)
        if takes_value and not equals and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        yield name, value
