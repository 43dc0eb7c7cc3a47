"""The shop's products: which there are, and how one is drawn.

A product is an identity of category, colour, pattern, second colour, printed mark and a few
small traits (slimness, shade). All follow from the seed and the product's number.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from date_jax.data.rendering.parts import PARTS
from date_jax.data.rendering.silhouettes import CATEGORIES, MARKS
from date_jax.data.streams import Stream

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (217, 40, 44),
    "orange": (247, 137, 28),
    "yellow": (250, 212, 50),
    "green": (46, 155, 72),
    "blue": (38, 96, 214),
    "purple": (128, 62, 178),
    "pink": (246, 142, 182),
    "black": (42, 42, 50),
    "white": (246, 246, 243),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "zigzag", "dipped")
# Second colours that stand out from the first, for patterns and accents.
_SECOND: dict[str, tuple[Rgb, Rgb, Rgb]] = {
    "white": ((236, 116, 110), (214, 166, 84), (104, 160, 206)),
    "black": ((236, 236, 232), (222, 178, 76), (150, 156, 170)),
    "yellow": ((255, 255, 250), (64, 58, 66), (104, 128, 160)),
    "pink": ((255, 252, 250), (92, 40, 70), (178, 72, 120)),
}
_SECOND_OF_OTHERS: tuple[Rgb, Rgb, Rgb] = ((255, 253, 246), (34, 32, 48), (252, 240, 206))
# What parts are painted with that do not take the product's colour.
_FIXED: dict[str, Rgb] = {
    "dark": (52, 50, 58),
    "light": (250, 248, 240),
    "metal": (176, 182, 192),
    "wood": (166, 116, 70),
    "coffee": (94, 58, 36),
    "leaf": (88, 172, 84),
    "leaf_dark": (52, 134, 66),
    "glass": (150, 196, 222),
}
_SILHOUETTES = CATEGORIES | PARTS
_SIZES = (len(CATEGORIES), len(COLOURS), len(PATTERNS), 3, len(MARKS))


class Product(NamedTuple):
    """One identity of the shop.

    Attributes:
        number: by which the shop counts it.
        mark: one of MARKS, or a text that is printed instead.
        second: RGB of the pattern and the accents.
        slimness: stretches x by a few per cent.
        shade: shifts the base colour by a few levels.
        phase: moves the pattern.
    """

    number: int
    category: str
    colour: str
    pattern: str
    mark: str
    second: Rgb
    slimness: float
    shade: float
    phase: float

    @property
    def id(self) -> str:
        """The product's name in records: p000017."""
        return f"p{self.number:06d}"


@functools.lru_cache(maxsize=4)
def _order(seed: int) -> np.ndarray:
    """The seed's order of all combinations of attributes, so that neighbours are unlike."""
    return np.random.default_rng([seed, Stream.PRODUCT_ORDER]).permutation(int(np.prod(_SIZES)))


def split_numbers(products: int, split: str) -> list[int]:
    """The numbers of a split's products; by their last digit 8:1:1 are train, val and test."""
    digits = {"train": range(8), "val": (8,), "test": (9,)}[split]
    return [number for number in range(products) if number % 10 in digits]


def product(seed: int, number: int) -> Product:
    """Product `number` of the shop with this seed."""
    # What people name: two products are alike in all of it only from the next round on.
    order = _order(seed)
    digits = np.unravel_index(order[number % len(order)], _SIZES)
    category, colour, pattern, second, mark = (int(digit) for digit in digits)
    # What nobody names, and what tells this product from those that are called like it.
    rng = np.random.default_rng([seed, Stream.PRODUCT_TRAITS, number])
    slimness, shade, phase = rng.uniform(-1, 1, 3).tolist()
    name = list(COLOURS)[colour]
    return Product(
        number=number,
        category=list(CATEGORIES)[category],
        colour=name,
        pattern=PATTERNS[pattern],
        mark=list(MARKS)[mark],
        second=_SECOND.get(name, _SECOND_OF_OTHERS)[second],
        slimness=1 + 0.08 * slimness,
        shade=10 * shade,
        phase=0.5 * phase,
    )


class Sprite(NamedTuple):
    """A drawn product, to be laid over a picture.

    Attributes:
        rgb: straight colours, 0..255.
        alpha: coverage, 0..1.
        left: pixels from the picture's left border to the sprite's; may be negative.
        top: pixels from its upper border to the sprite's; may be negative.
    """

    rgb: Float[np.ndarray, "h w 3"]
    alpha: Float[np.ndarray, "h w"]
    left: int
    top: int


