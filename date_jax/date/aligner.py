"""The domain aligner of DATE (2304.03669): makes source and target features hard to tell apart.

Either by moment matching (MMD, no parameters) or by domain discriminators behind a gradient
reversal (DANN, 1505.07818), on the concentrated vectors and on the fused `[LOC]` feature.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from date_jax import losses, sharding
from date_jax.pairs.tiles import TILE, fold_tiles
from date_jax.pairs.vectors import dot_products

KINDS = ("none", "mmd", "adversarial", "conditional_adversarial")
BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
FEATURES = ("image_rep", "image_mean", "text_rep", "text_mean", "loc")  # that MMD looks at
CELLS = 4  # the conditional discriminator sees the box as its centre's cell in a 4 x 4 grid


def _squared_distances(a: Float[Array, "N D"], b: Float[Array, "M D"]) -> Float[Array, "N M"]:
    """The squared distance of every row of `a` from every row of `b`."""
    # Large numbers cancel here, which only products in full float32 bear.
    products = dot_products(a, b)
    squares = (a * a).sum(-1)[:, None] + (b * b).sum(-1)[None, :] - 2 * products
    return jnp.maximum(squares, 0.0)


class Rows(NamedTuple):
    """Features, some of which may not be known yet.

    Attributes:
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
    tile: int = TILE,
) -> Float[Array, ""]:
    r"""Squared maximum mean discrepancy under a sum of five Gaussian kernels.

        MMD² = mean k(x,x') - 2 mean k(x,y) + mean k(y,y'),   k = Σ_a exp(-|·|² / (2 a σ²))

    with σ² the mean squared distance over the joined batch, held constant (the kernels of the
    Transfer Learning Library; used so in DATE, 2304.03669, as recalled). The unbiased form leaves
    the diagonals out and may be negative. Each device keeps its rows and runs through all others in
    tiles, so memory grows with N, and not with its square.

        >>> mmd(jnp.zeros((2, 1)), jnp.zeros((2, 1))).item()
        0.0

    Args:
        source, target: features of a batch of each domain.
        unbiased: leaves out the pairs of a row with itself.
        earlier: rows of earlier batches of the source and of the target, that count as well. They
            are held constant, so the batch's rows get the gradient of all.
        tile: columns at a time.
    """

    def rows_of_side(batch: Array, queue: Rows | None) -> list[Rows]:
        """The rows of one side: those of the batch, then those of the queue where there is one."""
        x = batch.astype(jnp.float32)
        if queue is not None:
            constant = jax.lax.stop_gradient(x)
            x = constant + (x - constant) * (len(x) + queue.weight.sum()) / len(x)
        batch_rows = Rows(x, jnp.ones(len(x), jnp.float32))
        return [batch_rows] if queue is None else [batch_rows, queue]

    # Both sides around their joint mean: far from 0 the distances would lose their digits.
    sides = {
        "source": rows_of_side(source, None if earlier is None else earlier[0]),
        "target": rows_of_side(target, None if earlier is None else earlier[1]),
    }
    centre, variance = _centre_and_variance([rows for side in sides.values() for rows in side])
    sides = {
        name: [Rows(rows.x - centre[None], rows.weight) for rows in side]
        for name, side in sides.items()
    }

    def kernel_mean(name: str, other: str) -> Array:
        """The mean kernel over all pairs of a row of one side and a row of the other."""
        (a, *a_queue), (b, *b_queue) = sides[name], sides[other]
        without_self = unbiased and name == other
        # Batch with batch, each batch with the other's queue, queue with queue.
        total = _kernel_sum(a, b, variance, without_self=without_self, tile=tile)
        for queue, batch in [*((q, b) for q in a_queue), *((q, a) for q in b_queue)]:
            total += _kernel_sum(batch, queue, variance, columns_are_whole=True, tile=tile)
        for rows, columns in zip(a_queue, b_queue, strict=True):
            sums = _kernel_sums(rows, columns, variance, without_self=without_self, tile=tile)
            total += sums.sum()
        weights = [jnp.stack([rows.weight.sum() for rows in sides[s]]).sum() for s in (name, other)]
        pairs = weights[0] * weights[1]
        return total / (pairs - weights[0] if without_self else pairs)  # a weight is 0 or 1

    between = kernel_mean("source", "target")
    return kernel_mean("source", "source") - 2 * between + kernel_mean("target", "target")


