"""What surrounds the products: backdrops below them, banners, hands and chat above them.

Backdrops are float RGB arrays 0..255; layers are RGBA pictures drawn larger and reduced.
"""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

Backdrop = Float[np.ndarray, "S S 3"]
_SUPERSAMPLE = 2

_PASTELS = (
    (253, 238, 240), (255, 244, 226), (255, 251, 224), (232, 246, 232), (228, 242, 252),
    (240, 234, 250), (246, 246, 246), (255, 255, 255), (250, 240, 230), (226, 244, 242),
)  # fmt: skip
_SIGNALS = ((226, 56, 60), (245, 130, 32), (32, 120, 200), (40, 150, 90), (150, 60, 160))
_MUTED = (
    (196, 180, 160), (172, 184, 190), (186, 196, 176), (206, 190, 190), (176, 172, 190),
    (210, 202, 182), (160, 176, 176), (196, 198, 206),
)  # fmt: skip
_WOODS = ((196, 156, 112), (176, 136, 96), (214, 184, 144), (150, 116, 86))
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


def _pick(rng: np.random.Generator, table: tuple) -> np.ndarray:
    return np.array(table[int(rng.integers(len(table)))], np.float32)


def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """y [S 1] and x [1 S], 0 to 1."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return line[:, None], line[None, :]


def studio(rng: np.random.Generator, size: int) -> Backdrop:
    """A catalogue's ground: plain, a gradient, a spotlight, a floor, or a coloured disk."""
    first, second = _pick(rng, _PASTELS), _pick(rng, _PASTELS)
    y, x = _axes(size)
    kind = int(rng.integers(6))
    if kind == 0:
        weight = 0 * x + 0 * y
    elif kind == 1:
        weight = y * rng.uniform(0.4, 1) + x * rng.uniform(-0.4, 0.4)
    elif kind == 2:
        weight = 1.3 * ((x - 0.5) ** 2 + (y - 0.45) ** 2)
        second = second * 0.9
    elif kind == 3:
        edge = rng.uniform(0.55, 0.8)
        weight = np.clip((y - edge) * size / 2, 0, 1) + 0 * x
        second = second * 0.93
    elif kind == 4:
        radius = np.hypot(x - rng.uniform(0.4, 0.6), y - rng.uniform(0.4, 0.6))
        weight = np.clip((rng.uniform(0.3, 0.45) - radius) * size, 0, 1)
        second = second * 0.92
    else:
        slope = rng.uniform(-1, 1)
        weight = np.clip((y + slope * x - 0.5 - 0.5 * slope) * size / 2, 0, 1)
        second = second * 0.95
    return first + (second - first) * np.clip(weight, 0, 1)[..., None]


def room(rng: np.random.Generator, size: int, texture: float) -> Backdrop:
    """A live frame's ground: wood, cloth, tiles, shelves or a wall behind a table; with
    probability 1 - `texture` only the wall and the table without grain."""
    if rng.random() >= texture:
        return _table(rng, size, grain=0.0)
    draw = (_wood, _cloth, _tiles, _shelves, _table)[int(rng.integers(5))]
    return draw(rng, size)


def _wood(rng: np.random.Generator, size: int) -> Backdrop:
    y, x = _axes(size)
    if rng.random() < 0.5:
        y, x = x, y
    planks = int(rng.integers(3, 7))
    plank = np.floor(y * planks)
    tones = rng.uniform(0.9, 1.06, planks + 1).astype(np.float32)[plank.astype(int)]
    shift = rng.uniform(0, 9, planks + 1).astype(np.float32)[plank.astype(int)]
    waves = np.sin(2 * np.pi * (7 * y * planks / 4 + 0.3 * np.sin(5 * x + shift) + shift))
    gap = np.abs(y * planks - plank - 0.02) < max(0.05, planks / size)
    shade = tones * (1 + 0.035 * waves) * np.where(gap, 0.78, 1.0)
    return _pick(rng, _WOODS) * np.broadcast_to(shade, (size, size))[..., None]


def _cloth(rng: np.random.Generator, size: int) -> Backdrop:
    y, x = _axes(size)
    threads = rng.uniform(8, 16)
    weave = np.sin(2 * np.pi * threads * x) * np.sin(2 * np.pi * threads * y)
    folds = np.sin(rng.uniform(3, 7) * x + rng.uniform(2, 6) * y + rng.uniform(0, 6))
    colour = _pick(rng, _MUTED)
    if rng.random() < 0.4:  # a tablecloth's squares
        squares = (np.sin(np.pi * 6 * x) > 0) * 1.0 + (np.sin(np.pi * 6 * y) > 0)
        colour = colour * (1.04 - 0.07 * squares)[..., None]
        return colour * (1 + 0.05 * folds)[..., None]
    return colour * (1 + 0.04 * weave + 0.07 * folds)[..., None]


