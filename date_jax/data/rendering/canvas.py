"""The canvas that a picture is painted on: sprites, sheets over them, and the camera before it."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter

from date_jax.data.rendering.arrangement import PlacedProduct
from date_jax.data.rendering.look import Look
from date_jax.data.rendering.products import Sprite, product_sprite

Canvas = Float[np.ndarray, "S S 3"]
Window = tuple[slice, slice]  # rows and columns


def placed_sprite(placed: PlacedProduct, size: int) -> Sprite:
    """A product drawn in its place; smaller pictures are drawn more times larger and reduced.

    Args:
        placed: the product and its view.
        size: the picture's side in pixels.
    """
    return product_sprite(*placed, max(2, min(4, 256 // size)))


def _windows(sprite: Sprite, size: int) -> tuple[Window, Window]:
    """The window of a sprite in the picture, and the same part's window in the sprite."""
    height, width = sprite.alpha.shape
    y0, y1 = max(0, sprite.top), min(size, sprite.top + height)
    x0, x1 = max(0, sprite.left), min(size, sprite.left + width)
    inner = slice(y0 - sprite.top, y1 - sprite.top), slice(x0 - sprite.left, x1 - sprite.left)
    return (slice(y0, y1), slice(x0, x1)), inner


def coverage(sprite: Sprite, size: int) -> Float[np.ndarray, "S S"]:
    """The sprite's coverage, 0..1, in the picture's pixels."""
    mask = np.zeros((size, size), np.float32)
    outer, inner = _windows(sprite, size)
    mask[outer] = sprite.alpha[inner]
    return mask


def add_sprite(canvas: Canvas, sprite: Sprite, shadow: float) -> None:
    """Paints a product and, below it, its soft shadow to the lower right.

    Args:
        canvas: is painted on.
        sprite: the product.
        shadow: how dark the shadow is, 0 to 1; 0 is none.
    """
    size = len(canvas)
    # The shadow is the blurred silhouette: padded first, as a blur reaches out of it.
    reach = max(1, size // 40)
    wide = (np.pad(sprite.alpha, 3 * reach) * 255).astype(np.uint8)
    soft = Image.fromarray(wide).filter(ImageFilter.BoxBlur(1.5 * reach))
    dark = np.asarray(soft, np.float32)[..., None] * np.float32(shadow / 255)
    shade = Sprite(dark, dark[..., 0], sprite.left - 2 * reach, sprite.top - reach)
    outer, inner = _windows(shade, size)
    canvas[outer] *= 1 - dark[inner]
    # The product over it.
    outer, inner = _windows(sprite, size)
    alpha = sprite.alpha[inner][..., None]
    canvas[outer] += alpha * (sprite.rgb[inner] - canvas[outer])


def add_sheet(canvas: Canvas, rgba: Float[np.ndarray, "S S 4"]) -> None:
    """Lays a half-transparent sheet over the canvas."""
    canvas += rgba[..., 3:] * np.float32(1 / 255) * (rgba[..., :3] - canvas)


def photograph(rng: np.random.Generator, look: Look, canvas: Canvas) -> UInt8[np.ndarray, "S S 3"]:
    """The picture that a camera makes of the canvas: contrast, exposure, tint, blur, noise."""
    # All that chance decides but the grain, in an order that does not depend on the look.
    gain = rng.uniform(*look.brightness) * (1 + rng.uniform(-look.cast, look.cast, 3))
    contrast, sigma = rng.uniform(*look.contrast), rng.uniform(*look.blur) * len(canvas) / 64
    noise = rng.uniform(*look.noise)
    # First the light, then the lens, then the sensor's grain, which is never blurred.
    mean = canvas.mean()
    canvas = ((canvas - mean) * np.float32(contrast) + mean) * gain.astype(np.float32)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    if sigma > 0:
        image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
    if noise > 0:
        grain = rng.standard_normal(image.shape, np.float32) * np.float32(noise)
        image = np.clip(image + grain, 0, 255).astype(np.uint8)
    return image


def tight_box(mask: Float[np.ndarray, "S S"]) -> Float[np.ndarray, " 4"]:
    """The normalised xyxy box around the pixels that are covered by more than a half."""
    rows, columns = np.flatnonzero((mask > 0.5).any(1)), np.flatnonzero((mask > 0.5).any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return (box / len(mask)).astype(np.float32)
