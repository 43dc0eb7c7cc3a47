"""In-batch contrastive losses over the whole global batch, in tiles: no array grows with B x B.

Each device keeps its rows and runs through all columns tile by tile; the backward pass computes the
tiles again. Memory grows with B, and not with its square. A tile serves both directions: rows are
complete on their device, columns are sums over devices.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from date_jax import sharding
from date_jax.losses import MASKED
from date_jax.pairs.tiles import TILE, fold_tiles, scan_tiles
from date_jax.pairs.vectors import dot_products
from date_jax.sharding import Gather


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

    claims = []
    if prior_temperature:
        claims = [*_log_sums(query, image, temperature=prior_temperature, tile=tile)]

    def of_rows(
        all_rows: Gather, given: Sequence[Array], scale: Array, *image_claim: Array
    ) -> tuple[Array, ...]:
        query, image, identity, *query_claim = given

        def added(
            carry: tuple[Array, Array, Array],
            real: Bool[Array, " t"],
            part: Array,
            their: Array,
            *claim: Array,
        ) -> tuple[tuple[Array, Array, Array], tuple[Array, Array]]:
            total, wanted, count = carry
            similarity = dot_products(query, part)
            by_query = by_image = scale * similarity
            if claim:
                by_query *= jnp.exp(prior_temperature * similarity - claim[0][None])
                # Nothing of what only fills the tile up, or an overflow there is a gradient of NaN.
                prior = prior_temperature * similarity - query_claim[0][:, None]
                by_image *= jnp.exp(jnp.where(real[None], prior, 0.0))
            by_query = jnp.where(real[None], by_query, MASKED)
            positive = _positive(identity, their) & real[None]
            total = jnp.logaddexp(total, jax.nn.logsumexp(by_query, axis=1))
            wanted += jnp.where(positive, by_query, 0.0).sum(axis=1)
            of_images = jnp.where(positive, by_image, 0.0).sum(axis=0)
            sums = total, wanted, count + positive.sum(axis=1)
            return sums, (jax.nn.logsumexp(by_image, axis=0), of_images)

        none = jnp.zeros(len(query))
        columns = [all_rows(image), all_rows(identity), *image_claim]
        sums, of_images = scan_tiles(added, (none + MASKED, none, none), columns, tile)
        return (*sums, *(x[None] for x in of_images))

    rows = [query, image, identity, *claims[:1]]
    found = sharding.map_rows(of_rows, rows, scale, *claims[1:])
    by_query, wanted, count, by_image, of_images = found
    by_image = jax.nn.logsumexp(by_image, axis=0)
    # A row has as many positives among the images as among the queries.
    return (by_query + by_image - (wanted + of_images.sum(axis=0)) / count) / 2


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
            each = -jax.nn.log_sigmoid(sign * (scale * dot_products(query, part) + bias))
            return loss + jnp.where(real[None], each, 0.0).sum(axis=1)

        columns = [all_rows(image), all_rows(identity)]
        return fold_tiles(added, jnp.zeros(len(query)), columns, tile)

    return sharding.map_rows(of_rows, [query, image, identity], scale, bias)


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

    across = _log_sums(image, text, temperature=1 / temperature, tile=tile)

    def of_rows(all_rows: Gather, given: Sequence[Array]) -> Float[Array, " b"]:
        x, number = given

        def added(total: Array, real: Bool[Array, " t"], part: Array, their: Array) -> Array:
            others = real[None] & (number[:, None] != their[None])
            logits = jnp.where(others, dot_products(x, part) / temperature, MASKED)
            return jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=1))

        return fold_tiles(added, jnp.full(len(x), MASKED), [all_rows(x), all_rows(number)], tile)

    number = jnp.arange(len(image))
    both = [
        jnp.logaddexp(sharding.map_rows(of_rows, [x, number]), other)
        for x, other in zip((image, text), across, strict=True)
    ]
    return (both[0] + both[1]) / 2 - (image * text).sum(axis=1) / temperature


def _positive(rows: UInt32[Array, "B K"], columns: UInt32[Array, "t K"]) -> Bool[Array, "B t"]:
    return (rows[:, None] == columns[None]).any(axis=-1)


def _log_sums(
    rows: Float[Array, "B D"], columns: Float[Array, "B D"], *, temperature: float, tile: int
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """log Σ exp(temperature · cosine) of every row over all columns, and of every column."""

    def of_rows(all_rows: Gather, given: Sequence[Array]) -> tuple[Array, Array]:
        rows, columns = given

        def added(
            total: Array, real: Bool[Array, " t"], part: Array
        ) -> tuple[Float[Array, " b"], Float[Array, " t"]]:
            logits = temperature * dot_products(rows, part)
            of_columns = jax.nn.logsumexp(logits, axis=0)
            logits = jnp.where(real[None], logits, MASKED)
            return jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=1)), of_columns

        total, own = scan_tiles(added, jnp.full(len(rows), MASKED), [all_rows(columns)], tile)
        return total, own[None]

    by_row, by_column = sharding.map_rows(of_rows, [rows, columns])
    return by_row, jax.nn.logsumexp(by_column, axis=0)