@functools.lru_cache(maxsize=len(_SILHOUETTES))
def _outline(category: str) -> np.ndarray:
    """The corners of all parts of a category's silhouette, [N 2]."""
    return np.concatenate([part.points for part in _SILHOUETTES[category].parts])


def extent(item: Product, matrix: Float[np.ndarray, "2 2"]) -> Float[np.ndarray, " 4"]:
    """The box (x0, y0, x1, y1) that the product fills around its origin, in pixels.

    Args:
        item: the product.
        matrix: takes the silhouette's units to the picture's pixels.
    """
    points = _outline(item.category) @ (matrix * [item.slimness, 1]).T
    return np.concatenate([points.min(0), points.max(0)])


def _tone(colour: Rgb, factor: float, shift: float = 0.0) -> Rgb:
    """A colour made darker or lighter, each channel within 0..255."""
    r, g, b = (int(min(255, max(0, c * factor + shift))) for c in colour)
    return r, g, b


def _draw_pattern(
    draw: ImageDraw.ImageDraw,
    item: Product,
    place: Callable[[np.ndarray | list[list[float]]], list[float]],
    unit: float,
    bottom: float,
    height: float,
) -> None:
    """Draws the pattern in the second colour over all of the silhouette.

    The body's mask cuts it out later. `bottom` and `height` are the body's, for the pattern that
    depends on them.
    """
    # Lines and dots reach beyond the silhouette, so that no view shows their ends.
    fill, phase = item.second, item.phase * 0.4
    match item.pattern:
        # Bars from side to side, shifted by the product's phase.
        case "striped":
            for y in np.arange(-1.2, 1.2, 0.42) + phase:
                corners = [[-1.2, y], [1.2, y], [1.2, y + 0.17], [-1.2, y + 0.17]]
                draw.polygon(place(corners), fill=fill)
        # Every second row is moved by half a step; discs stay round in every view.
        case "dotted":
            rows, columns = np.mgrid[-4:5, -4:5]
            x, y = 0.36 * (columns + 0.5 * (rows % 2)) + phase, 0.31 * rows
            radius = 0.11 * unit
            centres = place(np.stack([x.ravel(), y.ravel()], -1))
            for cx, cy in zip(centres[::2], centres[1::2], strict=True):
                draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=fill)
        # Every second square of a board, a gap smaller, so that corners do not join.
        case "checked":
            side, gap = 0.27, 0.02
            for row in range(-5, 5):
                for column in range(-5 + row % 2, 5, 2):
                    x, y = side * column + phase, side * row
                    end_x, end_y = x + side - gap, y + side - gap
                    corners = [[x, y], [end_x, y], [end_x, end_y], [x, end_y]]
                    draw.polygon(place(corners), fill=fill)
        # Lines whose width follows the product's scale, a pixel at least.
        case "zigzag":
            x = np.arange(-1.3, 1.3, 0.22) + phase
            wave = np.where(np.arange(len(x)) % 2, 0.13, -0.13)
            for y in np.arange(-1.2, 1.3, 0.46):
                line = place(np.stack([x, wave + y], -1))
                draw.line(line, fill=fill, width=max(1, round(0.14 * unit)))
        # The lower third of the body, as if dipped in paint.
        case "dipped":
            y = bottom - 0.36 * height
            draw.polygon(place([[-1.2, y], [1.2, y], [1.2, 1.2], [-1.2, 1.2]]), fill=fill)


def _draw_mark(
    draw: ImageDraw.ImageDraw,
    item: Product,
    place: Callable[[np.ndarray | list[list[float]]], list[float]],
    base: Rgb,
    line: int,
    unit: float,
) -> None:
    """Draws the printed mark on its badge; a text stands without one."""
    x, y, radius = _SILHOUETTES[item.category].mark
    if item.mark not in MARKS:
        font = ImageFont.load_default(max(4.0, 0.62 * radius * unit))
        at_x, at_y = place([[float(x), float(y)]])
        draw.text((at_x, at_y), item.mark, font=font, fill=(20, 20, 24), anchor="mm")
        return
    # The badge keeps the mark legible on any colour and pattern.
    ring = np.linspace(0, 2 * np.pi, 25)[:-1]
    disk = np.stack([np.cos(ring), np.sin(ring)], -1)
    badge, ink = (
        ((48, 46, 56), (255, 255, 255))
        if item.colour == "white"
        else ((255, 255, 255), _tone(base, 0.5) if item.colour != "yellow" else (120, 80, 10))
    )
    edge = _tone(base, 0.55)
    draw.polygon(place(disk * radius + (x, y)), fill=badge, outline=edge, width=line)
    draw.polygon(place(MARKS[item.mark] * 0.66 * radius + (x, y)), fill=ink)


