"""The two tables of a click log, read from Parquet or CSV files into DuckDB and doubted first."""

import contextlib
import csv
import glob
import re
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from date_jax.data.files.encodings import check_utf8, utf8_text
from date_jax.data.files.packed import packing, unpacked_file
from date_jax.data.files.text_rows import EMPTY_WORDS, check_separator, table_kind
from date_jax.errors import DataError, SetupError, spelling_hint
from date_jax.run import git_lfs
from date_jax.run.user_paths import is_address

if TYPE_CHECKING:
    from ibis.backends.duckdb import Backend
    from ibis.expr.types import Table
else:  # imported where it is needed: a wrong command need not wait for Ibis
    Backend = Table = Any

KINDS = (".parquet", ".csv")
IDS = ("user", "session", "offer_id", "trigger_id", "supplier", "category", "image_hash")
MARKS = ("_", ".")  # first letters of files that hold no rows, such as _SUCCESS
HEAD = 1 << 16  # bytes of a file by which its kind and encoding are known


@contextlib.contextmanager
def database(memory_gb: float) -> Iterator[Backend]:
    """DuckDB in memory, which spills to a temporary folder and fetches nothing.

    Args:
        memory_gb: that it may hold before it spills.

    Raises:
        SetupError: a package is missing, or memory, or room on the disk.
        DataError: what else DuckDB complains about, in a few lines.
    """
    try:  # here, and not above: a wrong command need not wait for them
        import duckdb
        import ibis
    except ModuleNotFoundError as error:
        raise SetupError(
            f"no package {error.name}: run bash launch/setup.sh, or "
            'pip install -e ".[clicks]" in a clone'
        ) from None
    with tempfile.TemporaryDirectory(prefix="click_pairs_") as spill:
        # In any order, since DuckDB is faster so; extensions would come over the network.
        connection = ibis.duckdb.connect(
            memory_limit=f"{memory_gb}GB",
            temp_directory=spill,
            preserve_insertion_order=False,
            autoinstall_known_extensions=False,
            autoload_known_extensions=False,
        )
        try:
            yield connection
        except duckdb.OutOfMemoryException as error:
            raise SetupError(
                f"DuckDB needs more than --memory_gb={memory_gb:g} or than {spill} has room\n"
                f"  {_first_lines(error)}\n  give it more, or a larger TMPDIR"
            ) from error
        except (duckdb.Error, ibis.IbisError) as error:
            _check_named_file(str(error))
            raise DataError(f"the data cannot be read as it is\n  {_first_lines(error)}") from error
        finally:
            connection.disconnect()


def _check_named_file(complaint: str) -> None:
    """Says which line of a CSV file is no text, if DuckDB complains of such a file.

    Its beginning was looked at before: the line stands behind it, maybe after gigabytes. A packed
    file that is cut off is one of an incomplete row to DuckDB.

    Raises:
        DataError: with what to do.
    """
    file = re.search(r"^\s*file = (.+)$", complaint, re.MULTILINE)
    if file:
        check_utf8(Path(file[1]))


def _first_lines(error: Exception) -> str:
    """The first few lines of an error's text, cut to a readable length."""
    lines = [line.strip()[:200] for line in str(error).splitlines() if line.strip()]
    return "\n  ".join(lines[:4])


def file_table(
    connection: Backend, name: str, pattern: str, columns: dict[str, str], *, flag: str = ""
) -> Table:
    """The files that `pattern` names, as one table of the database.

    Args:
        connection: to the database.
        name: of the table.
        pattern: a path of a file or a folder, or one with wildcards.
        columns: that it must have.
        flag: what the user calls the files, if that is not --name.

    Raises:
        DataError: there are none, or they are not what they should be.
    """
    flag = flag or f"--{name}"
    if is_address(pattern):
        raise DataError(
            f"{flag}={pattern[:100]}: is an address: copy its files to this machine and name them\n"
            "  or run the query of --sql where they are"
        )
    paths = _paths(pattern)
    if not paths and Path(pattern).is_dir():
        raise DataError(f"{flag}: the folder {pattern} holds no .parquet or .csv files")
    if not paths:
        near = spelling_hint(
            Path(pattern).name, (path.name for path in Path(pattern).parent.glob("*"))
        )
        raise DataError(f"{flag}: no file {pattern}{near}\n  looked from {Path.cwd()}")
    # DuckDB would guess where a file is not what its name says.
    for path in paths:
        _check_kind(flag, Path(path))
    other = [path for path in paths if table_kind(Path(path)) != table_kind(Path(paths[0]))]
    if other:
        raise DataError(
            f"{flag}={pattern}: both .parquet and .csv files: {paths[0]}, {other[0]}\n"
            "  name those of one kind with a pattern that ends in *.parquet or *.csv"
        )
    if table_kind(Path(paths[0])) == ".parquet":
        table = connection.read_parquet(paths, table_name=name)
    else:
        table = connection.read_csv(paths, table_name=name, **_csv_options(paths))
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(
            f"{paths[0]}: no {', '.join(missing)}{spelling_hint(missing[0], table.columns)}\n"
            f"  found: {', '.join(table.columns)[:200]}\n  required: {', '.join(columns)}"
            + ("; besides: relevance" if name == "log" else "")
        )
    return _without_empty_words(table)


