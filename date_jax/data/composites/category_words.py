"""The word of a product's category: where it asks for one product only, and where it is said."""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from jaxtyping import Bool


def category_word(category: str) -> str:
    """The category as a query: `t-shirt_long` asks for "t-shirt long"."""
    return " ".join(category.replace("_", " ").split())


def unambiguous_rows(
    pictures: Sequence[str], categories: Sequence[str], products: Sequence[Hashable]
) -> Bool[np.ndarray, " N"]:
    """Whether a row's category is that of no other product of the row's picture.

    Args:
        pictures: equal where two rows have the same picture.
        categories: "" where it is not known.
        products: equal where two rows of a picture are about the same thing in it.
    """
    products_of = defaultdict(set)
    for picture, category, product in zip(pictures, categories, products, strict=True):
        products_of[picture, category].add(product)
    return np.array(
        [
            category != "" and len(products_of[picture, category]) == 1
            for picture, category in zip(pictures, categories, strict=True)
        ],
        bool,
    )


def stems(text: str) -> list[str]:
    """The words of a text, small and without a plural's s."""
    return [re.sub(r"(?<=..)s$", "", word) for word in re.findall(r"\w+", text.lower())]


def named_categories(texts: Iterable[str], categories: Iterable[str]) -> frozenset[str]:
    """Those of some categories that the texts name; "" is never among them.

    Example:
        >>> sorted(named_categories(["red shoes"], ["shoe", "hat"]))
        ['shoe']
    """
    said = [f" {' '.join(stems(text))} " for text in texts]
    words = {category: " ".join(stems(category_word(category))) for category in categories}
    return frozenset(
        category
        for category, word in words.items()
        if word and any(f" {word} " in text for text in said)
    )
