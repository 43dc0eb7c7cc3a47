"""Annotations as rows of this project: pictures found, boxes in their pixels, splits for all."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from date_jax.data.conversion.annotation import Annotation, Box
from date_jax.data.conversion.picture_files import PictureFiles, relative_name
from date_jax.data.files.box_format import TOLERANCE, check_boxes
from date_jax.data.files.photos import PhotoRow, Photos, short_name
from date_jax.data.files.preprocess import Header
from date_jax.data.files.splits import hashed_splits
from date_jax.errors import DataError
from date_jax.run.user_paths import is_address

MAX_PIXELS = 64_000_000  # as `config.data.max_pixels`: a larger picture is not read
MAX_CUT = 0.1  # the share of boxes that may reach over their picture; more are another format
SIZE_TOLERANCE = 1  # pixels by which a source's size of a picture may be wrong
EXAMPLES = 3  # pictures named in a line about what was left out


class Rows(NamedTuple):
    """Rows to write, and what the user is told about them.

    Attributes:
        rows: as JSON objects.
        notes: lines about rows that were left out or changed.
    """

    rows: list[dict[str, Any]]
    notes: list[str]


def rows_of_annotations(
    annotations: Sequence[Annotation],
    *,
    source: Path,
    files: PictureFiles,
    folder: Path,
    domain: str,
    split: str,
) -> Rows:
    """The rows of some annotations.

    Args:
        annotations: of one source.
        source: its path, for messages.
        files: where its pictures lie.
        folder: of the file to be written, that pictures are named relative to.
        domain: of annotations that have none.
        split: of all annotations; "" leaves those that have one theirs, and gives others one by a
            hash, 8:1:1, so that all of a picture and of a product are in the same.

    Raises:
        DataError: no picture can be read, or boxes are no corners in pixels.
    """
    notes: list[str] = []
    worded = _with_words(annotations, notes)
    pictured, names = _with_pictures(worded, source, files, folder, notes)
    # Headers alone: the size turns shares into pixels, and tells whether a box can be right.
    photos = Photos(folder, names, image_size=1, fit="stretch", max_pixels=MAX_PIXELS, budget=1.0)
    pairs = _of_right_size(pictured, names, source, photos, notes)
    boxes = _checked_boxes(pairs, source, photos.headers, notes)
    splits = _splits(pairs, split, notes)
    return Rows(
        [
            _row(item, name, box, item.domain or domain, row_split)
            for (item, name), box, row_split in zip(pairs, boxes, splits, strict=True)
        ],
        notes,
    )


def _with_words(annotations: Sequence[Annotation], notes: list[str]) -> list[Annotation]:
    """The annotations that have a query."""
    worded = [item for item in annotations if item.query]
    _note(notes, "rows without words", [item.where for item in annotations if not item.query])
    return worded


def _with_pictures(
    annotations: Sequence[Annotation],
    source: Path,
    files: PictureFiles,
    folder: Path,
    notes: list[str],
) -> tuple[list[Annotation], list[str]]:
    """The annotations whose picture is there, and its name relative to `folder`."""
    path_of = {name: files.path(name) for name in {item.image for item in annotations}}
    _check_apart(source, path_of)
    pictured, names, missing = [], [], []
    for item in annotations:
        path = path_of[item.image]
        if path is None:
            missing.append(short_name(item.image))
        else:
            pictured.append(item)
            names.append(relative_name(path, folder))
    if annotations and not pictured:
        are_addresses = is_address(annotations[0].image)
        raise DataError(
            f"{source}: none of its {len(path_of):,} pictures is there, such as {missing[0]}\n"
            f"  looked in {', '.join(map(str, files.folders)) or 'no folder'}\n"
            "  say where they lie: --images=FOLDER"
            + ("; addresses are fetched with date_jax.data.download" if are_addresses else "")
        )
    _note(notes, "rows whose picture is not there, or is one of several of its name", missing)
    return pictured, names


def _check_apart(source: Path, path_of: dict[str, Path | None]) -> None:
    """Refuses two names of a source that lead to one picture: boxes would get a wrong one."""
    name_of: dict[Path, str] = {}
    for name, path in sorted(path_of.items()):
        if path is not None and name_of.setdefault(path, name) != name:
            raise DataError(
                f"{source}: its pictures {short_name(name_of[path])} and {short_name(name)} both "
                f"lead to {path}\n  say where the folders of both lie: --images=FOLDER"
            )


def _of_right_size(
    annotations: Sequence[Annotation],
    names: Sequence[str],
    source: Path,
    photos: Photos,
    notes: list[str],
) -> list[tuple[Annotation, str]]:
    """The annotations whose picture can be read and is as large as the source says."""
    pairs, unreadable, resized = [], [], []
    for item, name in zip(annotations, names, strict=True):
        header = photos.headers.get(name)
        if header is None:
            unreadable.append(f"{short_name(name)} {photos.unreadable[name]}")
        elif item.box and item.size and not _is_size(item.size, header):
            resized.append(
                f"{short_name(name)} is {header.width} x {header.height}, "
                f"by the source {item.size[0]} x {item.size[1]}"
            )
        else:
            pairs.append((item, name))
    for what, places in (
        ("rows whose picture cannot be read", unreadable),
        ("boxes that belong to a picture of another size or rotation", resized),
    ):
        if places and len(places) == len(annotations):
            raise DataError(f"{source}: has only {what}\n  such as {places[0]}")
        _note(notes, what, places)
    return pairs


def _is_size(size: tuple[int, int], header: Header) -> bool:
    """Whether a picture has the size that its source says."""
    pairs = zip(size, (header.width, header.height), strict=True)
    return all(abs(one - other) <= SIZE_TOLERANCE for one, other in pairs)


def _checked_boxes(
    pairs: Sequence[tuple[Annotation, str]],
    source: Path,
    headers: dict[str, Header],
    notes: list[str],
) -> list[Box | None]:
    """The box of each annotation in pixels, cut at the border of its picture."""
    boxes = [_pixels(item, headers[name]) for item, name in pairs]
    sizes = [headers[name] for _, name in pairs]
    cut = [
        box is not None and _reach(box, size) > TOLERANCE
        for box, size in zip(boxes, sizes, strict=True)
    ]
    # A few boxes reach over the border by mistake; of many, or wholly outside, it is the format.
    count = sum(box is not None for box in boxes)
    if sum(cut) <= MAX_CUT * count:
        boxes = [
            box and (_cut_box(box, size) or box) for box, size in zip(boxes, sizes, strict=True)
        ]
        where = [item.where for (item, _), is_cut in zip(pairs, cut, strict=True) if is_cut]
        _note(notes, "boxes are cut at the border of their picture", where, verb="")
    check_boxes(
        source,
        [
            PhotoRow(item.line, name, item.query, box, "", "", "")
            for (item, name), box in zip(pairs, boxes, strict=True)
        ],
        headers,
    )
    return boxes


def _pixels(item: Annotation, header: Header) -> Box | None:
    """The box of an annotation in pixels."""
    if item.box is None or not item.is_share:
        return item.box
    x_min, y_min, x_max, y_max = item.box
    width, height = header.width, header.height
    return x_min * width, y_min * height, x_max * width, y_max * height


def _reach(box: Box, size: Header) -> float:
    """The number of pixels by which a box reaches over the border."""
    return max(-box[0], -box[1], box[2] - size.width, box[3] - size.height)


def _cut_box(box: Box, size: Header) -> Box | None:
    """The part of a box that is in its picture, None where there is none."""
    x_min, y_min = max(box[0], 0.0), max(box[1], 0.0)
    x_max, y_max = min(box[2], float(size.width)), min(box[3], float(size.height))
    return (x_min, y_min, x_max, y_max) if x_min < x_max and y_min < y_max else None


def _splits(pairs: Sequence[tuple[Annotation, str]], split: str, notes: list[str]) -> list[str]:
    """The split of each annotation; see `rows_of_annotations`."""
    if split:
        return [split] * len(pairs)
    hashed = hashed_splits([name for _, name in pairs], [item.product_id for item, _ in pairs])
    count = sum(not item.split for item, _ in pairs)
    if count:
        notes.append(
            f"{count:,} rows without a split go to train, val and test by a hash of their picture "
            "and product, 8:1:1; --split=train gives all one"
        )
    return [item.split or other for (item, _), other in zip(pairs, hashed, strict=True)]


def _row(item: Annotation, name: str, box: Box | None, domain: str, split: str) -> dict[str, Any]:
    """One row as a JSON object, without fields that are empty."""
    # A thousandth of a pixel is less than any annotation tells.
    corners = None if box is None else [round(corner, 3) for corner in box]
    row = {"image": name, "query": item.query, "box": corners, "domain": domain, "split": split}
    optional = {"product_id": item.product_id, "category": item.category}
    return row | {field: text for field, text in optional.items() if text}


def _note(notes: list[str], what: str, places: Sequence[str], verb: str = "left out: ") -> None:
    """Adds a line with a count and the first few places, if there are any."""
    if places:
        first = list(Counter(places))[:EXAMPLES]
        more = ", …" if len(set(places)) > EXAMPLES else ""
        notes.append(f"{verb}{len(places):,} {what}: {', '.join(first)}{more}")
