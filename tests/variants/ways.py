"""Ways in which users' tables differ from the plain one, each with what a reader has to answer.

A way changes a table in place. One that a reader cannot follow notes the words that a message has
to say. To add a way, write a function and put it under its subjects: a case draws at most one way
of each subject.
"""

import json
import math
import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from date_jax.data.files.splits import hashed_split
from tests.data.titles import TITLES
from tests.variants.tables import (
    CORNERS,
    OFFERS,
    PACKERS,
    PHOTOS,
    SIZES,
    Form,
    Refusal,
    Table,
    boxed_rows,
)


class Way(NamedTuple):
    """One way.

    Attributes:
        name: of the way.
        subjects: what it changes; no other way of a case changes the same.
        change: of a table, all that is random drawn from the first argument.
        reads: whether a table with it has to be read.
        forms: the tables that it is for.
        kinds: the files that it is for.
    """

    name: str
    subjects: tuple[str, ...]
    change: Callable[[random.Random, Table], None]
    reads: bool
    forms: tuple[Form, ...]
    kinds: tuple[str, ...]


WAYS: dict[str, Way] = {}
Change = Callable[[random.Random, Table], None]


def way(
    *subjects: str,
    reads: bool = False,
    forms: tuple[Form, ...] = (PHOTOS, OFFERS),
    kinds: tuple[str, ...] = ("jsonl", "csv"),
) -> Callable[[Change], Change]:
    """Adds a function to WAYS under its own name."""

    def add(change: Change) -> Change:
        WAYS[change.__name__] = Way(change.__name__, subjects, change, reads, forms, kinds)
        return change

    return add


# Boxes: their unit.


def _rescaled(table: Table, scale: tuple[float, float], *, sized: bool, digits: int) -> None:
    """Writes all boxes in another unit, as corners or as x, y, width, height."""
    for number in boxed_rows(table):
        x_min, y_min, x_max, y_max = table.truth[number]["box"]
        ends = (x_max - x_min, y_max - y_min) if sized else (x_max, y_max)
        box = [x_min * scale[0], y_min * scale[1], ends[0] * scale[0], ends[1] * scale[1]]
        table.cells[number]["box"] = [round(corner, digits) for corner in box]


def _add_unit(name: str, unit: float, *, sized: bool, word: str) -> None:
    """Adds the way that writes boxes as parts of a picture's sides."""

    def change(draw: random.Random, table: Table) -> None:
        width, height = SIZES[table.size]
        scale = (unit / width, unit / height) if unit else (1.0, 1.0)
        digits = 4 if unit == 1 else 1
        _rescaled(table, scale, sized=sized, digits=digits)
        shorter = min(SIZES[table.size])
        if not sized and 1.1 * unit < shorter < 2 * unit:
            # Pixels are as likely, unless many boxes speak against them.
            for number in boxed_rows(table):
                table.truth[number]["box"] = table.cells[number]["box"]
            table.notes.append(word)
            table.allowed.append(Refusal(("boxes", word)))
            return
        # In pictures smaller than the unit boxes only stand out of them.
        is_small = unit > 1 and 2 * unit > shorter
        table.refuse("boxes", *([] if is_small else [word]))

    WAYS[name] = Way(name, ("box",), change, False, (PHOTOS,), ("jsonl", "csv"))


_add_unit("percent_corners", 100, sized=False, word="percent")
_add_unit("percent_sizes", 100, sized=True, word="percent")
_add_unit("thousandths_corners", 1000, sized=False, word="thousandths")
_add_unit("thousandths_sizes", 1000, sized=True, word="thousandths")
_add_unit("normalised_corners", 1, sized=False, word="normalised")
_add_unit("normalised_sizes", 1, sized=True, word="normalised")
_add_unit("pixel_sizes", 0, sized=True, word="x, y, width, height")


@way("box", forms=(PHOTOS,))
def yolo_boxes(draw: random.Random, table: Table) -> None:
    width, height = SIZES[table.size]
    for number in boxed_rows(table):
        x_min, y_min, x_max, y_max = table.truth[number]["box"]
        box = [(x_min + x_max) / 2 / width, (y_min + y_max) / 2 / height]
        box += [(x_max - x_min) / width, (y_max - y_min) / height]
        table.cells[number]["box"] = [round(corner, 5) for corner in box]
    table.refuse("normalised")


