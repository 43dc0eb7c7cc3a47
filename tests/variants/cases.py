"""Cases: a table with some ways of WAYS in it, written, read, and compared with what is in it."""

import contextlib
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from ml_collections import ConfigDict

from date_jax.data import pipeline
from date_jax.data.files import box_format, catalogue, photo_table, photos
from date_jax.data.files.text_rows import table_path
from date_jax.errors import UserError
from tests.variants.tables import OFFERS, PHOTOS, SIZES, Refusal, Table, table
from tests.variants.ways import WAYS, Way

MOST_LINES = 8  # of a message
MOST_WAYS = 3  # of a case
# How pictures are prepared: none may be missing.
OPTIONS = {
    "image_size": 32,
    "fit": "letterbox",
    "max_pixels": 64_000_000,
    "bad_image_budget": 0.0,
}
SHARE_READ = 0.5  # of cases that have no way that is refused


class Answer(NamedTuple):
    """How a case was answered.

    Attributes:
        case: its number.
        form: of its table.
        ways: that its table has.
        language, kind: of its table.
        expected: "read" or "refused".
        result: "right", or what is wrong.
        message: of the reader, "" where the table was read.
    """

    case: int
    form: str
    ways: tuple[str, ...]
    language: str
    kind: str
    expected: str
    result: str
    message: str


def drawn_ways(draw: random.Random, table: Table) -> list[Way]:
    """Ways that fit a table and each other, at most MOST_WAYS."""
    only_read = draw.random() < SHARE_READ
    names = [
        name
        for name, way in WAYS.items()
        if table.form in way.forms and table.kind in way.kinds and (way.reads or not only_read)
    ]
    draw.shuffle(names)
    chosen: list[Way] = []
    for way in (WAYS[name] for name in names):
        if not {subject for other in chosen for subject in other.subjects} & set(way.subjects):
            chosen.append(way)
        if len(chosen) == MOST_WAYS:
            break
    return chosen[: draw.randint(1, MOST_WAYS)]


def answer_of_case(
    seed: int, number: int, folder: Path, ways: Sequence[str] = (), *, prepare: bool = False
) -> Answer:
    """The answer to a case.

    Args:
        seed, number: decide all that is random.
        folder: for its files, with the pictures in `img`.
        ways: names of those that its table shall have; none: drawn.
        prepare: whether a table of pictures that is read is made a corpus too, which takes a second
            or two.
    """
    draw = random.Random(f"{seed} {number}")
    form = draw.choice([PHOTOS, PHOTOS, OFFERS])
    chosen = [WAYS[name] for name in ways]
    if chosen and form not in chosen[0].forms:
        form = chosen[0].forms[0]
    one = table(draw, form, folder)
    if chosen and one.kind not in chosen[0].kinds:
        one.kind = chosen[0].kinds[0]
        one.name = f"shop.{one.kind}"
    chosen = chosen or drawn_ways(draw, one)
    for way in chosen:
        way.change(draw, one)
    result, message = _result(one)
    if prepare and result == "right" and not message and one.form is PHOTOS:
        result = _corpus_fault(one) or "right"
    return Answer(
        case=number,
        form=one.form.name,
        ways=tuple(way.name for way in chosen),
        language=one.language,
        kind=one.kind,
        expected="refused" if one.refusals else "read",
        result=result,
        message=message,
    )


def _result(table: Table) -> tuple[str, str]:
    """How a table is answered, and the message."""
    path = table.written()
    try:
        with mock.patch.dict(os.environ, HOME=os.fspath(table.folder)):
            rows, notes = _read_rows(table, path)
    except UserError as error:
        message = str(error)
        return _message_fault(table, message) or "right", message
    except Exception as error:  # whatever it is, a user sees a traceback
        return "traceback", f"{type(error).__name__}: {error}"
    if table.refusals:
        return "read in silence", ""
    missing = [word for word in table.notes if word not in notes]
    if missing or (notes and not table.notes):
        return f"notes: {notes!r:.200}, expected {missing}", ""
    return _content_fault(table, rows) or "right", ""


def _read_rows(table: Table, typed: str) -> tuple[list[dict[str, Any]], str]:
    """The rows and notes as a run has them, with all that it checks before the first pixel."""
    config = ConfigDict({"path": typed, "source": "mall", "target": "live", **OPTIONS})
    if table.form is PHOTOS:
        read = photo_table.photo_table(config)
        path, rows = read.path, read.rows
        fields = [row._asdict() for row in rows]
    else:
        path = table_path(typed)
        offers = catalogue.offers(path)
        fields = [{**offer._asdict(), "text": offer.title} for offer in offers]
        rows = [
            photos.PhotoRow(o.line, o.image, o.title, None, o.split, o.product_id, o.category)
            for o in offers
        ]
    headers = photo_table.checked_photos(path, path.parent, rows, OPTIONS).headers
    photo_table.records_name(path.parent, rows, OPTIONS)
    return fields, " ".join(box_format.scale_notes(rows, headers))


