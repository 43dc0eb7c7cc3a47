"""The embedded posts for CAPTURE: suites, single products, and composites, rendered.

A suite shows 2 to 6 products (2.8 on average) under one title that names them all. Its products are
to be found among pictures of single products. Training posts are of both kinds. The last few
categories are never seen in training. A picture depends on nothing but (seed, kind, split, index).

    python -m date_jax.data.suites --out=sheet.png      # a contact sheet of each kind
"""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from date_jax.data.domains import SPLITS
from date_jax.data.prepared import LABEL_SEPARATOR
from date_jax.data.rendering import contact_sheet, phrases, post_scenes, workers
from date_jax.data.rendering.arrangement import members
from date_jax.data.rendering.products import Product
from date_jax.data.rendering.silhouettes import CATEGORIES
from date_jax.data.rendering.workers import Picture
from date_jax.data.streams import Stream
from date_jax.errors import UsageError

RENDER_VERSION = 1  # raise it when pictures change: what an older renderer prepared is redone
KINDS = ("post", "suite", "unseen", "single", "composite")
SINGLES = 0.5  # share of training posts that show one product


@functools.lru_cache(maxsize=16)
def shelf(kind: str, split: str, seed: int, products: int, unseen: int) -> tuple[Product, ...]:
    """The products of a split that pictures of this kind may show.

    Args:
        kind: of KINDS.
        split: of the products.
        seed: of the shop.
        products: of the shop, how many.
        unseen: categories, the last ones, that no training picture shows.
    """
    # Galleries have products of all categories, for there they are only found, not learned.
    seen = list(CATEGORIES)[: max(len(CATEGORIES) - unseen, 0)]
    items = members(seed, products, split)
    if kind == "single":
        return items
    return tuple(item for item in items if (item.category in seen) != (kind == "unseen"))


def check_shelf(kind: str, split: str, *, seed: int, products: int, unseen: int) -> None:
    """Refuses a shop that leaves too few products for a split's pictures of a kind.

    Args:
        kind, split, seed, products, unseen: as in `shelf`.

    Raises:
        UsageError: with what to change.
    """
    count = len(shelf(kind, split, seed, products, unseen))
    if count < 2:
        raise UsageError(
            f"products={products}, unseen={unseen} leave {count} products for {kind}_{split}, and "
            "a suite shows two or more\n  raise products, or choose unseen from 1 to 8"
        )


def picture(
    kind: str, index: int, *, split: str, seed: int, products: int, unseen: int, image_size: int
) -> Picture:
    """Picture `index` of a kind and split: title, box and label of all its products.

    Single products take turns; a composite has no title and no labels.
    """
    items = shelf(kind, split, seed, products, unseen)
    key = [Stream.SUITE_PICTURE, KINDS.index(kind), SPLITS.index(split), index]
    rng = np.random.default_rng([seed, *key])
    # Which products it shows: one in its turn, one by chance, or several by chance.
    if kind == "composite":
        subjects = post_scenes.random_products(rng, items, post_scenes.suite_size(rng))
        composite = post_scenes.composite(rng, subjects, image_size)
        return Picture(composite.image, "", composite.box_xyxy, "", "")
    if kind == "single":
        subjects = [items[index % len(items)]]
    else:
        is_single = kind == "post" and rng.random() < SINGLES
        count = 1 if is_single else post_scenes.suite_size(rng)
        subjects = post_scenes.random_products(rng, items, count)
    post = post_scenes.post(rng, subjects, image_size)
    # The title names the products in another order than that of their boxes and labels.
    title_order = [post.products[position] for position in rng.permutation(len(post.products))]
    title = phrases.suite_title(rng, title_order, own_words=post_scenes.POST.own_words)
    return Picture(
        post.image,
        title,
        post.box_xyxy,
        LABEL_SEPARATOR.join(item.id for item in post.products),
        LABEL_SEPARATOR.join(item.category for item in post.products),
    )


def serve() -> None:
    """A rendering worker's life, see `workers.serve`."""
    workers.serve(picture)


def kind_sheet(*, columns: int, split: str, image_size: int, **options: int) -> Image.Image:
    """A contact sheet with `columns` pictures of each kind, a line for each, and all boxes.

    Raises:
        UsageError: there are too few products of a kind.
    """
    for kind in KINDS:
        check_shelf(kind, split, **options)
    grid = contact_sheet.Grid(columns, len(KINDS), tile=max(image_size, 192), gap=12, text=30)
    for row, kind in enumerate(KINDS):
        for column in range(columns):
            post = picture(kind, column, split=split, image_size=image_size, **options)
            place = grid.add(column, row, post.image, post.box_xyxy)
            grid.add_lines(place, post.text[:36], post.text[36:])
    return grid.image


def main(arguments: Sequence[str]) -> int:
    """Draws the contact sheet that the flags ask for; returns the exit code."""
    return contact_sheet.main(
        arguments,
        "suites",
        __doc__,
        kind_sheet,
        columns=6,
        split="test",
        seed=0,
        products=1_000,
        unseen=2,
        image_size=64,
    )
