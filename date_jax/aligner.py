"""The domain aligner of DATE (2304.03669): makes source and target features hard to tell apart.

Either by moment matching (MMD, no parameters) or by domain discriminators behind a gradient
reversal (DANN, 1505.07818), on the concentrated vectors and on the fused `[LOC]` feature.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from date_jax import losses

KINDS = ("none", "mmd", "adversarial", "conditional_adversarial")
BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
FEATURES = ("image_rep", "image_mean", "text_rep", "text_mean", "loc")  # that MMD looks at
CELLS = 4  # the conditional discriminator sees the box as its centre's cell in a 4 x 4 grid


def _squared_distances(a: Float[Array, "N D"], b: Float[Array, "M D"]) -> Float[Array, "N M"]:
    # Large numbers cancel here, so not in an accelerator's reduced precision.
    products = jnp.matmul(a, b.T, precision="highest")
    squares = (a * a).sum(-1)[:, None] + (b * b).sum(-1)[None, :] - 2 * products
    return jnp.maximum(squares, 0.0)


class Rows(NamedTuple):
    """Attributes:
    x: features `[N D]`.
    weight: `[N]`, 0 where there is no row yet, else 1.
    """

    x: Array
    weight: Array


def mmd(
    source: Float[Array, "N D"],
    target: Float[Array, "M D"],
    *,
    unbiased: bool = False,
    earlier: tuple[Rows, Rows] | None = None,
) -> Float[Array, ""]:
    r"""Squared maximum mean discrepancy under a sum of five Gaussian kernels.

        MMD² = mean k(x,x') - 2 mean k(x,y) + mean k(y,y'),   k = Σ_a exp(-|·|² / (2 a σ²))

    with σ² the mean squared distance over the joined batch, held constant. The unbiased form leaves
    the diagonals out and may be negative. Gram blocks, because concatenating two sharded batches
    costs all-to-alls.

    Args:
        earlier: rows of earlier batches of the source and of the target, that count as well. They
            stand still, so the batch's own rows get the gradient of all.
    """

    def parts(batch: Array, queue: Rows | None) -> list[Rows]:
        x = batch.astype(jnp.float32)
        if queue is None:
            return [Rows(x, jnp.ones(len(x), jnp.float32))]
        still = jax.lax.stop_gradient(x)
        share = len(x) / (len(x) + queue.weight.sum())
        return [Rows(still + (x - still) / share, jnp.ones(len(x), jnp.float32)), queue]

    sides = {
        "s": parts(source, None if earlier is None else earlier[0]),
        "t": parts(target, None if earlier is None else earlier[1]),
    }
    blocks: dict[str, list[tuple[Array, Array]]] = {"ss": [], "st": [], "tt": []}
    for name, found in blocks.items():
        for i, a in enumerate(sides[name[0]]):
            for j, b in enumerate(sides[name[1]]):
                pairs = a.weight[:, None] * b.weight[None]
                if unbiased and name != "st" and i == j:
                    pairs = pairs * (1.0 - jnp.eye(len(pairs)))
                found.append((_squared_distances(a.x, b.x), pairs))
    total = sum(
        (2 if name == "st" else 1) * (squares * pairs).sum()
        for name, found in blocks.items()
        for squares, pairs in found
    )
    count = sum(rows.weight.sum() for side in sides.values() for rows in side)
    variance = jnp.maximum(jax.lax.stop_gradient(total / count**2), 1e-12)

    def kernel_mean(name: str) -> Array:
        sums, weights = [], []
        for squares, pairs in blocks[name]:
            kernels = (jnp.exp(-squares / (2 * a * variance)) for a in BANDWIDTHS)
            sums.append((sum(kernels, start=jnp.zeros_like(squares)) * pairs).sum())
            weights.append(pairs.sum())
        return jnp.stack(sums).sum() / jnp.stack(weights).sum()

    return kernel_mean("ss") - 2 * kernel_mean("st") + kernel_mean("tt")


def empty_queue(rows: int, width: int) -> dict[str, Any] | None:
    """Room for the features of `rows` earlier rows of each domain; None for no rows."""
    if not rows:
        return None
    side = {name: jnp.zeros((rows, width), jnp.float32) for name in FEATURES}
    return {"source": side, "target": dict(side), "filled": jnp.zeros((), jnp.int32)}


def remembered(queue: dict[str, Any], features: dict[str, dict[str, Array]]) -> dict[str, Any]:
    """The queue with the features of a batch `[B D]` in front, and the oldest gone."""
    sides = {
        side: {
            name: jnp.concatenate([features[side][name].astype(jnp.float32), old])[: len(old)]
            for name, old in queue[side].items()
        }
        for side in features
    }
    rows = len(features["source"]["loc"])
    filled = jnp.minimum(queue["filled"] + rows, len(queue["source"]["loc"]))
    return {**sides, "filled": filled}


@jax.custom_vjp
def reverse_gradient(x: Array, coefficient: Array) -> Array:
    """`x` unchanged; its gradient times `-coefficient`."""
    return x


def _forward(x: Array, coefficient: Array) -> tuple[Array, Array]:
    return x, coefficient


def _backward(coefficient: Array, gradient: Array) -> tuple[Array, Array]:
    return -coefficient * gradient, jnp.zeros_like(coefficient)


reverse_gradient.defvjp(_forward, _backward)


def reversal_coefficient(progress: Float[Array, ""] | float) -> Float[Array, ""]:
    """DANN's schedule, `2 / (1 + exp(-10 p)) - 1`: 0 at the stage's start, near 1 at its end."""
    return 2.0 / (1.0 + jnp.exp(-10.0 * jnp.asarray(progress, jnp.float32))) - 1.0


class Discriminator(nn.Module):
    """Guesses the domain of a feature: MLP with two hidden layers, one logit out (1 = source)."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, " B"]:
        for name in ("layer1", "layer2"):
            x = nn.relu(nn.Dense(self.hidden, name=name)(x))
        return nn.Dense(1, name="logit")(x)[:, 0]