def product_sprite(
    item: Product,
    matrix: Float[np.ndarray, "2 2"],
    centre: Float[np.ndarray, " 2"],
    supersample: int,
) -> Sprite:
    """A product drawn around pixel `centre`.

    Args:
        item: the product.
        matrix: takes the silhouette's units to the picture's pixels.
        centre: x and y of the silhouette's origin in the picture, in pixels.
        supersample: how many times larger it is drawn, to be reduced again.
    """
    # The sprite's window: whole pixels of the picture, one to spare on each side.
    box = extent(item, matrix)
    left, top = (int(np.floor(box[k] + centre[k])) - 1 for k in (0, 1))
    right, bottom = (int(np.ceil(box[k + 2] + centre[k])) + 1 for k in (0, 1))
    size = ((right - left) * supersample, (bottom - top) * supersample)
    transform = (matrix * [item.slimness, 1]).T * supersample
    offset = (centre - [left, top]) * supersample
    unit = float(np.sqrt(abs(np.linalg.det(transform))))

    def place(points: np.ndarray | list[list[float]]) -> list[float]:
        # The silhouette's units as pixels of the enlarged sprite.
        return (np.asarray(points) @ transform + offset).ravel().tolist()

    # The product's colours.
    base = _tone(COLOURS[item.colour], 1.0, item.shade)
    edge = _tone(base, 0.55)
    paints = _FIXED | {"trim": _tone(base, 0.78), "accent": item.second, "body": base}
    silhouette = _SILHOUETTES[item.category]
    # Pixels outside keep the edge colour: reducing then darkens the rim like a drawn outline.
    canvas = Image.new("RGB", size, edge)
    alpha = Image.new("L", size, 0)
    draw, draw_alpha = ImageDraw.Draw(canvas), ImageDraw.Draw(alpha)
    line = max(1, round(0.035 * unit))
    # Parts from back to front, each with its outline; only the body carries the pattern.
    for part in silhouette.parts:
        points = place(part.points)
        draw_alpha.polygon(points, fill=255)
        if part.paint == "body" and item.pattern != "plain":
            # The pattern is drawn everywhere, and pasted through the body's mask.
            paint, mask = Image.new("RGB", size, base), Image.new("L", size, 0)
            low, high = part.points[:, 1].min().item(), part.points[:, 1].max().item()
            _draw_pattern(ImageDraw.Draw(paint), item, place, unit, high, high - low)
            ImageDraw.Draw(mask).polygon(points, fill=255)
            canvas.paste(paint, mask=mask)
        else:
            draw.polygon(points, fill=paints[part.paint])
        draw.line(
            points + points[:2],
            fill=edge if part.paint in ("body", "trim") else _tone(paints[part.paint], 0.6),
            width=line,
        )
    _draw_mark(draw, item, place, base, line, unit)
    # Reducing smooths the edges; the light comes last, as it knows the whole shape.
    canvas, alpha = canvas.reduce(supersample), alpha.reduce(supersample)
    rgb = np.asarray(canvas, np.float32) * _shading(alpha)[..., None]
    return Sprite(np.minimum(rgb, 255), np.asarray(alpha, np.float32) / 255, left, top)


def _shading(alpha: Image.Image) -> Float[np.ndarray, "h w"]:
    """The share of light of each pixel, from the upper left and less at the rim: it looks round."""
    width, height = alpha.size
    inner = alpha.filter(ImageFilter.BoxBlur(0.08 * max(width, height)))
    across = np.linspace(0.09, -0.09, width, dtype=np.float32)
    down = np.linspace(0.09, -0.09, height, dtype=np.float32)
    rim = np.asarray(inner, np.float32) * (0.22 / 255)
    return 0.84 + rim + across[None, :] + down[:, None]
