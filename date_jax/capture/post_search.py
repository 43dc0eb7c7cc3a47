"""Search for the products of posts, each by its own vector, and the ways it is compared with.

A post's four vectors are those of `network.VECTORS`: of text and of image, after the streams met
and before.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from date_jax.capture import ranked_lists
from date_jax.pairs.neighbours import Neighbours, nearest_rows
from date_jax.pairs.vectors import host_unit_vectors

Embedding: TypeAlias = Callable[[np.ndarray], np.ndarray]  # of a post, from its four vectors
MERGES = ("round_robin", "max")


def author_embedding(vectors: Float[np.ndarray, "*N 4 E"]) -> Float[np.ndarray, "*N D"]:
    """`concat(t_co ∘ v_co, t_uni ∘ v_uni)`: what text and image both say (CAPTURE's author)."""
    text_co, image_co, text_uni, image_uni = np.moveaxis(vectors, -2, 0)
    return np.concatenate([text_co * image_co, text_uni * image_uni], axis=-1)


def sum_embedding(vectors: Float[np.ndarray, "*N 4 E"]) -> Float[np.ndarray, "*N D"]:
    """`normalise(v_co) + normalise(t_co)`: what text or image says, after the streams met."""
    text_co, image_co, _, _ = np.moveaxis(vectors, -2, 0)
    return host_unit_vectors(image_co) + host_unit_vectors(text_co)


def text_embedding(vectors: Float[np.ndarray, "*N 4 E"]) -> Float[np.ndarray, "*N D"]:
    """`t_uni`: what the title says alone."""
    return vectors[..., 2, :]


def image_embedding(vectors: Float[np.ndarray, "*N 4 E"]) -> Float[np.ndarray, "*N D"]:
    """`v_uni`: what the picture says alone."""
    return vectors[..., 3, :]


EMBEDDINGS: dict[str, Embedding] = {  # by config.retrieval.embedding
    "author": author_embedding,
    "sum": sum_embedding,
}
WHOLE_POST: dict[str, Embedding] = {  # by the name of the list of a search with one vector a query
    **{f"{name}_whole_post": embedding for name, embedding in EMBEDDINGS.items()},
    "text_alone": text_embedding,
    "image_alone": image_embedding,
}


def post_embedding(config: ConfigDict, vectors: Float[np.ndarray, "*N 4 E"]) -> np.ndarray:
    """The vector of a post or an instance as `config.retrieval.embedding` says, at length 1."""
    embedding = EMBEDDINGS[config.retrieval.embedding]
    return host_unit_vectors(embedding(vectors)).astype(np.float32)


def nearest_posts(
    embedding: Embedding,
    query: Float[np.ndarray, "*N 4 E"],
    gallery: Float[np.ndarray, "G 4 E"],
    *,
    mesh: jax.sharding.Mesh,
) -> Neighbours:
    """The posts of the gallery nearest to each query, by the cosine of their embeddings.

    There are `ranked_lists.MOST` of them, or all of the gallery where it has fewer.

    Args:
        embedding: one of this file's functions.
        query, gallery: vectors of posts, or of their instances.
        mesh: of `sharding.device_mesh`; queries are spread over it.
    """
    query, gallery = (host_unit_vectors(embedding(x)).astype(np.float32) for x in (query, gallery))
    count = min(ranked_lists.MOST, len(gallery))
    neighbours = nearest_rows(query.reshape(-1, query.shape[-1]), gallery, count, mesh=mesh)
    return Neighbours(*(x.reshape(*query.shape[:-1], count) for x in neighbours))


class SearchResults(NamedTuple):
    """The posts found for queries.

    Attributes:
        lists: by the way of searching, see `search_results`: the posts of each query, best first.
        instances: by name of an embedding: the posts of each instance, best first.
    """

    lists: dict[str, Int[np.ndarray, "Q M"]]
    instances: dict[str, Int[np.ndarray, "Q K L"]]


def search_results(
    rows: dict[str, np.ndarray], gallery: Float[np.ndarray, "G 4 E"], *, mesh: jax.sharding.Mesh
) -> SearchResults:
    """The posts found for each query, in every way of searching.

        author_round_robin, author_max, sum_round_robin, sum_max   by instance; embedding and merge
        image_by_instance    by instance, pictures alone
        author_whole_post, sum_whole_post    one vector a query: the whole picture and title
        text_alone, image_alone              the same with one modality

    Args:
        rows: `vectors [Q 4 E]`, `instance_vectors [Q K 4 E]` and `instance_mask [Q K]`.
        gallery: vectors of the posts that are searched.
        mesh: of `sharding.device_mesh`.
    """
    lists, instances = {}, {}
    # Each product of a query by its own vector, and the instances' posts merged to one list.
    query, mask = rows["instance_vectors"], rows["instance_mask"]
    for name, embedding in EMBEDDINGS.items():
        score, index = nearest_posts(embedding, query, gallery, mesh=mesh)
        instances[name] = index
        for how in MERGES:
            lists[f"{name}_{how}"] = ranked_lists.merged_lists(index, score, mask, how=how)
    score, index = nearest_posts(image_embedding, query, gallery, mesh=mesh)
    lists["image_by_instance"] = ranked_lists.merged_lists(index, score, mask, how=MERGES[0])
    # A whole post is its one instance.
    query = rows["vectors"][:, None]
    mask = np.ones((len(query), 1), bool)
    for name, embedding in WHOLE_POST.items():
        score, index = nearest_posts(embedding, query, gallery, mesh=mesh)
        lists[name] = ranked_lists.merged_lists(index, score, mask, how=MERGES[0])
    return SearchResults(lists, instances)
