"""Pictures of several products that are all asked for, and composites to learn boxes from."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from date_jax.data.rendering import backdrops
from date_jax.data.rendering.arrangement import PlacedProduct, placed_products
from date_jax.data.rendering.canvas import (
    add_sprite,
    coverage,
    photograph,
    placed_sprite,
    tight_box,
)
from date_jax.data.rendering.look import Look
from date_jax.data.rendering.products import Product

FEWEST, MOST, MEAN = 2, 6, 2.8  # products of a suite

# As catalogue pictures; a suite's products are smaller the more there are.
POST = Look(
    count=(1, 1), crowd=0.0, size=(0.42, 0.62), shown_off=0.0, rotation=10.0, shear=0.04,
    margin=0.03, cut=0.0, overlap=0.02, hard_negative=0.0, mark_said=0.0, own_words=0.15,
    texture=0.5, clutter=0, banner=0.0, occlusion=0.0,
    shadow=0.3, cast=0.04, brightness=(0.95, 1.05), contrast=(0.95, 1.0), blur=(0.0, 0.1),
    noise=(0.0, 2.0),
)  # fmt: skip


class GroupPicture(NamedTuple):
    """A picture of one product or several, and the box of each.

    Attributes:
        image: the picture.
        products: in it, in the order of their boxes.
        box_xyxy: normalised.
    """

    image: UInt8[np.ndarray, "S S 3"]
    products: list[Product]
    box_xyxy: Float[np.ndarray, "M 4"]


def suite_size(rng: np.random.Generator) -> int:
    """The number of a suite's products: FEWEST to MOST, on average MEAN."""
    return FEWEST + int(rng.binomial(MOST - FEWEST, (MEAN - FEWEST) / (MOST - FEWEST)))


def random_products(
    rng: np.random.Generator, items: Sequence[Product], count: int
) -> list[Product]:
    """So many different products, by chance; all of `items` where there are no more."""
    positions = rng.choice(len(items), size=min(count, len(items)), replace=False)
    return [items[position] for position in positions]


def post(rng: np.random.Generator, items: list[Product], image_size: int) -> GroupPicture:
    """One product, or several smaller ones side by side, as a seller photographs them."""
    # Several share the room that one has, and a little more.
    scale = 1.0 if len(items) == 1 else 1.36 / np.sqrt(len(items))
    return _group_picture(rng, items, image_size, scale=scale, overlap=POST.overlap, pasted=False)


def composite(rng: np.random.Generator, items: list[Product], image_size: int) -> GroupPicture:
    """Cut-outs of the products, pasted onto a ground; the boxes are those of their masks.

    No shadow joins them to the ground, sizes differ, and one may cover a part of another.
    """
    scale = rng.uniform(0.8, 1.4) / np.sqrt(len(items))
    return _group_picture(rng, items, image_size, scale=scale, overlap=0.15, pasted=True)


def _group_picture(
    rng: np.random.Generator,
    items: list[Product],
    size: int,
    *,
    scale: float,
    overlap: float,
    pasted: bool,
) -> GroupPicture:
    """The products at `scale` of a post's size, before a ground of a studio or a room."""
    look = dataclasses.replace(POST, overlap=overlap)
    placed = _placement_of_all(rng, look, items, size, scale)
    sprites = [placed_sprite(entry, size) for entry in placed]
    # The ground is drawn after the places, as everywhere in the shop.
    if rng.random() < 0.6:
        ground = backdrops.studio(rng, size)
    else:
        ground = backdrops.room(rng, size, look.texture)
    canvas = ground.astype(np.float32)
    for sprite in sprites:
        add_sprite(canvas, sprite, 0.0 if pasted else look.shadow)
    boxes = np.stack([tight_box(coverage(sprite, size)) for sprite in sprites])
    return GroupPicture(photograph(rng, look, canvas), [entry.item for entry in placed], boxes)


def _placement_of_all(
    rng: np.random.Generator, look: Look, items: list[Product], size: int, scale: float
) -> list[PlacedProduct]:
    """All products in their places, at `scale` of the look's size, or smaller until they fit."""
    # Products of which one found no room are placed anew, all of them smaller.
    free = np.array([look.margin, look.margin, 1 - look.margin, 1 - look.margin]) * size
    low, high = look.size
    while True:
        smaller = dataclasses.replace(look, size=(low * scale, high * scale))
        placed = placed_products(rng, smaller, items, size, free)
        if len(placed) == len(items):
            return placed
        scale *= 0.85
