"""A check that boxes are what they should be: corners in pixels of their picture."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from date_jax.data.files.photos import PhotoRow
from date_jax.data.files.preprocess import Header
from date_jax.data.files.text_rows import line_list
from date_jax.errors import DataError

TOLERANCE = 1.0  # pixels a box may reach over the border; it is clipped there
MIN_SIDE = 0.01  # pixels of a box that must be left then; float32 boxes tell so many apart
SCALES = {100: "percent", 1000: "thousandths"}
# From so many boxes on it is no chance that all lie in the upper left quarter of their pictures.
MIN_SCALED = 6
# In pictures below twice the scale it takes so many, and what `_fills_scale` looks at.
MIN_FILLING = 20
_SIZED = "as x, y, width, height: x_max is x + width, y_max is y + height;\n  then"

Box = tuple[float, float, float, float]


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
        _check_scale(path, boxed, headers)
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


def _check_scale(path: Path, boxed: list[PhotoRow], headers: Mapping[str, Header]) -> None:
    """Refuses boxes that may be pixels, but all lie where percent or thousandths would.

    Args:
        path: of the file, for the message.
        boxed: rows with a box.
        headers: by `PhotoRow.image`.

    Raises:
        DataError: with the way to pixels.
    """
    scale = _scale([row.box for row in boxed if row.box])
    if scale and _is_likely(boxed, scale, headers):
        first = boxed[0]
        size = headers[first.image]
        raise DataError(
            f"{path}: all {len(boxed)} boxes lie within [0, {scale}], though pictures are larger\n"
            f"  line {first.line}: {list(first.box or ())} in {first.image} of "
            f"{size.width} x {size.height}\n{_scale_advice(scale)}"
        )


def scale_notes(rows: Sequence[PhotoRow], headers: Mapping[str, Header]) -> list[str]:
    """The user's note that boxes may be percent or thousandths, where pixels are as likely.

    Args:
        rows: of all of the file, their boxes checked.
        headers: by `PhotoRow.image`.
    """
    boxed = [row for row in rows if row.box and row.image in headers]
    scale = _scale([row.box for row in boxed if row.box], full=0.9)
    sides = [side for row in boxed for side in headers[row.image][:2]]
    if not scale or len(boxed) < MIN_SCALED or min(sides) < 1.1 * scale:
        return []
    return [
        f"all {len(boxed)} boxes reach to {scale} at most, and nearly there, in pictures that are "
        f"larger: they are taken for pixels. If they are {SCALES[scale]}, multiply by "
        f"width / {scale} and height / {scale}"
    ]


def _scale(boxes: Sequence[Box], full: float = 0.5) -> int:
    """100 or 1000 where the corners of all boxes fill that range in both directions, else 0.

    Args:
        boxes: corners.
        full: the share of the range from which on it is filled.
    """
    if not boxes or min(map(min, boxes)) < 0:
        return 0
    reach = max(box[2] for box in boxes), max(box[3] for box in boxes)
    return next((scale for scale in SCALES if full * scale < min(reach) <= max(reach) <= scale), 0)


def _is_likely(boxed: list[PhotoRow], scale: int, headers: Mapping[str, Header]) -> bool:
    """Whether boxes within the scale are of that scale, since pixels would reach further.

    That is so if enough of their pictures have twice the scale, or are larger and `_fills_scale`.
    """
    shorter_sides = [min(headers[row.image][:2]) for row in boxed]
    if sum(side >= 2 * scale for side in shorter_sides) >= MIN_SCALED:
        return True
    larger = [row for row, side in zip(boxed, shorter_sides, strict=True) if side >= 1.1 * scale]
    return len(larger) >= MIN_FILLING and _fills_scale(larger, scale, headers)


def _fills_scale(boxed: list[PhotoRow], scale: int, headers: Mapping[str, Header]) -> bool:
    """Whether boxes use all of the scale, or lie around its middle and not around their pictures'.

    Pixels do neither: they would end at the scale, or have their middle at half of it, in both
    directions and far from the right and the lower border of pictures of any size.
    """
    corners = np.array([row.box for row in boxed])
    sizes = np.array([headers[row.image][:2] for row in boxed])
    low, high = corners[:, :2], corners[:, 2:]
    uses_all = low.min(0).max() <= 0.01 * scale and high.max(0).min() >= 0.99 * scale
    middles = (low + high) / 2
    is_centred = np.abs(middles.mean(0) / scale - 0.5).max() < 0.05
    return bool(uses_all or (is_centred and (middles / sizes).mean(0).max() < 0.45))


def _scale_advice(scale: int, *, is_sized: bool = False) -> str:
    """The line that says how percent or thousandths become pixels."""
    how = f" {_SIZED}" if is_sized else ":"
    return f"  all look like {SCALES[scale]}{how} multiply by width / {scale} and height / {scale}"


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
    if over > TOLERANCE:
        return "outside the picture"
    # A box within the tolerance alone would be clipped to none.
    wide = min(x_max, picture.width) - max(x_min, 0)
    high = min(y_max, picture.height) - max(y_min, 0)
    if min(wide, high) < MIN_SIDE:
        return "without area in the picture: write null for a row without a box"
    return ""


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
    # Empty boxes say nothing about the format of the others.
    boxed = [row for row in boxed if not _is_empty(row)]
    wrong_rows = [row for row in wrong_rows if not _is_empty(row)]
    if not wrong_rows:
        return []
    # The boxes as they are, and as a corner and a size: corners are never in reverse.
    boxes = [row.box for row in boxed if row.box]
    sized = [row._replace(box=_box_of_size(box)) for row, box in zip(boxed, boxes, strict=True)]
    is_sized = any(box[2] <= box[0] or box[3] <= box[1] for box in boxes)
    # From the surest sign to the least sure one.
    normalised = [row for row in boxed if _fault(row, headers[row.image]).startswith("normalised")]
    if len(normalised) == len(boxed):
        how = f", {_SIZED}" if is_sized else ":"
        return [f"  all look normalised{how} multiply by the picture's width and height"]
    if normalised:
        return ["  normalised boxes are mixed with boxes in pixels: give all in pixels"]
    scale = _scale([row.box for row in sized if row.box] if is_sized else boxes)
    if not any(_fault(row, headers[row.image]) or min(row.box or ()) < 0 for row in sized):
        if scale and _is_likely(sized, scale, headers):
            return [_scale_advice(scale, is_sized=True)]
        return ["  all look like x, y, width, height: x_max is x + width, y_max is y + height"]
    if all(headers[row.image].is_rotated for row in wrong_rows):
        return ["  all lie in pictures with an EXIF rotation: boxes belong to the upright picture"]
    # A few boxes outside are mistakes; many are numbers of another scale.
    if scale and len(boxed) >= MIN_SCALED and 4 * len(wrong_rows) >= len(boxed):
        return [_scale_advice(scale, is_sized=is_sized)]
    return []


def _box_of_size(box: Box) -> Box:
    """The corners of a box that is given as x, y, width, height."""
    x, y, width, height = box
    return x, y, x + width, y + height
