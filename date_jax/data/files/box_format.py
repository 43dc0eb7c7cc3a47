"""A check that boxes are what they should be: corners in pixels of their picture."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from date_jax.data.files.photos import PhotoRow
from date_jax.data.files.preprocess import Header
from date_jax.data.files.text_rows import line_list
from date_jax.errors import DataError

TOLERANCE = 1.0  # pixels a box may reach over the border; it is clipped there


def check_boxes(path: Path, rows: list[PhotoRow], headers: Mapping[str, Header]) -> None:
    """Refuses boxes that are not x_min, y_min, x_max, y_max in pixels of their picture.

    Args:
        path: of the file, for the message.
        rows: of all of it; those whose picture has no header are passed over.
        headers: by `PhotoRow.image`.

    Raises:
        DataError: with counts, lines and the format that the boxes look like.
    """
    # All wrong boxes at once, by what is wrong with them: together they show which format it is.
    boxed = [row for row in rows if row.box and row.image in headers]
    wrong: dict[str, list[PhotoRow]] = defaultdict(list)
    for row in boxed:
        fault = _fault(row, headers[row.image])
        if fault:
            wrong[fault].append(row)
    if not wrong:
        return
    # The message shows the first wrong row in full, and guesses the format from all boxes.
    wrong_rows = [row for rows in wrong.values() for row in rows]
    first = min(wrong_rows)
    size = headers[first.image]
    raise DataError(
        "\n".join(
            [
                f"{path}: {len(wrong_rows)} of {len(boxed)} boxes are not x_min, y_min, x_max, "
                "y_max in pixels of their picture",
                *(f"  {len(rows)} {fault}: {line_list(rows)}" for fault, rows in wrong.items()),
                f"  line {first.line}: {list(first.box or ())} in {first.image} of "
                f"{size.width} x {size.height}",
                *_likely_format(boxed, wrong_rows, headers),
            ]
        )
    )


def _fault(row: PhotoRow, picture: Header) -> str:
    """The fault of the row's box, "" if it has none."""
    assert row.box is not None
    x_min, y_min, x_max, y_max = row.box
    if _is_empty(row):
        return f"without area (all four {x_min:.0f}): write null for a row without a box"
    # A picture of two pixels may have a box of one: it would look normalised.
    if min(row.box) >= 0 and max(row.box) <= 1 and max(picture.width, picture.height) > 2:
        return "normalised (all four in [0, 1])"
    if x_max <= x_min or y_max <= y_min:
        return "reversed (x_max <= x_min or y_max <= y_min)"
    over = max(x_max - picture.width, y_max - picture.height, -x_min, -y_min)
    return "outside the picture" if over > TOLERANCE else ""


def _is_empty(row: PhotoRow) -> bool:
    """Whether the row's box is four times 0 or -1, as many tools write "no box"."""
    return row.box in ((0, 0, 0, 0), (-1, -1, -1, -1))


def _likely_format(
    boxed: list[PhotoRow], wrong_rows: list[PhotoRow], headers: Mapping[str, Header]
) -> list[str]:
    """A line that says what all boxes look like, or no line where nothing explains them.

    Args:
        boxed: rows with a box.
        wrong_rows: those whose boxes are wrong.
        headers: by `PhotoRow.image`.
    """

    def fits_xywh(row: PhotoRow) -> bool:
        # Whether the box would be right as a corner and a size.
        x, y, width, height = row.box or (0, 0, 0, 0)
        picture = headers[row.image]
        over = max(x + width - picture.width, y + height - picture.height)
        return min(x, y) >= 0 and min(width, height) > 0 and over <= TOLERANCE

    # Empty boxes say nothing about the format of the others.
    boxed = [row for row in boxed if not _is_empty(row)]
    wrong_rows = [row for row in wrong_rows if not _is_empty(row)]
    if not wrong_rows:
        return []
    # From the surest sign to the least sure one.
    normalised = [row for row in boxed if _fault(row, headers[row.image]).startswith("normalised")]
    if len(normalised) == len(boxed):
        return ["  all look normalised: multiply by the picture's width and height"]
    if normalised:
        return ["  normalised boxes are mixed with boxes in pixels: give all in pixels"]
    if all(map(fits_xywh, boxed)):
        return ["  all look like x, y, width, height: x_max is x + width, y_max is y + height"]
    if all(headers[row.image].is_rotated for row in wrong_rows):
        return ["  all lie in pictures with an EXIF rotation: boxes belong to the upright picture"]
    return []
