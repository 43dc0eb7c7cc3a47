"""Pairs of offers that show the same product, mined from a click log by the rules of `rules.py`.

    python -m date_jax.data.click_pairs --log=log.parquet --catalogue=offers.csv --out=pairs.parquet
    python -m date_jax.data.click_pairs --sql=bigquery

The first runs here, in DuckDB, and prints what each rule left; the second prints the same steps
as one query for a larger engine. No user, query or session is written anywhere.
"""

import argparse
import math
import os
import resource
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from date_jax.data import command
from date_jax.data.clicks import rules as click_rules
from date_jax.data.clicks.rules import CATALOGUE, DIALECTS, LOG, RULES, STEPS, Settings, rules_in
from date_jax.data.clicks.tables import KINDS, check_offers, database, file_table
from date_jax.errors import DataError, SetupError, UsageError

if TYPE_CHECKING:
    from ibis.backends.duckdb import Backend
    from ibis.expr.types import Table
else:  # imported where it is needed: a wrong command need not wait for Ibis
    Backend = Table = Any


def mine(
    log: str,
    catalogue: str,
    out: Path,
    settings: Settings,
    *,
    without: tuple[str, ...] = (),
    memory_gb: float = 3.0,
) -> int:
    """Writes the pairs to `out` and returns their number; prints a line for each rule.

    Args:
        log: a Parquet or CSV file, a folder of them, or a pattern such as "log/*.parquet".
        catalogue: the same of the offers.
        out: the Parquet or CSV file to write.
        settings: of the rules.
        without: those of RULES that are left out.
        memory_gb: what DuckDB may hold before it uses the disk.

    Raises:
        DataError: a file is missing, malformed or lacks a column, or a rule left nothing.
        SetupError: a package, memory or a place to write is missing.
    """
    _check_out(out)  # now, for mining may take hours
    start = time.monotonic()
    with database(memory_gb) as connection:
        clicks = file_table(connection, "log", log, LOG)
        offers = file_table(connection, "catalogue", catalogue, CATALOGUE)
        funnel = Funnel(connection, settings, clicks)
        pairs = click_rules.mined_pairs(
            clicks, offers, settings, without=without, after=funnel.run_step
        )
        _write(pairs, out)
    # The peak is the process's own, with what DuckDB held outside Python.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{funnel.count:,} pairs in {out}, {time.monotonic() - start:.1f} s, at most {peak:.2f} GiB"
    )
    return funnel.count


class Funnel:
    """Runs a step after the other, keeps the table of the last one only, and prints its size.

    Args:
        connection: to the database that runs them.
        settings: of the rules.
        log: of clicks.

    Attributes:
        count: of the last step's rows.
    """

    def __init__(self, connection: Backend, settings: Settings, log: Table) -> None:
        self._connection, self._settings, self._log = connection, settings, log
        self._last_table = ""
        self.count = count = _row_count(log)
        print(f"{'rule':<11}{'left':>13}{'removed':>13}{'seconds':>9}  keeps")
        print(f"{'(log)':<11}{count:>13,}", flush=True)

    def run_step(self, name: str, expression: Table) -> Table:
        """Runs a step now, and returns its table for the next one to read.

        Raises:
            DataError: nothing is left, or the catalogue is not what it should be.
        """
        start = time.monotonic()
        # Not `name` itself: the catalogue's and the log's own tables have such names.
        table = self._connection.create_table(f"after_{name}", expression, temp=True)
        count = _row_count(table)
        if name == "offers":  # stays to the end, for several steps read it
            check_offers(table, count)
            self._offers = table
            return table
        self._print_step(name, count, time.monotonic() - start)
        # All that follows reads this table, so the one before may go.
        if self._last_table:
            self._connection.drop_table(self._last_table)
        self._last_table = f"after_{name}"
        return table

    def _print_step(self, name: str, count: int, seconds: float) -> None:
        """Prints the line of a step; refuses to go on with nothing."""
        step = STEPS[name]
        removed = f"{self.count - count:,}" if name != "pairs" else ""
        keeps = step.keeps.format(**self._settings._asdict())
        print(f"{name:<11}{count:>13,}{removed:>13}{seconds:>9.1f}  {keeps}", flush=True)
        if not count:
            raise DataError(
                f"no {step.unit} are left by '{name}' ({keeps})"
                + (f"\n  loosen it, or leave it out: --without={name}" if name in RULES else "")
                + (lost_clicks(self._log, self._offers) if name == "clicks" else "")
            )
        self.count = count


def lost_clicks(log: Table, offers: Table) -> str:
    """The lines of a message that say which condition of a click leaves no row of the log.

    Args:
        log: of clicks, as `rules.clicks` reads it.
        offers: of the catalogue, with an `offer_id` each.
    """
    # One condition after the other, as `rules.clicks` has them.
    clicked = log.filter(click_rules.is_clicked(log.clicked))
    identified = clicked.filter(clicked.user.notnull(), clicked.session.notnull())
    searched = identified.filter(click_rules.words(identified.query.cast("string")).length() > 0)
    ids = searched.select(offer_id=searched.offer_id.cast("string"))
    counts = {
        "rows": _row_count(log),
        "clicked": _row_count(clicked),
        "with user and session": _row_count(identified),
        "with words in the query": _row_count(searched),
        "of an offer in the catalogue": _row_count(ids.semi_join(offers, "offer_id")),
    }
    lines = ["  of the log: " + ", ".join(f"{count:,} {name}" for name, count in counts.items())]
    # Where only the offers do not meet, their ids show why.
    if counts["with words in the query"]:
        lines.append(
            f"  the log's ids of offers are such as {_examples(ids)}; the catalogue's "
            f"{_examples(offers)}"
        )
    return "".join(f"\n{line}" for line in lines)