def _tiles(rng: np.random.Generator, size: int) -> Backdrop:
    y, x = _axes(size)
    rows = int(rng.integers(4, 8))
    row = np.floor(y * rows)
    along = x * rows / 2 + 0.5 * (row % 2)
    tones = rng.uniform(0.9, 1.05, (rows + 1, rows + 2)).astype(np.float32)
    tone = tones[row.astype(int), np.floor(along).astype(int)]
    width = max(0.07, 1.2 * rows / size)
    joint = (y * rows - row < width) | (along - np.floor(along) < width / 2)
    return _pick(rng, _MUTED) * np.where(joint, 0.86, tone)[..., None]


def _table(rng: np.random.Generator, size: int, grain: float = 0.04) -> Backdrop:
    y, x = _axes(size)
    edge = rng.uniform(0.35, 0.7)
    wall = _pick(rng, _MUTED) * (1.05 - 0.2 * np.hypot(x - rng.random(), y))[..., None]
    stripes = np.sin(2 * np.pi * (9 * y + 0.4 * np.sin(4 * x + rng.uniform(0, 6))))
    top = _pick(rng, _WOODS if rng.random() < 0.6 else _MUTED)
    top = top * (0.92 + 0.12 * y + grain * stripes)[..., None]
    below = np.clip((y - edge) * size, 0, 1)[..., None]
    return wall + (top - wall) * below


