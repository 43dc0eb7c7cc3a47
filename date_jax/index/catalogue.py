"""The catalogue of a shop: a table of any columns, of which three say what an offer is.

They are its id, its picture and its text. All others are kept, for filters and for results.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from date_jax.data.files.addressed_tables import column_map
from date_jax.data.files.text_rows import (
    check_images,
    check_whole_characters,
    id_text,
    table_kind,
    text_rows,
)
from date_jax.errors import DataError, UsageError, spelling_hint
from date_jax.index.extra import extra_module

# What each of ours is called in most tables, the likeliest first.
NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "offer_id", "sku", "post_id"),
    "image": ("image", "image_path", "picture", "path", "photo"),
    "text": ("text", "title", "query", "caption"),
}
# Columns of the folder of vectors that no column of a catalogue may be called.
RESERVED = ("id", "text", "path", "vector", "picture_bytes", "picture_mtime", "picture_sha256")
_WHOLE_NUMBER = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_INT64 = 2**63


class Catalogue(NamedTuple):
    """The offers of a table, in its order.

    Attributes:
        path: of the table.
        columns: what the table calls `id`, `path` and `text`; "" for one that it lacks.
        ids: one for each offer, none twice.
        texts: "" for none.
        pictures: as the table has them, relative to its folder; "" for none.
        fields: a pyarrow table of all other columns, with types that filters can compare.
    """

    path: Path
    columns: dict[str, str]
    ids: list[str]
    texts: list[str]
    pictures: list[str]
    fields: Any


def catalogue_of_file(path: Path, columns: str = "") -> Catalogue:
    """The catalogue of a `.csv` or `.jsonl` file.

    A table without an id is read where its pictures are no two alike: they are the ids then.

    Args:
        path: of the table.
        columns: what ours are called there, as `id=sku,image=image_path,text=title`; those left out
            are looked for by their usual names.

    Raises:
        UsageError: `columns` is malformed or names a column that is not ours.
        DataError: the table cannot be read, lacks a column or names an offer twice.
    """
    given = column_map(columns)
    for name in given:
        if name not in NAMES:
            raise UsageError(
                f"--columns={columns}: no column {name!r} of ours{spelling_hint(name, NAMES)}\n"
                f"  they are: {', '.join(NAMES)}"
            )
    # The rows, without those that a table program has left empty.
    lines, rows = [], []
    for line, cells in text_rows(path, lambda where, names: None, "--catalogue"):
        if any(cell is not None and str(cell).strip() for cell in cells.values()):
            lines.append(line)
            rows.append(cells)
    if not rows:
        raise DataError(f"{path}: holds no rows; expected one an offer")
    names = [*dict.fromkeys(name for cells in rows for name in cells)]
    ours = _columns(path, given, names)

    # What an offer is.
    texts = [
        _text(path, line, cells, ours["text"]) for line, cells in zip(lines, rows, strict=True)
    ]
    pictures = [
        _text(path, line, cells, ours["image"]) for line, cells in zip(lines, rows, strict=True)
    ]
    check_images(path, [picture for picture in pictures if picture])
    ids = [id_text(cells.get(ours["id"])).strip() for cells in rows] if ours["id"] else pictures
    _check_ids(path, lines, ids, ours)

    # Everything else.
    others = [name for name in names if name not in ours.values()]
    _check_names(path, others)
    is_csv = table_kind(path) == ".csv"
    pyarrow = extra_module("pyarrow")
    fields = {
        name: typed_column([cells.get(name) for cells in rows], is_csv=is_csv) for name in others
    }
    return Catalogue(
        path=path,
        columns={"id": ours["id"], "path": ours["image"], "text": ours["text"]},
        ids=ids,
        texts=texts,
        pictures=pictures,
        # A table without columns would have no rows either.
        fields=pyarrow.table(fields if fields else {"": pyarrow.nulls(len(rows))}).select(others),
    )


def _columns(path: Path, given: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """The table's name of each of ours; "" for an id or for one of image and text that it lacks."""
    for name, theirs in given.items():
        if theirs not in names:
            raise DataError(
                f"{path}: no column {theirs!r} for --columns={name}=…{spelling_hint(theirs, names)}"
                f"\n  found: {', '.join(names)[:200]}"
            )
    taken = {name for ours, name in given.items() if ours != "id"}  # a picture may be the id too
    columns = {}
    for ours, usual in NAMES.items():
        usual_names = (name for name in usual if name in names and name not in taken)
        columns[ours] = given.get(ours) or next(usual_names, "")
    if not columns["image"] and not columns["text"]:
        raise DataError(
            f"{path}: no column is called image or text\n  found: {', '.join(names)[:200]}\n"
            "  say what yours are called: --columns=id=sku,image=image_path,text=title"
        )
    if not columns["id"] and not columns["image"]:
        raise DataError(
            f"{path}: no column is called id\n  found: {', '.join(names)[:200]}\n"
            "  say what yours is called: --columns=id=sku"
        )
    return columns


