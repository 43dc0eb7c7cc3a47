"""Searches for the products of posts, each by its own vector, and the ways that it is compared to.

A post's four vectors are those of `tasks.capture.VECTORS`: text and image after the streams met,
text and image before.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Float, Int

from date_jax.capture import ranked_lists
from date_jax.pairs.neighbours import Found, nearest

MERGES = ("round_robin", "max")


def author(vectors: Float[np.ndarray, "*N 4 E"]) -> Float[np.ndarray, "*N D"]:
    """`concat(t_co ∘ v_co, t_uni ∘ v_uni)`: what both say, as CAPTURE's author has it."""
    text_co, image_co, text_uni, image_uni = np.moveaxis(vectors, -2, 0)
    return np.concatenate([text_co * image_co, text_uni * image_uni], axis=-1)


def summed(vectors: Float[np.ndarray, "*N 4 E"]) -> Float[np.ndarray, "*N D"]:
    """`normalise(v_co) + normalise(t_co)`."""
    text_co, image_co, _, _ = np.moveaxis(vectors, -2, 0)
    return unit(image_co) + unit(text_co)


def text(vectors: Float[np.ndarray, "*N 4 E"]) -> Float[np.ndarray, "*N D"]:
    """`t_uni`: the title alone."""
    return vectors[..., 2, :]


def image(vectors: Float[np.ndarray, "*N 4 E"]) -> Float[np.ndarray, "*N D"]:
    """`v_uni`: the picture alone."""
    return vectors[..., 3, :]


Form: TypeAlias = Callable[[np.ndarray], np.ndarray]
EMBEDDINGS: dict[str, Form] = {"author": author, "sum": summed}
WHOLE: dict[str, Form] = {
    **{f"{name}_whole_post": form for name, form in EMBEDDINGS.items()},
    "text_alone": text,
    "image_alone": image,
}


def unit(x: Float[np.ndarray, "*N D"]) -> Float[np.ndarray, "*N D"]:
    """Rows at length 1; zeros stay zeros."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def hits(
    form: Form,
    asked: Float[np.ndarray, "*N 4 E"],
    gallery: Float[np.ndarray, "G 4 E"],
    most: int,
    *,
    mesh: jax.sharding.Mesh,
) -> Found:
    """Of each of `asked` the nearest posts of the gallery by the cosine of the vectors' `form`.

    Args:
        most: how many, or all of the gallery where it has fewer.
        mesh: of `sharding.device_mesh`; what is asked is spread over it.
    """
    rows, among = unit(form(asked)).astype(np.float32), unit(form(gallery)).astype(np.float32)
    most = min(most, len(gallery))
    found = nearest(rows.reshape(-1, rows.shape[-1]), among, most, mesh=mesh)
    return Found(*(x.reshape(*rows.shape[:-1], most) for x in found))


def all_lists(
    rows: dict[str, np.ndarray], gallery: Float[np.ndarray, "G 4 E"], *, mesh: jax.sharding.Mesh
) -> dict[str, Int[np.ndarray, "Q M"]]:
    """Each query's posts, by the way they are searched for:

        author_round_robin, author_max, sum_round_robin, sum_max   by instance; embedding and merge
        image_by_instance    by instance, pictures alone
        author_whole_post, sum_whole_post    one vector a query: the whole picture and title
        text_alone, image_alone              the same with one modality

    Args:
        rows: `vectors [Q 4 E]`, `instance_vectors [Q K 4 E]` and `instance_mask [Q K]`.
        gallery: vectors of the posts to be found.
        mesh: of `sharding.device_mesh`.
    """
    whole, each, mask = (rows[k] for k in ("vectors", "instance_vectors", "instance_mask"))
    alone = np.ones((len(whole), 1), bool)

    def merged(form: Form, asked: np.ndarray, mask: np.ndarray, *merges: str) -> list[np.ndarray]:
        score, index = hits(form, asked, gallery, ranked_lists.MOST, mesh=mesh)
        return [ranked_lists.merged(index, score, mask, how=how) for how in merges]

    lists = {}
    for name, form in EMBEDDINGS.items():
        for how, found in zip(MERGES, merged(form, each, mask, *MERGES), strict=True):
            lists[f"{name}_{how}"] = found
    lists["image_by_instance"] = merged(image, each, mask, MERGES[0])[0]
    for name, form in WHOLE.items():
        lists[name] = merged(form, whole[:, None], alone, MERGES[0])[0]
    return lists
