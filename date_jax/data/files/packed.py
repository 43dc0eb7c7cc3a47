"""Files that gzip, bzip2 or zstd has packed, read as what is in them."""

import bz2
import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from date_jax.errors import DataError, SetupError


class Packing(NamedTuple):
    """One way to pack a file.

    Attributes:
        name: of the program, and what DuckDB calls it.
        ending: that it adds to a file's name.
        magic: the first bytes of its files.
        command: that writes what is in a file to the shell.
    """

    name: str
    ending: str
    magic: bytes
    command: str


PACKINGS = (
    Packing("gzip", ".gz", b"\x1f\x8b", "gunzip -c"),
    Packing("bzip2", ".bz2", b"BZh", "bunzip2 -c"),
    Packing("zstd", ".zst", b"\x28\xb5\x2f\xfd", "zstd -dc"),
)
ENDINGS = tuple(packing.ending for packing in PACKINGS)


def packing(path: Path) -> Packing | None:
    """The way in which a file is packed, by its first bytes and not by its name; None of others.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(4)
    return next((packing for packing in PACKINGS if start.startswith(packing.magic)), None)


def unpacked_name(path: Path) -> Path:
    """The path without the ending of a packed file.

    >>> unpacked_name(Path("shop.csv.gz")).suffix
    '.csv'
    """
    return path.with_suffix("") if path.suffix.lower() in ENDINGS else path


@contextlib.contextmanager
def unpacked_file(path: Path) -> Iterator[Any]:
    """A file opened to be read, unpacked on the way.

    Raises:
        OSError: it cannot be opened.
        DataError: it is packed, and damaged or cut off.
        SetupError: the package that unpacks it is missing.
    """
    kind = packing(path)
    if kind is None:
        with path.open("rb") as file:
            yield file
        return
    try:
        with _open(path, kind) as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: a {kind.name} file that is damaged or cut off: {error}\n"
            f"  copy it again; {kind.command} {path.name} > /dev/null tells whether it is whole"
        ) from None


def _open(path: Path, kind: Packing) -> Any:
    """The stream of bytes in a packed file."""
    if kind.name == "gzip":
        return gzip.open(path)
    if kind.name == "bzip2":
        return bz2.open(path)
    try:  # here: few files are packed so, and the package takes a while
        import pyarrow
    except ModuleNotFoundError:
        raise SetupError(
            f"{path} is a zstd file, which takes the package pyarrow: pip install pyarrow\n"
            f"  or unpack it: {kind.command} {path.name} > {unpacked_name(path).name}"
        ) from None
    # Arrow opens only names that are UTF-8, and its streams read no lines.
    return io.BufferedReader(pyarrow.input_stream(path.open("rb"), compression="zstd"))
