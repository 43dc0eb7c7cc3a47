"""Overlays of a picture: banners, stickers, chat, hands; drawn larger and reduced."""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from date_jax.data.rendering.backdrops import MUTED, random_colour

_SUPERSAMPLE = 2

_SIGNALS = ((226, 56, 60), (245, 130, 32), (32, 120, 200), (40, 150, 90), (150, 60, 160))
_SKINS = ((250, 214, 186), (232, 184, 150), (198, 142, 106), (142, 94, 66))
_FLASHES = ("SALE", "NEW", "HOT", "-20%", "-30%", "-50%", "$9", "$19", "$29", "TOP", "2 FOR 1")
_BANNERS = (
    "BIG SALE TODAY", "FREE SHIPPING", "NEW SEASON", "BEST PRICE", "GIFT WEEK", "ONLINE ONLY",
    "SPRING SALE", "MEMBERS SAVE 10%",
)  # fmt: skip
_CHATS = (
    "so cute!", "how much?", "link please", "love it", "which size?", "wow", "is it new?",
    "ordered!", "hello all", "more colours?",
)  # fmt: skip


@functools.lru_cache(maxsize=32)
def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all words in pictures, of this height."""
    return ImageFont.load_default(max(4, pixels))


class Layer:
    """A transparent sheet over the picture; coordinates run from 0 to 1.

    Args:
        size: the picture's side in pixels.
    """

    def __init__(self, size: int) -> None:
        self.scale = size * _SUPERSAMPLE
        self.image = Image.new("RGBA", (self.scale, self.scale), (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.image)

    def pixels(self, *numbers: float) -> list[float]:
        """Coordinates or lengths in the sheet's pixels."""
        return [number * self.scale for number in numbers]

    def draw_ellipse(self, *corners: float, fill: tuple) -> None:
        """Draws the ellipse that fills a box, whose corners are x, y, x, y."""
        self.draw.ellipse(self.pixels(*corners), fill=fill)

    def draw_polygon(self, *corners: float, fill: tuple) -> None:
        """Draws a polygon, its corners as x, y, x, y, ..."""
        self.draw.polygon(self.pixels(*corners), fill=fill)

    def draw_panel(
        self, x0: float, y0: float, x1: float, y1: float, fill: tuple, radius: float
    ) -> None:
        """Draws a rectangle with rounded corners."""
        self.draw.rounded_rectangle(self.pixels(x0, y0, x1, y1), self.scale * radius, fill=fill)

    def draw_text(self, x: float, y: float, words: str, height: float, fill: tuple) -> None:
        """Writes words centred at (x, y)."""
        font = _font(round(self.scale * height))
        self.draw.text((x * self.scale, y * self.scale), words, font=font, fill=fill, anchor="mm")

    def rgba(self) -> Float[np.ndarray, "S S 4"]:
        """The sheet in the picture's pixels."""
        return np.asarray(self.image.reduce(_SUPERSAMPLE), np.float32)


def _colour(values: np.ndarray | tuple, alpha: int = 255) -> tuple[int, int, int, int]:
    """RGBA as Pillow takes it."""
    r, g, b = (int(value) for value in values)
    return r, g, b, alpha


def draw_banner(rng: np.random.Generator, layer: Layer, height: float, top: bool) -> None:
    """Draws a bar of advertising along the top or the bottom."""
    colour = _colour(random_colour(rng, _SIGNALS))
    y = 0.0 if top else 1 - height
    layer.draw_panel(0.0, y, 1.0, y + height, colour, 0.0)
    words = _BANNERS[int(rng.integers(len(_BANNERS)))]
    layer.draw_text(0.5, y + height / 2, words, height * 0.6, (255, 255, 255, 255))


def draw_sticker(rng: np.random.Generator, layer: Layer) -> None:
    """Draws a price or a catchword in one of the corners: a disk, a burst or a ribbon."""
    x, y = (0.12 if rng.random() < 0.5 else 0.88), (0.13 if rng.random() < 0.5 else 0.87)
    radius = rng.uniform(0.085, 0.11)
    colour = _colour(random_colour(rng, _SIGNALS))
    if rng.random() < 0.4:  # a burst
        angles = np.arange(24) * np.pi / 12
        reach = radius * np.where(np.arange(24) % 2, 0.85, 1.1)
        corners = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], -1)
        layer.draw_polygon(*corners.ravel(), fill=colour)
    elif rng.random() < 0.5:  # a disk
        layer.draw_ellipse(x - radius, y - radius, x + radius, y + radius, fill=colour)
    else:  # a ribbon
        layer.draw_panel(x - radius, y - radius / 2, x + radius, y + radius / 2, colour, 0.02)
    # Long words are smaller, so that they stay on it.
    words = _FLASHES[int(rng.integers(len(_FLASHES)))]
    layer.draw_text(x, y, words, radius * min(0.9, 3.2 / len(words)), (255, 255, 255, 255))


def draw_frame(rng: np.random.Generator, layer: Layer) -> None:
    """Draws a thin coloured line around the picture."""
    width = max(1, round(layer.scale * rng.uniform(0.012, 0.03)))
    edge = layer.scale - 1
    colour = _colour(random_colour(rng, _SIGNALS))
    layer.draw.rectangle((0, 0, edge, edge), outline=colour, width=width)