class Aligner(nn.Module):
    """Three alignment terms, unweighted: `image`, `text` (marginals) and `object` (conditional).

    Attributes:
        kind: one of KINDS but `none`.
        unbiased: MMD without its diagonals.
        hidden: width of the discriminators.
    """

    kind: str
    unbiased: bool = False
    hidden: int = 1024

    @nn.compact
    def __call__(
        self,
        source: dict[str, Array],
        target: dict[str, Array],
        progress: Array,
        queue: dict[str, Any] | None = None,
    ) -> dict[str, Float[Array, ""]]:
        """Terms from FEATURES `[B D]` and `box_cxcywh [B 4]`; `queue`: of `remembered`."""
        if self.kind == "mmd":

            def distance(name: str) -> Array:
                earlier = None
                if queue is not None:
                    there = jnp.arange(len(queue["source"][name])) < queue["filled"]
                    weight = there.astype(jnp.float32)
                    earlier = (
                        Rows(queue["source"][name], weight),
                        Rows(queue["target"][name], weight),
                    )
                return mmd(source[name], target[name], unbiased=self.unbiased, earlier=earlier)

            return {
                "image": distance("image_rep") + distance("image_mean"),
                "text": distance("text_rep") + distance("text_mean"),
                "object": distance("loc"),
            }
        coefficient = reversal_coefficient(progress)
        discriminators = {
            term: Discriminator(self.hidden, name=term) for term in ("image", "text", "object")
        }

        def confusion(term: str, features: dict[str, Array], label: float) -> Array:
            if term == "object":
                x = features["loc"]
                if self.kind == "conditional_adversarial":
                    x = box_conditioned(x, features["box_cxcywh"])
            else:
                x = features[f"{term}_rep"]
            logits = discriminators[term](reverse_gradient(x.astype(jnp.float32), coefficient))
            return losses.binary_cross_entropy(logits, jnp.full_like(logits, label)).mean()

        return {
            term: (confusion(term, source, 1.0) + confusion(term, target, 0.0)) / 2
            for term in discriminators
        }


def box_conditioned(
    loc: Float[Array, "B D"], box_cxcywh: Float[Array, "B 4"]
) -> Float[Array, "B E"]:
    """`f_loc ⊗ cell`: the feature, in the slot of the box's centre (after CDAN, 1705.10667)."""
    cell = jnp.clip((box_cxcywh[:, :2] * CELLS).astype(jnp.int32), 0, CELLS - 1)
    one_hot = jax.nn.one_hot(cell[:, 1] * CELLS + cell[:, 0], CELLS * CELLS, dtype=loc.dtype)
    return (one_hot[:, :, None] * loc[:, None, :]).reshape(len(loc), -1)
