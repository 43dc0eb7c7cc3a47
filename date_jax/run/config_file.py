"""A config named on the command line, `--config=<file>:<words>`, and its keys `--config.<key>=`.

Mistakes in the file and in the keys raise a few words with the nearest valid name.
"""

import contextlib
import difflib
import runpy
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import tuple_parser

from date_jax.errors import UsageError, UserError, spelling_hint
from date_jax.run.usual_words import usual_word_hint

CONFIGS = Path(__file__).parent.parent.parent / "configs"  # in a clone and in an installed package
# How ml_collections reads a value of each type, and what to call that type when it cannot.
PARSERS: dict[type, tuple[Any, str]] = {
    bool: (flags.BooleanParser(), "true or false"),
    int: (flags.IntegerParser(), "a whole number"),
    float: (flags.FloatParser(), "a number"),
    tuple: (tuple_parser.TupleParser(), "a tuple, e.g. '(2, 2)'"),
}


def config_from_file(argument: str) -> ConfigDict:
    """The config that `--config=<argument>` names, a Python file with a word behind a colon.

    Raises:
        UsageError: where there is no such file, or its code fails.
    """
    path, colon, word = argument.partition(":")
    with _usage_errors(argument):
        module = _module(argument)
        if "get_config" not in module:
            raise UsageError(f"{path} defines no get_config()")
        return module["get_config"](*([word] if colon else []))


def packaged(argument: str) -> str:
    """The `--config` that a bare name stands for: pgda:files is configs/pgda.py:files.

    Args:
        argument: as the user wrote it; whatever names a file stays.
    """
    name, colon, words = argument.partition(":")
    file = CONFIGS / f"{name}.py"
    if Path(name).is_file() or not name.isidentifier() or not _is_config(file):
        return argument
    # As one would type it, where the project lies here.
    if file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    return f"{file}{colon}{words}"


def _is_config(file: Path) -> bool:
    return file.is_file() and "def get_config(" in file.read_text()


def constant(argument: str, name: str, default: Any) -> Any:
    """A constant of the file that `--config=<argument>` names; `default` where it has none.

    Raises:
        UsageError: see `config_from_file`.
    """
    with _usage_errors(argument):
        return _module(argument).get(name, default)


def _module(argument: str) -> dict[str, Any]:
    """The names that the config file defines, by running it."""
    path, colon, words = argument.partition(":")
    if not Path(path).is_file():
        # The hint keeps the words that stand behind the file: it can be typed as it is.
        hint = spelling_hint(path, config_files().split(", "), behind=colon + words)
        raise UsageError(f"no such file{hint}\nseen from {Path.cwd()}\nthere are: {config_files()}")
    return runpy.run_path(path)


@contextlib.contextmanager
def _usage_errors(argument: str) -> Iterator[None]:
    """Whatever goes wrong in the config file inside is the user's to mend, with its line."""
    path = argument.partition(":")[0]
    try:
        yield
    except UserError as error:
        raise type(error)(f"--config={argument}: {error}") from error
    except Exception as error:
        # The last line of this file that Python was in: the libraries it calls are not the user's.
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == path
        ]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 0
        raise UsageError(f"{path}:{line}: {type(error).__name__}: {error}") from error


def config_files() -> str:
    """The configs that there are: "configs/pgda.py, ..." here, else the names of the package's."""
    here = [str(path) for path in sorted(Path("configs").glob("*.py")) if _is_config(path)]
    return ", ".join(
        here or [path.stem for path in sorted(CONFIGS.glob("*.py")) if _is_config(path)]
    )


def values_by_key(config: ConfigDict, section: str = "") -> dict[str, Any]:
    """Every value of a config, sections too, by its dotted key.

    Args:
        section: what stands before each key, with its dot.
    """
    values: dict[str, Any] = {}
    for key, value in config.items():
        values[section + key] = value
        if isinstance(value, ConfigDict):
            values |= values_by_key(value, f"{section}{key}.")
    return values


def check_override(key: str, value: str, defaults: dict[str, Any]) -> None:
    """Refuses `--config.<key>=<value>` where there is no such key or its type is another.

    Args:
        defaults: of the config, from `values_by_key`.

    Raises:
        UsageError: with the nearest valid key, or what the value must be.
    """
    if key not in defaults:
        raise UsageError(f"--config.{key}={value}: unknown key{key_hint(key, defaults)}")
    default = defaults[key]
    if isinstance(default, ConfigDict):
        first = f"--config.{key}.{next(iter(default), '')}"
        raise UsageError(
            f"--config.{key}: a section, not a value; set one of its keys, e.g. {first}"
        )
    # As ml_collections would read the value, so that it cannot fail later.
    is_bare_switch = isinstance(default, bool) and not value  # --config.aligner.unbiased: true
    if type(default) in PARSERS and not is_bare_switch:
        parser, kind = PARSERS[type(default)]
        try:
            parser.parse(value)
        except (ValueError, TypeError) as error:
            raise UsageError(f"--config.{key}={value}: must be {kind}") from error


def key_hint(key: str, defaults: dict[str, Any]) -> str:
    """A hint for an unknown key: what other programs call so, a close name, or all of its section.

    A comparison of whole dotted names would let a long shared prefix outweigh the word itself.
    """
    leaves = [path for path, value in defaults.items() if not isinstance(value, ConfigDict)]
    if hint := usual_word_hint(key, leaves):
        return hint
    # A close name in the same section, else the same one in another.
    section, _, name = key.rpartition(".")
    neighbours = [path for path in leaves if path.rpartition(".")[0] == section]
    # Near names of other sections would surprise, where the section that was named exists.
    elsewhere = 1.0 if section in defaults else 0.75
    for paths, cutoff in ((neighbours, 0.6), (leaves, elsewhere)):
        named = {path.rpartition(".")[2]: f"config.{path}" for path in reversed(paths)}
        if matches := difflib.get_close_matches(name, named, n=1, cutoff=cutoff):
            return f" (did you mean {named[matches[0]]!r}?)"
    # Nothing is close: all that the section has, or the nearest of all keys.
    if neighbours:
        children = [path for path in defaults if path.rpartition(".")[0] == section]
        names = ", ".join(path.rpartition(".")[2] for path in children)
        return f"; config{'.' * bool(section)}{section} has: {names}"
    return spelling_hint(f"config.{key}", [f"config.{path}" for path in leaves])
