"""In-batch contrastive losses over the whole global batch, in tiles: no array grows with B x B.

Each device keeps its rows and runs through all columns tile by tile; the backward pass computes the
tiles again. Memory grows with B, and not with its square.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from date_jax import sharding
from date_jax.sharding import Gather
from date_jax.tiles import TILE, folded
from date_jax.transformer import MASKED


def softmax(
    query: Float[Array, "B D"],
    image: Float[Array, "B D"],
    identity: UInt32[Array, "B K"],
    *,
    scale: Float[Array, ""],
    prior_temperature: float = 0.0,
    tile: int = TILE,
) -> Float[Array, " B"]:
    r"""Images against queries, both directions, per pair.

        L_i = ½ [ CE_v(ℓ · s · m_q2v) + CE_q(ℓ · s · m_v2q) ]                    (after DATE, L_img)

    `m` is the dual-softmax prior: for every image, a softmax over the queries of `τ s` (which query
    claims it), and the reverse; with `prior_temperature` 0 there is none.

    Args:
        query, image: unit vectors, row i of each is a pair; `s` is their cosine.
        identity: rows that agree in one of the K numbers are each other's positives. Targets are
            spread evenly over them, so that another picture of the same product is never taken for
            a negative.
        scale: the learnt inverse temperature ℓ.
        prior_temperature: τ.
        tile: columns at a time.
    """

    def of_rows(all_rows: Gather, given: Sequence[Array], scale: Array) -> Float[Array, " b"]:
        query, image, identity = given
        queries, images, identities = (all_rows(x) for x in given)

        def direction(rows: Array, others: Array, all_own: Array, all_others: Array) -> Array:
            columns = [all_others, identities]
            if prior_temperature:
                claims = _log_normaliser(others, all_own, prior_temperature, tile)
                columns.append(all_rows(claims))

            def added(
                carry: Any, real: Bool[Array, " t"], part: Array, their: Array, *prior: Array
            ) -> Any:
                total, wanted, count = carry
                similarity = _cosines(rows, part)
                logits = scale * similarity
                if prior:
                    logits = logits * jnp.exp(prior_temperature * similarity - prior[0][None])
                logits = jnp.where(real[None], logits, MASKED)
                positive = _positive(identity, their) & real[None]
                total = jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=1))
                wanted = wanted + jnp.where(positive, logits, 0.0).sum(axis=1)
                return total, wanted, count + positive.sum(axis=1)

            none = jnp.zeros(len(rows))
            total, wanted, count = folded(added, (none + MASKED, none, none), columns, tile)
            return total - wanted / count

        by_query = direction(query, image, queries, images)
        by_image = direction(image, query, images, queries)
        return (by_query + by_image) / 2

    return sharding.on_own_rows(of_rows, [query, image, identity], scale)


def sigmoid(
    query: Float[Array, "B D"],
    image: Float[Array, "B D"],
    identity: UInt32[Array, "B K"],
    *,
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    tile: int = TILE,
) -> Float[Array, " B"]:
    """Every pair on its own, as a yes-no question (SigLIP, 2303.15343), summed over a query's row.

    Args: see `softmax`; the logit of a pair is `scale · s + bias`.
    """

    def of_rows(
        all_rows: Gather, given: Sequence[Array], scale: Array, bias: Array
    ) -> Float[Array, " b"]:
        query, image, identity = given

        def added(loss: Array, real: Bool[Array, " t"], part: Array, their: Array) -> Array:
            sign = jnp.where(_positive(identity, their), 1.0, -1.0)
            each = -jax.nn.log_sigmoid(sign * (scale * _cosines(query, part) + bias))
            return loss + jnp.where(real[None], each, 0.0).sum(axis=1)

        columns = [all_rows(image), all_rows(identity)]
        return folded(added, jnp.zeros(len(query)), columns, tile)

    return sharding.on_own_rows(of_rows, [query, image, identity], scale, bias)


def nt_xent(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    *,
    temperature: float,
    tile: int = TILE,
) -> Float[Array, " B"]:
    """NT-Xent (2002.05709) on the 2B vectors of both modalities, per pair.

    Each vector has one positive, the other modality of its own row, among 2B - 1 others of either
    modality; a row's loss is the mean of its two.

    Args:
        image, text: unit vectors, row i of each is a pair.
        temperature: τ; logits are cosines / τ.
        tile: columns at a time.
    """

    def of_rows(all_rows: Gather, given: Sequence[Array]) -> Float[Array, " b"]:
        image, text, number = given
        columns = [all_rows(x) for x in given]

        def added(
            totals: Any, real: Bool[Array, " t"], images: Array, texts: Array, their: Array
        ) -> Any:
            itself = number[:, None] == their[None]

            def over(rows: Array, same: Array, others: Array) -> Array:
                among = jnp.where(real[None] & ~itself, _cosines(rows, same) / temperature, MASKED)
                across = jnp.where(real[None], _cosines(rows, others) / temperature, MASKED)
                return jax.nn.logsumexp(jnp.concatenate([among, across], axis=1), axis=1)

            by_image, by_text = totals
            by_image = jnp.logaddexp(by_image, over(image, images, texts))
            return by_image, jnp.logaddexp(by_text, over(text, texts, images))

        none = jnp.full(len(image), MASKED)
        by_image, by_text = folded(added, (none, none), columns, tile)
        return (by_image + by_text) / 2 - (image * text).sum(axis=1) / temperature

    return sharding.on_own_rows(of_rows, [image, text, jnp.arange(len(image))])


def _cosines(rows: Float[Array, "B D"], columns: Float[Array, "t D"]) -> Float[Array, "B t"]:
    # An accelerator's default would round to bfloat16, and the scale multiplies that by up to 100.
    return jnp.matmul(rows, columns.T, precision="highest")


def _positive(rows: UInt32[Array, "B K"], columns: UInt32[Array, "t K"]) -> Bool[Array, "B t"]:
    return (rows[:, None] == columns[None]).any(axis=-1)


def _log_normaliser(rows: Array, columns: Array, temperature: float, tile: int) -> Array:
    """log Σ_j exp(temperature · cosine) of every row."""

    def added(total: Array, real: Bool[Array, " t"], part: Array) -> Array:
        logits = jnp.where(real[None], temperature * _cosines(rows, part), MASKED)
        return jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=1))

    return folded(added, jnp.full(len(rows), MASKED), [columns], tile)
