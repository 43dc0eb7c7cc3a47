"""Sheets of pictures with their queries and boxes, for people to look at."""

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from date_jax.evals.grounding import clamped_iou, clamped_xyxy
from date_jax.lettering import LETTERS, draw_text, fitted_text, text_lines, text_width

TRUE, PREDICTED, PSEUDO = (34, 197, 94), (255, 122, 0), (59, 130, 246)
PAPER, INK, MISS = (250, 250, 249), (41, 37, 36), (220, 38, 38)
_SIDE, _GAP, _HEAD = 208, 16, 44
_LINE, _TITLE = 18, 15


def spread_rows(size: int, count: int) -> Int[np.ndarray, " _"]:
    """Row numbers evenly over a split: always the same ones, none picked.

    Args:
        size: rows of the split.
        count: how many; all where there are fewer.
    """
    return np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(np.int64))


def box_sheet(
    images: UInt8[np.ndarray, "N H W 3"],
    queries: Sequence[str],
    true_cxcywh: Float[np.ndarray, "N 4"],
    predicted_cxcywh: Float[np.ndarray, "N 4"],
    *,
    pseudo_cxcywh: Float[np.ndarray, "N 4"] | None = None,
    true_mask: Bool[np.ndarray, " N"] | None = None,
    pseudo_mask: Bool[np.ndarray, " N"] | None = None,
    columns: int = 4,
    title: str = "",
) -> UInt8[np.ndarray, "Y X 3"]:
    """A sheet of pictures side by side, each with its boxes, their IoU, and its query below.

    True boxes are green, predicted ones orange, pseudo boxes blue.

    Args:
        images: all of one size.
        queries: their texts.
        true_cxcywh: normalised boxes, as are all.
        predicted_cxcywh: what the object seeker answers.
        pseudo_cxcywh: what it is trained on, if it is.
        true_mask: pictures that have a true box; None: all.
        pseudo_mask: pictures that have a pseudo box; None: all.
        columns: pictures in a line.
        title: above the sheet.
    """
    # The paper: as many lines of pictures as are needed, and room for the longest query below each.
    columns = max(1, min(columns, len(images)))
    lines = -(-len(images) // columns)
    scale = max(1.0, _SIDE / min(images.shape[1:3]))
    side = (round(images.shape[2] * scale), round(images.shape[1] * scale))
    texts = [text_lines(query, side[0]) for query in queries]
    step = (side[0] + _GAP, side[1] + max(map(len, texts)) * _LINE + _GAP)
    size = (_GAP + columns * step[0], _HEAD + lines * step[1] + _GAP // 2)
    sheet = Image.new("RGB", size, PAPER)
    # What is drawn, in this order: later boxes cover earlier ones.
    names = {"true": TRUE, "predicted": PREDICTED}
    sets = [(true_cxcywh, true_mask, TRUE), (predicted_cxcywh, None, PREDICTED)]
    if pseudo_cxcywh is not None:
        names["pseudo"] = PSEUDO
        # Above the predicted one, which it covers where the two are the same.
        sets.append((pseudo_cxcywh, pseudo_mask, PSEUDO))
    draw_title(sheet, title, names)
    # Each picture in its place, with those of the boxes that it has.
    iou = clamped_iou(predicted_cxcywh, true_cxcywh)
    for n, (image, text) in enumerate(zip(images, texts, strict=True)):
        at = (_GAP + n % columns * step[0], _HEAD + n // columns * step[1])
        picture = Image.fromarray(image).resize(side, Image.Resampling.LANCZOS)
        for cxcywh, mask, colour in sets:
            if (mask is None or mask[n]) and np.isfinite(cxcywh[n]).all():
                draw_box(picture, clamped_xyxy(cxcywh[n : n + 1])[0], colour)
        if true_mask is None or true_mask[n]:
            _draw_iou(picture, iou[n])
        sheet.paste(picture, at)
        for line, words in enumerate(text):
            place = (at[0], at[1] + side[1] + 4 + line * _LINE)
            draw_text(ImageDraw.Draw(sheet), place, words, INK, LETTERS)
    return np.array(sheet)


def write(path: str | Path, picture: UInt8[np.ndarray, "Y X 3"]) -> None:
    """Writes a picture; the name's ending gives the format."""
    Image.fromarray(picture).save(path)


def draw_title(sheet: Image.Image, title: str, names: dict[str, tuple[int, int, int]]) -> None:
    """Draws the title at the left, and at the right what each colour stands for."""
    draw = ImageDraw.Draw(sheet)
    x, middle = float(sheet.width - _GAP), _HEAD // 2
    # From the right end to the left, so that the title gets the room that the names leave.
    for name, colour in reversed(names.items()):
        x -= text_width(name, _TITLE)
        draw_text(draw, (x, middle), name, INK, _TITLE, anchor="lm")
        draw.rectangle((x - 22, middle - 7, x - 8, middle + 7), outline=colour, width=3)
        x -= 40
    title = fitted_text(title, _TITLE, x - _GAP)
    draw_text(draw, (_GAP, middle), title, INK, _TITLE, anchor="lm")


def draw_box(
    picture: Image.Image, xyxy: Float[np.ndarray, "4"], colour: tuple[int, int, int]
) -> None:
    """Draws a normalised box on a picture; one that is not finite has no place and is left out."""
    if not np.isfinite(xyxy).all():
        return
    draw = ImageDraw.Draw(picture, "RGBA")
    x0, y0, x1, y1 = (xyxy * np.tile(picture.size, 2)).round().astype(int).tolist()
    # A box without area is still seen.
    x1, y1 = max(x0 + 4, x1), max(y0 + 4, y1)
    # A dark rim on both sides shows the line on any ground.
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0, 130), width=5)
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=3)


def draw_labelled_boxes(
    picture: Image.Image, boxes_xyxy: Float[np.ndarray, "N 4"], labels: Sequence[str]
) -> None:
    """Draws normalised boxes on a picture, each in a colour of its own with its label on top.

    Args:
        picture: of any size.
        boxes_xyxy: one for each label.
        labels: of any script; what does not fit ends in "…".
    """
    size = max(12, min(picture.size) // 28)
    for number, (box, label) in enumerate(zip(boxes_xyxy, labels, strict=True)):
        colour = distinct_colour(number)
        draw_box(picture, box, colour)
        # The label lies inside the box's upper edge where there is no room above it.
        left, top = (box[:2] * picture.size).tolist()
        text = fitted_text(label, size, picture.width - 12)
        width = text_width(text, size) + 8
        x = max(0.0, min(left, picture.width - width))
        y = top - size - 8 if top > size + 8 else top
        draw = ImageDraw.Draw(picture, "RGBA")
        draw.rectangle((x, y, x + width, y + size + 6), fill=(*colour, 235))
        draw_text(draw, (x + 4, y + 2 + size / 2), text, INK, size, anchor="lm")


def distinct_colour(number: int) -> tuple[int, int, int]:
    """The colour of the number-th of several boxes, far from those of its neighbours."""
    red, green, blue = colorsys.hsv_to_rgb(0.08 + number * 0.61803 % 1.0, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_iou(picture: Image.Image, iou: float) -> None:
    draw, font = ImageDraw.Draw(picture, "RGBA"), ImageFont.load_default(13)
    text = f"IoU {iou:.2f}"
    corner = (font.getlength(text) + 12, 20)
    ground = (*TRUE, 235) if iou >= 0.5 else (*MISS, 235)
    draw.rectangle((0, 0, *corner), fill=ground)
    draw.text((6, 10), text, (255, 255, 255), font, anchor="lm")
