"""The commands of `data/`: how they read flags, and what a mistake in one says and returns."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from date_jax.errors import INTERRUPTED, SetupError, UsageError, UserError, spelling_hint
from date_jax.run.user_paths import expanded_flag


class Parser(argparse.ArgumentParser):
    """The flags of one command, told apart from typos.

        parser = Parser("download", __doc__)
        parser.add_argument("--list", type=Path, required=True, help="id<TAB>URL a line")

    Args:
        name: of the command, which is started as `python -m date_jax.data.<name>`.
        description: for `--help`, printed with the line breaks that it has.
        options: of argparse, such as `usage`.
    """

    def __init__(self, name: str, description: str | None, **options: Any):
        super().__init__(
            prog=f"python -m date_jax.data.{name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )

    def options(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The values of all flags.

        Raises:
            UsageError: a flag is unknown or missing, or its value is of another type.
            SetupError: a path begins with a home that is not there.
        """
        flags = [flag for action in self._actions for flag in action.option_strings]
        # Typos first: argparse would complain of the flag that the typo was meant for.
        for argument in arguments:
            name = argument.partition("=")[0]
            # The beginning of a flag stands for it, as argparse has it.
            if name.startswith("--") and not any(flag.startswith(name) for flag in flags):
                hint = spelling_hint(name, flags)
                raise UsageError(f"{argument}: unknown flag{hint}; --help lists the flags")
        return self.parse_args([expanded_flag(argument) for argument in arguments])

    def error(self, message: str) -> NoReturn:
        """Refuses the command line in one line; argparse would print its usage and exit."""
        raise UsageError(f"{message}; --help lists the flags")


def run(
    parser: Parser,
    arguments: Sequence[str],
    work: Callable[[argparse.Namespace], int | None],
    *,
    interrupted: str,
) -> int:
    """Runs a command and returns its exit code: that of `work` (None: 0) or of the user's mistake.

    A file that cannot be opened or written is such a mistake, whoever opens it.

    Args:
        parser: of its flags.
        arguments: the command line without the program's name.
        work: is called with the flags' values.
        interrupted: what to say after Ctrl-C.
    """
    try:
        return work(parser.options(arguments)) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if not error.filename:  # no fault of a file that the user can name
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return SetupError.exit_code
    except KeyboardInterrupt:
        print(f"\ninterrupted: {interrupted}", file=sys.stderr)
        return INTERRUPTED