def _row_count(table: Table) -> int:
    """The number of a table's rows, counted by the database."""
    return int(table.count().to_pyarrow().as_py())


def _examples(table: Table) -> str:
    """The first three of a table's different offer ids, for a message."""
    ids = table.filter(table.offer_id.notnull()).select("offer_id").distinct()
    first = ids.order_by("offer_id").limit(3).to_pyarrow()["offer_id"].to_pylist()
    return ", ".join(repr(offer_id[:40]) for offer_id in first) or "(none)"


def _write(pairs: Table, out: Path) -> None:
    """Writes the pairs as the kind of file that the name says, whole or not at all."""
    partial = out.with_name(f".{out.name}")  # whoever waits for the file finds all of it
    write = pairs.to_parquet if out.suffix.lower() == ".parquet" else pairs.to_csv
    try:
        write(partial)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def _check_out(out: Path) -> None:
    """Refuses a file that cannot be written.

    Raises:
        UsageError: its name ends otherwise than in .parquet or .csv.
        SetupError: its folder cannot be written to.
    """
    if out.suffix.lower() not in KINDS:
        raise UsageError(f"--out={out}: expected a name that ends in .parquet or .csv")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise SetupError(f"--out={out}: {out.parent} is no folder that can be written to")


def _check_options(options: argparse.Namespace) -> None:
    """Refuses what the parser cannot, and splits `options.without` into rules.

    Raises:
        UsageError: naming the flag and what it may be.
    """
    # Only mining needs files: --sql reads and writes none.
    required = [] if options.sql else ["log", "catalogue", "out"]
    missing = [f"--{name}" for name in required if not getattr(options, name)]
    if missing:
        raise UsageError(f"{', '.join(missing)} is required; --help lists the flags")
    options.without = rules_in(options.without, "--without")
    # Numbers are refused now, before DuckDB reads a log of gigabytes.
    for name in ("min_support", "max_clicks", "min_coclicks", "max_pairs"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name}={getattr(options, name)}: must be 1 or more")
    if not 0 <= options.drop_duplicates_share <= 1:
        share = options.drop_duplicates_share
        raise UsageError(f"--drop_duplicates_share={share}: must be from 0 to 1")
    if not math.isfinite(options.min_relevance):
        raise UsageError(f"--min_relevance={options.min_relevance}: must be a number")
    if not options.memory_gb > 0:
        raise UsageError(f"--memory_gb={options.memory_gb}: must be above 0")


def sql_query(options: argparse.Namespace, settings: Settings) -> str:
    """The query for `options.sql`, over the columns of `options.log` or, without it, over LOG."""
    # A column `relevance` in the log changes the query.
    columns = LOG
    if options.log:
        with database(options.memory_gb) as connection:
            schema = file_table(connection, "log", options.log, LOG).schema()
            columns = {name: str(kind) for name, kind in schema.items()}
    return click_rules.sql(columns, settings, options.sql, without=options.without)


def main(arguments: Sequence[str]) -> int:
    """Mines pairs, or prints the query that does; returns the exit code."""
    parser = command.Parser(
        "click_pairs",
        __doc__,
        usage="%(prog)s --log=FILE --catalogue=FILE --out=FILE [--flag=value ...]",
    )
    # The flags of the command; the salt is a setting too, but has no default.
    parser.add_argument(
        "--log", help=f"Parquet or CSV files, or a folder; columns {', '.join(LOG)}"
    )
    parser.add_argument("--catalogue", help=f"the same; columns {', '.join(CATALOGUE)}")
    parser.add_argument("--out", type=Path, help="the Parquet or CSV file to write")
    parser.add_argument("--sql", choices=DIALECTS, help="print the query for this engine instead")
    parser.add_argument("--without", default="", help=f"rules to leave out: {','.join(RULES)}")
    parser.add_argument("--memory_gb", type=float, default=3.0, help="DuckDB's (3)")
    parser.add_argument("--salt", help="of the users' hashes (a random one, kept nowhere)")
    # One flag a setting of the rules, so that a new setting needs no line here.
    for name, default in Settings._field_defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"({default})")
    return command.run(parser, arguments, mine_or_print, interrupted="nothing was written")


def mine_or_print(options: argparse.Namespace) -> None:
    """Mines the pairs, or prints the query that does, as the command's flags say.

    Raises:
        UsageError: a flag is missing, or its value out of range.
        DataError, SetupError: see `mine`.
    """
    _check_options(options)
    # Without a salt of the user's, nobody can repeat the hashes, not even who mined.
    values = {name: getattr(options, name) for name in Settings._fields}
    settings = Settings(**values | {"salt": options.salt or secrets.token_hex(16)})
    if options.sql:
        print(sql_query(options, settings), end="")
    else:
        mine(
            options.log,
            options.catalogue,
            options.out,
            settings,
            without=options.without,
            memory_gb=options.memory_gb,
        )
