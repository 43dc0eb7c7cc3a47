"""Pictures of several products that are all asked for, and composites to learn boxes from."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from date_jax.data.rendering import backdrops
from date_jax.data.rendering.arrangement import Placed, arranged
from date_jax.data.rendering.composition import add_sprite, coverage, filmed, tight_box
from date_jax.data.rendering.look import Look
from date_jax.data.rendering.products import Product, sprite

FEWEST, MOST, MEAN = 2, 6, 2.8  # products of a suite

# As catalogue pictures; a suite's products are smaller the more there are.
POST = Look(
    count=(1, 1), crowd=0.0, size=(0.42, 0.62), shown_off=0.0, rotation=10.0, shear=0.04,
    margin=0.03, cut=0.0, overlap=0.02, hard_negative=0.0, mark_said=0.0, own_words=0.15,
    texture=0.5, clutter=0, banner=0.0, occlusion=0.0,
    shadow=0.3, cast=0.04, brightness=(0.95, 1.05), contrast=(0.95, 1.0), blur=(0.0, 0.1),
    noise=(0.0, 2.0),
)  # fmt: skip


class Shown(NamedTuple):
    """A picture, the products that found room in it, and the box of each, normalised."""

    image: UInt8[np.ndarray, "S S 3"]
    products: list[Product]
    box_xyxy: Float[np.ndarray, "M 4"]


def count(rng: np.random.Generator) -> int:
    """Of a suite's products: FEWEST to MOST, on average MEAN."""
    return FEWEST + int(rng.binomial(MOST - FEWEST, (MEAN - FEWEST) / (MOST - FEWEST)))


def chosen(rng: np.random.Generator, items: Sequence[Product], number: int) -> list[Product]:
    """That many different ones."""
    places = rng.choice(len(items), size=min(number, len(items)), replace=False)
    return [items[place] for place in places]


def post(rng: np.random.Generator, items: list[Product], image_size: int) -> Shown:
    """One product, or several smaller ones side by side, as a seller photographs them."""
    scale = 1.0 if len(items) == 1 else 1.36 / np.sqrt(len(items))
    return _shown(rng, items, image_size, scale=scale, overlap=POST.overlap, pasted=False)


def composite(rng: np.random.Generator, items: list[Product], image_size: int) -> Shown:
    """Cut-outs of the products, pasted onto a ground: no shadow joins them to it, sizes differ,
    and one may cover a part of another. The boxes are those of the cut-outs' masks."""
    scale = rng.uniform(0.8, 1.4) / np.sqrt(len(items))
    return _shown(rng, items, image_size, scale=scale, overlap=0.15, pasted=True)


def _shown(
    rng: np.random.Generator,
    items: list[Product],
    size: int,
    *,
    scale: float,
    overlap: float,
    pasted: bool,
) -> Shown:
    look = dataclasses.replace(POST, overlap=overlap)
    placed = _all_placed(rng, look, items, size, scale)
    drawn = [sprite(*entry, max(2, min(4, 256 // size))) for entry in placed]
    if rng.random() < 0.6:
        ground = backdrops.studio(rng, size)
    else:
        ground = backdrops.room(rng, size, look.texture)
    canvas = ground.astype(np.float32)
    for each in drawn:
        add_sprite(canvas, each, 0.0 if pasted else look.shadow)
    boxes = np.stack([tight_box(coverage(each, size)) for each in drawn])
    return Shown(filmed(rng, look, canvas), [entry.item for entry in placed], boxes)


def _all_placed(
    rng: np.random.Generator, look: Look, items: list[Product], size: int, scale: float
) -> list[Placed]:
    """The products at `scale` of the look's size, or smaller until each has found room."""
    free = np.array([look.margin, look.margin, 1 - look.margin, 1 - look.margin]) * size
    low, high = look.size
    while True:
        smaller = dataclasses.replace(look, size=(low * scale, high * scale))
        placed = arranged(rng, smaller, items, size, free)
        if len(placed) == len(items):
            return placed
        scale *= 0.85
