"""Ranks and recall of text-to-image and image-to-text retrieval, on all devices."""

import jax
import numpy as np
from jaxtyping import Float, Int

from date_jax.pairs.neighbours import Items, ranks

_RECALL_AT = (1, 5, 10, 50)


def row_items(embedding: Float[np.ndarray, "N D"], product_id: Int[np.ndarray, " N"]) -> Items:
    """The items to search for, or among, where each row is one and has one product."""
    return Items(np.asarray(embedding, np.float32), product_id, np.arange(len(product_id)))


def picture_items(
    embedding: Float[np.ndarray, "M D"],
    product_id: Int[np.ndarray, " M"],
    image_id: Int[np.ndarray, " M"],
) -> Items:
    """The items where each distinct picture is one and has the products of all its rows."""
    # Rows of one picture stand together; its vector is that of the first of them.
    order = np.argsort(image_id, kind="stable")
    _, first = np.unique(image_id[order], return_index=True)
    return Items(np.asarray(embedding[order][first], np.float32), product_id[order], first)


def metrics(
    image_embedding: Float[np.ndarray, "N D"],
    query_embedding: Float[np.ndarray, "N D"],
    product_id: Int[np.ndarray, " N"],
    *,
    image_id: Int[np.ndarray, " N"],
    mesh: jax.sharding.Mesh,
) -> dict[str, float]:
    """The measures of retrieval, of pictures by texts and of texts by pictures, by name.

    Args:
        image_embedding: of each row's picture, unit vectors.
        query_embedding: of each row's text, unit vectors.
        product_id: rows with the same product are right answers to each other.
        image_id: equal for rows that share a picture; such a picture stands in the gallery once.
        mesh: of `sharding.device_mesh`; the queries are spread over it.

    Returns:
        `recall_at_1`, `_5`, `_10`, `_50` as shares, `mrr` (mean reciprocal rank), `median_rank`;
        the same with `image_to_text_` in front for texts by pictures.
    """
    image = picture_items(image_embedding, product_id, image_id)
    text = row_items(query_embedding, product_id)
    # Rows with the same text stay apart: each is a query, and each an answer.
    text_to_image = _summary(ranks(text, image, mesh=mesh))
    image_to_text = _summary(ranks(image, text, mesh=mesh))
    return text_to_image | {f"image_to_text_{name}": x for name, x in image_to_text.items()}


def _summary(ranks: Int[np.ndarray, " Q"]) -> dict[str, float]:
    """The measures of some queries' ranks, by name."""
    recall = {f"recall_at_{k}": float(np.mean(ranks <= k)) for k in _RECALL_AT}
    return recall | {"mrr": float(np.mean(1 / ranks)), "median_rank": float(np.median(ranks))}
