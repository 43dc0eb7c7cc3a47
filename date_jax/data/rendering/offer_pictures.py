"""The embedded catalogue: offers of the same products by several suppliers, rendered.

Each supplier has other pictures and titles, some copy the maker's picture. Of some categories
pictures say little: parts that differ by a printed number, or by words only. An offer depends on
nothing but (seed, split, its place).

    python -m date_jax.data.suppliers --out=sheet.png      # products, and the offers of each
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from date_jax.data.rendering import contact_sheet, workers
from date_jax.data.rendering.canvas import photograph
from date_jax.data.rendering.offer_scenes import (
    LOOK,
    Style,
    catalogue_product,
    offer_scene,
    offer_title,
    supplier_style,
)
from date_jax.data.rendering.products import split_numbers
from date_jax.data.rendering.workers import Picture
from date_jax.data.streams import Stream
from date_jax.errors import UsageError

RENDER_VERSION = 1  # raise it when pictures change: what an older renderer prepared is redone
SUPPLIERS = 60
FEWEST, MOST = 2, 6  # offers of a product
EXACT, NEAR = 0.12, 0.12  # shares with the maker's picture, to the bit or photographed anew
# The maker shows a product before a plain ground, without advertising.
MAKER_STYLE = Style(studio=True, banner=False, own_words=0.0)


class Offer(NamedTuple):
    """One supplier's offer of a product; `copies` is "", "near" or "exact"."""

    number: int
    product: int
    supplier: int
    copies: str

    @property
    def id(self) -> str:
        """The offer's name in records: o000017-2."""
        return f"o{self.product:06d}-{self.number}"


@functools.lru_cache(maxsize=8)
def shelf(seed: int, products: int, split: str) -> tuple[Offer, ...]:
    """All offers of a split, product after product."""
    offers = []
    for product in split_numbers(products, split):
        # A stream a product: how many products there are changes none of them.
        rng = np.random.default_rng([seed, Stream.PRODUCT_OFFERS, product])
        count = int(rng.integers(FEWEST, MOST + 1))
        for number, supplier in enumerate(rng.choice(SUPPLIERS, size=count, replace=False)):
            draw = rng.random()
            copies = "exact" if draw < EXACT else "near" if draw < EXACT + NEAR else ""
            offers.append(Offer(number, product, int(supplier), copies))
    return tuple(offers)


def picture(
    domain: str, index: int, *, split: str, seed: int, products: int, image_size: int
) -> Picture:
    """Offer `index` of a split, its text the offer's title. There is one domain, "offer"."""
    del domain
    offer = shelf(seed, products, split)[index]
    item = catalogue_product(seed, offer.product)
    style = supplier_style(seed, offer.supplier)
    # Title, scene and camera have a stream each: a copy shares the maker's scene, an exact one its
    # camera too, and either has the supplier's title.
    offer_key = [seed, Stream.OFFER_PICTURE, offer.product, offer.number]
    maker_key = [seed, Stream.MAKER_PICTURE, offer.product]
    title_rng = np.random.default_rng([*offer_key, 0])
    scene_rng = np.random.default_rng(maker_key if offer.copies else [*offer_key, 1])
    camera_rng = np.random.default_rng(maker_key if offer.copies == "exact" else [*offer_key, 2])
    title = offer_title(title_rng, item, style, seed=seed)
    scene_style = MAKER_STYLE if offer.copies else style
    canvas, box_xyxy = offer_scene(scene_rng, item, scene_style, image_size)
    image = photograph(camera_rng, LOOK, canvas)
    return Picture(image, title, box_xyxy, item.id, item.category)


def serve() -> None:
    """A rendering worker's life, see `workers.serve`."""
    workers.serve(picture)


def product_sheet(*, rows: int, split: str, image_size: int, **options: int) -> Image.Image:
    """A contact sheet of `rows` random products of the split, a line for each, with its offers.

    Raises:
        UsageError: the split has fewer products.
    """
    grid = contact_sheet.Grid(MOST, rows, tile=max(image_size, 144), gap=10, text=30)
    offers = shelf(options["seed"], options["products"], split)
    products = sorted({offer.product for offer in offers})
    if len(products) < rows:
        raise UsageError(
            f"--products={options['products']}: {len(products)} of them are in {split}, for "
            f"--rows={rows}: raise products, or take fewer rows"
        )
    rng = np.random.default_rng(options["seed"])
    for row, product in enumerate(rng.choice(products, size=rows, replace=False)):
        indices = [index for index, offer in enumerate(offers) if offer.product == product]
        for column, index in enumerate(indices):
            offer = picture("offer", index, split=split, image_size=image_size, **options)
            place = grid.add(column, row, offer.image)
            grid.add_lines(place, offer.text[:26], offer.text[26:52])
    return grid.image


def main(arguments: Sequence[str]) -> int:
    """Draws the contact sheet that the flags ask for; returns the exit code."""
    return contact_sheet.main(
        arguments,
        "suppliers",
        __doc__,
        product_sheet,
        rows=8,
        split="test",
        seed=0,
        products=3_000,
        image_size=48,
    )
