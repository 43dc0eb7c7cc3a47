"""How one supplier shows and names one product, among parts and among things to look at."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from date_jax.data.rendering import backdrops, overlays, phrases
from date_jax.data.rendering.arrangement import arranged
from date_jax.data.rendering.composition import (
    Canvas,
    add_sheet,
    add_sprite,
    coverage,
    filmed,
    tight_box,
)
from date_jax.data.rendering.parts import NUMBERED, PARTS, code
from date_jax.data.rendering.post_scenes import POST
from date_jax.data.rendering.products import Product, product, sprite

LOOK = dataclasses.replace(
    POST, size=(0.55, 0.8), rotation=14.0, cast=0.1, brightness=(0.85, 1.1), noise=(0.0, 4.0)
)
SAID = {"colour": 0.7, "pattern": 0.35, "mark": 0.2}  # in a title, by chance
CODE_SAID = 0.85  # likewise, of each word or number that tells a part
PART_SHARE = 3  # of ten products


class Style(NamedTuple):
    """A supplier's habits."""

    studio: bool  # shows products before a plain ground
    banner: bool  # with a bar of advertising
    own_words: float  # probability of words that only catalogues use


def style(seed: int, supplier: int) -> Style:
    rng = np.random.default_rng([seed, 11, supplier])
    return Style(rng.random() < 0.5, rng.random() < 0.4, float(rng.uniform(0, 0.3)))


def item(seed: int, number: int) -> Product:
    """Product `number`: of ten (of each split) PART_SHARE are parts, which look alike but for a
    printed number or look the same; the others are the shop's products."""
    turn = number // 10
    if turn % 10 >= PART_SHARE:
        return product(seed, number)
    name = list(PARTS)[turn // 10 % len(PARTS)]
    mark = code(seed, number).printed() if name in NUMBERED else ""
    return Product(number, name, "white", "plain", mark, (34, 32, 48), 1.0, 0.0, 0.0)


def title(rng: np.random.Generator, shown: Product, how: Style, *, seed: int) -> str:
    """What the supplier calls it: not all that is known is said."""
    if shown.category not in PARTS:
        return phrases.framed(rng, phrases.partly(rng, shown, own=how.own_words, **SAID))
    known = code(seed, shown.number)
    facts = [known.printed()] if shown.category in NUMBERED else known.words()
    said = [fact for fact in facts if rng.random() < CODE_SAID]
    core = [shown.category, *said] if rng.random() < 0.5 else [*said, shown.category]
    return phrases.framed(rng, " ".join(core))


def scene(
    rng: np.random.Generator, shown: Product, how: Style, size: int
) -> tuple[Canvas, Float[np.ndarray, " 4"]]:
    """The product before the supplier's ground, not yet filmed, and its box, normalised."""
    ground = backdrops.studio(rng, size) if how.studio else backdrops.room(rng, size, 0.5)
    canvas = ground.astype(np.float32)
    free = np.array([0.02, 0.02, 0.98, 0.98])
    if how.banner:
        height = rng.uniform(0.09, 0.14)
        bar = functools.partial(overlays.banner, rng, height=height, top=True)
        add_sheet(canvas, overlays.sheet(size, bar))
        free[1] += height
    (placed,) = arranged(rng, LOOK, [shown], size, free * size)
    drawn = sprite(*placed, max(2, min(4, 256 // size)))
    add_sprite(canvas, drawn, LOOK.shadow)
    if rng.random() < 0.3:
        add_sheet(canvas, overlays.sheet(size, functools.partial(overlays.sticker, rng)))
    return canvas, tight_box(coverage(drawn, size))


def picture(rng: np.random.Generator, canvas: Canvas) -> UInt8[np.ndarray, "S S 3"]:
    """The scene as filmed this time."""
    return filmed(rng, LOOK, canvas)
