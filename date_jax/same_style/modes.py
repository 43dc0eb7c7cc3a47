"""Search for the same product by picture (i), words (t) or both (m), in seven modes (2302.05093).

In mode i-t a picture is the query, and vectors of words are searched.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Float, Int

from date_jax.evals.retrieval import row_items
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
    """The rank of each query's best match among all offers but itself, by mode.

    The queries are the offers of `query_rows`. A tie counts against a query.

    Args:
        vectors: of N offers, by the names in KINDS; modes of a kind that is lacking are left out.
        product: equal numbers show the same product.
        mesh: of `sharding.device_mesh`.
    """
    rows = query_rows(product)
    ranks = {}
    for mode in MODES:
        # A modality that was not learnt has no vectors, and its modes no ranks.
        query, target = (KINDS[letter] for letter in mode.split("-"))
        if query in vectors and target in vectors:
            queries = row_items(vectors[query][rows], product[rows])
            gallery = row_items(vectors[target], product)
            ranks[mode] = neighbours.ranks(queries, gallery, mesh=mesh, itself=rows)
    return ranks


def query_rows(product: Int[np.ndarray, " N"]) -> Int[np.ndarray, " Q"]:
    """The offers that have another one of their product: those whose search can succeed."""
    _, number, count = np.unique(product, return_inverse=True, return_counts=True)
    return np.flatnonzero(count[number] > 1)


def metrics(ranks: Mapping[str, Int[np.ndarray, " Q"]], category: list[str]) -> dict[str, float]:
    """The measures of all modes, by name.

    Args:
        ranks: by mode.
        category: of each of the Q queries.

    Returns:
        `<mode>/mrr` and `<mode>/recall_at_<1, 5, 10, 20>`; and `category/<name>/<mode>`, the recall
        at 1 of BY_CATEGORY over the queries of that category.
    """
    measures = {}
    for mode, values in ranks.items():
        measures[f"{mode}/mrr"] = float(np.mean(1 / values))
        measures |= {f"{mode}/recall_at_{k}": float(np.mean(values <= k)) for k in RECALL_AT}
    # Of some categories a picture says more, of others the words.
    categories = np.array(category)
    for name in sorted(set(category)):
        for mode in BY_CATEGORY:
            if mode in ranks:
                values = ranks[mode][categories == name]
                measures[f"category/{name}/{mode}"] = float(np.mean(values <= 1))
    return measures
