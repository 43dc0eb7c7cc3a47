"""Backdrops of the products: catalogue grounds and rooms, as float RGB 0..255."""

import numpy as np
from jaxtyping import Float

Backdrop = Float[np.ndarray, "S S 3"]

_PASTELS = (
    (253, 238, 240), (255, 244, 226), (255, 251, 224), (232, 246, 232), (228, 242, 252),
    (240, 234, 250), (246, 246, 246), (255, 255, 255), (250, 240, 230), (226, 244, 242),
)  # fmt: skip
MUTED = (
    (196, 180, 160), (172, 184, 190), (186, 196, 176), (206, 190, 190), (176, 172, 190),
    (210, 202, 182), (160, 176, 176), (196, 198, 206),
)  # fmt: skip
_WOODS = ((196, 156, 112), (176, 136, 96), (214, 184, 144), (150, 116, 86))


def random_colour(rng: np.random.Generator, table: tuple) -> Float[np.ndarray, " 3"]:
    """One of the colours of a table, by chance."""
    return np.array(table[int(rng.integers(len(table)))], np.float32)


def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels' centres from 0 to 1: y as [S 1], x as [1 S]."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return line[:, None], line[None, :]


def studio(rng: np.random.Generator, size: int) -> Backdrop:
    """A catalogue's ground: plain, a gradient, a spotlight, a floor, or a coloured disk."""
    # Two colours, and the second's weight at each pixel: what `kind` decides.
    first, second = random_colour(rng, _PASTELS), random_colour(rng, _PASTELS)
    y, x = _axes(size)
    kind = int(rng.integers(6))
    if kind == 0:  # plain
        weight = 0 * x + 0 * y
    elif kind == 1:  # a gradient
        weight = y * rng.uniform(0.4, 1) + x * rng.uniform(-0.4, 0.4)
    elif kind == 2:  # a spotlight
        weight = 1.3 * ((x - 0.5) ** 2 + (y - 0.45) ** 2)
        second = second * 0.9
    elif kind == 3:  # a floor
        edge = rng.uniform(0.55, 0.8)
        weight = np.clip((y - edge) * size / 2, 0, 1) + 0 * x
        second = second * 0.93
    elif kind == 4:  # a disk
        radius = np.hypot(x - rng.uniform(0.4, 0.6), y - rng.uniform(0.4, 0.6))
        weight = np.clip((rng.uniform(0.3, 0.45) - radius) * size, 0, 1)
        second = second * 0.92
    else:  # a slanted edge
        slope = rng.uniform(-1, 1)
        weight = np.clip((y + slope * x - 0.5 - 0.5 * slope) * size / 2, 0, 1)
        second = second * 0.95
    return first + (second - first) * np.clip(weight, 0, 1)[..., None]


def room(rng: np.random.Generator, size: int, texture: float) -> Backdrop:
    """A live frame's ground: wood, cloth, tiles, shelves or a wall behind a table.

    With probability 1 - `texture` it is only the wall and the table without grain.
    """
    if rng.random() >= texture:
        return _table(rng, size, grain=0.0)
    draw = (_wood, _cloth, _tiles, _shelves, _table)[int(rng.integers(5))]
    return draw(rng, size)


def _wood(rng: np.random.Generator, size: int) -> Backdrop:
    """Planks with grain and gaps, along either axis."""
    y, x = _axes(size)
    if rng.random() < 0.5:
        y, x = x, y
    # Each plank has its tone and its shift of the grain.
    planks = int(rng.integers(3, 7))
    plank = np.floor(y * planks)
    tones = rng.uniform(0.9, 1.06, planks + 1).astype(np.float32)[plank.astype(int)]
    shift = rng.uniform(0, 9, planks + 1).astype(np.float32)[plank.astype(int)]
    waves = np.sin(2 * np.pi * (7 * y * planks / 4 + 0.3 * np.sin(5 * x + shift) + shift))
    gap = np.abs(y * planks - plank - 0.02) < max(0.05, planks / size)
    shade = tones * (1 + 0.035 * waves) * np.where(gap, 0.78, 1.0)
    return random_colour(rng, _WOODS) * np.broadcast_to(shade, (size, size))[..., None]


