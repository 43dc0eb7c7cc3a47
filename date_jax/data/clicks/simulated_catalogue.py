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
    "plain",
    "striped",
    "dotted",
    "checked",
    "floral",
    "vintage",
    "modern",
    "classic",
    "rustic",
    "sporty",
]
MATERIALS = [
    "cotton",
    "leather",
    "steel",
    "wooden",
    "glass",
    "plastic",
    "ceramic",
    "linen",
    "silver",
    "bamboo",
]
FILLERS = ["hot sale", "new", "wholesale", "custom", "2026", "free shipping", "factory", "gift"]


def catalogue(products: int, *, seed: int) -> "pa.Table":
    """A made-up catalogue: offer_id, product_id, title, supplier, category, image_hash.

    A product has a color, a style and a material, and one to six suppliers' offers; their titles
    leave words out and add some. A third of the offers has the maker's picture, the same to the
    bit. product_id is the ground truth: for evaluation only.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rng = np.random.default_rng([seed, Stream.CLICK_CATALOGUE])
    kinds = pa.array([f"kind{number}" for number in range(max(8, products // 50))])
    category = rng.integers(len(kinds), size=products)
    product = np.repeat(np.arange(products), rng.integers(1, 7, size=products))
    count = len(product)

    def said(words: list[str], which: Int[np.ndarray, " N"], share: float) -> "pa.Array":
        return pa.array(words).take(pa.array(which, mask=rng.random(count) >= share))

    traits = [
        said(words, rng.integers(len(words), size=products)[product], 0.85)
        for words in (COLORS, STYLES, MATERIALS)
    ]
    fillers = [said(FILLERS, rng.integers(len(FILLERS), size=count), 0.4) for _ in range(2)]
    kind = kinds.take(pa.array(category[product]))
    title = [fillers[0], *traits, kind, fillers[1], " "]
    suppliers = max(12, products // 50)
    picture = np.where(rng.random(count) < 1 / 3, product, products + np.arange(count))
    return pa.table(
        {
            "offer_id": named("o", np.arange(count)),
            "product_id": named("p", product),
            "title": pc.binary_join_element_wise(*title, null_handling="skip"),
            "supplier": named("s", rng.integers(suppliers, size=count)),
            "category": kind,
            "image_hash": named("i", picture),
        }
    )


def named(letter: str, numbers: Int[np.ndarray, " N"]) -> "pa.Array":
    """Each number as a text: o17."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(letter, pa.array(numbers).cast("string"), "")
