"""One picture of the shop: which products, where, in front of what, and how it was filmed."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter

from date_jax.data.rendering import phrases, scenes
from date_jax.data.rendering.products import Product, Sprite, extent, product, sprite

Canvas = Float[np.ndarray, "S S 3"]
HIDDEN_LIMIT = 0.35  # of the queried product's area, by whatever lies in front of it
CUT_LIMIT = 0.2  # of its area, by the picture's border


@dataclass(frozen=True)
class Look:
    """Everything that makes one domain easy or hard, and unlike the other.

    Lengths are fractions of the picture's side; blur is in pixels of a 64-pixel picture; pairs
    are ranges that are drawn from uniformly, other numbers are upper limits or probabilities.
    """

    count: tuple[int, int]  # products in a picture
    size: tuple[float, float]  # of a product
    rotation: float  # degrees, either way
    shear: float
    margin: float  # kept free along the border
    cut: float  # how far a product's box may stand out of the picture, share of the box's side
    overlap: float  # of two products' boxes, share of the smaller one
    hard_negative: float  # a neighbour shares category or colour with the queried product
    mark_said: float  # the query names the printed mark
    texture: float  # a textured ground (live)
    clutter: int  # things in the background that are no products
    banner: float  # each of banner, sticker, frame (mall); chat and LIVE badge (live)
    occlusion: float  # a hand reaches for one of the products
    shadow: float  # darkness of the shadow
    cast: float  # a channel's gain is 1 +- cast
    brightness: tuple[float, float]  # gain
    contrast: tuple[float, float]  # around the picture's mean
    blur: tuple[float, float]  # sigma
    noise: tuple[float, float]  # sigma, levels of 255


class Scene(NamedTuple):
    """A rendered picture and all that is known of it.

    `products[0]` is the queried one and `drawn` its sprite in picture pixels; `hidden` and `cut`
    are the shares of its area behind other things and outside the picture. box_xyxy is normalised
    and tightly holds the part of its silhouette (coverage above one half) inside the picture.
    """

    image: UInt8[np.ndarray, "S S 3"]
    query: str
    box_xyxy: Float[np.ndarray, " 4"]
    products: tuple[Product, ...]
    drawn: Sprite
    hidden: float
    cut: float


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
    rng: np.random.Generator, target: Product, attributes: np.ndarray, hard: float, pattern: bool
) -> int | None:
    """The position of a product that the query does not fit: with probability `hard` one that
    shares the category, the colour or, where the query tells patterns apart, both."""
    wanted = np.array([target.category, target.colour, target.pattern])[:, None]
    category, colour, same_pattern = attributes == wanted
    fits = category & colour & (same_pattern if pattern else True)
    allowed = ~fits
    if rng.random() < hard:
        kind = rng.random()
        if kind < 0.45:
            alike = allowed & category & ~colour
        elif kind < 0.9:
            alike = allowed & colour & ~category
        else:
            alike = allowed & colour & category
        allowed = alike if alike.any() else allowed
    choices = np.flatnonzero(allowed)
    return int(choices[rng.integers(len(choices))]) if len(choices) else None


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


def _arranged(
    rng: np.random.Generator, look: Look, items: list[Product], size: int, free: np.ndarray
) -> list[tuple[Product, np.ndarray, np.ndarray]]:
    """(product, matrix, centre) for the products that found room, smaller ones if need be; the
    first of `items`, the queried one, stays the first, but its turn to find room is drawn too."""
    placed: list[np.ndarray] = []
    arranged = []
    order = rng.permutation(len(items))
    for item in [items[position] for position in order]:
        matrix = _matrix(rng, look, item, size)
        for _ in range(5):
            box = extent(item, matrix)
            centre = _centre(rng, look, box, placed, free)
            if centre is not None:
                placed.append(box + np.tile(centre, 2))
                arranged.append((item, matrix, centre))
                break
            matrix = matrix * 0.87
    if all(item.number != items[0].number for item, _, _ in arranged):
        return _arranged(rng, look, items[:1], size, free)
    return sorted(arranged, key=lambda entry: entry[0].number != items[0].number)


def _window(drawn: Sprite, size: int) -> tuple[slice, slice, slice, slice]:
    """Rows and columns of the picture that a sprite covers, and the same in the sprite."""
    height, width = drawn.alpha.shape
    y0, y1 = max(0, drawn.top), min(size, drawn.top + height)
    x0, x1 = max(0, drawn.left), min(size, drawn.left + width)
    return (
        slice(y0, y1),
        slice(x0, x1),
        slice(y0 - drawn.top, y1 - drawn.top),
        slice(x0 - drawn.left, x1 - drawn.left),
    )


def coverage(drawn: Sprite, size: int) -> Float[np.ndarray, "S S"]:
    """The sprite's coverage, 0..1, in the picture's pixels."""
    mask = np.zeros((size, size), np.float32)
    rows, columns, own_rows, own_columns = _window(drawn, size)
    mask[rows, columns] = drawn.alpha[own_rows, own_columns]
    return mask


def _add_sprite(canvas: Canvas, drawn: Sprite, shadow: float) -> None:
    """Paints a product and, below it, its soft shadow to the lower right."""
    size = len(canvas)
    reach = max(1, size // 40)
    wide = (np.pad(drawn.alpha, 3 * reach) * 255).astype(np.uint8)
    soft = Image.fromarray(wide).filter(ImageFilter.BoxBlur(1.5 * reach))
    dark = np.asarray(soft, np.float32)[..., None] * np.float32(shadow / 255)
    shade = Sprite(dark, dark[..., 0], drawn.left - 2 * reach, drawn.top - reach)
    rows, columns, own_rows, own_columns = _window(shade, size)
    canvas[rows, columns] *= 1 - dark[own_rows, own_columns]
    rows, columns, own_rows, own_columns = _window(drawn, size)
    alpha = drawn.alpha[own_rows, own_columns, None]
    canvas[rows, columns] += alpha * (drawn.rgb[own_rows, own_columns] - canvas[rows, columns])


def _add_sheet(canvas: Canvas, rgba: Float[np.ndarray, "S S 4"]) -> None:
    canvas += rgba[..., 3:] * np.float32(1 / 255) * (rgba[..., :3] - canvas)


def _overlays(
    rng: np.random.Generator, domain: str, look: Look, size: int, places: list[np.ndarray]
) -> list[np.ndarray]:
    """The sheets that lie over all products; `places` are the products' centres in pixels."""
    kinds = (scenes.sticker, scenes.frame) if domain == "mall" else (scenes.chat, scenes.on_air)
    paints = [functools.partial(kind, rng) for kind in kinds if rng.random() < look.banner]
    if rng.random() < look.occlusion:
        # Any product: a hand that always found the queried one would answer the query.
        x, y = places[int(rng.integers(len(places)))] / size + rng.uniform(-0.08, 0.08, 2)
        paints.append(functools.partial(scenes.hand, rng, x=x, y=y))
    return [scenes.sheet(size, paint) for paint in paints]