def _shelves(rng: np.random.Generator, size: int) -> Backdrop:
    wall = np.tile(_pick(rng, _MUTED), (size, size, 1)) * 0.98
    boards = int(rng.integers(2, 4))
    board = _pick(rng, _WOODS)
    thick = max(1, size // 32)
    for k in range(boards):
        bottom = int(size * (k + 1) / boards) - thick
        top = int(size * k / boards)
        x = int(rng.integers(0, size // 6))
        while x < size:  # books and boxes, pale, so that they are never taken for products
            width = int(size * rng.uniform(0.04, 0.13)) + 1
            height = int((bottom - top) * rng.uniform(0.35, 0.8))
            if rng.random() < 0.7:
                colour = 0.5 * _pick(rng, _MUTED) + 0.5 * rng.uniform(110, 215, 3)
                wall[bottom - height : bottom, x : x + width] = colour
                wall[bottom - height : bottom, x : x + max(1, size // 128)] *= 0.85
            x += width + int(rng.integers(0, size // 10))
        wall[bottom : bottom + thick] = board
        wall[bottom + thick : bottom + 2 * thick] *= 0.85
    return wall


@functools.lru_cache(maxsize=32)
def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(4, pixels))


class Layer:
    """A transparent sheet over the picture; coordinates run from 0 to 1."""

    def __init__(self, size: int) -> None:
        self.scale = size * _SUPERSAMPLE
        self.image = Image.new("RGBA", (self.scale, self.scale), (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.image)

    def at(self, *numbers: float) -> list[float]:
        return [number * self.scale for number in numbers]

    def panel(self, x0: float, y0: float, x1: float, y1: float, fill: tuple, radius: float) -> None:
        self.draw.rounded_rectangle(self.at(x0, y0, x1, y1), self.scale * radius, fill=fill)

    def text(self, x: float, y: float, words: str, height: float, fill: tuple) -> None:
        """Words centred at (x, y)."""
        font = _font(round(self.scale * height))
        self.draw.text((x * self.scale, y * self.scale), words, font=font, fill=fill, anchor="mm")

    def rgba(self) -> Float[np.ndarray, "S S 4"]:
        return np.asarray(self.image.reduce(_SUPERSAMPLE), np.float32)


def _colour(values: np.ndarray | tuple, alpha: int = 255) -> tuple[int, int, int, int]:
    r, g, b = (int(value) for value in values)
    return r, g, b, alpha


def banner(rng: np.random.Generator, layer: Layer, height: float, top: bool) -> None:
    """A bar of advertising along the top or the bottom."""
    colour = _colour(_pick(rng, _SIGNALS))
    y = 0.0 if top else 1 - height
    layer.panel(0, y, 1, y + height, colour, 0)
    words = _BANNERS[int(rng.integers(len(_BANNERS)))]
    layer.text(0.5, y + height / 2, words, height * 0.6, (255, 255, 255, 255))


def sticker(rng: np.random.Generator, layer: Layer) -> None:
    """A price or a catchword in one of the corners: a disk, a burst or a ribbon."""
    x, y = (0.12 if rng.random() < 0.5 else 0.88), (0.13 if rng.random() < 0.5 else 0.87)
    radius = rng.uniform(0.085, 0.11)
    colour = _colour(_pick(rng, _SIGNALS))
    if rng.random() < 0.4:
        angles = np.arange(24) * np.pi / 12
        reach = radius * np.where(np.arange(24) % 2, 0.85, 1.1)
        layer.draw.polygon(
            (np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], -1) * layer.scale)
            .ravel()
            .tolist(),
            fill=colour,
        )
    elif rng.random() < 0.5:
        layer.draw.ellipse(layer.at(x - radius, y - radius, x + radius, y + radius), fill=colour)
    else:
        layer.panel(x - radius, y - radius / 2, x + radius, y + radius / 2, colour, 0.02)
    words = _FLASHES[int(rng.integers(len(_FLASHES)))]
    layer.text(x, y, words, radius * min(0.9, 3.2 / len(words)), (255, 255, 255, 255))


def frame(rng: np.random.Generator, layer: Layer) -> None:
    """A thin coloured line around the picture."""
    width = max(1, round(layer.scale * rng.uniform(0.012, 0.03)))
    edge = layer.scale - 1
    layer.draw.rectangle((0, 0, edge, edge), outline=_colour(_pick(rng, _SIGNALS)), width=width)


def chat(rng: np.random.Generator, layer: Layer) -> None:
    """Comments in half-transparent bubbles, lower left, as live streams show them."""
    y = 0.94
    for _ in range(int(rng.integers(1, 4))):
        words = _CHATS[int(rng.integers(len(_CHATS)))]
        width = 0.1 + 0.022 * len(words)
        layer.panel(0.03, y - 0.035, 0.03 + width, y + 0.035, (20, 20, 28, 120), 0.035)
        name = _colour(_pick(rng, _SIGNALS) * 0.5 + 127)
        layer.draw.ellipse(layer.at(0.045, y - 0.02, 0.085, y + 0.02), fill=name)
        layer.text(0.06 + width / 2, y, words, 0.042, (255, 255, 255, 235))
        y -= 0.085


def on_air(rng: np.random.Generator, layer: Layer) -> None:
    """The red LIVE badge with its count of viewers, and hearts rising at the right."""
    layer.panel(0.03, 0.03, 0.17, 0.09, (228, 40, 60, 235), 0.02)
    layer.text(0.1, 0.06, "LIVE", 0.045, (255, 255, 255, 255))
    layer.panel(0.18, 0.03, 0.32, 0.09, (20, 20, 28, 120), 0.02)
    layer.text(0.25, 0.06, f"{int(rng.integers(1, 99))}k", 0.042, (255, 255, 255, 235))
    for k in range(int(rng.integers(0, 4))):
        x, y, r = 0.93 + rng.uniform(-0.03, 0.03), 0.9 - 0.09 * k, 0.02
        fill = _colour((240, 80 + 25 * k, 120), 220 - 40 * k)
        layer.draw.ellipse(layer.at(x - r, y - r, x + 0.2 * r, y + 0.2 * r), fill=fill)
        layer.draw.ellipse(layer.at(x - 0.2 * r, y - r, x + r, y + 0.2 * r), fill=fill)
        layer.draw.polygon(layer.at(x - r, y - 0.2 * r, x + r, y - 0.2 * r, x, y + r), fill=fill)


def hand(rng: np.random.Generator, layer: Layer, x: float, y: float) -> None:
    """A hand that reaches in from the nearer side and points at (x, y)."""
    skin = _pick(rng, _SKINS)
    side = -0.1 if x < 0.5 else 1.1
    start = np.array([side, min(1.1, y + rng.uniform(0.15, 0.45))])
    tip = np.array([x, y])
    ahead = (tip - start) / np.linalg.norm(tip - start)
    across = np.array([-ahead[1], ahead[0]])
    wrist, palm = tip - 0.2 * ahead, tip - 0.13 * ahead
    sleeve = _colour(_pick(rng, _MUTED) * 0.7)

    def stroke(a: np.ndarray, b: np.ndarray, width: float, fill: tuple) -> None:
        layer.draw.line(layer.at(*a, *b), fill=fill, width=max(1, round(width * layer.scale)))
        for end in (a, b):
            box = layer.at(*(end - width / 2), *(end + width / 2))
            layer.draw.ellipse(box, fill=fill)

    stroke(start, wrist, 0.085, _colour(skin * 0.95))
    stroke(start, wrist - 0.1 * ahead, 0.11, sleeve)
    layer.draw.ellipse(layer.at(*(palm - 0.06), *(palm + 0.06)), fill=_colour(skin))
    for k, reach in enumerate((0.1, 0.13, 0.12, 0.09)):
        root = palm + across * (0.036 * (k - 1.5))
        stroke(root, root + ahead * reach, 0.03, _colour(skin * (1.0 - 0.03 * (k % 2))))


def clutter(rng: np.random.Generator, layer: Layer, amount: int) -> None:
    """Pale boxes, balls and strips that are nobody's product."""
    for _ in range(amount):
        fill = _colour(0.6 * _pick(rng, _MUTED) + 0.4 * rng.uniform(90, 230, 3))
        x, y = rng.uniform(0, 1, 2)
        w, h = rng.uniform(0.04, 0.16, 2)
        kind = int(rng.integers(3))
        if kind == 0:
            layer.draw.ellipse(layer.at(x - w, y - w, x + w, y + w), fill=fill)
        elif kind == 1:
            layer.panel(x - w, y - h, x + w, y + h, fill, 0.01)
        else:
            end = rng.uniform(0, 1, 2)
            layer.draw.line(layer.at(x, y, *end), fill=fill, width=max(1, int(0.02 * layer.scale)))


def sheet(size: int, paint: Callable[[Layer], None]) -> Float[np.ndarray, "S S 4"]:
    """One layer with what `paint` drew on it."""
    layer = Layer(size)
    paint(layer)
    return layer.rgba()
