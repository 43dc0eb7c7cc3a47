"""Tables of a user's pictures with a known content, written in the form that a case asks for."""

import bz2
import csv
import dataclasses
import gzip
import io
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from PIL import Image

from tests.data.titles import TITLES

SIZES = {  # pixels
    **{"tiny": (96, 72), "small": (150, 120), "medium": (640, 480)},
    **{"wide": (1600, 1200), "large": (2400, 2000)},
}
PICTURES = 3  # of each size
CORNERS = ("x_min", "y_min", "x_max", "y_max")
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda content: pyarrow.compress(content, "zstd", asbytes=True),
}


@dataclasses.dataclass(frozen=True)
class Form:
    """A kind of table that the project reads.

    Attributes:
        name: of the kind.
        text: the column of the words.
        key: the column that tells rows apart, if there is one.
    """

    name: str
    text: str
    key: str = ""


PHOTOS = Form("photos", "query")
OFFERS = Form("offers", "title", "offer_id")


@dataclasses.dataclass(frozen=True)
class Refusal:
    """What a message has to say about a fault.

    Attributes:
        words: all of them are in the message.
        row: that the message has to name by its line; None where the fault is not of one row.
        name: of the file that has to be in the message; "" for the table's own.
    """

    words: tuple[str, ...]
    row: int | None = None
    name: str = ""


@dataclasses.dataclass
class Table:
    """A table that is about to be written, with the content that a reader has to find in it.

    Attributes:
        form: PHOTOS or OFFERS.
        folder: that it is written into; pictures lie in its `img`.
        cells: the fields of each row as they are written.
        truth: the fields of each row as they have to be read; `product` tells products apart.
        kind: "jsonl" or "csv".
        name: of the file; a folder where it ends with "/".
        language: of the titles.
        size: of the pictures, a key of SIZES.
        encoding, newline, separator, packing: of the file; packing is its ending, or "".
        escapes: whether JSON has letters beyond ASCII as \\u escapes.
        edits: of the text before it is encoded.
        byte_edits: of the bytes before they are packed.
        refusals: the faults; any one may be told. Without one the table has to be read.
        allowed: what a message may say of a table that may as well be read.
        notes: words that the user's notes have to say of a table that is read.
        path: as the user types it, with {name} for the file's name; "" for the file's own.
        columns: names that take the place of others in the file.
    """

    form: Form
    folder: Path
    cells: list[dict[str, Any]]
    truth: list[dict[str, Any]]
    kind: str
    name: str
    language: str
    size: str
    encoding: str = "utf-8"
    newline: str = "\n"
    separator: str = ","
    packing: str = ""
    escapes: bool = False
    edits: list[Callable[[str], str]] = dataclasses.field(default_factory=list)
    byte_edits: list[Callable[[bytes], bytes]] = dataclasses.field(default_factory=list)
    refusals: list[Refusal] = dataclasses.field(default_factory=list)
    allowed: list[Refusal] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    path: str = ""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    lines: list[int] = dataclasses.field(default_factory=list)

    def refuse(self, *words: str, row: int | None = None, name: str = "") -> None:
        """Notes a fault that a message has to tell with these words."""
        self.refusals.append(Refusal(words, row, name))

    def set_text(self, row: int, text: Any) -> None:
        """Gives a row other words, which are read as they are."""
        self.cells[row][self.form.text] = text
        self.truth[row]["text"] = text

    def written(self) -> str:
        """Writes the file, and returns the path that the user types."""
        text = _json_text(self) if self.kind == "jsonl" else _csv_text(self)
        for edit in self.edits:
            text = edit(text)
        # Titles fit their encoding; letters of other fields that do not are question marks.
        content = text.encode(self.encoding, "strict" if "utf" in self.encoding else "replace")
        for edit_bytes in self.byte_edits:
            content = edit_bytes(content)
        if self.packing:
            content = PACKERS[self.packing](content)
        path = os.path.join(os.fspath(self.folder), self.name + self.packing)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_bytes(content)
        return self.typed()

    def typed(self) -> str:
        """The path as the user types it."""
        name = self.name + self.packing
        return self.path.replace("{name}", name) or os.path.join(os.fspath(self.folder), name)


