"""The embedded posts for CAPTURE: suites, single products, and composites, rendered.

A suite shows 2 to 6 products (2.8 on average) under one title that names them all. Its products are
to be found among pictures of single products. Training posts are of both kinds. The last few
categories are never seen in training. A picture depends on nothing but (seed, kind, split, index).

    python -m date_jax.data.suites --out=sheet.png      # a contact sheet of each kind
"""

import argparse
import functools

import numpy as np
from PIL import Image, ImageDraw

from date_jax.data.prepared import LABEL_SEPARATOR
from date_jax.data.rendering import phrases, shop
from date_jax.data.rendering import post_scenes as suites
from date_jax.data.rendering.arrangement import members
from date_jax.data.rendering.products import Product
from date_jax.data.rendering.silhouettes import CATEGORIES

RENDER_VERSION = 1  # raise it when pictures change: what an older renderer prepared is redone
KINDS = ("post", "suite", "unseen", "single", "composite")
SINGLES = 0.5  # share of training posts that show one product


@functools.lru_cache(maxsize=16)
def shelf(kind: str, split: str, seed: int, products: int, unseen: int) -> tuple[Product, ...]:
    """The products of a split that pictures of this kind may show.

    Args:
        unseen: categories, the last ones, that no training picture shows.
    """
    seen = list(CATEGORIES)[: max(len(CATEGORIES) - unseen, 0)]
    items = members(seed, products, split)
    if kind == "single":
        return items
    return tuple(item for item in items if (item.category in seen) != (kind == "unseen"))


def picture(
    kind: str, index: int, *, split: str, seed: int, products: int, unseen: int, image_size: int
) -> shop.Picture:
    """Picture `index` of a kind and split: title, box and label of all its products.

    Single products take turns; a composite has no title and no labels.
    """
    items = shelf(kind, split, seed, products, unseen)
    where = [seed, 5, KINDS.index(kind), shop.SPLITS.index(split), index]
    rng = np.random.default_rng(where)
    if kind == "single":
        shown = suites.post(rng, [items[index % len(items)]], image_size)
    elif kind == "composite":
        shown = suites.composite(rng, suites.chosen(rng, items, suites.count(rng)), image_size)
        return shop.Picture(shown.image, "", shown.box_xyxy, "", "")
    else:
        alone = kind == "post" and rng.random() < SINGLES
        number = 1 if alone else suites.count(rng)
        shown = suites.post(rng, suites.chosen(rng, items, number), image_size)
    named = [shown.products[place] for place in rng.permutation(len(shown.products))]
    title = phrases.suite_title(rng, named, own=suites.POST.own_words)
    return shop.Picture(
        shown.image,
        title,
        shown.box_xyxy,
        LABEL_SEPARATOR.join(item.id for item in shown.products),
        LABEL_SEPARATOR.join(item.category for item in shown.products),
    )


def serve() -> None:
    """A rendering worker's life, see `shop.serve`."""
    shop.serve(picture)


def contact_sheet(*, columns: int, split: str, image_size: int, **options: int) -> Image.Image:
    """`columns` pictures of each kind, a line for each, with all boxes; titles below."""
    tile, gap, text = max(image_size, 192), 12, 30
    size = (columns * (tile + gap) + gap, len(KINDS) * (tile + text) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for line, kind in enumerate(KINDS):
        for column in range(columns):
            made = picture(kind, column, split=split, image_size=image_size, **options)
            x, y = gap + column * (tile + gap), gap + line * (tile + text)
            scaled = Image.fromarray(made.image).resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(scaled, (x, y))
            for box in made.box_xyxy * tile + np.array([x, y, x, y]):
                draw.rectangle(box.tolist(), outline=(228, 30, 90), width=2)
            draw.text((x, y + tile + 2), made.query[:36], fill=(40, 40, 50))
            draw.text((x, y + tile + 13), made.query[36:], fill=(40, 40, 50))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m date_jax.data.suites", description=__doc__)
    parser.add_argument("--out", default="sheet.png", help="the PNG file to write")
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--split", choices=shop.SPLITS, default="test")
    for name, value in {"seed": 0, "products": 1_000, "unseen": 2, "image_size": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = vars(parser.parse_args())
    out = options.pop("out")
    contact_sheet(**options).save(out)
    print(f"wrote {out}")