def _cloth(rng: np.random.Generator, size: int) -> Backdrop:
    """A woven cloth in folds, or a tablecloth in squares."""
    y, x = _axes(size)
    threads = rng.uniform(8, 16)
    weave = np.sin(2 * np.pi * threads * x) * np.sin(2 * np.pi * threads * y)
    folds = np.sin(rng.uniform(3, 7) * x + rng.uniform(2, 6) * y + rng.uniform(0, 6))
    colour = random_colour(rng, MUTED)
    if rng.random() < 0.4:  # a tablecloth's squares
        squares = (np.sin(np.pi * 6 * x) > 0) * 1.0 + (np.sin(np.pi * 6 * y) > 0)
        colour = colour * (1.04 - 0.07 * squares)[..., None]
        return colour * (1 + 0.05 * folds)[..., None]
    return colour * (1 + 0.04 * weave + 0.07 * folds)[..., None]


def _tiles(rng: np.random.Generator, size: int) -> Backdrop:
    """Tiles of slightly different tones, every second row shifted by half a tile."""
    y, x = _axes(size)
    rows = int(rng.integers(4, 8))
    row = np.floor(y * rows)
    along = x * rows / 2 + 0.5 * (row % 2)
    tones = rng.uniform(0.9, 1.05, (rows + 1, rows + 2)).astype(np.float32)
    tone = tones[row.astype(int), np.floor(along).astype(int)]
    width = max(0.07, 1.2 * rows / size)
    joint = (y * rows - row < width) | (along - np.floor(along) < width / 2)
    return random_colour(rng, MUTED) * np.where(joint, 0.86, tone)[..., None]


def _table(rng: np.random.Generator, size: int, grain: float = 0.04) -> Backdrop:
    """A table before a wall that a lamp lights from the top; `grain` is how far it shows."""
    y, x = _axes(size)
    edge = rng.uniform(0.35, 0.7)
    wall = random_colour(rng, MUTED) * (1.05 - 0.2 * np.hypot(x - rng.random(), y))[..., None]
    stripes = np.sin(2 * np.pi * (9 * y + 0.4 * np.sin(4 * x + rng.uniform(0, 6))))
    top = random_colour(rng, _WOODS if rng.random() < 0.6 else MUTED)
    top = top * (0.92 + 0.12 * y + grain * stripes)[..., None]
    below = np.clip((y - edge) * size, 0, 1)[..., None]
    return wall + (top - wall) * below


def _shelves(rng: np.random.Generator, size: int) -> Backdrop:
    """A wall with boards, and books and boxes on them."""
    wall = np.tile(random_colour(rng, MUTED), (size, size, 1)) * 0.98
    boards = int(rng.integers(2, 4))
    board = random_colour(rng, _WOODS)
    thick = max(1, size // 32)
    for k in range(boards):
        bottom = int(size * (k + 1) / boards) - thick
        top = int(size * k / boards)
        x = int(rng.integers(0, size // 6))
        while x < size:  # books and boxes, pale, so that they are never taken for products
            width = int(size * rng.uniform(0.04, 0.13)) + 1
            height = int((bottom - top) * rng.uniform(0.35, 0.8))
            if rng.random() < 0.7:
                colour = 0.5 * random_colour(rng, MUTED) + 0.5 * rng.uniform(110, 215, 3)
                wall[bottom - height : bottom, x : x + width] = colour
                wall[bottom - height : bottom, x : x + max(1, size // 128)] *= 0.85
            x += width + int(rng.integers(0, size // 10))
        # The board that they stand on, and its shadow.
        wall[bottom : bottom + thick] = board
        wall[bottom + thick : bottom + 2 * thick] *= 0.85
    return wall
