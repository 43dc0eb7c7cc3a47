"""Losses: arrays in, one number per example out. The task masks, weighs and averages."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from date_jax import boxes

MASKED = -1e9  # a logit that softmax turns into an exact 0 in float32 and bfloat16


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


def binary_cross_entropy(
    logits: Float[Array, " B"], target: Float[Array, " B"]
) -> Float[Array, " B"]:
    """Cross-entropy of a yes-no answer, stable for large logits."""
    return jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))
