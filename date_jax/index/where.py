"""Filters over the columns of a catalogue, as they stand behind WHERE in SQL: price < 20.

A filter may come from a stranger. It can therefore be one expression of the columns, constants and
a list of functions, and nothing else. DuckDB evaluates it without files, in little time and memory.
"""

import functools
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from date_jax.errors import UsageError, spelling_hint
from date_jax.index.extra import extra_module

SECONDS = 5.0  # that a filter may take
_MEMORY = 2**29  # bytes, besides those of the columns
_LENGTH = 2000  # characters of a filter
_CLASSES = {  # kinds of expressions, as DuckDB's parser names them
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT",
    "FUNCTION", "OPERATOR",
}  # fmt: skip
_OPERATORS = {
    "COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL",
    "OPERATOR_COALESCE", "OPERATOR_NULLIF",
}  # fmt: skip
# None of them makes a value much larger than its arguments, reads a file or knows the machine.
_FUNCTIONS = {
    *("+", "-", "*", "/", "//", "%", "||", "concat"),
    *("~~", "!~~", "~~*", "!~~*", "~~~", "like_escape", "not_like_escape", "ilike_escape",
      "not_ilike_escape", "regexp_matches", "regexp_full_match"),
    *("lower", "upper", "trim", "ltrim", "rtrim", "length", "strlen", "substring", "substr", "left",
      "right", "contains", "prefix", "suffix", "starts_with", "ends_with"),
    *("abs", "round", "floor", "ceil", "trunc", "least", "greatest", "coalesce", "ifnull"),
    *("year", "month", "day"),
}  # fmt: skip
_CLAUSES = {"type", "select_list", "from_table", "where_clause", "aggregate_handling"}


