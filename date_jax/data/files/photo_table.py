"""A user's table of pictures as rows, and what can be wrong with it, before TensorFlow comes."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from date_jax.data.domains import check_domains
from date_jax.data.files.annotations import annotations
from date_jax.data.files.box_format import check_boxes
from date_jax.data.files.photos import PhotoRow, Photos
from date_jax.data.files.splits import shared_notes
from date_jax.data.files.text_rows import product_notes, table_path
from date_jax.errors import DataError, together

PREPARE_VERSION = 3  # raise it when prepared pictures change: what was made before is made anew
# Larger tables are read once, with TensorFlow there: reading them twice would take longer.
MOST_BYTES = 50_000_000
MOST_PICTURES = 20_000
_HASHED = "no row has a split: products go to train, val and test by a hash, 8:1:1"
_OPTIONS = ("image_size", "fit", "max_pixels", "bad_image_budget")


class PhotoTable(NamedTuple):
    """The rows of a user's file, each with its `<domain>_<split>`.

    Attributes:
        path: of the file.
        rows: all of them.
        notes: what the user should be told of them.
    """

    path: Path
    rows: list[PhotoRow]
    notes: tuple[str, ...]


def photo_table(config: Any) -> PhotoTable:
    """The rows of the file that `config.data` names; no picture is opened.

    Args:
        config: `config.data`.

    Raises:
        DataError: the file is malformed, or lacks the domains that the config asks for.
    """
    # An empty path would be read as the folder that the run started in.
    if not config.path:
        raise DataError(
            "config.data.path is empty: name your .jsonl or .csv file, "
            "as in --config.data.path=shop.jsonl"
        )
    path = table_path(config.path)
    # A line becomes a row; its domain and split make the name of one split.
    lines = annotations(path)
    rows = [
        PhotoRow(
            line=row.line,
            image=row.image,
            text=row.text,
            box=row.box,
            split=f"{row.domain}_{row.split}",
            product_id=row.product_id,
            category=row.category,
        )
        for row in lines
    ]
    # A domain without training rows is refused before any picture is opened.
    splits = {row.split for row in rows}
    check_domains(splits, source=config.source, target=config.target, where=str(path))
    notes = product_notes(row.product_id for row in rows)
    notes = (*([_HASHED] if lines[0].is_hashed else []), *shared_notes(rows), *notes)
    return PhotoTable(path, rows, notes)


def picture_options(config: Any) -> dict[str, Any]:
    """The options of `config.data` that pictures are prepared by."""
    return {key: config[key] for key in _OPTIONS}


def checked_photos(
    path: Path, folder: Path, rows: Sequence[PhotoRow], options: Mapping[str, Any]
) -> Photos:
    """The pictures of some rows, after a look at every header and every box.

    Args:
        path: of the file, for messages.
        folder: that the pictures' names are relative to.
        rows: of the file.
        options: of `picture_options`.

    Raises:
        DataError: too many pictures cannot be read, or boxes are no corners in pixels, or both.
    """
    # Headers cost little and tell most mistakes: all are read before any pixel.
    photos = Photos(
        folder,
        [row.image for row in rows],
        image_size=options["image_size"],
        fit=options["fit"],
        max_pixels=options["max_pixels"],
        budget=options["bad_image_budget"],
    )
    problems = []
    for check in (photos.check_budget, lambda: check_boxes(path, [*rows], photos.headers)):
        try:
            check()
        except DataError as error:
            problems.append(error)
    if problems:
        raise together(problems)
    return photos


def records_name(folder: Path, rows: Sequence[PhotoRow], options: Mapping[str, Any]) -> str:
    """The name of prepared records, which changes with whatever they depend on.

    That is every row, every picture's size and time on disk, and how pictures are prepared.
    """
    content = (PREPARE_VERSION, sorted(options.items()), [*rows])
    digest = hashlib.sha256(repr(content).encode())
    for image in dict.fromkeys(row.image for row in rows):
        file = folder.resolve() / image
        try:
            status = file.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):  # no path may hold a zero byte
            state = "missing"
        digest.update(os.fsencode(f"{file} {state}\n"))  # a folder's name need not be UTF-8
    return digest.hexdigest()[:16]


def check_early(config: Any, cache: Path) -> None:
    """Refuses a table that a run would refuse, while nothing heavy is imported yet.

    A large table is not looked at, nor the pictures of one that is prepared already.

    Args:
        config: `config.data`.
        cache: folder of prepared records.

    Raises:
        DataError: see `photo_table` and `checked_photos`.
    """
    path = table_path(config.path)
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        return
    table, options = photo_table(config), picture_options(config)
    folder = table.path.parent
    if len({row.image for row in table.rows}) > MOST_PICTURES:
        return
    if not (cache / "files" / records_name(folder, table.rows, options)).exists():
        checked_photos(table.path, folder, table.rows, options)
