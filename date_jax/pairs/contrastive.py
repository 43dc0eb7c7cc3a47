"""Contrastive losses over the whole global batch, in tiles: no array grows with B x B.

Each device keeps its rows and runs through all columns tile by tile; the backward pass computes the
tiles again. Memory grows with B, and not with its square. A tile serves both directions: rows are
complete on their device, columns are sums over devices.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from date_jax import sharding
from date_jax.losses import MASKED
from date_jax.pairs.tiles import TILE, fold_tiles, scan_tiles
from date_jax.pairs.vectors import dot_products
from date_jax.sharding import Gather


def aligned_matches(
    rows: UInt32[Array, "B K"], columns: UInt32[Array, "t K"]
) -> Bool[Array, "B t"]:
    """Whether a row and a column have the same number in the same one of their K places.

    Args:
        rows, columns: each place has numbers of one kind, such as the product and the text.

    Example: the second column has the row's numbers in other places.

        >>> row, columns = jnp.uint32([[1, 2]]), jnp.uint32([[1, 3], [2, 1]])
        >>> aligned_matches(row, columns)
        Array([[ True, False]], dtype=bool)
    """
    return (rows[:, None] == columns[None]).any(axis=-1)


def crosswise_matches(
    rows: UInt32[Array, "B K"], columns: UInt32[Array, "t K"]
) -> Bool[Array, "B t"]:
    """Whether a row and a column have a number in common, in whichever of their K places.

    Args:
        rows, columns: all places have numbers of one kind, such as a pair's two offers.

    Example: a pair of offers, its own reverse, and a pair of two others.

        >>> row, columns = jnp.uint32([[1, 2]]), jnp.uint32([[2, 1], [3, 4]])
        >>> crosswise_matches(row, columns)
        Array([[ True, False]], dtype=bool)
    """
    return (rows[:, None, :, None] == columns[None, :, None, :]).any(axis=(-2, -1))


def softmax(
    query: Float[Array, "B D"],
    image: Float[Array, "B D"],
    identity: UInt32[Array, "B K"],
    *,
    scale: Float[Array, ""],
    prior_temperature: float = 0.0,
    matches: Callable[[Array, Array], Array] = aligned_matches,
    tile: int = TILE,
) -> Float[Array, " B"]:
    r"""Cross-entropy of images against queries, in both directions, per pair.

        L_i = ½ [ CE_v(ℓ · s · m_q2v) + CE_q(ℓ · s · m_v2q) ]

    The form without a prior is CLIP's (2103.00020). `m` is the dual-softmax prior (2109.04290): for
    every image, a softmax over the queries of `τ s` (which query claims it), and the reverse.

    Args:
        query, image: unit vectors, row i of each is a pair; `s` is their cosine.
        identity: K numbers a row, of which `matches` tells the positives. Targets are spread
            evenly over them, so that another picture of the same product is never taken for a
            negative.
        scale: the learnt inverse temperature ℓ.
        prior_temperature: τ; with 0 there is no prior.
        matches: `aligned_matches` or `crosswise_matches`: which rows are each other's positives.
        tile: columns at a time.

    Example: nothing tells two images apart, so each query has one of them by chance.

        >>> alike, products = jnp.ones((2, 1)), jnp.array([[0], [1]], jnp.uint32)
        >>> softmax(alike, alike, products, scale=jnp.array(1.0))
        Array([0.693, 0.693], dtype=float32)
    """
    # The prior's softmaxes need their sums first: over images for queries, and the reverse.
    log_sums = []
    if prior_temperature:
        log_sums = [*_log_sums(query, image, temperature=prior_temperature, tile=tile)]

    def device_sums(
        all_rows: Gather, device_rows: Sequence[Array], scale: Array, *image_log_sum: Array
    ) -> tuple[Array, ...]:
        query, image, identity, *query_log_sum = device_rows

        def add_tile(
            sums: tuple[Array, Array, Array],
            real: Bool[Array, " t"],
            images: Array,
            identities: Array,
            *log_sum: Array,
        ) -> tuple[tuple[Array, Array, Array], tuple[Array, Array]]:
            total, positive_logits, positive_count = sums
            similarity = dot_products(query, images)
            by_query = by_image = scale * similarity
            if log_sum:
                by_query *= jnp.exp(prior_temperature * similarity - log_sum[0][None])
                # Nothing of what only fills the tile up, or an overflow there is a gradient of NaN.
                prior = prior_temperature * similarity - query_log_sum[0][:, None]
                by_image *= jnp.exp(jnp.where(real[None], prior, 0.0))

            # A query's sums grow from tile to tile; an image's are complete with this one.
            by_query = jnp.where(real[None], by_query, MASKED)
            positive = matches(identity, identities) & real[None]
            total = jnp.logaddexp(total, jax.nn.logsumexp(by_query, axis=1))
            positive_logits += jnp.where(positive, by_query, 0.0).sum(axis=1)
            image_logits = jnp.where(positive, by_image, 0.0).sum(axis=0)
            sums = total, positive_logits, positive_count + positive.sum(axis=1)
            return sums, (jax.nn.logsumexp(by_image, axis=0), image_logits)

        # Every device compares its queries with the images of all.
        zeros = jnp.zeros(len(query))
        columns = [all_rows(image), all_rows(identity), *image_log_sum]
        sums, of_images = scan_tiles(add_tile, (zeros + MASKED, zeros, zeros), columns, tile)
        return (*sums, *(x[None] for x in of_images))

    # Each device has the sums of its queries, and a part of every image's.
    rows = [query, image, identity, *log_sums[:1]]
    sums = sharding.map_rows(device_sums, rows, scale, *log_sums[1:])
    by_query, query_logits, count, by_image, image_logits = sums
    by_image = jax.nn.logsumexp(by_image, axis=0)
    # A row has as many positives among the images as among the queries.
    return (by_query + by_image - (query_logits + image_logits.sum(axis=0)) / count) / 2


def sigmoid(
    query: Float[Array, "B D"],
    image: Float[Array, "B D"],
    identity: UInt32[Array, "B K"],
    *,
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    tile: int = TILE,
) -> Float[Array, " B"]:
    r"""Every pair as a yes-no question, summed over a query's row (SigLIP, 2303.15343).

        L_i = - Σ_j log σ( z_ij (ℓ s_ij + b) ),    z_ij = 1 for positives, else -1

    Args:
        query, image, tile: see `softmax`.
        identity: rows with an equal number in one of the K places are each other's positives.
        scale: the learnt inverse temperature ℓ.
        bias: the learnt b, of which a logit is so far from 0 that the many negatives begin right.

    Example: two open questions a query cost log 2 each.

        >>> rows, products, zero = jnp.eye(2), jnp.array([[0], [1]], jnp.uint32), jnp.array(0.0)
        >>> sigmoid(rows, rows, products, scale=zero, bias=zero)
        Array([1.386, 1.386], dtype=float32)
    """

    def device_losses(
        all_rows: Gather, device_rows: Sequence[Array], scale: Array, bias: Array
    ) -> Float[Array, " b"]:
        query, image, identity = device_rows

        def add_tile(
            loss: Array, real: Bool[Array, " t"], images: Array, identities: Array
        ) -> Array:
            # A logit's sign says what would be right; the loss is how far it is from that.
            sign = jnp.where(aligned_matches(identity, identities), 1.0, -1.0)
            logits = scale * dot_products(query, images) + bias
            losses = -jax.nn.log_sigmoid(sign * logits)
            return loss + jnp.where(real[None], losses, 0.0).sum(axis=1)

        # Pairs are independent of each other, so a row needs nothing but their sum.
        columns = [all_rows(image), all_rows(identity)]
        return fold_tiles(add_tile, jnp.zeros(len(query)), columns, tile)

    return sharding.map_rows(device_losses, [query, image, identity], scale, bias)


def nt_xent(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    *,
    temperature: float,
    tile: int = TILE,
) -> Float[Array, " B"]:
    r"""NT-Xent on the 2B vectors of both modalities, per pair (SimCLR, 2002.05709).

        L_i = ½ Σ_a - log( exp(a_i · b_i / τ) / Σ_{x ≠ a_i} exp(a_i · x / τ) )

    over a = image and a = text, b the other, and x all 2B vectors but a_i itself: each vector has
    one positive, the other modality of its row, among 2B - 1 others of either modality.

    Args:
        image, text: unit vectors, row i of each is a pair.
        temperature: τ; logits are cosines / τ.
        tile: columns at a time.

    Example: one positive among three equal vectors.

        >>> alike = jnp.ones((2, 1))
        >>> nt_xent(alike, alike, temperature=1.0)
        Array([1.099, 1.099], dtype=float32)
    """
    # Of every image over all texts, and of every text over all images.
    across = _log_sums(image, text, temperature=1 / temperature, tile=tile)

    def device_log_sums(all_rows: Gather, device_rows: Sequence[Array]) -> Float[Array, " b"]:
        rows, number = device_rows

        def add_tile(
            total: Array, real: Bool[Array, " t"], columns: Array, column_number: Array
        ) -> Array:
            # A vector is no negative of itself.
            others = real[None] & (number[:, None] != column_number[None])
            logits = jnp.where(others, dot_products(rows, columns) / temperature, MASKED)
            return jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=1))

        start = jnp.full(len(rows), MASKED)
        return fold_tiles(add_tile, start, [all_rows(rows), all_rows(number)], tile)

    # To the sums over the other modality come those over a vector's own, without itself.
    number = jnp.arange(len(image))
    log_sums = [
        jnp.logaddexp(sharding.map_rows(device_log_sums, [rows, number]), of_other_modality)
        for rows, of_other_modality in zip((image, text), across, strict=True)
    ]
    return (log_sums[0] + log_sums[1]) / 2 - (image * text).sum(axis=1) / temperature


def _log_sums(
    rows: Float[Array, "B D"], columns: Float[Array, "B D"], *, temperature: float, tile: int
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Log Σ exp(temperature · cosine) of every row over all columns, and of every column."""

    def device_log_sums(all_rows: Gather, device_rows: Sequence[Array]) -> tuple[Array, Array]:
        rows, columns = device_rows

        def add_tile(
            total: Array, real: Bool[Array, " t"], tile_columns: Array
        ) -> tuple[Float[Array, " b"], Float[Array, " t"]]:
            # Zeros that fill a tile up are columns too, and are cut off where tiles are joined.
            logits = temperature * dot_products(rows, tile_columns)
            of_columns = jax.nn.logsumexp(logits, axis=0)
            logits = jnp.where(real[None], logits, MASKED)
            return jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=1)), of_columns

        start = jnp.full(len(rows), MASKED)
        of_rows, of_columns = scan_tiles(add_tile, start, [all_rows(columns)], tile)
        return of_rows, of_columns[None]

    # Each device has seen a part of every column.
    of_rows, of_columns = sharding.map_rows(device_log_sums, [rows, columns])
    return of_rows, jax.nn.logsumexp(of_columns, axis=0)
