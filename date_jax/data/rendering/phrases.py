"""What is said of a product: titles as shops write them, sentences as sellers speak them.

Most things have three names: one that everybody knows, one that only catalogues use, and one that
only sellers use. So what is learnt of either domain's words does not do for the other's.
"""

from typing import NamedTuple

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
# Instead of the word everybody knows: the catalogue's, the seller's.
OWN_WORDS = {
    "mug": ("tumbler", "cup"), "teapot": ("teaware", "kettle"), "bottle": ("flask", "thermos"),
    "plant": ("succulent", "greenery"), "lamp": ("luminaire", "light"),
    "clock": ("timepiece", "alarm"), "watch": ("chronograph", "ticker"),
    "shoe": ("sneaker", "kicks"), "hat": ("headwear", "cap"), "shirt": ("jersey", "tee"),
    "bag": ("tote", "carrier"), "umbrella": ("parasol", "brolly"), "chair": ("furniture", "seat"),
    "guitar": ("instrument", "strings"), "camera": ("reflex", "cam"), "car": ("vehicle", "racer"),
    "red": ("crimson", "cherry"), "orange": ("amber", "tangerine"), "yellow": ("golden", "lemon"),
    "green": ("emerald", "grassy"), "blue": ("cobalt", "denim"), "purple": ("violet", "grape"),
    "pink": ("rose", "bubblegum"), "black": ("ebony", "inky"), "white": ("ivory", "snowy"),
    "plain": ("monochrome", "simple"), "striped": ("pinstripe", "stripy"),
    "dotted": ("polka", "spotty"), "checked": ("gingham", "plaid"),
    "zigzag": ("chevron", "wavy"), "dipped": ("ombre", "blended"),
}  # fmt: skip


class Words(NamedTuple):
    """How a product's attributes are called this time."""

    category: str
    colour: str
    pattern: str


def _words(rng: np.random.Generator, item: Product, own: float, whose: int) -> Words:
    """Each word is with probability `own` the domain's own one, `whose` in `OWN_WORDS`."""
    known = (item.category, item.colour, item.pattern)
    return Words(*(OWN_WORDS[word][whose] if rng.random() < own else word for word in known))


def _one_of(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def title(rng: np.random.Generator, item: Product, *, pattern: bool, mark: bool, own: float) -> str:
    """A catalogue title: "2024 new striped red mug star logo kitchen gift"; the order varies.

    Args:
        pattern: say the pattern.
        mark: say what is printed on it.
        own: probability of each word that only catalogues use.
    """
    called = _words(rng, item, own, 0)
    looks = [called.pattern, called.colour] if pattern else [called.colour]
    if rng.random() < 0.3:
        looks.reverse()
    core = [*looks, called.category] if rng.random() < 0.75 else [called.category, *looks]
    printed = [_one_of(rng, _PRINTED).format(item.mark)] if mark else []
    front = [_one_of(rng, _YEARS)] if rng.random() < 0.4 else []
    front += [_one_of(rng, _PRAISE)] if rng.random() < 0.7 else []
    back = [_one_of(rng, _PURPOSE)] if rng.random() < 0.8 else []
    middle = (
        printed + core if rng.random() < 0.3 and "with" not in "".join(printed) else core + printed
    )
    return " ".join(front + middle + back)


def partly(
    rng: np.random.Generator,
    item: Product,
    *,
    colour: float,
    pattern: float,
    mark: float,
    own: float,
) -> str:
    """A product's name with what each probability lets be said of it: "striped mug star"."""
    called = _words(rng, item, own, 0)
    said = [(called.pattern, pattern), (called.colour, colour), (called.category, 1.0)]
    said += [(item.mark, mark)]
    return " ".join(word for word, chance in said if rng.random() < chance)


def framed(rng: np.random.Generator, core: str) -> str:
    """`core` between a word of praise and a purpose, as titles have them; each may be missing."""
    front = [_one_of(rng, _PRAISE)] if rng.random() < 0.7 else []
    back = [_one_of(rng, _PURPOSE)] if rng.random() < 0.8 else []
    return " ".join([*front, core, *back])


def suite_title(rng: np.random.Generator, items: list[Product], *, own: float) -> str:
    """A title that names all of several products: "new red striped mug and blue plain bag gift".

    Args:
        items: in the order in which they are named.
        own: probability of each word that only catalogues use.
    """
    called = [_words(rng, item, own, 0) for item in items]
    names = [f"{words.pattern} {words.colour} {words.category}" for words in called]
    joined = names[0] if len(names) == 1 else " ".join([*names[:-1], "and", names[-1]])
    front = [_one_of(rng, _PRAISE)] if rng.random() < 0.5 else []
    back = [_one_of(rng, _PURPOSE)] if rng.random() < 0.5 else []
    return " ".join([*front, joined, *back])


def speech(
    rng: np.random.Generator, item: Product, *, pattern: bool, mark: bool, own: float
) -> str:
    """A seller's sentence: "look at this mug, the striped red one with the star on it".

    Arguments as `title`, `own` being of the words that only sellers use.
    """
    called = _words(rng, item, own, 1)
    looks = f"{called.pattern} {called.colour}" if pattern else called.colour
    opening = _one_of(rng, _OPENINGS)
    form = rng.random()
    if form < 0.4:
        said = f"{opening} {looks} {called.category}"
    elif form < 0.75:
        said = f"{opening} {called.category}, the {looks} one"
    elif pattern:
        said = f"{opening} {called.colour} {called.category}, the {called.pattern} one"
    else:
        said = f"{opening} {called.category} in {looks}"
    if mark:
        return said + _one_of(rng, _SPOKEN_MARKS).format(item.mark)
    closing = _one_of(rng, _CLOSINGS)
    return f"{said}, {closing}" if closing else said
