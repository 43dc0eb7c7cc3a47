"""Places from pairs: which part of a picture its words speak of, learnt without any box.

A picture's image tokens and a text's vector lie in one space. The *heat* of a token is its cosine
with the words. A picture suits a text as far as its hottest tokens do:

    s_ij = (1/ℓ) log mean_p exp(ℓ v_ip · q_j)

and a picture's own text shall suit it better than those of the other pairs of the batch. What the
heat then says is a place, not an extent.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from date_jax.date.box_heads import is_inside
from date_jax.pairs.contrastive import aligned_matches


def heat(places: Float[Array, "B P D"], query: Float[Array, "B D"]) -> Float[Array, "B P"]:
    """The cosine of each image token and the words of its row; all are unit vectors."""
    return jnp.einsum("bpd,bd->bp", places, query)


def suitability(
    places: Float[Array, "B P D"], query: Float[Array, "N D"], scale: Float[Array, ""]
) -> Float[Array, "B N"]:
    """`s_ij` of every picture and every text; `scale` is ℓ. Memory grows with B · N · P."""
    logits = scale * jnp.einsum("bpd,nd->bnp", places, query)
    count = logits.shape[-1]
    return (jax.nn.logsumexp(logits, axis=-1) - jnp.log(float(count))) / scale


def loss(
    places: Float[Array, "B P D"],
    query: Float[Array, "B D"],
    identity: UInt32[Array, "B K"],
    scale: Float[Array, ""],
) -> Float[Array, ""]:
    """Cross-entropy of pictures against texts by `ℓ · s_ij`, in both directions, over the batch.

        L = ½ mean_i [-Σ_j y_ij log softmax_j(ℓ s_ij)] + ½ mean_j [-Σ_i y_ij log softmax_i(ℓ s_ij)]

    The form is CLIP's (2103.00020), with the best places of a picture in place of its one vector.

    Args:
        places, query: unit vectors; row i of each is a pair.
        identity: numbers of which one in common makes a positive, see `contrastive.softmax`; y is
            spread evenly over them.
        scale: ℓ, an inverse temperature.
    """
    logits = scale * suitability(places, query, scale)
    positive = aligned_matches(identity, identity).astype(logits.dtype)
    target = positive / positive.sum(axis=1, keepdims=True)
    by_picture = -(target * jax.nn.log_softmax(logits, axis=1)).sum(axis=1)
    by_text = -(target * jax.nn.log_softmax(logits, axis=0).T).sum(axis=1)
    return (by_picture + by_text).mean() / 2


def heat_inside(
    heat: Float[Array, "B P"],
    box_cxcywh: Float[Array, "B 4"],
    grid: tuple[int, int],
    scale: Float[Array, ""],
) -> Float[Array, " B"]:
    """The share of the heat, `softmax_p(ℓ heat)`, on tokens whose centre lies in a box."""
    share = jax.nn.softmax(scale * heat, axis=-1)
    return jnp.where(is_inside(box_cxcywh, grid), share, 0.0).sum(axis=-1)


def heat_gain(
    heat: Float[Array, "B P"], box_cxcywh: Float[Array, "B 4"], grid: tuple[int, int]
) -> Float[Array, " B"]:
    """The mean heat of the tokens in a box less that of all tokens; 0 where it holds none."""
    inside = is_inside(box_cxcywh, grid).astype(heat.dtype)
    count = inside.sum(axis=-1)
    gain = (heat * inside).sum(axis=-1) / jnp.maximum(count, 1.0) - heat.mean(axis=-1)
    return jnp.where(count > 0, gain, 0.0)