@way("box", reads=True, forms=(PHOTOS,))
def corners_with_fractions(draw: random.Random, table: Table) -> None:
    for number in boxed_rows(table):
        box = [corner + draw.random() * 0.9 for corner in table.truth[number]["box"]]
        table.cells[number]["box"] = table.truth[number]["box"] = box


@way("box", reads=True, forms=(PHOTOS,))
def a_corner_half_a_pixel_outside(draw: random.Random, table: Table) -> None:
    number = draw.choice(boxed_rows(table))
    x_min, y_min, _, y_max = table.truth[number]["box"]
    box = [x_min, y_min, SIZES[table.size][0] + 0.5, y_max]
    table.cells[number]["box"] = table.truth[number]["box"] = box


# Boxes: their form.


def _replaced_boxes(table: Table, names: tuple[str, ...]) -> None:
    """Writes boxes into other columns."""
    for row in table.cells:
        box = row.pop("box")
        if len(names) == 1:
            row[names[0]] = json.dumps(box) if table.kind == "csv" else box
        else:
            cells = box or [None if table.kind == "jsonl" else ""] * len(names)
            row.update(dict(zip(names, cells, strict=True)))
    table.refuse(*names, "not read")


@way("box", forms=(PHOTOS,))
def boxes_under_another_name(draw: random.Random, table: Table) -> None:
    names = [("bbox",), ("bboxes",), ("BBox",), ("xmin", "ymin", "xmax", "ymax")]
    names += [("Box",), ("x", "y", "w", "h"), ("left", "top", "width", "height"), ("bndbox",)]
    names += [("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom")]
    names += [("X_Min", "Y_Min", "X_Max", "Y_Max"), ("bounding_box",), ("boundingBox",)]
    names += [("bbox_x", "bbox_y", "bbox_w", "bbox_h"), ("x0", "y0", "x1", "y1")]
    names += [("minx", "miny", "maxx", "maxy"), ("rect",), ("xyxy",), ("gt_bbox",)]
    _replaced_boxes(table, draw.choice(names))


def _spoiled_box(draw: random.Random, table: Table, box: Any, *words: str) -> None:
    """Gives one row a box that is none."""
    number = draw.choice(boxed_rows(table))
    table.cells[number]["box"] = box
    table.refuse("box", *words, row=number)


@way("box", forms=(PHOTOS,))
def a_box_of_four_zeros(draw: random.Random, table: Table) -> None:
    _spoiled_box(draw, table, draw.choice([[0, 0, 0, 0], [-1, -1, -1, -1], [0.0] * 4]), "null")


@way("box", forms=(PHOTOS,))
def a_reversed_box(draw: random.Random, table: Table) -> None:
    number = draw.choice(boxed_rows(table))
    x_min, y_min, x_max, y_max = table.truth[number]["box"]
    table.cells[number]["box"] = [x_max, y_min, x_min, y_max]
    table.refuse("reversed", row=number)


@way("box", forms=(PHOTOS,))
def a_box_outside_its_picture(draw: random.Random, table: Table) -> None:
    width, height = SIZES[table.size]
    boxes = [[-20, 3, 30, 40], [3, 3, width + 9, 40], [3, 3, 30, height + 9]]
    _spoiled_box(draw, table, draw.choice(boxes), "outside the picture")


@way("box", forms=(PHOTOS,))
def a_box_of_other_than_four_numbers(draw: random.Random, table: Table) -> None:
    boxes = [[1, 2, 3], [1, 2, 3, 4, 5], [[1, 2], [3, 4]], {"x": 1, "y": 2}, [[1, 2, 3, 4]]]
    boxes += ["1 2 3 4", "none", True, 7]
    _spoiled_box(draw, table, draw.choice(boxes))


@way("box", forms=(PHOTOS,), kinds=("jsonl",))
def a_corner_that_is_no_number(draw: random.Random, table: Table) -> None:
    corners = ["30", None, True, math.inf, math.nan, 10**400, [30], "30px"]
    _spoiled_box(draw, table, [1, 2, draw.choice(corners), 40])


