"""Sheets of a user's pictures: rows with their boxes and words, and pictures that are doubtful."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from date_jax.data import decode
from date_jax.data.files import preprocess
from date_jax.data.files.annotations import Row
from date_jax.data.files.photos import short_name
from date_jax.data.files.preprocess import Header, UnreadablePictureError
from date_jax.data.rendering.contact_sheet import INK, Grid
from date_jax.data.survey.finding import Finding
from date_jax.data.survey.looks import MAX_PIXELS
from date_jax.lettering import draw_text, text_lines

COLUMNS, TILE, GAP = 6, 224, 12
_LETTERS, _LINE = 13, 17
_RIM = (205, 205, 210)  # around a tile: many pictures are white
_MAX_SAMPLES = 36  # rows on a sheet
_MAX_DOUBTFUL = 48


def spread_rows(rows: Sequence[Row], count: int = _MAX_SAMPLES) -> list[Row]:
    """Rows of all domains and splits, evenly over each: always the same ones, none picked."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.domain, row.split].append(row)
    per_group = max(1, count // max(len(groups), 1))
    chosen = []
    for group in groups.values():
        numbers = np.unique(np.linspace(0, len(group) - 1, min(per_group, len(group))).round())
        chosen += [group[int(number)] for number in numbers]
    return chosen


def sample_sheet(folder: Path, rows: Sequence[Row], headers: dict[str, Header]) -> Image.Image:
    """A sheet of rows: the picture, the box of this row, its words, and where it stands.

    Args:
        folder: that pictures are relative to.
        rows: to show; those whose picture cannot be read are left out.
        headers: of the readable pictures, by name.
    """
    tiles = []
    for row in rows:
        pixels = _tile(folder / row.image) if row.image in headers else None
        if pixels is not None:
            box = _tile_box(row, headers[row.image])
            words = text_lines(row.text or "(no words)", TILE, size=_LETTERS, most=2)
            tiles.append((pixels, box, [*words, _place(row)]))
    return _sheet(tiles, lines=3)


def doubtful_sheet(
    folder: Path, rows: Sequence[Row], headers: dict[str, Header], findings: Sequence[Finding]
) -> Image.Image | None:
    """A sheet of the pictures of findings, None where there are none to show.

    Args:
        folder: that pictures are relative to.
        rows: of the file.
        headers: of the readable pictures, by name.
        findings: each of a kind, with the pictures and rows to show.
    """
    tiles = []
    first = {row.image: row for row in reversed(rows)}
    for finding in findings:
        pictures = [first[name]._replace(box=None) for name in finding.pictures]
        for row in (*pictures, *finding.rows):
            pixels = _tile(folder / row.image) if row.image in headers else None
            if pixels is not None:
                texts = [finding.kind.replace("_", " "), short_name(row.image), _place(row)]
                lines = [text_lines(text, TILE, size=_LETTERS, most=1)[0] for text in texts]
                tiles.append((pixels, _tile_box(row, headers[row.image]), lines))
    return _sheet(tiles[:_MAX_DOUBTFUL], lines=3) if tiles else None


def _place(row: Row) -> str:
    """Where a row stands, for the words below its picture."""
    return f"line {row.line}, {row.domain} {row.split}"


def _sheet(
    tiles: Sequence[tuple[np.ndarray, np.ndarray, Sequence[str]]], *, lines: int
) -> Image.Image:
    """Tiles in rows, each with its boxes and its lines of text."""
    columns = max(1, min(COLUMNS, len(tiles)))
    height = max(1, -(-len(tiles) // columns))
    grid = Grid(columns, height, tile=TILE, gap=GAP, text=lines * _LINE + GAP)
    for number, (pixels, boxes, texts) in enumerate(tiles):
        x, y = grid.add(number % columns, number // columns, pixels, boxes)
        grid.draw.rectangle((x - 1, y - TILE - 1, x + TILE, y), outline=_RIM)
        for line, text in enumerate(texts):
            draw_text(grid.draw, (x, y + 3 + line * _LINE), text, INK, _LETTERS)
    return grid.image


def _tile(path: Path) -> UInt8[np.ndarray, "S S 3"] | None:
    """A picture in its tile, None where it cannot be decoded."""
    try:
        file = preprocess.prepared_file(
            path, image_size=TILE, fit="letterbox", max_pixels=MAX_PIXELS
        )
    except UnreadablePictureError:
        return None
    return decode.pictures([file], TILE)[0]


def _tile_box(row: Row, header: Header) -> np.ndarray:
    """The row's box in its tile, normalised, as `[1 4]`; `[0 4]` where it has none."""
    if row.box is None or row.box[2] <= row.box[0] or row.box[3] <= row.box[1]:
        return np.zeros((0, 4))
    size = header.width, header.height
    return preprocess.prepared_box(row.box, size, image_size=TILE, fit="letterbox")[None]
