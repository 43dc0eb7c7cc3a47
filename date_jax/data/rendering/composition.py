"""One picture of the shop: which products, where, in front of what, and how it was filmed."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter

from date_jax.data.rendering import backdrops, overlays, phrases
from date_jax.data.rendering.arrangement import arranged, company, inside
from date_jax.data.rendering.look import Look
from date_jax.data.rendering.products import Product, Sprite, sprite

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


def add_sprite(canvas: Canvas, drawn: Sprite, shadow: float) -> None:
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


def add_sheet(canvas: Canvas, rgba: Float[np.ndarray, "S S 4"]) -> None:
    """Lays a half-transparent sheet over it."""
    canvas += rgba[..., 3:] * np.float32(1 / 255) * (rgba[..., :3] - canvas)


def filmed(rng: np.random.Generator, look: Look, canvas: Canvas) -> UInt8[np.ndarray, "S S 3"]:
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


class _Stage:
    """A picture in the making: what is painted so far, and what of the queried product's mask
    can still be seen. What would hide too much of it is not painted."""

    def __init__(self, canvas: Canvas, mask: Float[np.ndarray, "S S"]) -> None:
        self.canvas, self.mask, self.seen = canvas, mask, mask

    def hidden(self, seen: Float[np.ndarray, "S S"]) -> float:
        return float(1 - seen.sum() / self.mask.sum())

    def admits(self, alpha: Float[np.ndarray, "S S"]) -> bool:
        """Whether something of this coverage may come to the front; if so it counts as there."""
        seen = self.seen * (1 - alpha)
        if self.hidden(seen) > HIDDEN_LIMIT:
            return False
        self.seen = seen
        return True


def _ground(
    rng: np.random.Generator, domain: str, look: Look, size: int, bar: Callable | None
) -> Canvas:
    """All that lies behind the products."""
    if domain == "mall":
        canvas = backdrops.studio(rng, size).astype(np.float32)
    else:
        canvas = backdrops.room(rng, size, look.texture).astype(np.float32)
    if look.clutter:
        amount = int(rng.integers(look.clutter + 1))
        paint = functools.partial(overlays.clutter, rng, amount=amount)
        add_sheet(canvas, overlays.sheet(size, paint))
    if bar:
        add_sheet(canvas, overlays.sheet(size, bar))
    return canvas


def _overlays(
    rng: np.random.Generator, domain: str, look: Look, size: int, places: list[np.ndarray]
) -> list[np.ndarray]:
    """The sheets that lie over all products; `places` are the products' centres in pixels."""
    kinds = (
        (overlays.sticker, overlays.frame) if domain == "mall" else (overlays.chat, overlays.on_air)
    )
    paints = [functools.partial(kind, rng) for kind in kinds if rng.random() < look.banner]
    if rng.random() < look.occlusion:
        # Any product: a hand that always found the queried one would answer the query.
        x, y = places[int(rng.integers(len(places)))] / size + rng.uniform(-0.08, 0.08, 2)
        paints.append(functools.partial(overlays.hand, rng, x=x, y=y))
    return [overlays.sheet(size, paint) for paint in paints]


def tight_box(mask: Float[np.ndarray, "S S"]) -> Float[np.ndarray, " 4"]:
    """Normalised xyxy around the pixels that are covered by more than a half."""
    rows, columns = np.flatnonzero((mask > 0.5).any(1)), np.flatnonzero((mask > 0.5).any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return (box / len(mask)).astype(np.float32)


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
    query = phrase(rng, target, pattern=pattern_said, mark=mark_said, own=look.own_words)

    fewest, most = look.count
    count = fewest + int(rng.binomial(most - fewest, look.crowd))
    shop = (seed, products, split)
    items = company(rng, target, shop, count, hard=look.hard_negative, pattern=pattern_said)
    free = np.array([look.margin, look.margin, 1 - look.margin, 1 - look.margin])
    bar = None
    if domain == "mall" and rng.random() < look.banner:
        height, top = rng.uniform(0.09, 0.14), bool(rng.random() < 0.5)
        bar = functools.partial(overlays.banner, rng, height=height, top=top)
        free[1 if top else 3] += height if top else -height
    placed = arranged(rng, look, items, image_size, free * image_size)

    supersample = max(2, min(4, 256 // image_size))
    sprites = [sprite(*entry, supersample) for entry in placed]
    mask = coverage(sprites[0], image_size)
    cut = float(1 - mask.sum() / sprites[0].alpha.sum())
    if cut > CUT_LIMIT:
        placed[0] = inside(placed[0], image_size)
        sprites[0] = sprite(*placed[0], supersample)
        mask, cut = coverage(sprites[0], image_size), 0.0

    stage = _Stage(_ground(rng, domain, look, image_size, bar), mask)
    behind: list[Sprite] = []
    front = [sprites[0]]
    for drawn in sprites[1:]:
        before = rng.random() < 0.5 and stage.admits(coverage(drawn, image_size))
        (front if before else behind).append(drawn)
    for drawn in behind + front:
        add_sprite(stage.canvas, drawn, look.shadow)
    places = [entry.centre for entry in placed]
    for rgba in _overlays(rng, domain, look, image_size, places):
        if stage.admits(rgba[..., 3] / 255):
            add_sheet(stage.canvas, rgba)
    return Scene(
        image=filmed(rng, look, stage.canvas),
        query=query,
        box_xyxy=tight_box(mask),
        products=tuple(entry.item for entry in placed),
        matrix=placed[0].matrix,
        centre=placed[0].centre,
        hidden=stage.hidden(stage.seen),
        cut=cut,
    )
