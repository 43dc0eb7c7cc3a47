"""One picture of the shop: which products, where, in front of what, and how it was filmed."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter

from date_jax.data.rendering import phrases, scenes
from date_jax.data.rendering.arrangement import arranged, attributes, members, neighbour
from date_jax.data.rendering.look import Look
from date_jax.data.rendering.products import Product, Sprite, extent, sprite

Canvas = Float[np.ndarray, "S S 3"]
HIDDEN_LIMIT = 0.35  # of the queried product's area, by whatever lies in front of it
CUT_LIMIT = 0.2  # of its area, by the picture's border


class Scene(NamedTuple):
    """A rendered picture and all that is known of it.

    `products[0]` is the queried one; `matrix` takes its silhouette's units to pixels around
    `centre`; `hidden` and `cut` are the shares of its area behind other things and outside the
    picture. box_xyxy is normalised and tightly holds the part of its silhouette (coverage above
    one half) inside the picture.
    """

    image: UInt8[np.ndarray, "S S 3"]
    query: str
    box_xyxy: Float[np.ndarray, " 4"]
    products: tuple[Product, ...]
    matrix: Float[np.ndarray, "2 2"]
    centre: Float[np.ndarray, " 2"]
    hidden: float
    cut: float


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

    items, pool = members(seed, products, split), attributes(seed, products, split)
    shown = {target.number: target}
    for _ in range(int(rng.integers(look.count[0] - 1, look.count[1]))):
        position = neighbour(rng, target, pool, look.hard_negative, pattern_said)
        if position is not None:
            shown[items[position].number] = items[position]
    free = np.array([look.margin, look.margin, 1 - look.margin, 1 - look.margin])
    bar = None
    if domain == "mall" and rng.random() < look.banner:
        height, top = rng.uniform(0.09, 0.14), bool(rng.random() < 0.5)
        bar = functools.partial(scenes.banner, rng, height=height, top=top)
        free[1 if top else 3] += height if top else -height
    placed = arranged(rng, look, list(shown.values()), image_size, free * image_size)

    supersample = max(2, min(4, 256 // image_size))
    sprites = [sprite(*entry, supersample) for entry in placed]
    mask = coverage(sprites[0], image_size)
    cut = float(1 - mask.sum() / sprites[0].alpha.sum())
    if cut > CUT_LIMIT:
        item, matrix, centre = placed[0]
        box = extent(item, matrix)
        placed[0] = item, matrix, np.clip(centre, -box[:2], image_size - box[2:])
        sprites[0] = sprite(*placed[0], supersample)
        mask, cut = coverage(sprites[0], image_size), 0.0
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
        shown_items.append(placed[position][0])
        _add_sprite(canvas, sprites[position], look.shadow)
    places = [centre for _, _, centre in placed]
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
        matrix=placed[0][1],
        centre=placed[0][2],
        hidden=float(1 - seen.sum() / mask.sum()),
        cut=cut,
    )
