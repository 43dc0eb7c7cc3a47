"""Rows of a user's own JSON Lines or CSV file, and what is wrong with it, by file and line."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from date_jax.data.domains import SPLITS
from date_jax.data.files.encodings import utf8_text
from date_jax.data.files.packed import ENDINGS, unpacked_file, unpacked_name
from date_jax.errors import DataError, UsageError, spelling_hint
from date_jax.run.user_paths import is_address, user_path, way_to_file

# What may lie in a table's place, by what it begins with in small letters.
_PAGE = "a web page, which a site shows in place of a file: sign in where it asks, fetch the file"
PAGES = {
    "<!doctype html": _PAGE,
    "<html": _PAGE,
    "<?xml": "XML: export the table as CSV UTF-8",
}
# Endings of other programs' annotations, of which this project makes a table.
ANNOTATION_KINDS = (".json", ".xml", ".yaml", ".yml", ".txt")
ANNOTATIONS_ADVICE = (
    "\n  annotations as COCO, VOC, YOLO or Label Studio have them become such a file with\n"
    "  python -m date_jax.data.convert --from=coco --path=FILE --out=shop.jsonl"
)
MIN_ROWS = 4  # of a file whose products are doubted
# Words that pandas, R, Excel and databases write for an empty cell: in a column of ids, one too.
EMPTY_WORDS = ("nan", "NaN", "None", "NULL", "null", "N/A", "n/a", "NA", "<NA>", "#N/A", "NaT")


@runtime_checkable
class SplitRow(Protocol):
    """A row that says where it stands and which split it belongs to."""

    @property
    def line(self) -> int:
        """The row's line in its file, from 1."""

    @property
    def split(self) -> str:
        """The name of the row's split."""


