"""Search for the same product by picture (i), words (t) or both (m), in the seven modes of
arXiv 2302.05093: i-t asks with a picture and searches vectors of words."""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Float, Int

from date_jax.evals.retrieval import rows
from date_jax.pairs import neighbours

MODES = ("i-i", "t-t", "m-m", "i-m", "t-m", "i-t", "t-i")
KINDS = {"i": "image_embedding", "t": "text_embedding", "m": "joint_embedding"}
RECALL_AT = (1, 5, 10, 20)
BY_CATEGORY = ("i-i", "t-t", "m-m")  # where do pictures help, where words


def ranks(
    vectors: Mapping[str, Float[np.ndarray, "N E"]],
    product: Int[np.ndarray, " N"],
    *,
    mesh: jax.sharding.Mesh,
) -> dict[str, Int[np.ndarray, " Q"]]:
    """By mode, the rank of each asking offer's best match among all offers but itself.

    An offer asks where another one shows its product. A tie counts against it.

    Args:
        vectors: of N offers, by the names in KINDS; modes of a kind that is lacking are left out.
        product: equal numbers show the same product.
        mesh: of `sharding.device_mesh`.
    """
    asks = asking(product)
    found = {}
    for mode in MODES:
        query, target = (KINDS[letter] for letter in mode.split("-"))
        if query in vectors and target in vectors:
            asked = rows(vectors[query][asks], product[asks])
            pool = rows(vectors[target], product)
            found[mode] = neighbours.ranks(asked, pool, mesh=mesh, itself=asks)
    return found


def asking(product: Int[np.ndarray, " N"]) -> Int[np.ndarray, " Q"]:
    """The offers that have another one of their product."""
    _, of, count = np.unique(product, return_inverse=True, return_counts=True)
    return np.flatnonzero(count[of] > 1)


def metrics(ranks: Mapping[str, Int[np.ndarray, " Q"]], category: list[str]) -> dict[str, float]:
    """`<mode>/mrr` and `<mode>/recall_at_<1, 5, 10, 20>`; `category/<name>/<mode>` is the
    recall at 1 of BY_CATEGORY where that category's offers ask.

    Args:
        ranks: by mode.
        category: of each of the Q asking offers.
    """
    found = {}
    for mode, of_mode in ranks.items():
        found[f"{mode}/mrr"] = float(np.mean(1 / of_mode))
        found |= {f"{mode}/recall_at_{k}": float(np.mean(of_mode <= k)) for k in RECALL_AT}
    names = np.array(category)
    for name in sorted(set(category)):
        for mode in BY_CATEGORY:
            if mode in ranks:
                found[f"category/{name}/{mode}"] = float(np.mean(ranks[mode][names == name] <= 1))
    return found
