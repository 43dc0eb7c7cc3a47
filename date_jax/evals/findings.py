"""Sheets of queries, each with its products and the posts that were found for them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from date_jax.evals.sheets import INK, MISS, PAPER, TRUE, distinct_colour, draw_box, draw_title
from date_jax.lettering import draw_text, text_lines

_GAP, _HEAD, _TEXT, _LETTERS = 16, 44, 58, 10
_SIDES = 208, 60  # of a query and of a post, where a query has several lines
_SINGLE_SIDES = 112, 112  # where every query has one
_LEAST = 16  # side of a post below which nothing is recognised: further lines are left out


class Finding(NamedTuple):
    """A query and the posts that were found for its K instances.

    Attributes:
        image: the query's picture.
        title: the query's text.
        box_xyxy: the instances, normalised.
        posts: pictures of the best posts of each instance, best first.
        right: posts that show a product of the query; None where that is unknown.
    """

    image: UInt8[np.ndarray, "H W 3"]
    title: str
    box_xyxy: Float[np.ndarray, "K 4"]
    posts: UInt8[np.ndarray, "K L H W 3"]
    right: Bool[np.ndarray, "K L"] | None


def sheet(findings: list[Finding], *, title: str, columns: int = 2) -> UInt8[np.ndarray, "Y X 3"]:
    """A sheet of queries, each with a line of posts for every instance, as many as fit.

    A line begins with a bar in the colour of the instance's box. Posts have a green frame where
    they are right and a red one where they are wrong.

    Args:
        title: above the sheet.
        columns: queries in a line.
    """
    count = max((finding.posts.shape[1] for finding in findings), default=1)
    # A query with one line of posts has room for larger ones.
    single = all(len(finding.posts) <= 1 for finding in findings)
    sides = _SINGLE_SIDES if single else _SIDES
    width = sides[0] + _GAP + 14 + count * (sides[1] + 6) + 2 * _GAP
    height = sides[0] + _TEXT + _GAP
    # The paper, its head, and the queries from left to right and from top to bottom.
    lines = -(-len(findings) // columns)
    size = (_GAP + min(columns, len(findings)) * width, _HEAD + lines * height)
    paper = Image.new("RGB", size, PAPER)
    is_known = any(finding.right is not None for finding in findings)
    draw_title(paper, title, {"right": TRUE, "wrong": MISS} if is_known else {})
    for number, finding in enumerate(findings):
        at = (_GAP + number % columns * width, _HEAD + number // columns * height)
        _draw(paper, finding, at, sides)
    return np.array(paper)


def _draw(
    paper: Image.Image, finding: Finding, at: tuple[int, int], sides: tuple[int, int]
) -> None:
    """Draws a query and its lines of posts, with the upper left corner `at`."""
    query_side, post_side = sides
    # The query with its instances, its title below.
    picture = Image.fromarray(finding.image)
    picture = picture.resize((query_side, query_side), Image.Resampling.LANCZOS)
    for number, box in enumerate(finding.box_xyxy):
        draw_box(picture, box, distinct_colour(number))
    paper.paste(picture, at)
    draw = ImageDraw.Draw(paper)
    for line, words in enumerate(text_lines(finding.title, query_side)):
        draw_text(draw, (at[0], at[1] + query_side + 3 + 18 * line), words, INK, _LETTERS)
    # As many lines as fit next to the query; thumbnails shrink where there are more.
    count = min(max(len(finding.posts), 1), (query_side + _TEXT) // (_LEAST + 8))
    side = min(post_side, (query_side + _TEXT) // count - 8)
    # A frame in the paper's colour is none.
    frames = {True: TRUE, False: MISS, None: PAPER}
    answers = np.full(finding.posts.shape[:2], None) if finding.right is None else finding.right
    lines = zip(finding.posts[:count], answers[:count].tolist(), strict=True)
    for number, (posts, right) in enumerate(lines):
        x, y = at[0] + query_side + _GAP, at[1] + number * (side + 8)
        draw.rectangle((x, y, x + 5, y + side), fill=distinct_colour(number))
        for place, (post, is_right) in enumerate(zip(posts, right, strict=True)):
            left = x + 14 + place * (side + 6)
            thumb = Image.fromarray(post).resize((side, side), Image.Resampling.LANCZOS)
            paper.paste(thumb, (left, y))
            frame = (left - 1, y - 1, left + side, y + side)
            draw.rectangle(frame, outline=frames[is_right], width=3)
