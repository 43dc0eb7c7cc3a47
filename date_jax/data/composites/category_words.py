"""The word of a product's category: where it asks for one product only, and where it is said."""

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

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
    """The words of a text, small and without the letters that a plural may end with.

    Example:
        >>> stems("Dresses, a shoe") == stems("dress a shoes")
        True
    """
    return [word[:2] + word[2:].rstrip("es") for word in re.findall(r"\w+", text.lower())]


def category_finder(categories: Iterable[str]) -> Callable[[str], frozenset[str]]:
    """A function that gives those of some categories that a text names; "" is never among them.

    Example:
        >>> category_finder(["shoe", "t-shirt"])("Red SHOES")
        frozenset({'shoe'})
    """
    categories_of = defaultdict(set)
    for category in categories:
        categories_of[tuple(stems(category_word(category)))].add(category)
    categories_of.pop((), None)
    lengths = sorted({len(words) for words in categories_of})

    def named_categories(text: str) -> frozenset[str]:
        words = stems(text)
        runs = (
            tuple(words[start : start + length])
            for length in lengths
            for start in range(len(words) - length + 1)
        )
        return frozenset().union(*(categories_of[run] for run in runs if run in categories_of))

    return named_categories