def _text(path: Path, line: int, cells: Mapping[str, Any], name: str) -> str:
    """A cell as text without blanks at its ends; "" where there is none."""
    text = id_text(cells.get(name)).strip() if name else ""
    check_whole_characters(f"{path}:{line}", name, text)
    return text


def _check_ids(
    path: Path, lines: Sequence[int], ids: Sequence[str], columns: Mapping[str, str]
) -> None:
    """Refuses offers without an id, and two of one id."""
    column = columns["id"] or columns["image"]
    for line, offer_id in zip(lines, ids, strict=True):
        if not offer_id:
            raise DataError(f"{path}:{line}: {column} is empty, and every offer has one")
    twice = [offer_id for offer_id, count in Counter(ids).items() if count > 1]
    if twice:
        of_first = [str(line) for line, offer in zip(lines, ids, strict=True) if offer == twice[0]]
        sharing = sum(count for count in Counter(ids).values() if count > 1)
        other = columns["image"] if column != columns["image"] else ""
        raise DataError(
            f"{path}: {sharing:,} of {len(ids):,} offers share their {column} with another one\n"
            f"  first: {twice[0][:60]!r} on lines {', '.join(of_first[:5])}\n"
            "  correct them, or name a column that tells all offers apart: "
            f"--columns=id={other or '…'}"
        )


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Refuses columns that filters could not tell apart from others; they ignore capitals."""
    counts = Counter(name.lower() for name in (*names, *RESERVED))
    twice = [name for name in names if counts[name.lower()] > 1]
    if twice:
        raise DataError(
            f"{path}: the column {twice[0]!r} has the name of another one, or of one of ours\n"
            f"  ours are: {', '.join(RESERVED)}\n"
            "  say with --columns=id=…,image=…,text=… which is which, or give it another name"
        )


def typed_column(cells: Sequence[Any], *, is_csv: bool) -> Any:
    """The cells of a column as a pyarrow array of whole numbers, numbers, switches or texts.

    Of CSV, where all is text, numbers are what looks like it without exception; 007 is a text.
    Texts that stand next to numbers make all of them texts, and lists are written as JSON.

    Args:
        cells: of all rows; None and, in CSV, "" is an empty cell.
        is_csv: whether numbers are texts.
    """
    pyarrow = extra_module("pyarrow")
    if is_csv:
        cells = [None if cell is None or not cell.strip() else cell.strip() for cell in cells]
        filled = [cell for cell in cells if cell is not None]
        if filled and all(_WHOLE_NUMBER.fullmatch(cell) for cell in filled):
            return pyarrow.array([None if cell is None else int(cell) for cell in cells], "int64")
        if filled and all(_NUMBER.fullmatch(cell) for cell in filled):
            return pyarrow.array(
                [None if cell is None else float(cell) for cell in cells], "float64"
            )
        return pyarrow.array(cells, "string")
    # JSON has types, which need not be those of every row.
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {bool}:
        return pyarrow.array(cells, "bool")
    if kinds == {int} and all(cell is None or -_INT64 <= cell < _INT64 for cell in cells):
        return pyarrow.array(cells, "int64")
    if kinds and kinds <= {int, float}:
        return pyarrow.array([None if cell is None else float(cell) for cell in cells], "float64")
    texts = [
        cell if cell is None or isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
        for cell in cells
    ]
    # Half a character, which JSON can spell, has no place in a text.
    texts = [None if text is None else text.encode(errors="replace").decode() for text in texts]
    return pyarrow.array(texts, "string")