def pictures(folder: Path) -> Path:
    """A folder with the pictures of all cases: plain, since their headers alone are looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        for number in range(PICTURES):
            colour = (60 * number, 120, 200)
            Image.new("RGB", size, colour).save(folder / f"{name}_{number}.png")
    return folder


def table(draw: random.Random, form: Form, folder: Path) -> Table:
    """A table of ten or thirty rows without a fault.

    Args:
        draw: decides all that is random.
        form: PHOTOS or OFFERS.
        folder: to write it into, with pictures in `img`.
    """
    language = draw.choice(list(TITLES))
    size = draw.choice(list(SIZES))
    kind = draw.choice(["jsonl", "csv"])
    titles = draw.sample(TITLES[language], 10)
    if draw.random() < 0.3:
        titles += [f"{title} {number}" for number in (1, 2) for title in titles]
    cells, truth = [], []
    for number, title in enumerate(titles):
        product = f"p{draw.randrange(6)}"
        common = {
            "image": f"img/{size}_{draw.randrange(PICTURES)}.png",
            "product_id": product,
            "category": draw.choice(["mug", "bag", "lamp"]),
            "split": ("train", "train", "val", "test")[number % 4],
        }
        if form is PHOTOS:
            row = {**common, "query": title, "domain": ("mall", "live")[number // 5 % 2]}
            row["box"] = None if number in (4, 7) else _box(draw, SIZES[size], number)
        else:
            row = {**common, "title": title, "offer_id": f"o{number}", "supplier": "s1"}
        cells.append(row)
        truth.append({**row, "text": title, "product": product})
    return Table(
        form=form,
        folder=folder,
        cells=cells,
        truth=truth,
        kind=kind,
        name=f"shop.{kind}",
        language=language,
        size=size,
        escapes=draw.random() < 0.3,
    )


def _box(draw: random.Random, size: tuple[int, int], number: int) -> list[int]:
    """The corners of a box in pixels.

    The first row's reaches nearly to the far corner, and the second's begins behind the middle: a
    unit of another kind shows in them.
    """
    width, height = size
    x, y = draw.randrange(width // 2), draw.randrange(height // 2)
    if number == 1:
        x, y = int(0.55 * width), int(0.55 * height)
    reach = (0.96, 0.97) if number == 0 else (draw.uniform(0.6, 0.99), draw.uniform(0.6, 0.99))
    return [x, y, int(reach[0] * width), int(reach[1] * height)]


def _json_text(table: Table) -> str:
    """One JSON object a line."""
    lines = []
    for row in table.cells:
        named = {table.columns.get(name, name): cell for name, cell in row.items()}
        lines.append(json.dumps(named, ensure_ascii=table.escapes))
    table.lines = list(range(1, len(lines) + 1))
    return "".join(line + table.newline for line in lines)


def _csv_text(table: Table) -> str:
    """A header, and the cells of each row; a box that is a list stands in four columns."""
    rows = [_csv_cells(row) for row in table.cells]
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    # The writer puts a text with line breaks in quotes only where its own lines end so.
    quoting = csv.QUOTE_ALL if table.newline == "\r" else csv.QUOTE_MINIMAL
    writer = csv.writer(
        file, delimiter=table.separator, lineterminator=table.newline, quoting=quoting
    )
    writer.writerow([table.columns.get(name, name) for name in names])
    table.lines = []
    for row in rows:
        writer.writerow([row.get(name, "") for name in names])
        table.lines.append(_line_count(file.getvalue(), table.newline))
    return file.getvalue()


def _line_count(text: str, newline: str) -> int:
    """The line that a text ends on, as a reader of CSV counts them."""
    return len(list(io.StringIO(text, newline=""))) if newline != "\r" else text.count("\r")


def _csv_cells(row: dict[str, Any]) -> dict[str, Any]:
    """The cells of a row in CSV."""
    cells = {name: cell for name, cell in row.items() if name != "box"}
    if "box" in row:
        corners = row["box"] or [""] * len(CORNERS)
        if isinstance(corners, list) and len(corners) == len(CORNERS):
            return cells | dict(zip(CORNERS, corners, strict=True))
        cells["box"] = corners if isinstance(corners, str) else json.dumps(corners)
    return cells


def boxed_rows(table: Table) -> Sequence[int]:
    """The rows that have a box."""
    return [number for number, row in enumerate(table.truth) if row.get("box")]
