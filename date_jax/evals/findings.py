"""A sheet of queries, each with its detected products and what was found for each."""

import colorsys
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from date_jax.evals.sheets import INK, MISS, PAPER, TRUE, draw_box, title_line, wrapped

_GAP, _HEAD, _TEXT = 16, 44, 58
_SIDES = 208, 60  # of a query and of what was found, where a query has several lines
_SINGLE_SIDES = 112, 112  # where each has one
_LEAST = 16  # side of what was found, below which nothing can be told: further lines are left out


class Finding(NamedTuple):
    """A query and what was found for it.

    Attributes:
        image: of the query.
        title: of the query.
        box_xyxy: of its K instances, normalised.
        posts: pictures of the best posts of each instance, best first.
        right: whether each of them shows a product that the query does; None where that is unknown.
    """

    image: UInt8[np.ndarray, "H W 3"]
    title: str
    box_xyxy: Float[np.ndarray, "K 4"]
    posts: UInt8[np.ndarray, "K L H W 3"]
    right: Bool[np.ndarray, "K L"] | None


def colour(number: int) -> tuple[int, int, int]:
    """Of an instance's box and of its line: far from its neighbours'."""
    red, green, blue = colorsys.hsv_to_rgb(0.08 + number * 0.61803 % 1.0, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def sheet(findings: list[Finding], *, title: str, columns: int = 2) -> UInt8[np.ndarray, "Y X 3"]:
    """Queries side by side; beside each a line of posts for each instance, as many as fit: green
    frames where right and red where wrong, behind a bar in the colour of the instance's box."""
    shown = max((finding.posts.shape[1] for finding in findings), default=1)
    single = all(len(finding.posts) <= 1 for finding in findings)
    sides = _SINGLE_SIDES if single else _SIDES
    width = sides[0] + _GAP + 14 + shown * (sides[1] + 6) + 2 * _GAP
    height = sides[0] + _TEXT + _GAP
    lines = -(-len(findings) // columns)
    size = (_GAP + min(columns, len(findings)) * width, _HEAD + lines * height)
    paper = Image.new("RGB", size, PAPER)
    title_line(paper, title, {"right": TRUE, "wrong": MISS})
    for number, finding in enumerate(findings):
        at = (_GAP + number % columns * width, _HEAD + number // columns * height)
        _draw(paper, finding, at, sides)
    return np.array(paper)


def _draw(
    paper: Image.Image, finding: Finding, at: tuple[int, int], sides: tuple[int, int]
) -> None:
    whole, thumbnail = sides
    picture = Image.fromarray(finding.image).resize((whole, whole), Image.Resampling.LANCZOS)
    for number, box in enumerate(finding.box_xyxy):
        draw_box(picture, box, colour(number))
    paper.paste(picture, at)
    draw = ImageDraw.Draw(paper)
    for line, words in enumerate(wrapped(finding.title, whole)):
        draw.text((at[0], at[1] + whole + 3 + 18 * line), words, fill=INK)
    # As many lines as fit beside the query; thumbnails shrink where there are more.
    count = min(max(len(finding.posts), 1), (whole + _TEXT) // (_LEAST + 8))
    side = min(thumbnail, (whole + _TEXT) // count - 8)
    known = np.full(finding.posts.shape[:2], None) if finding.right is None else finding.right
    frames = {True: TRUE, False: MISS, None: PAPER}
    lines = zip(finding.posts[:count], known[:count].tolist(), strict=True)
    for number, (posts, right) in enumerate(lines):
        x, y = at[0] + whole + _GAP, at[1] + number * (side + 8)
        draw.rectangle((x, y, x + 5, y + side), fill=colour(number))
        for place, (post, is_right) in enumerate(zip(posts, right, strict=True)):
            left = x + 14 + place * (side + 6)
            thumb = Image.fromarray(post).resize((side, side), Image.Resampling.LANCZOS)
            paper.paste(thumb, (left, y))
            frame = (left - 1, y - 1, left + side, y + side)
            draw.rectangle(frame, outline=frames[is_right], width=3)
