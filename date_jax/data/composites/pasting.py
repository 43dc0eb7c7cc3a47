"""One composite: products on a picture, and the boxes of what is still seen of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageFilter

from date_jax.data.composites.cut_outs import CutOut
from date_jax.data.rendering.canvas import add_sprite, coverage, tight_box
from date_jax.data.rendering.products import Sprite

EDGES = ("feathered", "hard", "unmasked")
_EDGE_SHARES = (0.45, 0.35, 0.2)
LEAST_VISIBLE = 0.5  # share of a product, below which it is no answer
_LEAST_SIDE = 3  # pixels of the visible box
_ENLARGED = 2.0  # at most: more would be a blur
_PLACES = 4  # that are tried for each product
_GAIN = (0.7, 1.2)  # brightness of a product
_CAST = 0.08  # by which each channel's differs
_SHADOW = 0.3  # the darkest; half of the products have none
_BLUR = 0.8  # pixels, at most; most products have none


class Pasted(NamedTuple):
    """A composite.

    Attributes:
        image: the picture.
        box_xyxy: of each product's visible part, normalised.
        is_visible: whether enough of it is seen for the box to be an answer.
    """

    image: UInt8[np.ndarray, "S S 3"]
    box_xyxy: Float[np.ndarray, "M 4"]
    is_visible: Bool[np.ndarray, " M"]


def pasted(
    rng: np.random.Generator,
    ground: UInt8[np.ndarray, "S S 3"],
    cut_outs: Sequence[CutOut],
    *,
    area: tuple[int, int, int, int],
    sizes: tuple[float, float],
) -> Pasted:
    """The products on a ground, one after the other; later ones may cover a part of earlier ones.

    Args:
        rng: decides on sizes, places, edges and light.
        ground: the picture that they are pasted onto.
        cut_outs: of the products.
        area: of the ground that is no letterbox; see `content_area`.
        sizes: least and greatest longer side of a product, as a share of the picture's.
    """
    size = len(ground)
    canvas = ground.astype(np.float32)
    areas: list[int] = []
    visible: list[np.ndarray] = []
    for cut in cut_outs:
        sprite, mask = _sprite(rng, cut, size * rng.uniform(*sizes), area)
        # Of several places the one that hides the least.
        places = [_placed(rng, sprite, mask, area) for _ in range(_PLACES)]
        hidden = [
            sum(int((seen & (coverage(placed, size) > 0.5)).sum()) for seen in visible)
            for placed, _ in places
        ]
        sprite, mask_sprite = places[int(np.argmin(hidden))]
        add_sprite(canvas, sprite, max(0.0, rng.uniform(-_SHADOW, _SHADOW)))
        # What it covers of the others is seen no more.
        covered = coverage(sprite, size) > 0.5
        visible = [seen & ~covered for seen in visible]
        visible.append(coverage(mask_sprite, size) > 0.5)
        areas.append(int((mask_sprite.alpha > 0.5).sum()))
    # Boxes of what is left.
    boxes = np.zeros((len(cut_outs), 4), np.float32)
    is_visible = np.zeros(len(cut_outs), bool)
    for number, (seen, whole) in enumerate(zip(visible, areas, strict=True)):
        if seen.sum() >= max(1, LEAST_VISIBLE * whole):
            boxes[number] = tight_box(seen.astype(np.float32))
            sides = (boxes[number, 2:] - boxes[number, :2]) * size
            is_visible[number] = bool((sides > _LEAST_SIDE - 0.5).all())
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return Pasted(image, boxes, is_visible)


def _sprite(
    rng: np.random.Generator, cut: CutOut, longest: float, area: tuple[int, int, int, int]
) -> tuple[Sprite, Bool[np.ndarray, "h w"]]:
    """The product, not placed yet, and where in it the product itself is.

    Args:
        rng: decides on edge and light.
        cut: the product.
        longest: pixels that its longer side should have.
        area: that it has to fit into.
    """
    edge = EDGES[rng.choice(len(EDGES), p=_EDGE_SHARES)] if cut.is_plain else "unmasked"
    # The part of the page that comes along: with a mask a rim for the feather, else some of it.
    x0, y0, x1, y1 = cut.box
    height, width = cut.mask.shape
    reach = np.array([x0, y0, width - x1, height - y1])
    rim = np.minimum(reach, 2) if edge != "unmasked" else rng.integers(0, reach + 1)
    part = (slice(y0 - rim[1], y1 + rim[3]), slice(x0 - rim[0], x1 + rim[2]))
    mask = cut.mask[part]
    # As large as asked for, where it can be.
    room = min((area[2] - area[0]) / mask.shape[1], (area[3] - area[1]) / mask.shape[0])
    scale = min(longest / max(x1 - x0, y1 - y0), _ENLARGED, room)
    size = tuple(max(1, round(side * scale)) for side in mask.shape[::-1])
    # Pillow weighs colours by alpha where it resizes, so that no white of the page is left.
    opaque = Image.fromarray(mask.astype(np.uint8) * 255)
    if edge == "feathered":
        shrunk = opaque.filter(ImageFilter.MinFilter(3)) if min(mask.shape) >= 24 else opaque
        opaque = shrunk.filter(ImageFilter.GaussianBlur(0.8))
    elif edge == "unmasked":
        opaque = Image.new("L", opaque.size, 255)
    page = Image.fromarray(cut.rgb[part])
    page.putalpha(opaque)
    rgba = np.asarray(page.resize(size, Image.Resampling.BICUBIC))
    alpha = rgba[..., 3].astype(np.float32) / 255
    product = alpha > 0.5
    if edge == "hard":
        alpha = product.astype(np.float32)
    elif edge == "unmasked":
        small = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        product = np.asarray(small) > 127
    # Another light, and now and then out of focus.
    rgb = np.ascontiguousarray(rgba[..., :3])
    if (blur := rng.uniform(-_BLUR, _BLUR)) > 0:
        rgb = np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(blur)))
    gain = (rng.uniform(*_GAIN) * (1 + rng.uniform(-_CAST, _CAST, 3))).astype(np.float32)
    return Sprite(np.clip(rgb * gain, 0, 255), alpha, 0, 0), product


def _placed(
    rng: np.random.Generator,
    sprite: Sprite,
    mask: Bool[np.ndarray, "h w"],
    area: tuple[int, int, int, int],
) -> tuple[Sprite, Sprite]:
    """The sprite somewhere inside the area, and its mask as one in the same place."""
    height, width = mask.shape
    left = int(rng.integers(area[0], max(area[0], area[2] - width) + 1))
    top = int(rng.integers(area[1], max(area[1], area[3] - height) + 1))
    placed = sprite._replace(left=left, top=top)
    return placed, placed._replace(alpha=mask.astype(np.float32))
