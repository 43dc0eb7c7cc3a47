"""A made-up catalogue, in which it is known which offers show the same product."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from date_jax.data.streams import Stream

if TYPE_CHECKING:
    import pyarrow as pa
else:  # a package of the extra "clicks"
    pa = Any

COLORS = ["red", "blue", "green", "black", "white", "pink", "grey", "gold", "brown", "purple"]
STYLES = [
    "plain", "striped", "dotted", "checked", "floral", "vintage", "modern", "classic", "rustic",
    "sporty",
]  # fmt: skip
MATERIALS = [
    "cotton", "leather", "steel", "wooden", "glass", "plastic", "ceramic", "linen", "silver",
    "bamboo",
]  # fmt: skip
FILLERS = ["hot sale", "new", "wholesale", "custom", "2026", "free shipping", "factory", "gift"]
TRAIT_SHARE, FILLER_SHARE = 0.85, 0.4  # of titles with a certain trait, with a certain filler
MAKER_SHARE = 1 / 3  # of offers with the maker's picture


def catalogue(products: int, *, seed: int) -> "pa.Table":
    """A made-up catalogue: offer_id, product_id, title, supplier, category, image_hash.

    A product has a color, a style and a material, and one to six suppliers' offers; their titles
    leave words out and add some. A third of the offers has the maker's picture, the same to the
    bit. product_id is the ground truth: for evaluation only.

    Args:
        products: how many.
        seed: of the random stream.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rng = np.random.default_rng([seed, Stream.CLICK_CATALOGUE])
    # Each product's leaf category, and which product each of the offers shows.
    kinds = pa.array([f"kind{number}" for number in range(max(8, products // 50))])
    category = rng.integers(len(kinds), size=products)
    product = np.repeat(np.arange(products), rng.integers(1, 7, size=products))
    count = len(product)

    def title_words(words: list[str], number: Int[np.ndarray, " N"], share: float) -> "pa.Array":
        # The word of each offer's number, for a `share` of the offers; null for the others.
        return pa.array(words).take(pa.array(number, mask=rng.random(count) >= share))

    # Traits belong to the product, fillers to the offer; nulls are skipped in joining.
    traits = [
        title_words(words, rng.integers(len(words), size=products)[product], TRAIT_SHARE)
        for words in (COLORS, STYLES, MATERIALS)
    ]
    fillers = [
        title_words(FILLERS, rng.integers(len(FILLERS), size=count), FILLER_SHARE) for _ in range(2)
    ]
    kind = kinds.take(pa.array(category[product]))
    title = [fillers[0], *traits, kind, fillers[1], " "]
    suppliers = max(12, products // 50)
    # The maker's picture has the product's number, another one a number that no other offer has.
    has_makers = rng.random(count) < MAKER_SHARE
    picture = np.where(has_makers, product, products + np.arange(count))
    return pa.table(
        {
            "offer_id": id_texts("o", np.arange(count)),
            "product_id": id_texts("p", product),
            "title": pc.binary_join_element_wise(*title, null_handling="skip"),
            "supplier": id_texts("s", rng.integers(suppliers, size=count)),
            "category": kind,
            "image_hash": id_texts("i", picture),
        }
    )


def id_texts(letter: str, numbers: Int[np.ndarray, " N"]) -> "pa.Array":
    """Ids of a letter and a number each: o17."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(letter, pa.array(numbers).cast("string"), "")