@way("box", forms=(PHOTOS,), kinds=("csv",))
def a_cell_of_a_corner_that_is_no_number(draw: random.Random, table: Table) -> None:
    cells = ["", "12,5", "n/a", "nan", "30px", "inf", "１２", "0x1f", "1_000", "1.2.3", "None"]
    _spoiled_box(draw, table, ["1", "2", draw.choice(cells), "40"])


@way("box", reads=True, forms=(PHOTOS,), kinds=("csv",))
def corners_between_blanks(draw: random.Random, table: Table) -> None:
    for number in boxed_rows(table):
        table.cells[number]["box"] = [f" {corner} " for corner in table.truth[number]["box"]]


@way("box", reads=True, forms=(PHOTOS,), kinds=("csv",))
def boxes_in_one_cell(draw: random.Random, table: Table) -> None:
    for row in table.cells:
        row["box"] = json.dumps(row["box"]) if row["box"] else draw.choice(["", "null", "[]"])


@way("box", reads=True, forms=(PHOTOS,), kinds=("jsonl",))
def boxes_as_four_keys(draw: random.Random, table: Table) -> None:
    for row in table.cells:
        box = row.pop("box") or [draw.choice([None, math.nan])] * 4
        row.update(zip(CORNERS, box, strict=True))


@way("box", reads=True, forms=(PHOTOS,), kinds=("jsonl",))
def empty_boxes(draw: random.Random, table: Table) -> None:
    for row in table.cells:
        row["box"] = row["box"] or draw.choice([[], None, math.nan])


@way("box", reads=True, forms=(PHOTOS,))
def no_boxes(draw: random.Random, table: Table) -> None:
    for row, truth in zip(table.cells, table.truth, strict=True):
        del row["box"]
        truth["box"] = None


# Encodings.

LEGACY = {  # by Python's name: languages that it can hold, and what iconv calls it
    "cp1252": (("German", "French"), "WINDOWS-1252"),
    "latin-1": (("German", "French"), "LATIN1"),
    "cp932": (("Japanese",), "CP932"),
    "gbk": (("Chinese",), "GBK"),
    "cp949": (("Korean",), "CP949"),
    "big5": (("Chinese",), "BIG5"),
    "cp1251": (("Russian",), "WINDOWS-1251"),
    "koi8-r": (("Russian",), "KOI8-R"),
    "cp1256": (("Arabic",), "WINDOWS-1256"),
    "cp874": (("Thai",), "CP874"),
    "cp1258": (("Vietnamese",), "WINDOWS-1258"),
}
# Titles that the language's own encoding of ten years ago can hold.
TRADITIONAL = ("紅色條紋馬克杯", "不鏽鋼電熱水壺", "女士真皮斜背包", "兒童卡通雨傘", "復古木質檯燈")


def _held(text: str, encoding: str) -> str:
    """The letters of a text that an encoding has."""
    return text.encode(encoding, "ignore").decode(encoding)


def _add_legacy(encoding: str, languages: tuple[str, ...], iconv: str) -> None:
    """Adds the way that writes a file in an encoding of earlier days."""

    def change(draw: random.Random, table: Table) -> None:
        table.language = draw.choice(languages)
        titles = TRADITIONAL if encoding == "big5" else TITLES[table.language]
        for number in range(len(table.cells)):
            table.set_text(number, _held(titles[number % len(titles)], encoding))
        table.encoding, table.escapes = encoding, False
        # What Western Windows added to Latin-1 tells the two apart.
        if encoding == "cp1252":
            table.set_text(0, table.truth[0]["text"] + " – 5 €")
        table.refuse("UTF-8", iconv)

    WAYS[f"encoded_as_{encoding}"] = Way(
        f"encoded_as_{encoding}", ("encoding", "title"), change, False, (PHOTOS, OFFERS),
        ("jsonl", "csv"),
    )  # fmt: skip


for _encoding, (_languages, _iconv) in LEGACY.items():
    _add_legacy(_encoding, _languages, _iconv)


@way("encoding", reads=True)
def a_byte_order_mark(draw: random.Random, table: Table) -> None:
    table.encoding = "utf-8-sig"


