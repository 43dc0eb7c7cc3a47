"""Which products stand together in a picture, in which view, and where."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from date_jax.data.rendering.look import Look
from date_jax.data.rendering.products import Product, extent, product


@functools.lru_cache(maxsize=8)
def members(seed: int, products: int, split: str) -> tuple[Product, ...]:
    """The products of a split, 8:1:1 by number."""
    shares = {"train": range(8), "val": (8,), "test": (9,)}[split]
    return tuple(product(seed, number) for number in range(products) if number % 10 in shares)


@functools.lru_cache(maxsize=8)
def _attributes(seed: int, products: int, split: str) -> np.ndarray:
    """Category, colour and pattern of the split's products, [3 N], to search in."""
    items = members(seed, products, split)
    return np.array([[item.category, item.colour, item.pattern] for item in items]).T


def _neighbour(
    rng: np.random.Generator,
    target: Product,
    table: np.ndarray,
    free: Bool[np.ndarray, " N"],
    hard: float,
    pattern: bool,
) -> int | None:
    """The position in `table` of a `free` product that the query does not fit: with probability
    `hard` one that shares the category, the colour or, where the query tells patterns apart, both;
    else one that shares neither. Where there is none of that kind, any."""
    wanted = np.array([target.category, target.colour, target.pattern])[:, None]
    category, colour, same_pattern = table == wanted
    fits = category & colour & (same_pattern if pattern else True)
    allowed = free & ~fits
    kind = rng.random()
    if rng.random() >= hard:
        wished = allowed & ~category & ~colour
    elif kind < 0.45:
        wished = allowed & category & ~colour
    elif kind < 0.9:
        wished = allowed & colour & ~category
    else:
        wished = allowed & colour & category
    choices = np.flatnonzero(wished if wished.any() else allowed)
    return int(choices[rng.integers(len(choices))]) if len(choices) else None


def company(
    rng: np.random.Generator,
    target: Product,
    shop: tuple[int, int, str],
    count: int,
    *,
    hard: float,
    pattern: bool,
) -> list[Product]:
    """The queried product and up to `count` - 1 others that its query cannot mean.

    Args:
        shop: seed, number of products and split.
        hard: probability of a neighbour that is like the queried product.
        pattern: the query says the pattern.
    """
    items, table = members(*shop), _attributes(*shop)
    shown, free = [target], np.ones(len(items), bool)
    for _ in range(count - 1):
        position = _neighbour(rng, target, table, free, hard, pattern)
        if position is None:
            break
        shown.append(items[position])
        free[position] = False
    return shown


class Placed(NamedTuple):
    """A product and its view: `matrix` takes the silhouette's units to pixels around `centre`."""

    item: Product
    matrix: Float[np.ndarray, "2 2"]
    centre: Float[np.ndarray, " 2"]


def _matrix(rng: np.random.Generator, look: Look, item: Product, size: int) -> np.ndarray:
    """Silhouette units to pixels: a view of the product, turned, slanted and scaled. Slim
    products are enlarged, so that `look.size` lies between their longer side and their mean."""
    angle = np.radians(rng.uniform(-look.rotation, look.rotation))
    slant = rng.uniform(-look.shear, look.shear)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]]) @ np.array([[1, slant], [0, 1]])
    box = extent(item, np.eye(2))
    width, height = box[2] - box[0], box[3] - box[1]
    side = max(width, height) ** 0.6 * np.sqrt(width * height) ** 0.4
    return turn * (rng.uniform(*look.size) * size / side)


def _centre(
    rng: np.random.Generator,
    look: Look,
    box: Float[np.ndarray, " 4"],
    placed: list[np.ndarray],
    free: Float[np.ndarray, " 4"],
) -> np.ndarray | None:
    """Where to put a product that fills `box` around its origin: the first of some random places
    within `free` that overlaps the earlier ones by at most `look.overlap`; None if there is none.
    """
    extra = look.cut * (box[2:] - box[:2])
    low, high = free[:2] - box[:2] - extra, free[2:] - box[2:] + extra
    spots = low + (high - low) * rng.random((32, 2))
    if (high < low).any():
        return None
    if not placed:
        return spots[0]
    others = np.stack(placed)[None]
    x0y0, x1y1 = spots[:, None] + box[:2], spots[:, None] + box[2:]
    sides = np.minimum(x1y1, others[..., 2:]) - np.maximum(x0y0, others[..., :2])
    common = np.clip(sides, 0, None).prod(-1)
    smaller = np.minimum((x1y1 - x0y0).prod(-1), (others[..., 2:] - others[..., :2]).prod(-1))
    apart = np.flatnonzero((common <= look.overlap * smaller).all(1))
    return spots[apart[0]] if len(apart) else None


def arranged(
    rng: np.random.Generator,
    look: Look,
    items: list[Product],
    size: int,
    free: Float[np.ndarray, " 4"],
) -> list[Placed]:
    """The products that found room, smaller if need be; the first of `items`, the queried one,
    stays the first. Its turn to find room is drawn like the others': it is no larger than they
    are, but in those pictures that show it off."""
    shown_off = rng.random() < look.shown_off
    for order in (rng.permutation(len(items)), range(len(items))):
        boxes: list[np.ndarray] = []
        placed = []
        for item in [items[position] for position in order]:
            matrix = _matrix(rng, look, item, size)
            if shown_off and item is not items[0]:
                matrix = matrix * rng.uniform(0.55, 0.8)
            for _ in range(5):
                box = extent(item, matrix)
                centre = _centre(rng, look, box, boxes, free)
                if centre is not None:
                    boxes.append(box + np.tile(centre, 2))
                    placed.append(Placed(item, matrix, centre))
                    break
                matrix = matrix * 0.87
        if any(entry.item is items[0] for entry in placed):
            return sorted(placed, key=lambda entry: entry.item is not items[0])
    raise ValueError(f"products of {look.size} of the side do not fit into {free / size}")


def inside(placed: Placed, size: int) -> Placed:
    """The same view, moved until nothing of it is outside the picture."""
    box = extent(placed.item, placed.matrix)
    return placed._replace(centre=np.clip(placed.centre, -box[:2], size - box[2:]))
