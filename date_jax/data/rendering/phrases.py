"""Words for a product: titles as shops write them, sentences as sellers speak them.

Most things have three names: one that everybody knows, one that only catalogues use, and one that
only sellers use. So what is learnt of either domain's words does not do for the other's.
"""

from typing import NamedTuple

import numpy as np

from date_jax.data.rendering.products import Product

# Parts of titles.
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

# Parts of sentences.
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
# In place of the word that everybody knows: the catalogue's, the seller's.
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


class Names(NamedTuple):
    """The names of a product's attributes, as one text has them."""

    category: str
    colour: str
    pattern: str


def _names(rng: np.random.Generator, item: Product, own_words: float, domain: int) -> Names:
    """A product's names, each with probability `own_words` the one that only this domain uses.

    Args:
        rng: draws for each name.
        item: the product.
        own_words: the probability above.
        domain: 0 is the catalogue, 1 the sellers: places in `OWN_WORDS`.
    """
    common = (item.category, item.colour, item.pattern)
    return Names(*(OWN_WORDS[w][domain] if rng.random() < own_words else w for w in common))


def _random_choice(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    """One of the choices, by chance."""
    return choices[int(rng.integers(len(choices)))]


def title(
    rng: np.random.Generator, item: Product, *, pattern: bool, mark: bool, own_words: float
) -> str:
    """A catalogue title: "2024 new striped red mug star logo kitchen gift"; the order varies.

    Args:
        rng: draws words and order.
        item: the product.
        pattern: the title names the pattern.
        mark: the title names what is printed on the product.
        own_words: probability of each word that only catalogues use.
    """
    # The product itself, its looks before or behind its category.
    names = _names(rng, item, own_words, 0)
    looks = [names.pattern, names.colour] if pattern else [names.colour]
    if rng.random() < 0.3:
        looks.reverse()
    core = [*looks, names.category] if rng.random() < 0.75 else [names.category, *looks]
    # Words of the shop around it, each by chance.
    printed = [_random_choice(rng, _PRINTED).format(item.mark)] if mark else []
    front = [_random_choice(rng, _YEARS)] if rng.random() < 0.4 else []
    front += [_random_choice(rng, _PRAISE)] if rng.random() < 0.7 else []
    back = [_random_choice(rng, _PURPOSE)] if rng.random() < 0.8 else []
    mark_first = rng.random() < 0.3 and "with" not in "".join(printed)
    middle = printed + core if mark_first else core + printed
    return " ".join(front + middle + back)


def partial_name(
    rng: np.random.Generator,
    item: Product,
    *,
    colour: float,
    pattern: float,
    mark: float,
    own_words: float,
) -> str:
    """A product's name with some of its attributes, each by its probability: "striped mug star".

    Args:
        rng: draws for each attribute.
        item: the product.
        colour: probability that the colour is named.
        pattern: probability that the pattern is named.
        mark: probability that the printed mark is named.
        own_words: probability of each word that only catalogues use.
    """
    # The mark is named as it is printed; it has no other word.
    names = _names(rng, item, own_words, 0)
    chances = [(names.pattern, pattern), (names.colour, colour), (names.category, 1.0)]
    chances += [(item.mark, mark)]
    return " ".join(word for word, chance in chances if rng.random() < chance)


def framed_title(rng: np.random.Generator, core: str) -> str:
    """A title of `core` between a word of praise and a purpose, each of which may be missing."""
    front = [_random_choice(rng, _PRAISE)] if rng.random() < 0.7 else []
    back = [_random_choice(rng, _PURPOSE)] if rng.random() < 0.8 else []
    return " ".join([*front, core, *back])


def suite_title(rng: np.random.Generator, items: list[Product], *, own_words: float) -> str:
    """A title that names all of several products: "new red striped mug and blue plain bag gift".

    Args:
        rng: draws the words.
        items: in the order in which they are named.
        own_words: probability of each word that only catalogues use.
    """
    # Several are joined as in speech, "and" before the last.
    phrases = []
    for item in items:
        names = _names(rng, item, own_words, 0)
        phrases.append(f"{names.pattern} {names.colour} {names.category}")
    joined = phrases[0] if len(phrases) == 1 else " ".join([*phrases[:-1], "and", phrases[-1]])
    front = [_random_choice(rng, _PRAISE)] if rng.random() < 0.5 else []
    back = [_random_choice(rng, _PURPOSE)] if rng.random() < 0.5 else []
    return " ".join([*front, joined, *back])


def speech(
    rng: np.random.Generator, item: Product, *, pattern: bool, mark: bool, own_words: float
) -> str:
    """A seller's sentence: "look at this mug, the striped red one with the star on it".

    Arguments as `title`; `own_words` is the probability of each word that only sellers use.
    """
    names = _names(rng, item, own_words, 1)
    looks = f"{names.pattern} {names.colour}" if pattern else names.colour
    opening = _random_choice(rng, _OPENINGS)
    # The looks come before the name, or after it, or on both sides of it.
    form = rng.random()
    if form < 0.4:
        sentence = f"{opening} {looks} {names.category}"
    elif form < 0.75:
        sentence = f"{opening} {names.category}, the {looks} one"
    elif pattern:
        sentence = f"{opening} {names.colour} {names.category}, the {names.pattern} one"
    else:
        sentence = f"{opening} {names.category} in {looks}"
    if mark:  # which closes the sentence
        return sentence + _random_choice(rng, _SPOKEN_MARKS).format(item.mark)
    closing = _random_choice(rng, _CLOSINGS)
    return f"{sentence}, {closing}" if closing else sentence