@way("encoding")
def two_or_four_bytes_a_letter(draw: random.Random, table: Table) -> None:
    names = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
    table.encoding = draw.choice(names)
    table.refuse("UTF-32" if "32" in table.encoding else "UTF-16")


@way("encoding", "title")
def one_line_in_another_encoding(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.escapes = False
    table.set_text(number, "BYTES")
    letters = draw.choice([b"caf\xe9", b"\x93mug\x94", b"mug \xe7\xba", b"\x83J\x83b\x83v"])
    table.byte_edits.append(lambda content: content.replace(b"BYTES", letters))
    table.refuse("UTF-8", row=number)


@way("encoding", "title")
def a_zero_byte(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.set_text(number, "red ZERO mug")
    table.byte_edits.append(lambda content: content.replace(b"ZERO", b"\0"))
    table.refuse("zero byte", row=number)


# Containers.


@way("container", reads=True)
def packed(draw: random.Random, table: Table) -> None:
    table.packing = draw.choice([".gz", ".bz2", ".zst"])


@way("container")
def packed_and_cut_off(draw: random.Random, table: Table) -> None:
    ending, word = draw.choice([(".gz", "gzip"), (".bz2", "bzip2"), (".zst", "zstd")])
    table.byte_edits.append(lambda content: PACKERS[ending](content)[:-20])
    table.name += ending
    table.refuse(word, "damaged")


@way("container", reads=True)
def windows_line_ends(draw: random.Random, table: Table) -> None:
    table.newline = "\r\n"


@way("container", reads=True, kinds=("csv",))
def old_macintosh_line_ends(draw: random.Random, table: Table) -> None:
    table.newline = "\r"


@way("container", kinds=("jsonl",))
def json_lines_that_a_return_ends(draw: random.Random, table: Table) -> None:
    table.newline = "\r"
    table.refuse("not JSON")


@way("container", reads=True)
def no_last_line_end(draw: random.Random, table: Table) -> None:
    table.edits.append(lambda text: text.removesuffix(table.newline))


@way("container", reads=True)
def empty_lines_at_the_end(draw: random.Random, table: Table) -> None:
    table.edits.append(lambda text: text + table.newline * 3)


@way("container", reads=True, kinds=("csv",))
def empty_rows_of_a_spreadsheet(draw: random.Random, table: Table) -> None:
    def with_empty_rows(text: str) -> str:
        width = text.split(table.newline)[0].count(table.separator)
        return text + (table.separator * width + table.newline) * 3

    table.edits.append(with_empty_rows)


@way("container", reads=True, kinds=("csv",))
def empty_columns_of_a_spreadsheet(draw: random.Random, table: Table) -> None:
    for row in table.cells:
        row["MARK"] = row["MARK2"] = ""
    table.columns |= {"MARK": "", "MARK2": ""}


@way("container", reads=True, kinds=("csv",))
def the_index_of_pandas(draw: random.Random, table: Table) -> None:
    table.cells = [{"MARK": number, **row} for number, row in enumerate(table.cells)]
    table.columns |= {"MARK": draw.choice(["", "Unnamed: 0", "index"])}


@way("container", kinds=("csv",))
def other_separators(draw: random.Random, table: Table) -> None:
    table.separator, word = draw.choice([(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
    table.refuse(word)


@way("container")
def another_ending(draw: random.Random, table: Table) -> None:
    endings = {"jsonl": [".json", ".ndjson", ".txt", ""], "csv": [".tsv", ".xlsx", ".txt", ""]}
    table.name = f"shop{draw.choice(endings[table.kind])}"
    table.refuse(".jsonl", ".csv")


@way("container", reads=True)
def an_ending_in_capitals(draw: random.Random, table: Table) -> None:
    table.name = f"SHOP.{table.kind.upper()}"


@way("container", "encoding", "title", kinds=("jsonl",))
def one_json_list(draw: random.Random, table: Table) -> None:
    def listed(text: str) -> str:
        rows = [json.loads(line) for line in text.splitlines()]
        return json.dumps(rows, indent=draw.choice([None, 2]))

    table.edits.append(listed)
    table.refuse("one", "object a line")


@way("container", "encoding", "title", kinds=("jsonl",))
def one_object_over_several_lines(draw: random.Random, table: Table) -> None:
    table.edits.append(lambda text: text.replace(", ", ",\n "))
    table.refuse("not JSON", "object a line")


@way("container", "path")
def a_folder_of_parts(draw: random.Random, table: Table) -> None:
    table.name = f"shop.{table.kind}/part-00000.{table.kind}"
    table.path = f"{table.folder}/shop.{table.kind}"
    table.refuse("folder", name=f"shop.{table.kind}")


@way("container", "encoding", "title")
def another_programs_file(draw: random.Random, table: Table) -> None:
    start, word = draw.choice(
        [(b"PK\3\4", "Excel"), (b"PAR1", "Parquet"), (b"\xd0\xcf\x11\xe0", "Excel")]
    )
    table.byte_edits.append(lambda content: start + content)
    table.refuse(word)


@way("container", "title", "encoding")
def a_pointer_of_git_lfs(draw: random.Random, table: Table) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
    table.edits.append(lambda text: pointer)
    table.refuse("git lfs")


@way("container", "title")
def a_web_page_in_its_place(draw: random.Random, table: Table) -> None:
    table.edits.append(lambda text: "<!DOCTYPE html>\n<html><body>Sign in</body></html>\n")
    table.refuse("web page")


@way("container")
def no_rows(draw: random.Random, table: Table) -> None:
    is_header = table.kind == "csv" and draw.random() < 0.5
    end = table.newline
    table.edits.append(lambda text: text.split(end)[0] + end if is_header else "")
    table.refuse("no")


@way("container")
def a_last_line_that_is_cut_off(draw: random.Random, table: Table) -> None:
    # Of CSV the cut is seen by the number of cells, or within a quoted one.
    def cut(text: str) -> str:
        return text[: text.rstrip().rindex(table.newline) + len(table.newline) + 9]

    table.edits.append(cut)
    table.refuse(*(["not JSON"] if table.kind == "jsonl" else []), row=len(table.cells) - 1)


@way("container", "title", kinds=("csv",))
def a_comma_without_quotes(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.set_text(number, "COMMA")
    table.edits.append(lambda text: text.replace("COMMA", "a mug, red"))
    table.refuse("cells under", "quotes", row=number)


@way("container", "title", kinds=("csv",))
def a_quote_that_is_never_closed(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.set_text(number, "QUOTE")
    table.edits.append(lambda text: text.replace("QUOTE", '"a mug'))
    table.refuse("quote")


# Columns.


@way("columns", "title", "picture", "path", "split")
def a_column_is_missing(draw: random.Random, table: Table) -> None:
    names = {"photos": ["image", "query", "domain"], "offers": ["image", "title"]}
    name = draw.choice(names[table.form.name])
    for row in table.cells:
        del row[name]
    table.refuse("no", name)


@way("columns", "split", "id", reads=True)
def no_splits(draw: random.Random, table: Table) -> None:
    # A hash of the product decides: some of each domain have to train.
    products = [name for name in map(str, range(100)) if hashed_split(name) == "train"]
    _set_products(table, products[: len(table.cells)])
    for row, truth in zip(table.cells, table.truth, strict=True):
        del row["split"]
        truth["split"] = ""


@way("columns")
def a_column_is_nearly_named(draw: random.Random, table: Table) -> None:
    name = draw.choice(["image", "product_id", "category", "split"])
    written = draw.choice([name.upper(), name.title(), name.replace("_", "")]) + draw.choice(
        ["", " ", "."]
    )
    if written.strip() != name:
        table.columns[name] = written
        table.refuse(name)


@way("columns")
def a_column_is_there_twice(draw: random.Random, table: Table) -> None:
    if table.kind == "jsonl":  # the last of two keys counts, as JSON has it
        return
    for row in table.cells:
        row["AGAIN"] = "x"
    table.columns["AGAIN"] = table.form.text
    table.refuse("twice")


@way("columns", reads=True)
def columns_that_nobody_reads(draw: random.Random, table: Table) -> None:
    for row in table.cells:
        row |= {"price": draw.random(), "colour": "red", "Größe": "XL", "备注": "", "url2": None}


@way("columns", reads=True)
def columns_in_another_order(draw: random.Random, table: Table) -> None:
    names = list(table.cells[0])
    draw.shuffle(names)
    table.cells = [{name: row[name] for name in names if name in row} for row in table.cells]


@way("split")
def an_unknown_split(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.cells[number]["split"] = draw.choice(["Train", "valid", "dev", "training"])
    table.refuse("split", row=number)


@way("split", forms=(PHOTOS,))
def a_domain_that_names_no_file(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.cells[number]["domain"] = draw.choice(["my shop", "a/b", "..", "直播", "a+b", ""])
    table.refuse("domain", row=number)


# Ids.


def _set_products(table: Table, cells: list[Any], products: list[Any] | None = None) -> None:
    """Gives each row an id, and the product that it stands for."""
    for number, cell in enumerate(cells):
        table.cells[number]["product_id"] = cell
        table.truth[number]["product"] = (products or cells)[number]


def _numbers(draw: random.Random, table: Table) -> list[int]:
    return [draw.randrange(5) for _ in table.cells]


@way("id", reads=True)
def whole_numbers_as_ids(draw: random.Random, table: Table) -> None:
    factor = draw.choice([1, 1001, 2**62 + 1, 10**30])
    _set_products(table, [factor * (number + 1) for number in _numbers(draw, table)])


@way("id", reads=True, kinds=("jsonl",))
def whole_and_decimal_numbers_as_ids(draw: random.Random, table: Table) -> None:
    numbers = _numbers(draw, table)
    _set_products(table, [draw.choice([number, float(number)]) for number in numbers], numbers)


@way("id", reads=True)
def numbers_of_pandas_as_ids(draw: random.Random, table: Table) -> None:
    numbers = _numbers(draw, table)
    cells: list[Any] = [float(number) for number in numbers]
    cells[3] = math.nan if table.kind == "jsonl" else ""
    _set_products(table, cells, [None if n == 3 else number for n, number in enumerate(numbers)])


@way("id", reads=True)
def ids_with_zeros_before(draw: random.Random, table: Table) -> None:
    ids = [draw.choice(["7", "07", "007"]) for _ in table.cells]
    _set_products(table, ids)


@way("id", reads=True)
def words_for_an_empty_id(draw: random.Random, table: Table) -> None:
    word = draw.choice(["", "nan", "NaN", "None", "NULL", "null", "N/A", "<NA>", "#N/A"])
    numbers = _numbers(draw, table)
    empty = [draw.random() < 0.4 for _ in numbers]
    cells = [word if is_empty else f"p{n}" for n, is_empty in zip(numbers, empty, strict=True)]
    products = [None if is_empty else n for n, is_empty in zip(numbers, empty, strict=True)]
    _set_products(table, cells, products)


@way("id", reads=True)
def ids_in_any_script(draw: random.Random, table: Table) -> None:
    _set_products(
        table, [draw.choice(["杯 1", "Größe/XL", "a,b", 'a"b', "🔥"]) for _ in table.cells]
    )


@way("id", kinds=("jsonl",))
def an_id_that_is_no_text(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.cells[number]["product_id"] = draw.choice([True, ["p1"], {"id": 1}, 1.5])
    table.refuse("product_id", row=number)


@way("id", forms=(OFFERS,))
def an_offer_that_is_there_twice(draw: random.Random, table: Table) -> None:
    table.cells[5]["offer_id"] = table.cells[2]["offer_id"]
    table.refuse("offer_id", row=5)


@way("id", forms=(OFFERS,))
def an_offer_without_an_id(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.cells[number]["offer_id"] = ""
    table.refuse("offer_id", row=number)


# Titles.


def _add_title(name: str, texts: tuple[str, ...], kinds: tuple[str, ...]) -> None:
    """Adds a way that gives a row one of some texts, to be read as it is."""

    def change(draw: random.Random, table: Table) -> None:
        table.set_text(draw.randrange(len(table.cells)), draw.choice(texts))

    WAYS[name] = Way(name, ("title",), change, True, (PHOTOS, OFFERS), kinds)


TEXTS = {
    "emoji": ("red mug 🔥🔥", "👩\u200d👧 family", "🇩🇪 cup", "mug❤\ufe0f", "1\ufe0f\u20e3 mug"),
    "quotes_and_separators": ('7" plate', "a; b|c\td", "it's, so", '""', "a\\b", "{}"),
    "line_breaks": ("red\nmug", "red\r\nmug", "a\u2028b", "a\x85b", "a\x0bb\x0cc"),
    "rare_characters": ("a\u200bb", "שלום \u200fmug", "a\u0301\u0327", "\ufeffmug", "𠮷野家"),
    "very_long": ("ร้านค้าออนไลน์" * 200, "红" * 3000, "x" * 5000, "mug, " * 2000 + "mug"),
    "looks_like_something_else": ("null", "NaN", "123", "=1+1", "true", "#mug"),
}
for _name, _texts in TEXTS.items():
    _add_title(_name, _texts, ("jsonl", "csv"))


@way("title", reads=True)
def no_words(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.set_text(number, "")
    if table.kind == "jsonl" and draw.random() < 0.5:
        table.cells[number][table.form.text] = None


@way("title", "encoding", kinds=("jsonl",))
def half_a_character(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.escapes = True
    table.set_text(number, draw.choice(["red mug \ud83d", "\udd25 mug", "a \ud800 b", "\udc00"]))
    table.refuse(table.form.text, "half a character", row=number)


@way("title", kinds=("jsonl",))
def words_that_are_no_text(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.cells[number][table.form.text] = draw.choice([True, ["red"], {"en": "mug"}, 1.5])
    table.refuse(table.form.text, "text", row=number)


# Paths.

ABOVE = os.path.join("..", "img", "")  # the pictures, from a folder next to theirs


@way("path", reads=True)
def the_home_as_a_tilde(draw: random.Random, table: Table) -> None:
    table.path = "~/{name}"


@way("path", "picture", reads=True)
def a_folder_in_any_script(draw: random.Random, table: Table) -> None:
    table.name = f"{draw.choice(['我的 商店', 'Größe', 'a b', 'x&y', 'données'])}/{table.name}"
    _move_pictures(table, ABOVE)


@way("path", "picture", reads=True)
def a_folder_whose_name_is_not_utf8(draw: random.Random, table: Table) -> None:
    folder = draw.choice(["caf\udce9", "\udcb5\udcea"])
    table.name = f"{folder}/{table.name}"
    _move_pictures(table, ABOVE)


def _move_pictures(table: Table, folder: str) -> None:
    """Names all pictures by another way to them."""
    for row, truth in zip(table.cells, table.truth, strict=True):
        row["image"] = truth["image"] = row["image"].replace("img/", folder)


@way("picture", reads=True)
def pictures_by_another_way(draw: random.Random, table: Table) -> None:
    _move_pictures(table, draw.choice(["./img/", f"img/{ABOVE}", "img//", f"{table.folder}/img/"]))


@way("picture")
def pictures_with_backslashes(draw: random.Random, table: Table) -> None:
    _move_pictures(table, "img\\")
    table.refuse("backslashes", "write /", name="img")


@way("picture")
def pictures_by_addresses(draw: random.Random, table: Table) -> None:
    _move_pictures(table, draw.choice(["https://a.example/", "//a.example/", "s3://bucket/a/"]))
    table.refuse("address", "fetch")


@way("picture")
def a_picture_that_is_not_there(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    name = draw.choice(["img/missing.png", "img/SMALL_0.PNG", "img/small_0", "img", "~/a.png"])
    table.cells[number]["image"] = name
    table.refuse("cannot be", name=name)


@way("picture", "encoding", kinds=("jsonl",))
def a_picture_whose_name_is_not_utf8(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.escapes = True
    table.cells[number]["image"] = draw.choice(["img/caf\udce9.png", "\udcb5\udcea.png"])
    table.refuse("not UTF-8", "rename", row=number)


@way("picture")
def a_picture_without_a_name(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.cells[number]["image"] = draw.choice(["", None] if table.kind == "jsonl" else [""])
    table.refuse("image", row=number)


@way("picture")
def a_picture_in_its_name(draw: random.Random, table: Table) -> None:
    number = draw.randrange(len(table.cells))
    table.cells[number]["image"] = "data:image/png;base64," + "iVBORw0KGgo" * 300
    table.refuse("holds the picture itself", name="data:image")