def _corpus_fault(table: Table) -> str:
    """What differs between the corpus of a table and what was written, "" if nothing."""
    config = ConfigDict({"name": "files", "source": "mall", "target": "live", **OPTIONS})
    config.update({"text_length": 16, "vocab": "", "vocab_size": 200, "fit": "stretch"})
    config.update({"path": table.typed(), "cache_dir": os.fspath(table.folder / "cache")})
    try:
        with mock.patch.dict(os.environ, HOME=os.fspath(table.folder)):
            corpus = pipeline.load(config, "grounding")
    except Exception as error:  # the readers took the table
        return f"no corpus: {type(error).__name__}: {error}"
    # A stretched picture's box is the share of its sides.
    width, height = SIZES[table.size]
    expected = []
    for truth in table.truth:
        x_min, y_min, x_max, y_max = truth["box"] or [0] * 4
        box = x_min / width, y_min / height, min(x_max / width, 1), y_max / height
        sides = (round(float(np.float32(side)), 4) for side in box)  # as records have them
        expected.append((truth["domain"], truth["text"], *sides))
    rows = [
        (name.rpartition("_")[0], text, *(round(float(side), 4) for side in box))
        for name, split in corpus.splits.items()
        for text, box in zip(split.texts, split.records.box_xyxy(), strict=True)
    ]
    differing = sorted(set(rows) ^ set(expected))
    return f"the corpus has other rows: {differing[:2]!r:.300}" if differing else ""


def _message_fault(table: Table, message: str) -> str:
    """What is wrong with a message, "" if it says what it has to."""
    refusals = [*table.refusals, *table.allowed]
    if not refusals:
        return "refused wrongly"
    if len(message.splitlines()) > MOST_LINES:
        return f"more than {MOST_LINES} lines"
    if max(map(len, message.splitlines())) > 400:
        return "a line of more than 400 letters"
    if not any(_says(table, refusal, message) for refusal in refusals):
        return "unclear"
    return ""


def _says(table: Table, refusal: Refusal, message: str) -> bool:
    """Whether a message tells a fault: its words, the file, and the row's line."""
    name = refusal.name or Path(table.name).name
    words_are_there = all(word in message for word in (*refusal.words, name))
    if refusal.row is None or not words_are_there:
        return words_are_there
    line = table.lines[refusal.row]
    return any(f"{before}{line}" in message for before in (":", "line ", ", "))


def _content_fault(table: Table, rows: list[dict[str, Any]]) -> str:
    """What differs between the rows that were read and those that were written, "" if nothing."""
    if len(rows) != len(table.truth):
        return f"{len(rows)} rows of {len(table.truth)}"
    for number, (row, truth) in enumerate(zip(rows, table.truth, strict=True)):
        names = ["image", "text", "category", *(["split"] if truth["split"] else [])]
        expected = dict(truth)
        if table.form is PHOTOS:
            expected["split"] = f"{truth['domain']}_{truth['split']}"
        for name in names:
            if row[name] != expected[name]:
                return f"row {number}: {name} is {row[name]!r:.80}, not {expected[name]!r:.80}"
        box = truth.get("box")
        if table.form is PHOTOS and row["box"] != (tuple(map(float, box)) if box else None):
            return f"row {number}: box is {row['box']}, not {box}"
    return _product_fault(table, [row["product_id"] for row in rows])


def _product_fault(table: Table, products: list[str]) -> str:
    """Which rows are wrongly of one product, or of two; a row without a product is alone."""
    true_products = [truth["product"] for truth in table.truth]
    for one, product in enumerate(true_products):
        for other in range(one):
            same = product is not None and true_products[other] == product
            # Two rows of one picture without a product are one product, as the picture is.
            is_empty = product is None and true_products[other] is None
            if not is_empty and same != (products[one] == products[other]):
                return f"rows {other} and {one} are {'two products' if same else 'one product'}"
    return ""


@contextlib.contextmanager
def case_folder(root: Path, number: int, pictures: Path) -> Iterator[Path]:
    """A folder for a case, with the pictures of all."""
    folder = root / f"case{number}"
    folder.mkdir(parents=True)
    (folder / "img").symlink_to(pictures)
    yield folder
