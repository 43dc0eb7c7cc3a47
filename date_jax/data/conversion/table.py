"""A table of any columns, CSV or JSON Lines: --columns says which of them are the fields."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from date_jax.data.conversion.annotation import (
    FIELDS,
    Annotation,
    Box,
    Source,
    fields_by_column,
    number_list,
)
from date_jax.data.files.text_rows import text_rows
from date_jax.errors import DataError, spelling_hint

CORNERS = ("x_min", "y_min", "x_max", "y_max")
CORNER_AND_SIZE = ("x", "y", "width", "height")
_WORDS = {"image": "image|picture|photo|img|file", "query": "title|query|caption|text|name"}
BOX_FIELDS = ("box", *CORNERS, *CORNER_AND_SIZE)


def annotations(path: Path, columns: dict[str, str]) -> Source:
    """The rows of a .csv or .jsonl file.

    A field that --columns does not map is the column of its name, where there is one.

    Args:
        path: of the file.
        columns: the column of each mapped field; of boxes too, see BOX_FIELDS.

    Raises:
        DataError: a column is missing, or a row is malformed.
    """

    def column_of(names: list[str]) -> dict[str, str]:
        unmapped = {field: field for field in (*FIELDS, *BOX_FIELDS) if field in names}
        return unmapped | columns

    def check(where: str, names: list[str]) -> None:
        _check_columns(where, names, column_of(names))

    rows: list[Annotation] = []
    left_out = Counter[str]()
    for line, cells in text_rows(path, check):
        where = f"{path}:{line}"
        table = column_of([*cells])
        texts = {field: column for field, column in table.items() if field in FIELDS}
        fields: dict[str, Any] = fields_by_column(where, texts, cells.get)
        # Table programs write a line of commas for an empty row.
        if not any(str(cell).strip() for cell in cells.values() if cell is not None):
            continue
        if not fields["image"]:
            left_out["rows without a picture"] += 1
            continue
        rows.append(Annotation(where, line, box=_box(where, table, cells), **fields))
    if not rows:
        raise DataError(f"{path} holds no rows: expected one a picture and query")
    return Source(rows, [path.parent], left_out)


def _check_columns(where: str, names: list[str], column_of: dict[str, str]) -> None:
    """Refuses a table that lacks a mapped column, a picture, a query, or half a box."""
    for field, column in column_of.items():
        if column not in names:
            raise DataError(
                f"{where}: no column {column!r} for {field}{spelling_hint(column, names)}\n"
                f"  found: {', '.join(names)[:200]}"
            )
    missing = [field for field in ("image", "query") if field not in column_of]
    if missing:
        raise DataError(
            f"{where}: which column is the {' and which the '.join(missing)}?\n"
            f"  found: {', '.join(names)[:200]}\n"
            f"  say it with --columns={','.join(f'{f}={_likely(f, names)}' for f in missing)}"
        )
    for fields in (CORNERS, CORNER_AND_SIZE):
        lacking = [field for field in fields if field not in column_of]
        # A width alone is often the picture's; the corner makes it a box.
        if fields[0] in column_of and lacking:
            raise DataError(
                f"{where}: a box of {', '.join(fields)} lacks {', '.join(lacking)}\n"
                f"  say where: --columns={','.join(f'{field}=COLUMN' for field in lacking)}"
            )


def _likely(field: str, names: list[str]) -> str:
    """The first column whose name speaks of a field, for an example; COLUMN without any."""
    return next((name for name in names if re.search(_WORDS[field], name, re.I)), "COLUMN")


def _box(where: str, column_of: dict[str, str], cells: dict[str, Any]) -> Box | None:
    """The box of a row in pixels, None where all of its cells are empty."""
    if "box" in column_of:
        value = cells.get(column_of["box"])
        if value is None or value == [] or str(value).strip() in ("", "null", "[]"):
            return None
        # One cell holds four numbers, in brackets or not.
        if isinstance(value, str):
            value = _numbers(value.strip().strip("[]()").replace(",", " ").split())
        return _corners(number_list(where, "box", value, 4))
    fields = next((f for f in (CORNERS, CORNER_AND_SIZE) if f[0] in column_of), None)
    if fields is None:
        return None
    values = [cells.get(column_of[field]) for field in fields]
    if all(value is None or not str(value).strip() for value in values):
        return None
    corners = number_list(where, ", ".join(fields), _numbers(values), 4)
    if fields is CORNER_AND_SIZE:
        corners = [corners[0], corners[1], corners[0] + corners[2], corners[1] + corners[3]]
    return _corners(corners)


def _numbers(cells: list[Any]) -> list[Any]:
    """The numbers in some cells; what is none stays, to be shown in a message."""
    numbers: list[Any] = []
    for cell in cells:
        try:
            numbers.append(float(cell) if isinstance(cell, str) else cell)
        except ValueError:
            numbers.append(cell)
    return numbers


def _corners(numbers: list[float]) -> Box:
    """Four numbers as a box."""
    x_min, y_min, x_max, y_max = numbers
    return x_min, y_min, x_max, y_max
