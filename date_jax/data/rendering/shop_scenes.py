"""One picture of the shop: which products, where, in front of what, and how it was filmed."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from date_jax.data.rendering import backdrops, overlays, phrases
from date_jax.data.rendering.arrangement import company, placed_products, uncut_product
from date_jax.data.rendering.canvas import (
    Canvas,
    add_sheet,
    add_sprite,
    coverage,
    photograph,
    placed_sprite,
    tight_box,
)
from date_jax.data.rendering.look import Look
from date_jax.data.rendering.products import Product, Sprite

HIDDEN_LIMIT = 0.35  # of the queried product's area, by whatever lies in front of it
CUT_LIMIT = 0.2  # of its area, by the picture's border


class Scene(NamedTuple):
    """A rendered picture and all that is known of it.

    Attributes:
        image: the picture.
        text: a query for one of its products.
        box_xyxy: normalised, tightly around the part of the queried product's silhouette (coverage
            above one half) that lies inside the picture.
        products: in the picture, the queried one first.
        matrix: takes the queried product's silhouette's units to pixels around `centre`.
        centre: x and y in pixels.
        hidden: the share of the queried product's area behind other things.
        cut: the share of it outside the picture.
    """

    image: UInt8[np.ndarray, "S S 3"]
    text: str
    box_xyxy: Float[np.ndarray, " 4"]
    products: tuple[Product, ...]
    matrix: Float[np.ndarray, "2 2"]
    centre: Float[np.ndarray, " 2"]
    hidden: float
    cut: float


class _Stage:
    """A picture in the making, which nothing may join that would hide the queried product.

    Args:
        canvas: what lies behind all products.
        mask: the queried product's coverage.
    """

    def __init__(self, canvas: Canvas, mask: Float[np.ndarray, "S S"]) -> None:
        self.canvas, self._mask, self._visible = canvas, mask, mask

    def hidden_share(self) -> float:
        """The share of the queried product's area that lies behind what was admitted."""
        return self._hidden_share(self._visible)

    def admit(self, alpha: Float[np.ndarray, "S S"]) -> bool:
        """Lets something of this coverage to the front, if it hides not too much; says whether."""
        visible = self._visible * (1 - alpha)
        if self._hidden_share(visible) > HIDDEN_LIMIT:
            return False
        self._visible = visible
        return True

    def _hidden_share(self, visible: Float[np.ndarray, "S S"]) -> float:
        return float(1 - visible.sum() / self._mask.sum())


def _ground(
    rng: np.random.Generator, domain: str, look: Look, size: int, bar: Callable | None
) -> Canvas:
    """All that lies behind the products; `bar` paints the bar of advertising, if there is one."""
    if domain == "mall":
        canvas = backdrops.studio(rng, size).astype(np.float32)
    else:
        canvas = backdrops.room(rng, size, look.texture).astype(np.float32)
    # Half-transparent sheets over it; the bar of advertising is the nearest.
    if look.clutter:
        amount = int(rng.integers(look.clutter + 1))
        paint = functools.partial(overlays.draw_clutter, rng, amount=amount)
        add_sheet(canvas, overlays.sheet(size, paint))
    if bar:
        add_sheet(canvas, overlays.sheet(size, bar))
    return canvas


def _overlays(
    rng: np.random.Generator, domain: str, look: Look, size: int, places: list[np.ndarray]
) -> list[np.ndarray]:
    """The sheets that lie over all products; `places` are the products' centres in pixels."""
    kinds = (overlays.draw_sticker, overlays.draw_frame)
    if domain == "live":
        kinds = (overlays.draw_chat, overlays.draw_live_badge)
    paints = [functools.partial(kind, rng) for kind in kinds if rng.random() < look.banner]
    if rng.random() < look.occlusion:
        # Any product: a hand that always found the queried one would answer the query.
        x, y = places[int(rng.integers(len(places)))] / size + rng.uniform(-0.08, 0.08, 2)
        paints.append(functools.partial(overlays.draw_hand, rng, x=x, y=y))
    return [overlays.sheet(size, paint) for paint in paints]


def scene(
    rng: np.random.Generator,
    look: Look,
    *,
    domain: str,
    target: Product,
    seed: int,
    products: int,
    split: str,
    image_size: int,
) -> Scene:
    """A picture in which one product is queried; its neighbours are of the same split.

    Args:
        rng: draws everything.
        look: of the domain.
        domain: "mall", with titles, or "live", with what sellers say.
        target: the queried product.
        seed: of the shop.
        products: of the shop, how many.
        split: of the products.
        image_size: S.
    """
    # The query, for the neighbours depend on what it says.
    names_pattern = target.pattern != "plain" or rng.random() < 0.5
    names_mark = bool(rng.random() < look.mark_said)
    phrase = phrases.title if domain == "mall" else phrases.speech
    text = phrase(rng, target, pattern=names_pattern, mark=names_mark, own_words=look.own_words)

    # Which products stand together, and where; a bar of advertising takes some of the room.
    fewest, most = look.count
    count = fewest + int(rng.binomial(most - fewest, look.crowd))
    shop = (seed, products, split)
    items = company(rng, target, shop, count, hard=look.hard_negative, pattern=names_pattern)
    free = np.array([look.margin, look.margin, 1 - look.margin, 1 - look.margin])
    bar = None
    if domain == "mall" and rng.random() < look.banner:
        height, top = rng.uniform(0.09, 0.14), bool(rng.random() < 0.5)
        bar = functools.partial(overlays.draw_banner, rng, height=height, top=top)
        free[1 if top else 3] += height if top else -height
    placed = placed_products(rng, look, items, image_size, free * image_size)

    # The sprites; should too much of the queried product be cut off, it moves inside.
    sprites = [placed_sprite(entry, image_size) for entry in placed]
    mask = coverage(sprites[0], image_size)
    cut = float(1 - mask.sum() / sprites[0].alpha.sum())
    if cut > CUT_LIMIT:
        placed[0] = uncut_product(placed[0], image_size)
        sprites[0] = placed_sprite(placed[0], image_size)
        mask, cut = coverage(sprites[0], image_size), 0.0

    # From back to front: ground, products behind the queried one, it, products before it, sheets.
    stage = _Stage(_ground(rng, domain, look, image_size, bar), mask)
    behind: list[Sprite] = []
    front = [sprites[0]]
    for neighbour in sprites[1:]:
        before = rng.random() < 0.5 and stage.admit(coverage(neighbour, image_size))
        (front if before else behind).append(neighbour)
    for layer in behind + front:
        add_sprite(stage.canvas, layer, look.shadow)
    places = [entry.centre for entry in placed]
    for rgba in _overlays(rng, domain, look, image_size, places):
        if stage.admit(rgba[..., 3] / 255):
            add_sheet(stage.canvas, rgba)
    return Scene(
        image=photograph(rng, look, stage.canvas),
        text=text,
        box_xyxy=tight_box(mask),
        products=tuple(entry.item for entry in placed),
        matrix=placed[0].matrix,
        centre=placed[0].centre,
        hidden=stage.hidden_share(),
        cut=cut,
    )