class Filters:
    """The columns of a catalogue, of which filters choose rows.

        filters = Filters(pyarrow.table({"price": [5, 30]}))
        filters.rows("price < 20")                    # [0]

    It may be asked from several threads.

    Args:
        table: a pyarrow table.
        aliases: other names of columns, as name and column.
        seconds: that a filter may take.
    """

    def __init__(
        self, table: Any, aliases: Mapping[str, str] | None = None, seconds: float = SECONDS
    ):
        duckdb, pyarrow = extra_module("duckdb"), extra_module("pyarrow")
        self._duckdb, self._seconds = duckdb, seconds
        columns = {name: table.column(name) for name in table.column_names}
        lower = {name.lower() for name in columns}
        for name, column in (aliases or {}).items():
            if name.lower() not in lower:
                columns[name] = table.column(column)
        self.names = tuple(columns)
        # A copy lies in DuckDB's memory, which then is closed: no file, no setting, no extension.
        row = pyarrow.array(np.arange(len(table)), "int64")
        rows = pyarrow.table({**columns, _row_name(columns): row})
        self._row = _row_name(columns)
        self._connection = duckdb.connect(":memory:")
        self._connection.register("arrow_rows", rows)
        self._connection.execute("CREATE TABLE offers AS SELECT * FROM arrow_rows")
        self._connection.unregister("arrow_rows")
        for setting in (
            "python_enable_replacements = false",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "temp_directory = ''",
            f"memory_limit = '{2 * rows.nbytes + _MEMORY}B'",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            self._connection.execute(f"SET {setting}")

    def rows(self, where: str) -> Int[np.ndarray, " _"]:
        """The rows for which a filter is true, in their order.

        Raises:
            UsageError: it is no filter, names no column of these, compares what cannot be compared
                or takes too long.
        """
        filter_expression(where, self.names, self._connection)
        cursor = self._connection.cursor()
        timer = threading.Timer(self._seconds, cursor.interrupt)
        timer.start()
        try:
            query = f'SELECT "{self._row}" AS place FROM offers WHERE (\n{where}\n) ORDER BY place'
            return cursor.execute(query).fetchnumpy()["place"].astype(np.int64)
        except self._duckdb.InterruptException:
            raise UsageError(f"where: took more than {self._seconds:g} s: ask for less") from None
        except self._duckdb.OutOfMemoryException:
            raise UsageError("where: takes too much memory: ask for less") from None
        except self._duckdb.Error as error:
            raise UsageError(f"where: {_first_line(error)}") from None
        finally:
            timer.cancel()
            cursor.close()


def filter_expression(where: str, names: Sequence[str], connection: Any = None) -> dict[str, Any]:
    """The tree of a filter as DuckDB's parser gives it; nothing is computed.

    Args:
        where: the filter.
        names: of the columns that there are.
        connection: of DuckDB, to parse with; None for one that is kept for it.

    Raises:
        UsageError: it is anything but an expression over the columns.
    """
    if len(where) > _LENGTH:
        raise UsageError(f"where: has {len(where):,} characters, more than {_LENGTH:,}")
    query = f"SELECT 1 FROM offers WHERE (\n{where}\n)"
    cursor = (connection or _parser()).cursor()
    try:
        options = "skip_null := true, skip_empty := true, skip_default := true"
        text = cursor.execute(f"SELECT json_serialize_sql(?, {options})", [query]).fetchone()[0]
    except extra_module("duckdb").Error as error:
        raise UsageError(f"where: {_first_line(error)}") from None
    finally:
        cursor.close()
    try:
        parsed = json.loads(text)
    except RecursionError:
        raise UsageError(f"where: has too many expressions within others{_EXAMPLE}") from None
    if parsed.get("error"):
        raise UsageError(f"where: {parsed.get('error_message', 'is no expression')}{_EXAMPLE}")
    nodes = [statement["node"] for statement in parsed["statements"]]
    # Brackets that close too early would let other clauses in.
    if len(nodes) != 1 or not {*nodes[0]} <= _CLAUSES or "where_clause" not in nodes[0]:
        raise UsageError(f"where: is more than an expression{_EXAMPLE}")
    for expression in _expressions(nodes[0]["where_clause"]):
        _check_expression(expression, names)
    return nodes[0]["where_clause"]


@functools.cache
def _parser() -> Any:
    """A connection without tables, to parse with."""
    return extra_module("duckdb").connect(":memory:")


def _check_expression(expression: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raises UsageError where one expression, without those inside it, will not do."""
    kind, name = expression["class"], expression["type"]
    if kind not in _CLASSES or (kind == "OPERATOR" and name not in _OPERATORS):
        word = (name if kind == "OPERATOR" else kind).lower().replace("_", " ")
        raise UsageError(f"where: may not hold a {word}{_EXAMPLE}")
    if kind == "FUNCTION" and expression["function_name"].lower() not in _FUNCTIONS:
        name = expression["function_name"]
        words = sorted(word for word in _FUNCTIONS if word.isalpha())
        raise UsageError(
            f"where: no function {name!r}{spelling_hint(name, words)}\n"
            f"  there are: {', '.join(words)}"
        )
    if kind == "COLUMN_REF":
        name = ".".join(expression["column_names"])
        if name.lower() not in {other.lower() for other in names}:
            raise UsageError(
                f"where: no column {name!r}{spelling_hint(name, names)}\n"
                f"  there are: {', '.join(names)[:300]}\n"
                "  a text stands in single quotes: category = 'mug'"
            )


_EXAMPLE = "\n  expected such as: category = 'mug' and price < 20"


def _row_name(columns: Mapping[str, Any]) -> str:
    """A name for the column of row numbers that no other column has."""
    return "row_" + "_" * max(map(len, columns), default=0)


def _expressions(tree: Any) -> Iterator[Mapping[str, Any]]:
    """All expressions within a tree of DuckDB's parser."""
    # Without recursion, whose depth a stranger would choose.
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, Mapping):
            if "class" in node:
                yield node
            todo += node.values()
        elif isinstance(node, list):
            todo += node


def _first_line(error: Exception) -> str:
    """What DuckDB says of an error, without its picture of the query."""
    return str(error).split("\n")[0][:300]
