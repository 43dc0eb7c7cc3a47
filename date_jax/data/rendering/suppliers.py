"""The embedded catalogue: offers of the same products by several suppliers, rendered.

Each supplier has other pictures and titles, some copy the maker's picture. Of some categories
pictures say little: parts that differ by a printed number, or by words only. An offer depends on
nothing but (seed, split, its place).

    python -m date_jax.data.suppliers --out=sheet.png      # products, and the offers of each
"""

import argparse
import functools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from date_jax.data.rendering import offer_scenes as offers
from date_jax.data.rendering import shop
from date_jax.data.rendering.products import Product

RENDER_VERSION = 1  # raise it when pictures change: what an older renderer prepared is redone
SUPPLIERS = 60
FEWEST, MOST = 2, 6  # offers of a product
EXACT, NEAR = 0.12, 0.12  # shares with the maker's picture, to the bit or filmed anew


class Offer(NamedTuple):
    """One supplier's offer of a product; `copies` is "", "near" or "exact"."""

    number: int
    product: int
    supplier: int
    copies: str

    @property
    def id(self) -> str:
        return f"o{self.product:06d}-{self.number}"


@functools.lru_cache(maxsize=8)
def shelf(seed: int, products: int, split: str) -> tuple[Offer, ...]:
    """All offers of a split, product after product; products are split 8:1:1 by number."""
    shares = {"train": range(8), "val": (8,), "test": (9,)}[split]
    found = []
    for number in range(products):
        if number % 10 in shares:
            rng = np.random.default_rng([seed, 12, number])
            count = int(rng.integers(FEWEST, MOST + 1))
            for place, supplier in enumerate(rng.choice(SUPPLIERS, size=count, replace=False)):
                draw = rng.random()
                copies = "exact" if draw < EXACT else "near" if draw < EXACT + NEAR else ""
                found.append(Offer(place, number, int(supplier), copies))
    return tuple(found)


def item(seed: int, offer: Offer) -> Product:
    """What the offer shows."""
    return offers.item(seed, offer.product)


def picture(
    domain: str, index: int, *, split: str, seed: int, products: int, image_size: int
) -> shop.Picture:
    """Offer `index` of a split; the query is its title. There is one domain, "offer"."""
    del domain
    offer = shelf(seed, products, split)[index]
    shown, own = item(seed, offer), [seed, 14, offer.product, offer.number]
    maker = [seed, 13, offer.product]
    style = offers.style(seed, offer.supplier)
    words = offers.title(np.random.default_rng([*own, 0]), shown, style, seed=seed)
    scene = np.random.default_rng(maker if offer.copies else [*own, 1])
    # The maker shows it before a plain ground, without advertising.
    how = offers.Style(True, False, 0.0) if offer.copies else style
    canvas, box = offers.scene(scene, shown, how, image_size)
    film = np.random.default_rng(maker if offer.copies == "exact" else [*own, 2])
    image = offers.picture(film, canvas)
    return shop.Picture(image, words, box, shown.id, shown.category)


def serve() -> None:
    """A rendering worker's life, see `shop.serve`."""
    shop.serve(picture)


def contact_sheet(*, rows: int, split: str, image_size: int, **options: int) -> Image.Image:
    """A line for each of `rows` random products of the split: all its offers with titles."""
    tile, gap, text = max(image_size, 144), 10, 30
    there = shelf(options["seed"], options["products"], split)
    numbers = sorted({offer.product for offer in there})
    chosen = np.random.default_rng(options["seed"]).choice(numbers, size=rows, replace=False)
    sheet = Image.new("RGB", (MOST * (tile + gap) + gap, rows * (tile + text) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for row, number in enumerate(chosen):
        places = [place for place, offer in enumerate(there) if offer.product == number]
        for column, place in enumerate(places):
            made = picture("offer", place, split=split, image_size=image_size, **options)
            x, y = gap + column * (tile + gap), gap + row * (tile + text)
            scaled = Image.fromarray(made.image).resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(scaled, (x, y))
            draw.text((x, y + tile + 2), made.query[:26], fill=(40, 40, 50))
            draw.text((x, y + tile + 13), made.query[26:52], fill=(40, 40, 50))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m date_jax.data.suppliers", description=__doc__)
    parser.add_argument("--out", default="sheet.png", help="the PNG file to write")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--split", choices=shop.SPLITS, default="test")
    for name, value in {"seed": 0, "products": 3_000, "image_size": 48}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = vars(parser.parse_args())
    out = options.pop("out")
    contact_sheet(**options).save(out)
    print(f"wrote {out}")