def text_rows(
    path: Path, check: Callable[[str, list[str]], None], option: str = "config.data.path"
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line, from 1, and the fields of each row of a `.jsonl` or `.csv` file.

    Args:
        path: of the file.
        check: raises DataError for a place and the names of columns there that will not do.
        option: by which the user named the file, for the messages.

    Raises:
        DataError: naming the file, the line, what is wrong with it and what to do.
    """
    # The name decides: of one line nobody could tell which it is.
    kind = table_kind(path)
    if kind not in (".jsonl", ".csv"):
        raise DataError(
            f"{option}={path}: expected a .jsonl (JSON Lines) or .csv file"
            f"{spelling_hint(kind, ('.jsonl', '.csv'))}, which may be packed ({', '.join(ENDINGS)})"
            + (ANNOTATIONS_ADVICE if kind in ANNOTATION_KINDS or path.is_dir() else "")
        )
    text = file_text(path, option)
    _check_no_page(path, text)
    yield from (json_rows if kind == ".jsonl" else _csv_rows)(path, text, check)


def _check_no_page(path: Path, text: str) -> None:
    """Refuses what lies in a table's place where a download went wrong."""
    first_letters = text[:200].lstrip().lower()
    for start, advice in PAGES.items():
        if first_letters.startswith(start):
            raise DataError(f"{path} is no table but {advice}")


def table_kind(path: Path) -> str:
    """The ending of a table's name in small letters, without that of a packed file.

    >>> table_kind(Path("shop.CSV.gz"))
    '.csv'
    """
    return unpacked_name(path).suffix.lower()


def table_path(text: str) -> Path:
    """The path of a user's table, as `config.data.path` has it.

    Raises:
        UsageError: it is an address.
        SetupError: it begins with a home that is not there.
    """
    if is_address(text):
        raise UsageError(
            f"config.data.path={text[:100]}: is an address, and files are read from this machine\n"
            f"  {way_to_file(text)}\n"
            "  pictures that a table names by addresses are fetched with\n"
            "  python -m date_jax.data.download --list=table.csv --out=pictures"
        )
    return user_path(text)


def check_images(path: Path, images: Sequence[str]) -> None:
    """Refuses a table that names most of its pictures by addresses.

    Fewer of them count as pictures that cannot be read, which a run may leave out.

    Args:
        path: of the table.
        images: the name of each row's picture.

    Raises:
        DataError: with the command that fetches them.
    """
    addresses = [name for name in images if is_address(name)]
    if 2 * len(addresses) > len(images):
        raise DataError(
            f"{path}: {len(addresses):,} of {len(images):,} rows name their pictures by addresses, "
            f"such as {addresses[0][:80]}\n"
            f"  fetch them: python -m date_jax.data.download --list={path} --out=pictures\n"
            f"  then read the table that it writes: pictures/rows{table_kind(path)}"
        )


def file_text(path: Path, option: str = "config.data.path") -> str:
    """The whole text of a UTF-8 file, which may be packed.

    Args:
        path: of the file.
        option: by which the user named it, for the messages.

    Raises:
        DataError: it is not there, no text, or in another encoding.
    """
    # A command's flag is a path already, which has lost one slash of an address.
    if is_address(str(path)):
        raise DataError(f"{option}={path}: is an address: fetch it first, and name the file")
    if path.is_dir():
        raise DataError(
            f"{option}={path}: is a folder, expected one file\n"
            "  join the parts that a program wrote: of JSON Lines with cat PARTS > shop.jsonl;\n"
            "  of CSV each has a header: awk 'FNR > 1 || NR == 1' PARTS > shop.csv"
        )
    # Whole, for the messages look at more than one line of it.
    try:
        with unpacked_file(path) as file:
            content = file.read()
    except FileNotFoundError:
        near = spelling_hint(path.name, (other.name for other in path.parent.glob("*")))
        raise DataError(f"{option}: no file {path}{near}\n  looked from {Path.cwd()}") from None
    except OSError as error:
        raise DataError(f"{option}: cannot read {path}: {error.strerror}") from None
    return utf8_text(path, content)


def json_rows(
    path: Path, text: str, check: Callable[[str, list[str]], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line and fields of each row of a text with one JSON object a line; see `text_rows`.

    A field that is NaN, as table programs write an empty cell, is None.
    """
    # Not splitlines(): a query may hold one of the rarer line ends of Unicode.
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}:{line}: not JSON: {error}\n  {content.strip()[:80]}\n"
                "  expected one object a line"
            ) from None
        if not isinstance(fields, dict):
            raise DataError(f"{path}:{line}: expected one JSON object a line, got {content[:80]}")
        # Each object may have other fields than the one before.
        check(f"{path}:{line}", list(fields))
        yield line, {name: None if _is_nan(field) else field for name, field in fields.items()}


def _is_nan(field: Any) -> bool:
    """Whether a field of a row is the number NaN."""
    return isinstance(field, float) and math.isnan(field)


def id_text(field: Any) -> str:
    """An id as a text, "" for None.

    Table programs turn the whole numbers of a column into floats where one cell is empty. The id
    7.0 is therefore 7.

    Args:
        field: as JSON or CSV has it.
    """
    if field is None:
        return ""
    return str(int(field) if isinstance(field, float) and field.is_integer() else field)


def known_id(field: Any) -> str:
    """An id as a text; "" where the field is empty or holds one of EMPTY_WORDS.

    >>> [known_id(field) for field in (7.0, "nan", "NULL", None)]
    ['7', '', '', '']

    Args:
        field: as JSON or CSV has it.
    """
    text = id_text(field)
    return "" if text.strip() in EMPTY_WORDS else text


def field_text(where: str, name: str, value: Any) -> str:
    """A field as a text: whole numbers are written out (7.0 as 7), null is "".

    Args:
        where: the row stands, for the message.
        name: of the field.
        value: as JSON or CSV has it.

    Raises:
        DataError: it is something else, or holds half a character.
    """
    text = id_text(value)
    is_whole = isinstance(value, float) and text.lstrip("-").isdecimal()
    if isinstance(value, bool) or not (value is None or is_whole or isinstance(value, str | int)):
        raise DataError(f"{where}: {name} is {json.dumps(value)[:60]}: expected a text")
    check_whole_characters(where, name, text)
    return text.strip()


def product_notes(product_ids: Iterable[str]) -> tuple[str, ...]:
    """The user's note that one product holds more than half of all rows, if one does.

    Such a product is often a word for an empty cell, such as 0 or unknown.

    Args:
        product_ids: of all rows.
    """
    counts = Counter(product_ids)
    total = counts.total()
    # Of two or three rows, most show one product by chance.
    if total < MIN_ROWS:
        return ()
    ((product_id, count),) = counts.most_common(1)
    if 2 * count <= total:
        return ()
    return (
        f"{count:,} of {total:,} rows are product {product_id[:60]!r}: each is a right answer to "
        "the others. Leave product_id empty where it is not known",
    )


def _csv_rows(
    path: Path, text: str, check: Callable[[str, list[str]], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line and fields of each row of a text in CSV; see `text_rows`."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        check_separator(path, names)
        check(str(path), names)
        # Spreadsheets write empty columns, and table programs their index, without a name.
        repeated = [name for name, count in Counter(names).items() if count > 1 and name]
        if repeated:
            raise DataError(f"{path}: column {repeated[0]!r} is there twice")
        # Rows of another length than the header's would lose a field or shift them all.
        for cells in reader:
            if not any(cell.strip() for cell in cells):  # an empty line, also of a spreadsheet
                continue
            if len(cells) != len(names):
                raise DataError(
                    f"{path}:{reader.line_num}: {len(cells)} cells under {len(names)} columns\n"
                    '  put texts that hold commas in quotes: "a mug, striped"'
                )
            yield reader.line_num, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num}: not CSV: {error}\n"
            "  a quote may be opened here or in a line above and never closed;\n"
            '  within a text in quotes write two for one: "a 7"" plate"'
        ) from None


def check_separator(path: Path, names: Sequence[str]) -> None:
    """Refuses a CSV file whose columns are separated by something else than commas.

    Args:
        path: of the file, for the message.
        names: of its columns, as read with commas.

    Raises:
        DataError: there is only one name, and it holds another separator.
    """
    for mark, separators in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(names) == 1 and mark in names[0]:
            raise DataError(
                f"{path}: columns are separated by {separators}: expected commas\n  {names[0][:80]}"
            )


def check_columns(
    where: str,
    names: Sequence[str],
    required: Sequence[str],
    optional: Sequence[str],
    advice: str = "",
) -> None:
    """Refuses columns that lack some of those required, or that misspell a name which is read.

    Args:
        where: the columns stand, for the message.
        names: of the columns.
        required: names that must be among them.
        optional: names that may be there too.
        advice: the last line of the message where some are missing.

    Raises:
        DataError: some are missing, or one would be passed over without a word.
    """
    _check_spelling(where, names, (*required, *optional))
    missing = [name for name in required if name not in names]
    if missing:
        raise DataError(
            f"{where}: no {', '.join(missing)}{spelling_hint(missing[0], names)}\n"
            f"  found: {', '.join(names)[:200]}\n"
            f"  required: {', '.join(required)}; besides: {', '.join(optional)}"
            f"{_download_advice(names) if 'image' in missing else ''}{advice}"
        )


def _download_advice(names: Sequence[str]) -> str:
    """The line of a message that says how a column of addresses becomes pictures; or ""."""
    for name in names:
        if re.search(r"ur[il]s?($|[\W_\d])|href|(^|[\W_])link", name.lower()):
            return (
                f"\n  if {name[:40]} holds addresses: python -m date_jax.data.download "
                f"--columns=image={name[:40]} --list=FILE --out=pictures"
            )
    return ""


def check_whole_characters(where: str, name: str, text: str) -> None:
    """Refuses a text with half a character, which JSON can spell and no file can hold.

    Args:
        where: the text stands, for the message.
        name: of its field.
        text: as JSON has it.

    Raises:
        DataError: it holds a surrogate without its other half.
    """
    half = re.search("[\ud800-\udfff]", text)
    # Python calls a byte of a file's name that is not UTF-8 so.
    if half and name == "image" and "\udc80" <= half[0] <= "\udcff":
        raise DataError(
            f"{where}: the picture's name {text[-60:]!a} is not UTF-8\n"
            "  rename the file in letters of UTF-8, and write that name here"
        )
    if half:
        raise DataError(
            f"{where}: {name} holds half a character (\\u{ord(half[0]):04x}): "
            f"{text[max(half.start() - 40, 0) : half.start() + 20]!a}\n"
            "  a program has cut the text within an emoji or another rare character\n"
            "  remove the half, or write \\ufffd in its place"
        )


def _check_spelling(where: str, names: Sequence[str], readable: Sequence[str]) -> None:
    """Refuses `Product_ID` or `productid` where there is no product_id."""
    unread = [name for name in names if name not in readable]
    if not unread:
        return
    # Letters and digits alone decide; `x_min` stands for xmin, X-Min and xMin.
    name_of = {_letters(name): name for name in readable if name not in names}
    wrong = {name: name_of[_letters(name)] for name in unread if _letters(name) in name_of}
    if wrong:
        raise DataError(
            f"{where}: {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not read: "
            f"call {'it' if len(wrong) == 1 else 'them'} {', '.join(wrong.values())}"
        )


def _letters(name: str) -> str:
    """The letters and digits of a name, in lower case."""
    return "".join(filter(str.isalnum, name)).lower()


def check_splits(path: Path, rows: Sequence[SplitRow]) -> None:
    """Refuses rows of a split that is none of SPLITS.

    Raises:
        DataError: with the names, their counts and the first lines.
    """
    unknown = [row for row in rows if row.split not in SPLITS]
    if unknown:
        names = Counter(row.split for row in unknown)
        raise DataError(
            f"{path}: {len(unknown)} rows have an unknown split: "
            f"{', '.join(f'{name!r} ({count})' for name, count in names.most_common(5))}"
            f"{spelling_hint(unknown[0].split, SPLITS)}\n"
            f"  first: {line_list(unknown)}; choices: {', '.join(SPLITS)}"
        )


def line_list(rows: Sequence[SplitRow]) -> str:
    """The line numbers of the first few of `rows`, for a message."""
    numbers = ", ".join(str(row.line) for row in rows[:5])
    return f"line{'s' if len(rows) > 1 else ''} {numbers}{', …' if len(rows) > 5 else ''}"
