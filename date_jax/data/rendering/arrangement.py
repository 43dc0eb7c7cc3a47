"""The arrangement of a picture: the products that stand together, their views and places."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from date_jax.data.rendering.look import Look
from date_jax.data.rendering.products import Product, extent, product, split_numbers

TRIES = 5  # sizes that a product is tried in, each SHRINK of the one before
SHRINK = 0.87
SPOTS = 32  # random places that a product is tried at in each size


@functools.lru_cache(maxsize=8)
def members(seed: int, products: int, split: str) -> tuple[Product, ...]:
    """The products of a split, in the order of their numbers."""
    return tuple(product(seed, number) for number in split_numbers(products, split))


@functools.lru_cache(maxsize=8)
def _attributes(seed: int, products: int, split: str) -> np.ndarray:
    """Category, colour and pattern of the split's products, [3 N], to search in."""
    items = members(seed, products, split)
    return np.array([[item.category, item.colour, item.pattern] for item in items]).T


def _neighbour_position(
    rng: np.random.Generator,
    target: Product,
    table: np.ndarray,
    free: Bool[np.ndarray, " N"],
    hard: float,
    pattern: bool,
) -> int | None:
    """A random product that the query does not fit, by its position in `table`.

    With probability `hard` it shares the category, the colour or, where the query tells patterns
    apart, both; else it shares neither. Where no such product is left, it is any.

    Args:
        rng: draws the kind and the product.
        target: the queried product.
        table: the attributes of all products of the split.
        free: those that are not in the picture yet.
        hard: the probability above.
        pattern: the query says the pattern.
    """
    # Never a product that the query fits: there would be two right answers.
    attributes = np.array([target.category, target.colour, target.pattern])[:, None]
    same_category, same_colour, same_pattern = table == attributes
    fits = same_category & same_colour & (same_pattern if pattern else True)
    allowed = free & ~fits
    # Hard neighbours decide whether a model reads the whole query or a word of it.
    kind = rng.random()
    if rng.random() >= hard:
        preferred = allowed & ~same_category & ~same_colour
    elif kind < 0.45:
        preferred = allowed & same_category & ~same_colour
    elif kind < 0.9:
        preferred = allowed & same_colour & ~same_category
    else:
        preferred = allowed & same_colour & same_category
    choices = np.flatnonzero(preferred if preferred.any() else allowed)
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
        rng: draws the others.
        target: the queried product.
        shop: seed, number of products and split.
        count: of products in the picture, the queried one among them.
        hard: probability of a neighbour that is like the queried product.
        pattern: the query says the pattern.
    """
    # One after the other, so that none comes twice; a small split may run out of them.
    items, table = members(*shop), _attributes(*shop)
    together, free = [target], np.ones(len(items), bool)
    for _ in range(count - 1):
        position = _neighbour_position(rng, target, table, free, hard, pattern)
        if position is None:
            break
        together.append(items[position])
        free[position] = False
    return together


class PlacedProduct(NamedTuple):
    """A product in its view: `matrix` takes the silhouette's units to pixels around `centre`."""

    item: Product
    matrix: Float[np.ndarray, "2 2"]
    centre: Float[np.ndarray, " 2"]


def _view_matrix(rng: np.random.Generator, look: Look, item: Product, size: int) -> np.ndarray:
    """A random view of the product, turned, slanted and scaled: silhouette units to pixels.

    Slim products are enlarged, so that `look.size` lies between their longer side and their mean.
    """
    # Turn and slant, then the scale that gives this product its size.
    angle = np.radians(rng.uniform(-look.rotation, look.rotation))
    slant = rng.uniform(-look.shear, look.shear)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]]) @ np.array([[1, slant], [0, 1]])
    box = extent(item, np.eye(2))
    width, height = box[2] - box[0], box[3] - box[1]
    side = max(width, height) ** 0.6 * np.sqrt(width * height) ** 0.4
    return turn * (rng.uniform(*look.size) * size / side)


def _free_centre(
    rng: np.random.Generator,
    look: Look,
    box: Float[np.ndarray, " 4"],
    taken: list[np.ndarray],
    free: Float[np.ndarray, " 4"],
) -> np.ndarray | None:
    """A place for a product's origin, the first of some random ones that will do, or None.

    Args:
        rng: draws the places.
        look: of the picture; boxes of products overlap by `look.overlap` at most.
        box: that the product fills around its origin.
        taken: boxes of the products that have their places.
        free: the part of the picture for products, of which `look.cut` may stand out.
    """
    # The places are drawn even where there is no room, so that later draws do not depend on it.
    extra = look.cut * (box[2:] - box[:2])
    low, high = free[:2] - box[:2] - extra, free[2:] - box[2:] + extra
    spots = low + (high - low) * rng.random((SPOTS, 2))
    if (high < low).any():
        return None
    if not taken:
        return spots[0]
    # The overlap with every earlier box, as a share of the smaller of the two.
    others = np.stack(taken)[None]
    x0y0, x1y1 = spots[:, None] + box[:2], spots[:, None] + box[2:]
    sides = np.minimum(x1y1, others[..., 2:]) - np.maximum(x0y0, others[..., :2])
    common = np.clip(sides, 0, None).prod(-1)
    smaller = np.minimum((x1y1 - x0y0).prod(-1), (others[..., 2:] - others[..., :2]).prod(-1))
    apart = np.flatnonzero((common <= look.overlap * smaller).all(1))
    return spots[apart[0]] if len(apart) else None


def placed_products(
    rng: np.random.Generator,
    look: Look,
    items: list[Product],
    size: int,
    free: Float[np.ndarray, " 4"],
) -> list[PlacedProduct]:
    """The products that find room, each in a random view, smaller if need be.

    The first of `items`, the queried one, is always among them and stays the first. Its turn to
    find room is drawn like the others': it is no larger than they are, but in those pictures that
    show it off.

    Args:
        rng: draws views and places.
        look: of the picture.
        items: the products.
        size: the picture's side in pixels.
        free: the part of the picture for products, in pixels.
    """
    shown_off = rng.random() < look.shown_off
    # Should the queried product find no room in its turn, all begin again with it as the first.
    for order in (rng.permutation(len(items)), range(len(items))):
        boxes: list[np.ndarray] = []
        placed = []
        for item in [items[position] for position in order]:
            matrix = _view_matrix(rng, look, item, size)
            # A seller holds up the queried product: the others are drawn smaller.
            if shown_off and item is not items[0]:
                matrix = matrix * rng.uniform(0.55, 0.8)
            # Without a free place the product shrinks; after TRIES sizes it is left out.
            for _ in range(TRIES):
                box = extent(item, matrix)
                centre = _free_centre(rng, look, box, boxes, free)
                if centre is not None:
                    boxes.append(box + np.tile(centre, 2))
                    placed.append(PlacedProduct(item, matrix, centre))
                    break
                matrix = matrix * SHRINK
        if any(entry.item is items[0] for entry in placed):
            return sorted(placed, key=lambda entry: entry.item is not items[0])
    raise ValueError(f"products of {look.size} of the side do not fit into {free / size}")


def uncut_product(placed: PlacedProduct, size: int) -> PlacedProduct:
    """The product in the same view, moved until nothing of it is outside the picture."""
    box = extent(placed.item, placed.matrix)
    return placed._replace(centre=np.clip(placed.centre, -box[:2], size - box[2:]))
