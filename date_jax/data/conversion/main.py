r"""Annotations of other programs to this project's JSON Lines, one picture and query a row.

    python -m date_jax.data.convert --from=coco --path=instances.json --out=shop.jsonl
    python -m date_jax.data.convert --from=voc --path=VOC2012 --out=shop.jsonl
    python -m date_jax.data.convert --from=yolo --path=data.yaml --out=shop.jsonl
    python -m date_jax.data.convert --from=labelstudio --path=export.json --out=shop.jsonl
    python -m date_jax.data.convert --from=csv --path=export.csv --out=shop.jsonl \
        --columns=image=image_path,query=title,product_id=sku

The pictures stay where they are. A file that is there is kept: --append adds to it the rows that it
has not, --overwrite replaces it. docs/data.md says what each format becomes.
"""

import argparse
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from date_jax.data import command
from date_jax.data.conversion import coco, label_studio, table, voc, yolo
from date_jax.data.conversion.annotation import FIELDS, Source
from date_jax.data.conversion.picture_files import PictureFiles
from date_jax.data.conversion.rows import rows_of_annotations
from date_jax.data.domains import SPLITS
from date_jax.data.files.addressed_tables import column_map
from date_jax.data.files.annotations import annotations
from date_jax.errors import DataError, SetupError, UsageError, spelling_hint

Reader = Callable[[Path, dict[str, str]], Source]

READERS: dict[str, Reader] = {
    "coco": coco.annotations,
    "voc": voc.annotations,
    "yolo": yolo.annotations,
    "labelstudio": label_studio.annotations,
    "csv": table.annotations,
}
WITHOUT_COLUMNS = ("voc", "yolo")  # whose objects have a name and nothing else


def main(arguments: Sequence[str]) -> int:
    """Writes the rows of a source; returns the exit code."""
    parser = command.Parser("convert", __doc__)
    parser.add_argument("--from", dest="format", required=True, choices=READERS, help="the format")
    parser.add_argument("--path", type=Path, required=True, help="the file or folder to read")
    parser.add_argument("--out", type=Path, required=True, help="the .jsonl file to write")
    parser.add_argument("--images", type=Path, help="the folder of the pictures, if they moved")
    parser.add_argument("--columns", default="", help="where fields come from: field=name,…")
    parser.add_argument("--names", type=Path, help="yolo: a file with a class's name a line")
    parser.add_argument("--domain", default="mall", help="of all rows; default: mall")
    parser.add_argument("--split", choices=SPLITS, default="", help="of all rows")
    parser.add_argument("--append", action="store_true", help="add to the file at --out")
    parser.add_argument("--overwrite", action="store_true", help="replace the file at --out")
    return command.run(parser, arguments, convert, interrupted="nothing was written")


def convert(options: argparse.Namespace) -> None:
    """Writes the rows of a source, as the command's flags say.

    Raises:
        UsageError: flags contradict each other, or --out is there already.
        DataError: the source is malformed, or its pictures are not found.
        SetupError: the file cannot be written.
    """
    _check_flags(options)
    columns = _columns(options)
    reader = READERS[options.format]
    if options.format == "yolo":
        reader = partial(yolo.annotations, names=options.names, images=options.images)
    if not options.path.exists():
        raise DataError(f"--path={options.path}: nothing there\n  looked from {Path.cwd()}")
    # Everything is read and checked before the first row is written.
    source = reader(options.path, columns)
    rows = rows_of_annotations(
        source.annotations,
        source=options.path,
        files=PictureFiles([*([options.images] if options.images else []), *source.folders]),
        folder=options.out.parent,
        domain=options.domain,
        split=options.split,
    )
    left_out = [f"left out: {n:,} {what}" for what, n in source.left_out.items() if n]
    if not rows.rows:
        raise DataError("\n  ".join([f"{options.path}: has no rows", *left_out, *rows.notes]))
    before = _present_rows(options.out) if options.append else []
    added = _new_rows(before, rows.rows)
    _write(options.out, [*before, *added])
    # What came in, and what did not.
    print(f"{options.out}: {_summary(added)}")
    repeated = len(rows.rows) - len(added)
    left_out += [f"left out: {repeated:,} rows that were there already"] * bool(repeated)
    for note in (*left_out, *rows.notes):
        print(f"  {note}")
    print(f"look at it: python -m date_jax.data.check --path={options.out}")


def _check_flags(options: argparse.Namespace) -> None:
    """Refuses flags that contradict each other or the file that is there."""
    if options.out.suffix.lower() != ".jsonl":
        raise UsageError(f"--out={options.out}: expected a name that ends in .jsonl")
    if options.append and options.overwrite:
        raise UsageError("--append and --overwrite contradict each other: give one of them")
    if options.out.exists() and not (options.append or options.overwrite):
        raise UsageError(
            f"--out={options.out} is there: --append adds to it, --overwrite replaces it"
        )
    if not options.out.parent.is_dir():
        raise UsageError(f"--out={options.out}: there is no folder {options.out.parent}")
    if options.out.exists() and options.path.exists() and options.out.samefile(options.path):
        raise UsageError(f"--out={options.out} is the file to read: choose another name")
    if not re.fullmatch(r"[A-Za-z0-9_]+", options.domain):
        raise UsageError(f"--domain={options.domain}: may hold only letters a-z, digits and _")
    if options.names and options.format != "yolo":
        raise UsageError(f"--names belongs to --from=yolo, not to {options.format}")
    if options.images and not options.images.is_dir():
        raise DataError(f"--images={options.images}: no folder there, looked from {Path.cwd()}")


def _columns(options: argparse.Namespace) -> dict[str, str]:
    """The map of --columns, whose fields exist in this format."""
    columns = column_map(options.columns)
    if columns and options.format in WITHOUT_COLUMNS:
        raise UsageError(
            f"--columns: an object of {options.format} has a class and a box, nothing to map"
        )
    fields = (*FIELDS, *table.BOX_FIELDS) if options.format == "csv" else FIELDS
    for field in columns:
        if field not in fields:
            raise UsageError(
                f"--columns: no field {field!r}{spelling_hint(field, fields)}\n"
                f"  fields: {', '.join(fields)}"
            )
    return columns


def _present_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that is added to; none where there is no file."""
    if not path.exists():
        return []
    # By the reader of all runs: what it refuses is no file to add to.
    annotations(path)
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def _new_rows(
    before: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows that are not there yet, each once: the same command twice changes nothing."""
    texts = {json.dumps(row, sort_keys=True) for row in before}
    added = []
    for row in rows:
        text = json.dumps(row, sort_keys=True)
        if text not in texts:
            texts.add(text)
            added.append(row)
    return added


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the rows, whole or not at all, once the reader of all runs has read them."""
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.jsonl")
    try:
        part.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
        annotations(part)
        os.replace(part, path)
    except OSError as error:
        raise SetupError(f"--out={path}: cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def _summary(rows: Sequence[dict[str, Any]]) -> str:
    """The line that says how many rows there are, and of what."""
    if not rows:
        return "no new rows"
    pictures = len({row["image"] for row in rows})
    boxes = sum(row["box"] is not None for row in rows)
    splits = Counter(f"{row['domain']} {row['split']}" for row in rows)
    counts = ", ".join(f"{split} {count:,}" for split, count in sorted(splits.items()))
    return f"{len(rows):,} rows of {pictures:,} pictures, {boxes:,} with a box: {counts}"
