"""The packages of the extra `index`, which are imported late and need not be there."""

import importlib
from typing import Any

from date_jax.errors import SetupError

_REQUIREMENTS = {"duckdb": "duckdb<2"}  # by module, where a plain name does not do


def extra_module(name: str) -> Any:
    """The module of an optional package.

    Args:
        name: as in `import name`.

    Raises:
        SetupError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise SetupError(
            f"{package} is not installed here: pip install "
            f"'{_REQUIREMENTS.get(package, package.replace('_', '-'))}'"
        ) from error