def _centre_and_variance(parts: list[Rows]) -> tuple[Float[Array, " D"], Float[Array, ""]]:
    """The mean of all rows, and the mean squared distance over all their pairs.

    The second is twice the rows' variance, so no pair need be looked at. Both are held constant.
    """

    def total(values: list[Array]) -> Array:
        return jax.lax.stop_gradient(jnp.stack(values).sum(axis=0))

    count = total([rows.weight.sum() for rows in parts])
    centre = total([(rows.weight[:, None] * rows.x).sum(axis=0) for rows in parts]) / count
    spread = [(rows.weight[:, None] * (rows.x - centre[None]) ** 2).sum() for rows in parts]
    return centre, jnp.maximum(2 * total(spread) / count, 1e-12)


def _kernel_sum(
    rows: Rows,
    columns: Rows,
    variance: Array,
    *,
    columns_are_whole: bool = False,
    without_self: bool = False,
    tile: int,
) -> Float[Array, ""]:
    """The sum of the kernels over all pairs, each device with its share of `rows`.

    Args:
        columns_are_whole: every device has all columns, as of a queue.
        variance, without_self, tile: see `_kernel_sums`.
    """
    # Places tell a row's pair with itself, also where the rows lie on several devices.
    place, column_place = jnp.arange(len(rows.x)), jnp.arange(len(columns.x))

    def device_sums(
        all_rows: sharding.Gather, local: Sequence[Any], variance: Array, *replicated: Any
    ) -> Float[Array, " n"]:
        rows, place, *sharded = local
        columns, column_place = replicated or jax.tree.map(all_rows, sharded)
        return _kernel_sums(
            rows,
            columns,
            variance,
            places=(place, column_place),
            without_self=without_self,
            tile=tile,
        )

    # Columns that lie cut over the devices are gathered; a queue is on all of them.
    others = columns, column_place
    if columns_are_whole:
        return sharding.map_rows(device_sums, [rows, place], variance, *others).sum()
    return sharding.map_rows(device_sums, [rows, place, *others], variance).sum()


def _kernel_sums(
    rows: Rows,
    columns: Rows,
    variance: Array,
    *,
    places: tuple[Array, Array] | None = None,
    without_self: bool,
    tile: int,
) -> Float[Array, " n"]:
    """The kernels of each row with all columns, summed and weighted on both sides.

    Args:
        places: of rows and columns in their set; None where both are whole.
        without_self: leaves out the pair of a row with itself.
    """
    place, column_place = places or (jnp.arange(len(rows.x)), jnp.arange(len(columns.x)))

    def add_tile(
        total: Array, real: Array, column: Array, column_weight: Array, column_place: Array
    ) -> Array:
        squares = _squared_distances(rows.x, column)
        # A bandwidth is half of the next, so its kernel is the square of the next: one exp.
        kernel = kernels = jnp.exp(-squares / (2 * BANDWIDTHS[-1] * variance))
        for _ in BANDWIDTHS[1:]:
            kernel = kernel * kernel
            kernels = kernels + kernel
        weight = jnp.broadcast_to((real * column_weight)[None], squares.shape)
        if without_self:
            weight = weight * (place[:, None] != column_place[None])
        return total + (kernels * weight).sum(axis=1)

    start = jnp.zeros(len(rows.x))
    return rows.weight * fold_tiles(add_tile, start, [*columns, column_place], tile)


def _distances(
    source: dict[str, Array],
    target: dict[str, Array],
    queue: dict[str, Any] | None,
    *,
    unbiased: bool,
) -> dict[str, Float[Array, ""]]:
    """The `mmd` of each of FEATURES, by name: one program, a tile of each at a time."""

    def feature_stack(side: dict[str, Array]) -> Float[Array, "F N D"]:
        return jnp.stack([side[name].astype(jnp.float32) for name in FEATURES])

    stacks = [feature_stack(source), feature_stack(target)]
    if queue is not None:
        stacks += [feature_stack(queue["source"]), feature_stack(queue["target"])]

    def distance(source: Array, target: Array, *queues: Array) -> Array:
        earlier = None
        if queue is not None:
            weight = (jnp.arange(len(queues[0])) < queue["filled"]).astype(jnp.float32)
            earlier = Rows(queues[0], weight), Rows(queues[1], weight)
        return mmd(source, target, unbiased=unbiased, earlier=earlier)

    return dict(zip(FEATURES, jax.vmap(distance)(*stacks), strict=True))


