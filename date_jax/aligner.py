"""The domain aligner of DATE (2304.03669): makes source and target features hard to tell apart.

Either by moment matching (MMD, no parameters) or by domain discriminators behind a gradient
reversal (DANN, 1505.07818), on the concentrated vectors and on the fused `[LOC]` feature.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from date_jax import losses

KINDS = ("none", "mmd", "adversarial", "conditional_adversarial")
BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
CELLS = 4  # the conditional discriminator sees the box as its centre's cell in a 4 x 4 grid


def _squared_distances(a: Float[Array, "N D"], b: Float[Array, "M D"]) -> Float[Array, "N M"]:
    squares = (a * a).sum(-1)[:, None] + (b * b).sum(-1)[None, :] - 2 * a @ b.T
    return jnp.maximum(squares, 0.0)


def mmd(
    source: Float[Array, "N D"], target: Float[Array, "M D"], *, unbiased: bool = False
) -> Float[Array, ""]:
    r"""Squared maximum mean discrepancy under a sum of five Gaussian kernels.

        MMD² = mean k(x,x') - 2 mean k(x,y) + mean k(y,y'),   k = Σ_a exp(-|·|² / (2 a σ²))

    with σ² the mean squared distance over the joined batch, held constant. The unbiased form leaves
    the diagonals out and may be negative. Three Gram blocks, because concatenating two sharded
    batches costs all-to-alls.
    """
    source, target = source.astype(jnp.float32), target.astype(jnp.float32)
    blocks = {
        "ss": _squared_distances(source, source),
        "st": _squared_distances(source, target),
        "tt": _squared_distances(target, target),
    }
    n, m = len(source), len(target)
    total = blocks["ss"].sum() + 2 * blocks["st"].sum() + blocks["tt"].sum()
    variance = jax.lax.stop_gradient(total / ((n + m) ** 2))
    variance = jnp.maximum(variance, 1e-12)

    def kernel_mean(squares: Array, same: bool) -> Array:
        kernels = [jnp.exp(-squares / (2 * a * variance)) for a in BANDWIDTHS]
        kernel = sum(kernels, start=jnp.zeros_like(squares))
        if same and unbiased:
            rows = len(squares)
            off_diagonal = 1.0 - jnp.eye(rows, dtype=squares.dtype)
            return (kernel * off_diagonal).sum() / (rows * (rows - 1))
        return kernel.mean()

    return (
        kernel_mean(blocks["ss"], True)
        - 2 * kernel_mean(blocks["st"], False)
        + kernel_mean(blocks["tt"], True)
    )


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
        self, source: dict[str, Array], target: dict[str, Array], progress: Array
    ) -> dict[str, Float[Array, ""]]:
        """Terms from `image_rep image_mean text_rep text_mean loc [B D]` and `box_cxcywh [B 4]`."""
        if self.kind == "mmd":

            def distance(name: str) -> Array:
                return mmd(source[name], target[name], unbiased=self.unbiased)

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
