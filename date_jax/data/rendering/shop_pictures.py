"""The embedded data: one shop's products, rendered as catalogue pictures and as live frames.

`mall` is clean and still, `live` is crowded, tinted and noisy; the same products appear in both,
each picture with a query that fits one product in it, and that product's exact box. A picture
depends on nothing but (seed, domain, split, index): any number of workers renders the same bytes.

    python -m date_jax.data.shop --out=sheet.png      # a contact sheet of both domains
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFont

from date_jax.data.domains import SPLITS
from date_jax.data.rendering import contact_sheet, shop_scenes, workers
from date_jax.data.rendering.arrangement import members
from date_jax.data.rendering.look import Look
from date_jax.data.rendering.shop_scenes import Scene
from date_jax.data.rendering.workers import Picture
from date_jax.data.streams import Stream

RENDER_VERSION = 4  # raise it when pictures change: what an older renderer prepared is redone
DOMAINS = ("mall", "live")

# What makes `live` the harder domain. The names of prepared data follow from every number here.
LOOKS: dict[str, Look] = {
    "mall": Look(
        count=(1, 3), crowd=0.35, size=(0.42, 0.62), shown_off=0.3, rotation=10.0, shear=0.04,
        margin=0.04, cut=0.0, overlap=0.02, hard_negative=0.2, mark_said=0.5,
        own_words=0.4,
        texture=0.0, clutter=0, banner=0.6, occlusion=0.0,
        shadow=0.25, cast=0.0, brightness=(1.0, 1.0), contrast=(1.0, 1.0), blur=(0.0, 0.0),
        noise=(0.0, 0.0),
    ),
    "live": Look(
        count=(2, 5), crowd=0.06, size=(0.47, 0.66), shown_off=0.5, rotation=12.0, shear=0.06,
        margin=0.01, cut=0.02, overlap=0.08, hard_negative=0.1, mark_said=0.5,
        own_words=0.4,
        texture=0.5, clutter=1, banner=0.5, occlusion=0.1,
        shadow=0.4, cast=0.08, brightness=(0.9, 1.1), contrast=(0.9, 1.0), blur=(0.0, 0.2),
        noise=(1.0, 3.0),
    ),
}  # fmt: skip


def scene(
    domain: str, index: int, *, split: str, seed: int, products: int, image_size: int
) -> Scene:
    """Picture `index` of a domain's split with everything that is known of it.

    The split's products take turns, so each is queried about equally often in either domain.
    """
    items = members(seed, products, split)
    key = [Stream.SHOP_PICTURE, DOMAINS.index(domain), SPLITS.index(split), index]
    return shop_scenes.scene(
        np.random.default_rng([seed, *key]),
        LOOKS[domain],
        domain=domain,
        target=items[index % len(items)],
        seed=seed,
        products=products,
        split=split,
        image_size=image_size,
    )


def picture(
    domain: str, index: int, *, split: str, seed: int, products: int, image_size: int
) -> Picture:
    """Picture `index` of a domain's split, its text a query for one of its products."""
    full = scene(domain, index, split=split, seed=seed, products=products, image_size=image_size)
    target = full.products[0]
    return Picture(full.image, full.text, full.box_xyxy, target.id, target.category)


def serve() -> None:
    """A rendering worker's life, see `workers.serve`."""
    workers.serve(picture)


def domain_sheet(
    *, columns: int, rows: int, split: str, seed: int, products: int, image_size: int
) -> Image.Image:
    """A contact sheet of the first `columns` x `rows` products of a split.

    Each product stands there as mall picture and, below it, as live frame, with box and query.
    """
    tile, gap = max(image_size, 192), 12
    height = max(12, tile // 20)  # of a line of text
    # Two rows of tiles for each row of products; the text grows with the tiles.
    grid = contact_sheet.Grid(columns, rows * 2, tile=tile, gap=gap, text=3 * height + gap)
    font = ImageFont.load_default(height)
    for number in range(columns * rows):
        for level, domain in enumerate(DOMAINS):
            row = 2 * (number // columns) + level
            entry = picture(
                domain, number, split=split, seed=seed, products=products, image_size=image_size
            )
            x, y = grid.add(number % columns, row, entry.image, entry.box_xyxy[None])
            words = _wrapped_text(entry.text, tile, font)
            ink = contact_sheet.INK
            grid.draw.multiline_text((x, y + 3), words, fill=ink, font=font, spacing=2)
    return grid.image


def _wrapped_text(
    words: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    """`words` broken into lines of at most `width` pixels."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Draws the contact sheet that the flags ask for; returns the exit code."""
    return contact_sheet.main(
        arguments,
        "shop",
        __doc__,
        domain_sheet,
        columns=6,
        rows=2,
        split="test",
        seed=0,
        products=2_000,
        image_size=64,
    )
