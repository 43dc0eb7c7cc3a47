"""What all formats have in common: an annotation, the names of splits, files read with a cap."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from date_jax.data.domains import SPLITS
from date_jax.data.files.text_rows import check_whole_characters, file_text, id_text, known_id
from date_jax.errors import DataError, spelling_hint

MAX_TEXT = 16 << 20  # bytes of one picture's annotations, or of a list of names
MAX_DOCUMENT = 1 << 30  # bytes of a JSON file that holds a whole data set
# What the fields of a row are called in the flag --columns.
FIELDS = ("image", "query", "product_id", "category", "domain", "split")
# Words for a split in other programs; all in lower case.
_SPLIT_WORDS = {
    **{split: split for split in SPLITS},
    **{"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"},
}

Box = tuple[float, float, float, float]


class Annotation(NamedTuple):
    """One text about one picture, as its source has it.

    Attributes:
        where: it stands, for messages.
        line: its number in the source.
        image: the picture's file, as the source names it.
        query: the words.
        box: x_min, y_min, x_max, y_max, or None.
        is_share: the box is in shares of the picture's sides, not in pixels.
        size: width and height of the picture by the source, where it says so.
        product_id, category, domain, split: "" where the source has none.
    """

    where: str
    line: int
    image: str
    query: str
    box: Box | None = None
    is_share: bool = False
    size: tuple[int, int] | None = None
    product_id: str = ""
    category: str = ""
    domain: str = ""
    split: str = ""


class Source(NamedTuple):
    """The annotations of a source, and what in it has become none.

    Attributes:
        annotations: in its order.
        folders: in which its pictures may lie, the likeliest first.
        left_out: how often each kind of thing was passed over, such as "crowds".
    """

    annotations: list[Annotation]
    folders: list[Path]
    left_out: Counter[str]


def class_query(name: str) -> str:
    """The words for a class's name: `red_mug` as a customer writes it.

    >>> class_query("red_mug")
    'red mug'
    """
    return " ".join(name.replace("_", " ").split())


def split_of_word(where: str, word: str) -> str:
    """The split that a word of another program means, "" for none.

    Raises:
        DataError: it means none of SPLITS.
    """
    if not word.strip():
        return ""
    split = _SPLIT_WORDS.get(word.strip().lower())
    if split is None:
        raise DataError(
            f"{where}: the split {word[:40]!r} is none of {', '.join(SPLITS)}"
            f"{spelling_hint(word, _SPLIT_WORDS)}"
        )
    return split


def fields_by_column(
    where: str, columns: dict[str, str], value_of: Callable[[str], Any]
) -> dict[str, str]:
    """The texts of those fields that `--columns` maps.

    Args:
        where: the annotation stands, for messages.
        columns: the source's name of each mapped field.
        value_of: the value under a name of the source, None where it has none.

    Raises:
        DataError: a value is neither a text nor a number, or no name of a domain or split.
    """
    texts = {
        field: field_text(where, column, value_of(column)) for field, column in columns.items()
    }
    # A domain becomes a part of the names of splits, metrics and files.
    if not re.fullmatch(r"[A-Za-z0-9_]*", texts.get("domain", "")):
        raise DataError(
            f"{where}: domain {texts['domain'][:60]!r} may hold only letters a-z, digits and _"
        )
    if "product_id" in texts:
        texts["product_id"] = known_id(texts["product_id"])
    if "split" in texts:
        texts["split"] = split_of_word(where, texts["split"])
    return texts


def field_text(where: str, name: str, value: Any) -> str:
    """A value as a text without blanks around it; "" for None.

    Raises:
        DataError: it is neither a text nor a number, or holds half a character.
    """
    if isinstance(value, bool) or not (value is None or isinstance(value, str | int | float)):
        raise DataError(f"{where}: {name} is a {type(value).__name__}: expected a text")
    text = id_text(value).strip()
    check_whole_characters(where, name, text)
    return text


def number_list(where: str, name: str, values: Any, count: int) -> list[float]:
    """So many finite numbers.

    Raises:
        DataError: there are more or fewer, or one of them is something else.
    """
    is_right = isinstance(values, list | tuple) and len(values) == count
    # JSON's true is an int to Python, its 1e999 infinite; an integer may be too long for a float.
    if is_right and all(
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
        for value in values
    ):
        return [float(value) for value in values]
    raise DataError(f"{where}: {name} is {_start(values)}: expected {count} finite numbers")


def box_of_points(points: list[tuple[float, float]]) -> Box:
    """The smallest upright box around some points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def capped_text(path: Path, option: str, most: int = MAX_TEXT) -> str:
    """The text of a file that is no larger than it may be.

    Args:
        path: of the file.
        option: by which the user named it, for messages.
        most: bytes of the file.

    Raises:
        DataError: it is larger, is not there, or is no UTF-8 text.
    """
    # Before it is read: what is too large for this format is another file.
    if path.is_file() and path.stat().st_size > most:
        raise DataError(f"{path}: has {path.stat().st_size:,} bytes, more than {most:,}")
    return file_text(path, option)


def json_document(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it is no JSON, or too large.
    """
    text = capped_text(path, "--path", MAX_DOCUMENT)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None


def json_items(where: str, document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects that a JSON object lists under `key`.

    Raises:
        DataError: there is no such list, or something else is in it.
    """
    items = document.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(
            f"{where}: expected a list of objects under {key!r}; "
            f"it has {', '.join(map(repr, [*document][:8])) or 'nothing'}"
        )
    return items


def positive_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height of a picture as a source says them, None where it does not."""
    # Also none: what no picture has, such as an integer too long for a float.
    if not all(isinstance(side, int | float) and 1 <= side < 1e6 for side in (width, height)):
        return None
    return round(width), round(height)


def _start(value: Any) -> str:
    """The beginning of a value for a message; of a large one nothing is written out."""
    if isinstance(value, list | tuple) and len(value) <= 8:
        return f"[{', '.join(str(part)[:12] for part in value)}]"[:80]
    return f"a {type(value).__name__}" if value is not None else "missing"
