"""Scenes and titles of offers: one part or product of the shop, as one supplier presents it."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from date_jax.data.rendering import backdrops, overlays, phrases
from date_jax.data.rendering.arrangement import placed_products
from date_jax.data.rendering.canvas import (
    Canvas,
    add_sheet,
    add_sprite,
    coverage,
    placed_sprite,
    tight_box,
)
from date_jax.data.rendering.parts import NUMBERED, PARTS, part_code
from date_jax.data.rendering.post_scenes import POST
from date_jax.data.rendering.products import Product, product
from date_jax.data.streams import Stream

LOOK = dataclasses.replace(
    POST, size=(0.55, 0.8), rotation=14.0, cast=0.1, brightness=(0.85, 1.1), noise=(0.0, 4.0)
)
MENTION_CHANCES = {"colour": 0.7, "pattern": 0.35, "mark": 0.2}  # of a product's looks in a title
CODE_CHANCE = 0.85  # that a title has a word or number that tells a part from its likes
PART_SHARE = 3  # of ten products


class Style(NamedTuple):
    """A supplier's habits.

    Attributes:
        studio: shows products before a plain ground.
        banner: with a bar of advertising.
        own_words: probability of words that only catalogues use.
    """

    studio: bool
    banner: bool
    own_words: float


def supplier_style(seed: int, supplier: int) -> Style:
    """The habits of a supplier, the same in all its offers."""
    rng = np.random.default_rng([seed, Stream.SUPPLIER_STYLE, supplier])
    return Style(rng.random() < 0.5, rng.random() < 0.4, float(rng.uniform(0, 0.3)))


def catalogue_product(seed: int, number: int) -> Product:
    """Product `number` of the catalogue, a part or a product of the shop.

    Of ten products of each split PART_SHARE are parts. These look alike but for a printed number,
    or look the same.
    """
    # Splits go by the last digit, so the digits before it decide about parts and their kinds.
    turn = number // 10
    if turn % 10 >= PART_SHARE:
        return product(seed, number)
    name = list(PARTS)[turn // 10 % len(PARTS)]
    mark = part_code(seed, number).number() if name in NUMBERED else ""
    return Product(number, name, "white", "plain", mark, (34, 32, 48), 1.0, 0.0, 0.0)


def offer_title(rng: np.random.Generator, item: Product, style: Style, *, seed: int) -> str:
    """A supplier's title of a product, which leaves out some of what could be told."""
    if item.category not in PARTS:
        name = phrases.partial_name(rng, item, own_words=style.own_words, **MENTION_CHANCES)
        return phrases.framed_title(rng, name)
    # Parts are told apart by their codes alone: as printed on them, or else in words.
    code = part_code(seed, item.number)
    facts = [code.number()] if item.category in NUMBERED else code.words()
    facts = [fact for fact in facts if rng.random() < CODE_CHANCE]
    core = [item.category, *facts] if rng.random() < 0.5 else [*facts, item.category]
    return phrases.framed_title(rng, " ".join(core))


def offer_scene(
    rng: np.random.Generator, item: Product, style: Style, size: int
) -> tuple[Canvas, Float[np.ndarray, " 4"]]:
    """The product before the supplier's ground, not yet photographed, and its box, normalised."""
    ground = backdrops.studio(rng, size) if style.studio else backdrops.room(rng, size, 0.5)
    canvas = ground.astype(np.float32)
    # A bar along the top, below which the product has its place.
    free = np.array([0.02, 0.02, 0.98, 0.98])
    if style.banner:
        height = rng.uniform(0.09, 0.14)
        bar = functools.partial(overlays.draw_banner, rng, height=height, top=True)
        add_sheet(canvas, overlays.sheet(size, bar))
        free[1] += height
    (placed,) = placed_products(rng, LOOK, [item], size, free * size)
    sprite = placed_sprite(placed, size)
    add_sprite(canvas, sprite, LOOK.shadow)
    if rng.random() < 0.3:
        add_sheet(canvas, overlays.sheet(size, functools.partial(overlays.draw_sticker, rng)))
    return canvas, tight_box(coverage(sprite, size))