def empty_queue(rows: int, width: int) -> dict[str, Any]:
    """Room for the features of `rows` earlier rows of each domain, `[rows width]` each."""
    side = {name: jnp.zeros((rows, width), jnp.float32) for name in FEATURES}
    return {"source": side, "target": dict(side), "filled": jnp.zeros((), jnp.int32)}


def updated_queue(
    queue: dict[str, Any], source: dict[str, Array], target: dict[str, Array]
) -> dict[str, Any]:
    """The queue with a batch's FEATURES `[B D]` in front, held constant, and the oldest gone."""
    sides = {
        side: {
            name: jnp.concatenate(
                [jax.lax.stop_gradient(features[name]).astype(jnp.float32), earlier]
            )[: len(earlier)]
            for name, earlier in queue[side].items()
        }
        for side, features in (("source", source), ("target", target))
    }
    filled = jnp.minimum(queue["filled"] + len(source["loc"]), len(queue["source"]["loc"]))
    return {**sides, "filled": filled}


def build(config: ConfigDict) -> "Aligner | None":
    """The aligner that `config.aligner` asks for; None for the kind "none"."""
    if config.kind == "none":
        return None
    return Aligner(config.kind, config.unbiased, config.hidden)


@jax.custom_vjp
def reverse_gradient(x: Array, coefficient: Array) -> Array:
    """The identity, whose gradient is multiplied by `-coefficient` (DANN, 1505.07818)."""
    return x


def _forward(x: Array, coefficient: Array) -> tuple[Array, Array]:
    return x, coefficient


def _backward(coefficient: Array, gradient: Array) -> tuple[Array, Array]:
    return -coefficient * gradient, jnp.zeros_like(coefficient)


reverse_gradient.defvjp(_forward, _backward)


def reversal_coefficient(progress: Float[Array, ""] | float) -> Float[Array, ""]:
    """The schedule of DANN (1505.07818), `2 / (1 + exp(-10 p)) - 1`.

    It is 0 where the aligner begins, and near 1 at the end of training.
    """
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
    """The terms of alignment, unweighted: `image`, `text` (marginals) and `object` (conditional).

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
        """The terms, by name.

        Args:
            source, target: FEATURES `[B D]` and `box_cxcywh [B 4]` of a batch of each domain.
            progress: of the stage, from 0 to 1, for the reversal coefficient.
            queue: of `updated_queue`; for MMD alone.
        """
        # Moment matching has no parameters.
        if self.kind == "mmd":
            distance = _distances(source, target, queue, unbiased=self.unbiased)
            return {
                "image": distance["image_rep"] + distance["image_mean"],
                "text": distance["text_rep"] + distance["text_mean"],
                "object": distance["loc"],
            }
        # One discriminator a term; the extractors are trained to confuse it.
        coefficient = reversal_coefficient(progress)
        discriminators = {
            term: Discriminator(self.hidden, name=term) for term in ("image", "text", "object")
        }

        def confusion(term: str, features: dict[str, Array], label: float) -> Array:
            if term == "object":
                x = features["loc"]
                if self.kind == "conditional_adversarial":
                    x = feature_by_cell(x, features["box_cxcywh"])
            else:
                x = features[f"{term}_rep"]
            logits = discriminators[term](reverse_gradient(x.astype(jnp.float32), coefficient))
            return losses.binary_cross_entropy(logits, jnp.full_like(logits, label)).mean()

        return {
            term: (confusion(term, source, 1.0) + confusion(term, target, 0.0)) / 2
            for term in discriminators
        }


def feature_by_cell(
    loc: Float[Array, "B D"], box_cxcywh: Float[Array, "B 4"]
) -> Float[Array, "B E"]:
    """The outer product `f_loc ⊗ cell`: the feature in the slot of the box's centre.

    After CDAN (1705.10667), with the box discretised to CELLS x CELLS.
    """
    cell = jnp.clip((box_cxcywh[:, :2] * CELLS).astype(jnp.int32), 0, CELLS - 1)
    one_hot = jax.nn.one_hot(cell[:, 1] * CELLS + cell[:, 0], CELLS * CELLS, dtype=loc.dtype)
    return (one_hot[:, :, None] * loc[:, None, :]).reshape(len(loc), -1)
