"""Losses: arrays in, one number per example out. The task masks, weighs and averages."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from date_jax import boxes

MASKED = -1e9  # a logit that softmax turns into an exact 0 in float32 and bfloat16


def masked_mean(values: Float[Array, " B"], weight: Array) -> Float[Array, ""]:
    """The mean of `values` under non-negative weights, `Σ w_i v_i / Σ w_i`; 0 where all are 0.

    Args:
        values: one number per example.
        weight: `[B]`, numbers or booleans.

    Example: the second value does not count.

        >>> masked_mean(jnp.array([1.0, 5.0, 3.0]), jnp.array([True, False, True]))
        Array(2., dtype=float32)
    """
    weight = weight.astype(values.dtype)
    total = weight.sum()
    return (values * weight).sum() / jnp.where(total > 0, total, 1.0)


def box_l1(
    predicted_cxcywh: Float[Array, "B 4"], true_cxcywh: Float[Array, "B 4"]
) -> Float[Array, " B"]:
    """The absolute differences of a box's four numbers, summed: `L_i = Σ_k |p_ik - t_ik|`.

    DETR's (2005.12872) and TransVG's (2104.08541) form, over centre and size.

    Args:
        predicted_cxcywh, true_cxcywh: boxes in [0, 1].

    Example: a quarter off in one number, nothing off.

        >>> true = jnp.full((2, 4), 0.5)
        >>> box_l1(true.at[0, 2].set(0.75), true)
        Array([0.25, 0.  ], dtype=float32)
    """
    return jnp.abs(predicted_cxcywh - true_cxcywh).sum(axis=-1)


def box_giou(
    predicted_cxcywh: Float[Array, "B 4"], true_cxcywh: Float[Array, "B 4"]
) -> Float[Array, " B"]:
    """The GIoU loss of a box, `L_i = 1 - GIoU(p_i, t_i)`, in [0, 2) (1902.09630).

    Args:
        predicted_cxcywh, true_cxcywh: boxes in [0, 1].

    Example: the box itself, then one of half its width.

        >>> true = jnp.array([[0.5, 0.5, 0.5, 0.5]] * 2)
        >>> box_giou(true.at[1, 2].set(0.25), true)
        Array([0. , 0.5], dtype=float32)
    """
    return 1.0 - boxes.giou(boxes.xyxy(predicted_cxcywh), boxes.xyxy(true_cxcywh))


def binary_cross_entropy(
    logits: Float[Array, " B"], target: Float[Array, " B"]
) -> Float[Array, " B"]:
    """Cross-entropy of a yes-no answer, stable for large logits; a discriminator's (1406.2661).

        L_i = -t_i log σ(x_i) - (1 - t_i) log(1 - σ(x_i))
            = max(x_i, 0) - x_i t_i + log(1 + exp(-|x_i|))

    Args:
        logits: x, from -∞ (no) to ∞ (yes).
        target: t, 0 (no) to 1 (yes).

    Example: undecided, right, and wrong.

        >>> binary_cross_entropy(jnp.array([0.0, 9.0, -9.0]), jnp.ones(3))
        Array([0.693, 0.000, 9.000], dtype=float32)
    """
    return jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))
