"""AdamW as every task uses it, its schedule, and the moving average of the parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def _cosine(peak: float, steps: int, rise: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(peak, max(1, steps - rise))


def _step(peak: float, steps: int, rise: int) -> optax.Schedule:
    drop = round(steps * 2 / 3)  # 60 of 90 epochs, as TransVG trains
    return optax.piecewise_constant_schedule(peak, {max(1, drop - rise): 0.1})


# How the rate falls after a rise of that many steps: `(peak, steps, rise) -> schedule`.
SCHEDULES: dict[str, Callable[[float, int, int], optax.Schedule]] = {
    "cosine": _cosine,
    "step": _step,
}


def learning_rate_schedule(
    *, peak: float, steps: int, warmup: float, schedule: str
) -> optax.Schedule:
    """The learning rate by step: a linear warm-up, then a cosine to zero or a drop to a tenth.

    The first update of a warm-up has the rate 0, as in optax and in Hugging Face's schedules: it
    moves no parameter, and AdamW's averages begin with its gradient. That is one update of a run.

    Args:
        peak: the highest rate.
        steps: of the whole run.
        warmup: share of `steps` spent rising from 0; without it the first step has the peak.
        schedule: one of SCHEDULES.
    """
    # At least one step of a warm-up that is asked for.
    rise = max(1, round(warmup * steps)) if warmup else 0
    fall = SCHEDULES[schedule](peak, steps, rise)
    if not rise:
        return fall
    return optax.join_schedules([optax.linear_schedule(0.0, peak, rise), fall], boundaries=[rise])


def decay_mask(params: Any) -> Any:
    """True for the parameters that weight decay acts on: matrices, not biases, norms, positions.

    A position, type or bias table is a matrix by shape only: pulling it to zero would forget
    places rather than simplify a map.
    """

    def is_matrix(path: tuple[Any, ...], leaf: Any) -> bool:
        name = str(getattr(path[-1], "key", path[-1]))
        return leaf.ndim >= 2 and (name == "kernel" or name == "embedding")

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def optimizer(
    schedule: optax.Schedule,
    *,
    beta2: float,
    weight_decay: float,
    clip: float,
    backbone_scale: float,
    backbone_mask: Callable[[Any], Any],
) -> optax.GradientTransformation:
    """AdamW (1711.05101) behind a clip by global norm, with another rate for a pretrained backbone.

    Args:
        schedule: learning rate by step, of `learning_rate_schedule`.
        beta2: decay of the squared gradients' average.
        weight_decay: decoupled, times the learning rate, where `decay_mask` is True.
        clip: greatest global norm of the gradient.
        backbone_scale: factor on the learning rate where `backbone_mask` is True.
        backbone_mask: from parameters a tree of bools, True for those that may have come
            pretrained.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(schedule, b2=beta2, weight_decay=weight_decay, mask=decay_mask),
        optax.masked(optax.scale(backbone_scale), backbone_mask),
    )


def moving_average(average: Any, params: Any, *, step: Int[Array, ""], decay: float) -> Any:
    """The exponential average of the parameters after one more step.

        average ← k · average + (1 - k) · params,    k = min(decay, (1 + t) / (10 + t))

    The ramp lets the average leave the initial values quickly: with a plain 0.999 they would
    still hold a third of it after 1,000 steps.

    Args:
        average: tree like `params`, float32.
        params: the current parameters.
        step: t, updates done before this one.
        decay: the most that is kept of the old average.
    """
    keep: Float[Array, ""] = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: keep * old + (1.0 - keep) * new, average, params)
