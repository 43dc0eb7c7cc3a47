"""Rows of the user's own data: a JSON Lines or CSV file, read and doubted before anything is made.

One row is a picture, a query, a box or none, a domain and a split.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from date_jax.errors import DataError, nearest

REQUIRED = ("image", "query", "domain", "split")
CORNERS = ("x_min", "y_min", "x_max", "y_max")
SPLITS = ("train", "val", "test")


class Row(NamedTuple):
    """One line of the file. `box` is x_min, y_min, x_max, y_max pixels of the upright picture."""

    line: int
    image: str
    query: str
    box: tuple[float, float, float, float] | None
    domain: str
    product_id: str
    category: str
    split: str


def annotations(path: Path) -> list[Row]:
    """The rows of a `.jsonl` or `.csv` file.

    Raises:
        DataError: naming the file, the line, what is wrong with it and what to do.
    """
    kind = path.suffix.lower()
    if kind not in (".jsonl", ".csv"):
        raise DataError(
            f"config.data.path={path}: expected a .jsonl (JSON Lines) or .csv file"
            f"{nearest(kind, ('.jsonl', '.csv'))}"
        )
    text = _text(path)
    rows = [
        _row(path, line, fields)
        for line, fields in (_json if kind == ".jsonl" else _csv)(path, text)
    ]
    if not rows:
        raise DataError(f"{path} holds no rows: expected one a picture and query")
    _check_splits(path, rows)
    return rows


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        near = nearest(path.name, (other.name for other in path.parent.glob("*")))
        raise DataError(
            f"config.data.path: no file {path}{near}\n  looked from {Path.cwd()}"
        ) from None
    except OSError as error:
        raise DataError(f"config.data.path: cannot read {path}: {error.strerror}") from None
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:4096]:
        encoding, where = "UTF-16", ""
    else:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            where = f" (line {line})"
            encoding = "GBK" if _is_gbk(content) else "LATIN1"
    raise DataError(
        f"{path} is not UTF-8 text{where}: it looks like {encoding}\n"
        f"  convert it: iconv -f {encoding} -t UTF-8 {path.name} > utf8{path.suffix}"
    )


def _is_gbk(content: bytes) -> bool:
    try:
        content.decode("gbk")
    except UnicodeDecodeError:
        return False
    return True


def _json(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): a query may hold one of the rarer line ends of Unicode.
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            fields = json.loads(content)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(
                f"{path}:{line}: not JSON: {error}\n  {content.strip()[:80]}\n"
                "  expected one object a line"
            ) from None
        if not isinstance(fields, dict):
            raise DataError(f"{path}:{line}: expected one JSON object a line, got {content[:80]}")
        _check_columns(f"{path}:{line}", list(fields))
        yield line, fields


def _csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        for mark, said in ((";", "semicolons"), ("\t", "tabs")):
            if len(names) == 1 and mark in names[0]:
                raise DataError(
                    f"{path}: columns are separated by {said}: expected commas\n  {names[0][:80]}"
                )
        _check_columns(str(path), names)
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DataError(f"{path}: column {twice[0]!r} is there twice")
        for cells in reader:
            if len(cells) != len(names) and cells:
                raise DataError(
                    f"{path}:{reader.line_num}: {len(cells)} cells under {len(names)} columns\n"
                    '  put texts that hold commas in quotes: "a mug, striped"'
                )
            if cells:
                fields: dict[str, Any] = dict(zip(names, cells, strict=True))
                yield reader.line_num, fields | {"box": _csv_box(path, reader.line_num, fields)}
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _csv_box(path: Path, line: int, fields: dict[str, str]) -> Any:
    cells = [fields.get(corner, "").strip() for corner in CORNERS]
    if "box" in fields:
        cells = [fields["box"].strip()]
    if not any(cells) or cells == ["null"]:
        return None
    try:
        return json.loads(cells[0] if "box" in fields else f"[{','.join(cells)}]")
    except json.JSONDecodeError:
        raise DataError(
            f"{path}:{line}: box {', '.join(cells)} is not four numbers: expected columns "
            f"{', '.join(CORNERS)}, or one column box such as [10, 20, 50, 80]"
        ) from None


def _check_columns(where: str, names: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in names]
    some = [corner for corner in CORNERS if corner in names]
    if some and len(some) < len(CORNERS):
        missing += [corner for corner in CORNERS if corner not in names]
    if missing:
        hints = "".join(nearest(name, names) for name in missing[:1])
        raise DataError(
            f"{where}: no {', '.join(missing)}{hints}\n  found: {', '.join(names)[:200]}\n"
            f"  required: {', '.join(REQUIRED)}; besides: box (or {', '.join(CORNERS)}), "
            "product_id, category"
        )


def _row(path: Path, line: int, fields: dict[str, Any]) -> Row:
    where = f"{path}:{line}"
    text = {name: "" if fields.get(name) is None else fields[name] for name in REQUIRED}
    for name, value in text.items():
        if not isinstance(value, str) or (not value and name != "query"):
            raise DataError(f"{where}: {name} is {json.dumps(fields[name])[:60]}: expected a text")
    if not re.fullmatch(r"[A-Za-z0-9_]+", text["domain"]):
        raise DataError(
            f"{where}: domain {text['domain'][:60]!r} may hold only letters a-z, digits and _"
        )
    names = {name: str(fields.get(name) or "") for name in ("product_id", "category")}
    # Without an identity every picture is a product of its own.
    names["product_id"] = names["product_id"] or text["image"]
    return Row(line=line, box=_box(where, fields.get("box")), **text, **names)


def _box(where: str, box: Any) -> tuple[float, float, float, float] | None:
    if box is None or box == []:
        return None
    numbers = isinstance(box, list) and all(
        isinstance(corner, int | float) and not isinstance(corner, bool) and math.isfinite(corner)
        for corner in box
    )
    if not numbers or len(box) != len(CORNERS):
        raise DataError(
            f"{where}: box is {json.dumps(box)[:80]}: expected four finite numbers "
            "[x_min, y_min, x_max, y_max], or null"
        )
    x_min, y_min, x_max, y_max = map(float, box)
    return x_min, y_min, x_max, y_max


def _check_splits(path: Path, rows: list[Row]) -> None:
    unknown = [row for row in rows if row.split not in SPLITS]
    if unknown:
        names = Counter(row.split for row in unknown)
        raise DataError(
            f"{path}: {len(unknown)} rows have an unknown split: "
            f"{', '.join(f'{name!r} ({count})' for name, count in names.most_common(5))}"
            f"{nearest(unknown[0].split, SPLITS)}\n"
            f"  first: {lines(unknown)}; choices: {', '.join(SPLITS)}"
        )


def lines(rows: list[Row]) -> str:
    """The lines of the first few of `rows`, for a message."""
    shown = ", ".join(str(row.line) for row in rows[:5])
    return f"line{'s' if len(rows) > 1 else ''} {shown}{', …' if len(rows) > 5 else ''}"
