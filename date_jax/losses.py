"""Losses: arrays in, one number per example out. The task masks, weighs and averages."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from date_jax import boxes


def masked_mean(values: Float[Array, " B"], weight: Array) -> Float[Array, ""]:
    """Mean of `values` under non-negative weights; 0 where all weights are 0."""
    weight = weight.astype(values.dtype)
    total = weight.sum()
    return (values * weight).sum() / jnp.where(total > 0, total, 1.0)


def box_l1(
    predicted_cxcywh: Float[Array, "B 4"], true_cxcywh: Float[Array, "B 4"]
) -> Float[Array, " B"]:
    """Absolute differences of the four numbers, summed (TransVG's form)."""
    return jnp.abs(predicted_cxcywh - true_cxcywh).sum(axis=-1)


def box_giou(
    predicted_cxcywh: Float[Array, "B 4"], true_cxcywh: Float[Array, "B 4"]
) -> Float[Array, " B"]:
    """`1 - GIoU`, in [0, 2)."""
    return 1.0 - boxes.giou(boxes.xyxy(predicted_cxcywh), boxes.xyxy(true_cxcywh))


def contrastive_softmax(
    similarity: Float[Array, "B B"],
    positive: Bool[Array, "B B"],
    *,
    scale: Float[Array, ""],
    prior_temperature: float = 0.0,
) -> Float[Array, " B"]:
    r"""In-batch contrastive loss of images against queries, both directions, per pair.

        L_i = ½ [ CE_v(ℓ · s · m_q2v) + CE_q(ℓ · s · m_v2q) ]                    (after DATE, L_img)

    `m` is the dual-softmax prior: for every image, a softmax over the queries of `τ s` (which query
    claims it), and the reverse; with `prior_temperature` 0 there is none.

    Args:
        similarity: cosine of query i (rows) and image j (columns), over the whole global batch.
        positive: which pairs show the same product. Targets are spread evenly over them, so that
            another picture of the same product is never taken for a negative.
        scale: the learnt inverse temperature ℓ.
        prior_temperature: τ.
    """

    def direction(similarity: Array, positive: Array) -> Array:
        # Rows search columns; the prior asks, for each column, which row claims it.
        logits = scale * similarity
        if prior_temperature:
            logits = logits * jax.nn.softmax(prior_temperature * similarity, axis=0)
        target = positive / positive.sum(axis=1, keepdims=True)
        return -(target * jax.nn.log_softmax(logits, axis=1)).sum(axis=1)

    positive = positive.astype(similarity.dtype)
    return (direction(similarity, positive) + direction(similarity.T, positive.T)) / 2


def contrastive_sigmoid(
    similarity: Float[Array, "B B"],
    positive: Bool[Array, "B B"],
    *,
    scale: Float[Array, ""],
    bias: Float[Array, ""],
) -> Float[Array, " B"]:
    """Every pair on its own, as a yes-no question (SigLIP, arXiv 2303.15343), summed over a row."""
    sign = jnp.where(positive, 1.0, -1.0)
    return -jax.nn.log_sigmoid(sign * (scale * similarity + bias)).sum(axis=1)


def binary_cross_entropy(
    logits: Float[Array, " B"], target: Float[Array, " B"]
) -> Float[Array, " B"]:
    """Cross-entropy of a yes-no answer, stable for large logits."""
    return jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))
