"""What is said of a product: titles as shops write them, sentences as sellers speak them."""

import numpy as np

from date_jax.data.rendering.products import Product

_YEARS = ("2023", "2024", "2025")
_PRAISE = (
    "new", "hot", "classic", "premium", "cute", "modern", "vintage", "best seller", "limited",
    "original", "stylish", "deluxe", "high quality", "trendy",
)  # fmt: skip
_PURPOSE = (
    "gift", "for home", "for kids", "for women", "for men", "unisex", "birthday gift", "sale",
    "free shipping", "spring collection", "autumn edition", "everyday use", "for the office",
    "travel size", "in stock", "with gift box",
)  # fmt: skip
_PRINTED = ("{} logo", "{} print", "{} pattern logo", "with {} emblem", "{} badge")

_OPENINGS = (
    "look at this", "okay so next we have the", "now here is the", "everyone check out the",
    "let me show you this", "you asked for the", "and this one is the",
    "i really love the", "you have to see this", "do not miss the", "guys this is the",
    "here on the table is the", "let us talk about the", "today we also brought the",
)  # fmt: skip
_CLOSINGS = (
    "", "", "", "isn't it lovely", "so nice", "only a few left", "link is below", "order now",
    "what do you think", "at a very good price", "just for today", "it looks great",
    "you will love it",
)  # fmt: skip
_SPOKEN_MARKS = (
    " with the {} on it", ", the one with a {}", ", there is a {} on it",
    " with a little {} on it",
)  # fmt: skip


def _one_of(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def title(rng: np.random.Generator, item: Product, *, pattern: bool, mark: bool) -> str:
    """A catalogue title: "2024 new striped red mug star logo kitchen gift"; the order varies."""
    looks = [item.pattern, item.colour] if pattern else [item.colour]
    if rng.random() < 0.3:
        looks.reverse()
    core = [*looks, item.category] if rng.random() < 0.75 else [item.category, *looks]
    printed = [_one_of(rng, _PRINTED).format(item.mark)] if mark else []
    front = [_one_of(rng, _YEARS)] if rng.random() < 0.4 else []
    front += [_one_of(rng, _PRAISE)] if rng.random() < 0.7 else []
    back = [_one_of(rng, _PURPOSE)] if rng.random() < 0.8 else []
    middle = (
        printed + core if rng.random() < 0.3 and "with" not in "".join(printed) else core + printed
    )
    return " ".join(front + middle + back)


def speech(rng: np.random.Generator, item: Product, *, pattern: bool, mark: bool) -> str:
    """A seller's sentence: "look at this mug, the striped red one with the star on it"."""
    looks = f"{item.pattern} {item.colour}" if pattern else item.colour
    opening = _one_of(rng, _OPENINGS)
    form = rng.random()
    if form < 0.4:
        said = f"{opening} {looks} {item.category}"
    elif form < 0.75:
        said = f"{opening} {item.category}, the {looks} one"
    elif pattern:
        said = f"{opening} {item.colour} {item.category}, the {item.pattern} one"
    else:
        said = f"{opening} {item.category} in {looks}"
    if mark:
        return said + _one_of(rng, _SPOKEN_MARKS).format(item.mark)
    closing = _one_of(rng, _CLOSINGS)
    return f"{said}, {closing}" if closing else said
