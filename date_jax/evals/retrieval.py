"""Ranks and recall of text-to-image and image-to-text retrieval, in tiles on the host."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

# Closer than float32 products of unit vectors can tell apart: such scores are a tie.
_TIE = 1e-6
_RECALL_AT = (1, 5, 10, 50)


class Items(NamedTuple):
    """Things to search for, or among. Two items match where they share a product.

    Attributes:
        embedding: float `[N D]`, unit vectors.
        product_id: int `[M]`, the products of all items, item after item.
        first: int `[N]`, where the products of each item begin (each has at least one).
    """

    embedding: np.ndarray
    product_id: np.ndarray
    first: np.ndarray


def rows(embedding: Float[np.ndarray, "N D"], product_id: Int[np.ndarray, " N"]) -> Items:
    """Each row is an item, with one product."""
    return Items(np.asarray(embedding, np.float32), product_id, np.arange(len(product_id)))


def pictures(
    embedding: Float[np.ndarray, "M D"],
    product_id: Int[np.ndarray, " M"],
    image_id: Int[np.ndarray, " M"],
) -> Items:
    """Each distinct picture is an item, with the products of all its rows."""
    order = np.argsort(image_id, kind="stable")
    _, first = np.unique(image_id[order], return_index=True)
    return Items(np.asarray(embedding[order][first], np.float32), product_id[order], first)


def ranks(query: Items, gallery: Items, *, tile: int = 2048) -> Int[np.ndarray, " Q"]:
    """The rank of each query's best match; 1 is best. Scores are dot products.

    `1 + #{wrong items with score >= the best match's}`: a tie counts against the query, so that a
    model whose embeddings are all equal comes out last. A query without a match comes out behind
    the whole gallery. No array larger than `tile x tile` (and the matches' products) is made.
    """
    result = np.empty(len(query.first), np.int64)
    for start in range(0, len(result), tile):
        part = _part(query, start, tile)
        best = np.full(len(part.first), -np.inf, np.float32)
        for scores, matches in _tiles(part, gallery, tile):
            best = np.maximum(best, np.max(scores, axis=1, initial=-np.inf, where=matches))
        above = np.zeros(len(best), np.int64)
        for scores, matches in _tiles(part, gallery, tile):
            # Not below it: what is not a number counts against the query, too.
            above += np.sum(~(scores < best[:, None] - _TIE) & ~matches, axis=1)
        result[start : start + tile] = 1 + above
    return result


def _part(items: Items, start: int, size: int) -> Items:
    """Items `start .. start + size`."""
    first = items.first[start : start + size]
    is_last = start + size >= len(items.first)
    end = len(items.product_id) if is_last else items.first[start + size]
    products = items.product_id[first[0] : end]
    return Items(items.embedding[start : start + size], products, first - first[0])


def _tiles(
    query: Items, gallery: Items, tile: int
) -> Iterator[tuple[Float[np.ndarray, "Q n"], Bool[np.ndarray, "Q n"]]]:
    """Scores and matches of the queries with one stretch of the gallery after the other."""
    for start in range(0, len(gallery.first), tile):
        part = _part(gallery, start, tile)
        equal = query.product_id[:, None] == part.product_id[None, :]
        matches = np.logical_or.reduceat(equal, query.first, axis=0)
        matches = np.logical_or.reduceat(matches, part.first, axis=1)
        yield query.embedding @ part.embedding.T, matches


def metrics(
    image_embedding: Float[np.ndarray, "N D"],
    query_embedding: Float[np.ndarray, "N D"],
    product_id: Int[np.ndarray, " N"],
    *,
    image_id: Int[np.ndarray, " N"],
    tile: int = 2048,
) -> dict[str, float]:
    """Retrieval of pictures by texts, and (`image_to_text_…`) of texts by pictures.

    Args:
        image_embedding: of each row's picture, unit vectors.
        query_embedding: of each row's text, unit vectors.
        product_id: rows with the same product are right answers to each other.
        image_id: equal for rows that share a picture; such a picture stands in the gallery once.
        tile: see `ranks`.

    Returns:
        `recall_at_1`, `_5`, `_10`, `_50` as shares, `mrr` (mean reciprocal rank), `median_rank`.
    """
    image = pictures(image_embedding, product_id, image_id)
    text = rows(query_embedding, product_id)
    text_to_image = _summary(ranks(text, image, tile=tile))
    image_to_text = _summary(ranks(image, text, tile=tile))
    return text_to_image | {f"image_to_text_{name}": v for name, v in image_to_text.items()}


def _summary(ranks: Int[np.ndarray, " Q"]) -> dict[str, float]:
    recall = {f"recall_at_{k}": float(np.mean(ranks <= k)) for k in _RECALL_AT}
    return recall | {"mrr": float(np.mean(1 / ranks)), "median_rank": float(np.median(ranks))}
