"""Products cut out of plain pages: what a flood from outside their box reaches is ground."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

RING = 2  # pixels around a box, which tell whether the page is plain there
# Share of the ring's pixels of one colour, above which a page is plain: a shadow may take the rest.
_PLAIN = 0.75
_TOLERANCE = 17  # by which a channel of the ground may differ from that colour
_MARGIN_TOLERANCE = 4  # the same of a letterbox's margin, which a JPEG hardly changes
_LEAST = 6  # pixels of a side, below which a product is no cut-out
_SMALLEST_PART = 0.02  # share of the product, below which a part of it is a speck
_EXTENT = 0.8  # share of the box's sides that a mask reaches at least, or the flood ran into it
_AREA = 0.12  # the same of its area


class CutOut(NamedTuple):
    """A product with some of the page around it.

    Attributes:
        rgb: the part of the page.
        mask: where the product is; its whole box where the page is not plain.
        box: of the product in that part: x_min, y_min, x_max, y_max pixels.
        is_plain: whether `mask` follows the product's outline.
    """

    rgb: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]
    box: tuple[int, int, int, int]
    is_plain: bool


def content_area(
    image: UInt8[np.ndarray, "S S 3"], margin: tuple[int, int, int]
) -> tuple[int, int, int, int]:
    """The picture without its letterbox: x_min, y_min, x_max, y_max pixels.

    Args:
        image: a prepared picture.
        margin: the letterbox's colour.
    """
    is_margin = (np.abs(image.astype(np.int16) - np.array(margin)) <= _MARGIN_TOLERANCE).all(-1)
    ends = []
    for is_line_margin in (is_margin.all(0), is_margin.all(1)):
        inside = np.flatnonzero(~is_line_margin)
        ends.append((int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, len(image)))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom


def cut_out(
    image: UInt8[np.ndarray, "S S 3"],
    box_xyxy: Float[np.ndarray, " 4"],
    *,
    area: tuple[int, int, int, int],
    surrounding: float,
) -> CutOut | None:
    """The product in a box, with its mask where the page around the box is plain.

    Args:
        image: a page.
        box_xyxy: of the product, normalised.
        area: of `content_area`.
        surrounding: of the page around the box that comes along, as a share of the box's sides.

    Returns:
        None where the product is too small, or the flood ran into it: white on white.
    """
    # Whole pixels, all that the box touches.
    box = _whole_pixels(box_xyxy * len(image), area)
    width, height = box[2] - box[0], box[3] - box[1]
    if min(width, height) < _LEAST:
        return None
    # The part of the page: the ring at least, to flood from.
    reach = (max(RING, round(surrounding * width)), max(RING, round(surrounding * height)))
    part = _wider(box, reach, area)
    rgb = image[part[1] : part[3], part[0] : part[2]]
    inner = (box[0] - part[0], box[1] - part[1], box[2] - part[0], box[3] - part[1])
    inside = (slice(inner[1], inner[3]), slice(inner[0], inner[2]))
    mask = np.zeros(rgb.shape[:2], bool)
    mask[inside] = True
    foreground = _foreground(image, box, _wider(box, (RING, RING), area))
    if foreground is None:
        return CutOut(rgb, mask, inner, False)
    if not _fills_box(foreground):
        return None
    mask[inside] = foreground
    return CutOut(rgb, mask, inner, True)


def _whole_pixels(
    box: Float[np.ndarray, " 4"], area: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """The box in whole pixels, inside the area."""
    low = np.floor(box[:2] + 1e-3).astype(int).clip(area[:2], area[2:])
    high = np.ceil(box[2:] - 1e-3).astype(int).clip(area[:2], area[2:])
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _wider(
    box: tuple[int, int, int, int], reach: tuple[int, int], area: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """The box wider by `reach` on all sides, inside the area."""
    return (
        max(area[0], box[0] - reach[0]),
        max(area[1], box[1] - reach[1]),
        min(area[2], box[2] + reach[0]),
        min(area[3], box[3] + reach[1]),
    )


def _foreground(
    image: UInt8[np.ndarray, "S S 3"],
    box: tuple[int, int, int, int],
    outer: tuple[int, int, int, int],
) -> Bool[np.ndarray, "h w"] | None:
    """What is no ground in the box; None where the ring around it is not plain."""
    rgb = image[outer[1] : outer[3], outer[0] : outer[2]].astype(np.int16)
    is_ring = np.ones(rgb.shape[:2], bool)
    top, left = box[1] - outer[1], box[0] - outer[0]
    inside = (slice(top, top + box[3] - box[1]), slice(left, left + box[2] - box[0]))
    is_ring[inside] = False
    if not is_ring.any():
        return None
    # The ground's colour is the ring's; what has it and hangs together with the ring is ground.
    colour = np.median(rgb[is_ring], axis=0)
    is_alike = (np.abs(rgb - colour) <= _TOLERANCE).all(-1)
    if is_alike[is_ring].mean() < _PLAIN:
        return None
    regions, _ = ndimage.label(is_alike)
    touching = np.unique(regions[is_ring])
    foreground = ~np.isin(regions, touching[touching > 0])[inside]
    return _without_specks(foreground)


def _without_specks(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask without its smallest parts, of which noise makes some."""
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    sizes: Int[np.ndarray, " n"] = np.bincount(parts.ravel())
    sizes[0] = 0
    return (sizes >= _SMALLEST_PART * sizes.sum())[parts] & mask


def _fills_box(mask: Bool[np.ndarray, "h w"]) -> bool:
    """Whether the mask reaches over most of the box that it lies in."""
    height, width = mask.shape
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns) or mask.mean() < _AREA:
        return False
    extent = (columns[-1] + 1 - columns[0]) / width, (rows[-1] + 1 - rows[0]) / height
    return bool(min(extent) >= _EXTENT)