def _without_empty_words(table: Table) -> Table:
    """The table with no id where a column of ids has a word for an empty cell, or NaN."""
    import ibis

    columns_of_ids = {}
    for name in set(IDS) & set(table.columns):
        column = table[name]
        if column.type().is_string():
            columns_of_ids[name] = column.isin(EMPTY_WORDS).ifelse(ibis.null(), column)
        elif column.type().is_floating():
            columns_of_ids[name] = column.isnan().ifelse(ibis.null(), column)
    return table.mutate(**columns_of_ids) if columns_of_ids else table


def _paths(pattern: str) -> list[str]:
    """The files that a path or a pattern names, in order.

    A folder stands for the tables in it at any depth. Clusters write one table as such a folder,
    with further files whose names begin with one of MARKS: these are passed over.
    """
    # A name that is a file's is no pattern, even with a bracket in it.
    names = [pattern] if Path(pattern).exists() else glob.glob(pattern, recursive=True)
    paths = set()
    for match in map(Path, names):
        for path in match.rglob("*") if match.is_dir() else [match]:
            # Whoever names a single file may call it anything; `_check_kind` says what it is not.
            is_table = not match.is_dir() or table_kind(path) in KINDS
            if is_table and not path.is_dir() and not _is_below_mark(path, pattern):
                paths.add(str(path))
    return sorted(paths)


def _is_below_mark(path: Path, pattern: str) -> bool:
    """Whether a part of the path begins with one of MARKS, and the user did not type it so."""
    typed = [part for part in Path(pattern).parts if part.startswith(MARKS)]
    return any(
        part.startswith(MARKS) and not any(part == mark or fnmatch(part, mark) for mark in typed)
        for part in path.parts
    )


def _csv_options(paths: list[str]) -> dict[str, Any]:
    """The options to read CSV files with: all as texts, nothing guessed, for an id 007 is not 7."""
    names = _column_names(paths[0])
    other = [path for path in paths if _column_names(path) != names]
    if other:
        raise DataError(f"{other[0]}: its columns are not those of {paths[0]}: {', '.join(names)}")
    # DuckDB unpacks all files alike, by the name that it is told.
    kinds = [packing(Path(path)) for path in paths]
    mixed = [path for path, kind in zip(paths, kinds, strict=True) if kind != kinds[0]]
    if mixed:
        raise DataError(
            f"{mixed[0]}: is not packed as {paths[0]} is: pack all files of a table, or none"
        )
    return {
        "columns": dict.fromkeys(names, "VARCHAR"),
        "auto_detect": False,
        "header": True,
        "delim": ",",
        "quote": '"',
        "compression": kinds[0].name if kinds[0] else "none",
    }


def _column_names(path: str) -> list[str]:
    """The first line of a CSV file; a longer one than 64 KiB is cut."""
    with unpacked_file(Path(path)) as file:
        line = file.readline(HEAD).decode("utf-8-sig", errors="replace")
    return next(csv.reader([line]), [])


def _check_kind(flag: str, path: Path) -> None:
    """Refuses a file of another kind, encoding or separator than there should be.

    Raises:
        DataError: it is one.
    """
    kind = table_kind(path)
    if kind not in KINDS:
        raise DataError(
            f"{flag}={path}: expected .parquet or .csv files{spelling_hint(kind, KINDS)}"
        )
    # Parquet packs its own columns; of a CSV file it is what lies inside that counts.
    if kind == ".csv" and (form := packing(path)) and form.name == "bzip2":
        raise DataError(f"{path} is a bzip2 file: unpack it with bunzip2, or pack it with gzip")
    with path.open("rb") if kind == ".parquet" else unpacked_file(path) as file:
        head = file.read(HEAD)
    if git_lfs.is_pointer(head):
        raise DataError(f"{path} is a Git LFS pointer, not the table\n  {git_lfs.WAY_OUT}")
    if not head or (head[:4] == b"PAR1") != (kind == ".parquet"):
        raise DataError(f"{path} is no {kind[1:]} file: it begins with {head[:16]!r}")
    if kind == ".parquet":
        return
    # Of CSV files: the encoding, by whole lines from the start, and separators but commas.
    utf8_text(path, head if len(head) < HEAD else head[: head.rfind(b"\n") + 1])
    check_separator(path, _column_names(str(path)))


def check_offers(offers: Table, count: int) -> None:
    """Refuses a catalogue that is empty or holds an offer twice, which would be clicked twice.

    Args:
        offers: the catalogue.
        count: of its rows.

    Raises:
        DataError: it is one.
    """
    if not count:
        raise DataError("--catalogue holds no rows: expected one an offer")
    # Counted by DuckDB: a catalogue may have more rows than Python could hold.
    counts = offers.group_by("offer_id").agg(rows=offers.count())
    nameless = counts.filter(counts.offer_id.isnull()).to_pyarrow()["rows"].to_pylist()
    if nameless:
        raise DataError(
            f"--catalogue: {nameless[0]:,} rows have no offer_id: it is empty, or a word for that "
            f"such as {', '.join(EMPTY_WORDS[:3])}\n  every offer has one"
        )
    twice = counts.filter(counts.rows > 1).order_by("offer_id").to_pyarrow().to_pylist()
    if twice:
        raise DataError(
            f"--catalogue: {len(twice):,} of offer_id are there twice or more, the first of them "
            f"{twice[0]['offer_id']!r}: expected one row an offer"
        )