def draw_chat(rng: np.random.Generator, layer: Layer) -> None:
    """Draws comments in half-transparent bubbles, lower left, as live streams show them."""
    # From the bottom upwards; a bubble is as wide as its words.
    y = 0.94
    for _ in range(int(rng.integers(1, 4))):
        words = _CHATS[int(rng.integers(len(_CHATS)))]
        width = 0.1 + 0.022 * len(words)
        layer.draw_panel(0.03, y - 0.035, 0.03 + width, y + 0.035, (20, 20, 28, 120), 0.035)
        name = _colour(random_colour(rng, _SIGNALS) * 0.5 + 127)
        layer.draw_ellipse(0.045, y - 0.02, 0.085, y + 0.02, fill=name)
        layer.draw_text(0.06 + width / 2, y, words, 0.042, (255, 255, 255, 235))
        y -= 0.085


def draw_live_badge(rng: np.random.Generator, layer: Layer) -> None:
    """Draws the red LIVE badge with its count of viewers, and hearts rising at the right."""
    layer.draw_panel(0.03, 0.03, 0.17, 0.09, (228, 40, 60, 235), 0.02)
    layer.draw_text(0.1, 0.06, "LIVE", 0.045, (255, 255, 255, 255))
    layer.draw_panel(0.18, 0.03, 0.32, 0.09, (20, 20, 28, 120), 0.02)
    layer.draw_text(0.25, 0.06, f"{int(rng.integers(1, 99))}k", 0.042, (255, 255, 255, 235))
    # A heart is two disks and a triangle; the higher it is, the paler.
    for k in range(int(rng.integers(0, 4))):
        x, y, r = 0.93 + rng.uniform(-0.03, 0.03), 0.9 - 0.09 * k, 0.02
        fill = _colour((240, 80 + 25 * k, 120), 220 - 40 * k)
        layer.draw_ellipse(x - r, y - r, x + 0.2 * r, y + 0.2 * r, fill=fill)
        layer.draw_ellipse(x - 0.2 * r, y - r, x + r, y + 0.2 * r, fill=fill)
        layer.draw_polygon(x - r, y - 0.2 * r, x + r, y - 0.2 * r, x, y + r, fill=fill)


def draw_hand(rng: np.random.Generator, layer: Layer, x: float, y: float) -> None:
    """Draws a hand that reaches in from the nearer side and points at (x, y)."""
    # From where it comes, and the two directions that its parts are laid along.
    skin = random_colour(rng, _SKINS)
    side = -0.1 if x < 0.5 else 1.1
    start = np.array([side, min(1.1, y + rng.uniform(0.15, 0.45))])
    tip = np.array([x, y])
    ahead = (tip - start) / np.linalg.norm(tip - start)
    across = np.array([-ahead[1], ahead[0]])
    wrist, palm = tip - 0.2 * ahead, tip - 0.13 * ahead
    sleeve = _colour(random_colour(rng, MUTED) * 0.7)

    def draw_stroke(a: np.ndarray, b: np.ndarray, width: float, fill: tuple) -> None:
        # A line with round ends.
        line = max(1, round(width * layer.scale))
        layer.draw.line(layer.pixels(*a, *b), fill=fill, width=line)
        for end in (a, b):
            layer.draw_ellipse(*(end - width / 2), *(end + width / 2), fill=fill)

    # The arm, the sleeve over it, the palm, and four fingers over the palm.
    draw_stroke(start, wrist, 0.085, _colour(skin * 0.95))
    draw_stroke(start, wrist - 0.1 * ahead, 0.11, sleeve)
    layer.draw_ellipse(*(palm - 0.06), *(palm + 0.06), fill=_colour(skin))
    for k, reach in enumerate((0.1, 0.13, 0.12, 0.09)):
        root = palm + across * (0.036 * (k - 1.5))
        draw_stroke(root, root + ahead * reach, 0.03, _colour(skin * (1.0 - 0.03 * (k % 2))))


def draw_clutter(rng: np.random.Generator, layer: Layer, amount: int) -> None:
    """Draws pale boxes, balls and strips that are nobody's product."""
    for _ in range(amount):
        fill = _colour(0.6 * random_colour(rng, MUTED) + 0.4 * rng.uniform(90, 230, 3))
        x, y = rng.uniform(0, 1, 2)
        w, h = rng.uniform(0.04, 0.16, 2)
        kind = int(rng.integers(3))
        if kind == 0:
            layer.draw_ellipse(x - w, y - w, x + w, y + w, fill=fill)
        elif kind == 1:
            layer.draw_panel(x - w, y - h, x + w, y + h, fill, 0.01)
        else:
            end = rng.uniform(0, 1, 2)
            width = max(1, int(0.02 * layer.scale))
            layer.draw.line(layer.pixels(x, y, *end), fill=fill, width=width)


def sheet(size: int, paint: Callable[[Layer], None]) -> Float[np.ndarray, "S S 4"]:
    """A sheet with what `paint` draws on it."""
    layer = Layer(size)
    paint(layer)
    return layer.rgba()