def _filmed(rng: np.random.Generator, look: Look, canvas: Canvas) -> UInt8[np.ndarray, "S S 3"]:
    """What a camera makes of it: contrast, exposure, tint, blur, noise."""
    gain = rng.uniform(*look.brightness) * (1 + rng.uniform(-look.cast, look.cast, 3))
    contrast, sigma = rng.uniform(*look.contrast), rng.uniform(*look.blur) * len(canvas) / 64
    noise = rng.uniform(*look.noise)
    mean = canvas.mean()
    canvas = ((canvas - mean) * np.float32(contrast) + mean) * gain.astype(np.float32)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    if sigma > 0:
        image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
    if noise > 0:
        grain = rng.standard_normal(image.shape, np.float32) * np.float32(noise)
        image = np.clip(image + grain, 0, 255).astype(np.uint8)
    return image


def scene(
    rng: np.random.Generator,
    look: Look,
    *,
    domain: str,
    target: Product,
    seed: int,
    products: int,
    split: str,
    image_size: int,
) -> Scene:
    """Draws one picture whose query asks for `target`; its neighbours are of the same split."""
    pattern_said = target.pattern != "plain" or rng.random() < 0.5
    mark_said = bool(rng.random() < look.mark_said)
    phrase = phrases.title if domain == "mall" else phrases.speech
    query = phrase(rng, target, pattern=pattern_said, mark=mark_said)

    items, pool = members(seed, products, split), _attributes(seed, products, split)
    shown = {target.number: target}
    for _ in range(int(rng.integers(look.count[0] - 1, look.count[1]))):
        position = _neighbour(rng, target, pool, look.hard_negative, pattern_said)
        if position is not None:
            shown[items[position].number] = items[position]
    free = np.array([look.margin, look.margin, 1 - look.margin, 1 - look.margin])
    bar = None
    if domain == "mall" and rng.random() < look.banner:
        height, top = rng.uniform(0.09, 0.14), bool(rng.random() < 0.5)
        bar = functools.partial(scenes.banner, rng, height=height, top=top)
        free[1 if top else 3] += height if top else -height
    arranged = _arranged(rng, look, list(shown.values()), image_size, free * image_size)

    supersample = max(2, min(4, 256 // image_size))
    sprites = [
        sprite(item, matrix, (float(centre[0]), float(centre[1])), supersample)
        for item, matrix, centre in arranged
    ]
    drawn = sprites[0]
    mask = coverage(drawn, image_size)
    area = float(drawn.alpha.sum())
    seen = mask.copy()

    canvas = (
        scenes.studio(rng, image_size)
        if domain == "mall"
        else scenes.room(rng, image_size, look.texture)
    ).astype(np.float32)
    if look.clutter:
        amount = int(rng.integers(look.clutter + 1))
        paint = functools.partial(scenes.clutter, rng, amount=amount)
        _add_sheet(canvas, scenes.sheet(image_size, paint))

    if bar:
        _add_sheet(canvas, scenes.sheet(image_size, bar))

    shown_items = []
    front = rng.permutation(len(sprites))
    behind = True
    for position in front:
        if position == 0:
            behind = False
        elif not behind:
            left = seen * (1 - coverage(sprites[position], image_size))
            if 1 - left.sum() / mask.sum() > HIDDEN_LIMIT - 0.05:
                continue
            seen = left
        shown_items.append(arranged[position][0])
        _add_sprite(canvas, sprites[position], look.shadow)
    places = [centre for _, _, centre in arranged]
    for rgba in _overlays(rng, domain, look, image_size, places):
        left = seen * (1 - rgba[..., 3] / 255)
        if 1 - left.sum() / mask.sum() <= HIDDEN_LIMIT - 0.05:
            seen = left
            _add_sheet(canvas, rgba)

    rows, columns = np.flatnonzero((mask > 0.5).any(1)), np.flatnonzero((mask > 0.5).any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32) / image_size
    others = tuple(item for item in shown_items if item.number != target.number)
    return Scene(
        image=_filmed(rng, look, canvas),
        query=query,
        box_xyxy=box.astype(np.float32),
        products=(target, *others),
        drawn=drawn,
        hidden=float(1 - seen.sum() / mask.sum()),
        cut=float(1 - mask.sum() / area),
    )
