"""Rows of the user's own data: a JSON Lines or CSV file, checked before anything is made of it.

One row is a picture, a query, a box or none, a domain and a split.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from date_jax.data.files.splits import hashed_splits
from date_jax.data.files.text_rows import (
    check_columns,
    check_images,
    check_splits,
    check_whole_characters,
    field_text,
    known_id,
    table_kind,
    text_rows,
)
from date_jax.errors import DataError

REQUIRED = ("image", "query", "domain")
CORNERS = ("x_min", "y_min", "x_max", "y_max")
_COLUMNS_ADVICE = (
    "\n  a table with other columns becomes such a file with python -m date_jax.data.convert "
    "--from=csv"
)
# Columns that hold a box in other programs' files, by their letters and digits: COCO, Visual
# Genome, OpenCV, detectors. A column with `bbox` in its name is one too.
OTHER_BOXES = (
    *(("boxes",), ("boundingbox",), ("boundingboxes",), ("bndbox",), ("rect",), ("box2d",)),
    *(("xyxy",), ("xywh",), ("ltrb",), ("ltwh",)),
    *(("x", "y", "w", "h"), ("x", "y", "width", "height")),
    *(("left", "top", "width", "height"), ("left", "top", "right", "bottom")),
    *(("x1", "y1", "x2", "y2"), ("x0", "y0", "x1", "y1"), ("minx", "miny", "maxx", "maxy")),
    *(("xcenter", "ycenter", "width", "height"), ("cx", "cy", "w", "h")),
)


class Row(NamedTuple):
    """One row of the file: a picture with its text.

    Attributes:
        line: of the file, from 1.
        image: the picture's file, relative to the folder of pictures.
        text: a query or a title.
        box: x_min, y_min, x_max, y_max in pixels of the upright picture, or None.
        domain: that the row belongs to.
        product_id: equal where two rows show the same product.
        category: of the product, or "".
        split: one of SPLITS.
        is_hashed: whether no row of the file has a split, and a hash of the product gave them all.
    """

    line: int
    image: str
    text: str
    box: tuple[float, float, float, float] | None
    domain: str
    product_id: str
    category: str
    split: str
    is_hashed: bool = False


def annotations(path: Path) -> list[Row]:
    """The rows of a `.jsonl` or `.csv` file.

    Args:
        path: of the file.

    Raises:
        DataError: naming the file, the line, what is wrong with it and what to do.
    """
    rows, problems = [], []
    for line, fields in text_rows(path, _check_columns):
        try:
            if table_kind(path) == ".csv":
                fields["box"] = _csv_box(path, line, fields)
            elif CORNERS[0] in fields:  # all four are there, or the columns would be refused
                fields.setdefault("box", _corners_box(fields))
            rows.append(_row(path, line, fields))
        except DataError as problem:
            problems.append(problem)
    if problems:
        raise _rows_error(problems)
    if not rows:
        raise DataError(f"{path} holds no rows: expected one a picture and query")
    # Rows without a split among others are a mistake; without any the product decides.
    if any(row.split for row in rows):
        check_splits(path, rows)
    else:
        splits = hashed_splits([row.image for row in rows], [row.product_id for row in rows])
        rows = [
            row._replace(split=split, is_hashed=True)
            for row, split in zip(rows, splits, strict=True)
        ]
    check_images(path, [row.image for row in rows])
    return rows


def _rows_error(problems: list[DataError]) -> DataError:
    """One error about all rows that are wrong; of the first, all that is known."""
    first, *others = problems
    lines = [str(problem).splitlines()[0] for problem in others]
    more = [f"and {len(lines) - 2:,} more rows"] if len(lines) > 3 else lines[2:]
    return DataError("\n".join([str(first), *lines[:2], *more]))


def _csv_box(path: Path, line: int, fields: dict[str, str]) -> Any:
    """The box of a row of CSV, from one column or from four, as it would stand in JSON."""
    cells = [fields.get(corner, "").strip() for corner in CORNERS]
    if "box" in fields:
        cells = [fields["box"].strip()]
    # One empty cell of four is a mistake; four are a row without a box.
    if not any(cells) or cells == ["null"]:
        return None
    try:
        return json.loads(cells[0] if "box" in fields else f"[{','.join(cells)}]")
    except ValueError:  # no JSON, or an integer longer than Python reads
        raise DataError(
            f"{path}:{line}: box {', '.join(cells)} is not four numbers: expected columns "
            f"{', '.join(CORNERS)}, or one column box such as [10, 20, 50, 80]"
        ) from None


def _corners_box(fields: dict[str, Any]) -> Any:
    """The box of a JSON object that has its corners in four fields; four nulls are none."""
    corners = [fields[corner] for corner in CORNERS]
    return None if corners == [None] * 4 else corners


def _check_columns(where: str, names: list[str]) -> None:
    """Refuses rows without the columns that they need; a file with one corner needs all four."""
    has_corners = any(corner in names for corner in CORNERS)
    optional = ("split", "box", *CORNERS, "product_id", "category")
    required = (*REQUIRED, *(CORNERS if has_corners else ()))
    # Only where the names of columns are others: convert writes the domain too.
    advice = _COLUMNS_ADVICE if not {"image", "query"} <= {*names} else ""
    check_columns(where, names, required, optional, advice)
    if not has_corners and "box" not in names:
        _check_other_boxes(where, names)


def _check_other_boxes(where: str, names: list[str]) -> None:
    """Refuses a box under a name that is not read: its row would be one without a box."""
    name_of = {"".join(filter(str.isalnum, name)).lower(): name for name in names}
    with_bbox = tuple(letters for letters in name_of if "bbox" in letters)
    for columns in (*((with_bbox,) if with_bbox else ()), *OTHER_BOXES):
        if all(column in name_of for column in columns):
            raise DataError(
                f"{where}: {', '.join(name_of[column] for column in columns)} "
                f"{'is' if len(columns) == 1 else 'are'} not read: call it box, "
                f"{', '.join(CORNERS)}\n  in pixels of the picture; "
                "from x, y, width, height x_max is x + width and y_max is y + height"
            )


def _row(path: Path, line: int, fields: dict[str, Any]) -> Row:
    """One row, each of its fields checked."""
    where = f"{path}:{line}"
    names = (*REQUIRED, "split")
    texts = {name: "" if fields.get(name) is None else fields[name] for name in names}
    for name, value in texts.items():
        if not isinstance(value, str) or (not value and name not in ("query", "split")):
            raise DataError(f"{where}: {name} is {json.dumps(fields[name])[:60]}: expected a text")
    # A domain becomes a part of the names of splits, metrics and files.
    if not re.fullmatch(r"[A-Za-z0-9_]+", texts["domain"]):
        raise DataError(
            f"{where}: domain {texts['domain'][:60]!r} may hold only letters a-z, digits and _"
        )
    ids = {
        "product_id": known_id(field_text(where, "product_id", fields.get("product_id"))),
        "category": field_text(where, "category", fields.get("category")),
    }
    for name, value in texts.items():
        check_whole_characters(where, name, value)
    # Without an identity every picture shows a product that no other shows.
    ids["product_id"] = ids["product_id"] or texts["image"]
    return Row(
        line=line,
        image=texts["image"],
        text=texts["query"],
        box=_box(where, fields.get("box")),
        domain=texts["domain"],
        product_id=ids["product_id"],
        category=ids["category"],
        split=texts["split"],
    )


def _box(where: str, box: Any) -> tuple[float, float, float, float] | None:
    """A box as four finite numbers; None for null and for an empty list."""
    if box is None or box == []:
        return None
    # JSON's true is an int to Python, and its 1e999 an infinite float.
    is_numbers = isinstance(box, list) and all(
        isinstance(corner, int | float)
        and not isinstance(corner, bool)
        and abs(corner) <= sys.float_info.max  # neither is nan, nor an integer too long for a float
        for corner in box
    )
    if not is_numbers or len(box) != len(CORNERS):
        raise DataError(
            f"{where}: box is {json.dumps(box)[:80]}: expected four finite numbers "
            "[x_min, y_min, x_max, y_max], or null"
        )
    x_min, y_min, x_max, y_max = map(float, box)
    return x_min, y_min, x_max, y_max
