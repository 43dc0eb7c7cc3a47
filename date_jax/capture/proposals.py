"""Proposals: where in a picture a product may be, and what of the picture lies there.

A class-agnostic, anchor-free head (after FCOS, 1904.01355) on an image extractor's tokens: each
token says whether a product's middle is here, and how far its four sides are away. It learns from
pictures whose boxes are known because they were pasted together. All shapes are static.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from date_jax import boxes, losses
from date_jax.networks.transformer import exact_gelu

SAMPLES = 7  # places along each side of a region that are read
MIDDLE = 0.5  # share of a box's sides, around its centre, within which a token is positive


def cell_centres(grid: tuple[int, int]) -> np.ndarray:
    """The centres of a grid's cells, row by row: x, y in [0, 1], float32 `[P 2]`."""
    y, x = np.meshgrid(*((np.arange(n) + 0.5) / n for n in grid), indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


def cells_xyxy(grid: tuple[int, int]) -> np.ndarray:
    """The grid's cells as boxes, float32 `[P 4]`: the regions where no head proposes any."""
    half = np.array([0.5 / grid[1], 0.5 / grid[0]], np.float32)
    centre = cell_centres(grid)
    return np.concatenate([centre - half, centre + half], axis=1)


class ProposalHead(nn.Module):
    """The head that gives every token of a grid one box, and how likely it holds a product.

    Attributes:
        hidden: width of the layer between.
    """

    hidden: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B P C"], grid: tuple[int, int]
    ) -> tuple[Float[Array, "B P"], Float[Array, "B P 4"]]:
        """`(objectness, box_xyxy)`: logits, and boxes that may reach over the border."""
        x = exact_gelu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(tokens))
        # Few tokens stand for a product: without this the first steps only unlearn the others.
        rare = nn.initializers.constant(-2.0)
        objectness = nn.Dense(1, bias_init=rare, name="objectness")(x.astype(jnp.float32))[..., 0]
        # Distances to left, top, right and bottom, positive; they begin at an eighth of the side.
        sides = nn.softplus(nn.Dense(4, name="sides")(x.astype(jnp.float32)) - 2.0)
        centre = jnp.asarray(cell_centres(grid))[None]
        box = jnp.concatenate([centre - sides[..., :2], centre + sides[..., 2:]], axis=-1)
        return objectness, box


def token_targets(
    box_xyxy: Float[Array, "B M 4"], box_mask: Bool[Array, "B M"], grid: tuple[int, int]
) -> tuple[Bool[Array, "B P"], Float[Array, "B P 4"]]:
    """The mask of the positive tokens, and the box that each of them has to predict.

    A token is positive where it lies in the middle of a box, or is the nearest to a box's centre.
    Of several such boxes its target is the smallest.

    Args:
        box_xyxy: true boxes.
        box_mask: False = no box.
        grid: rows and columns of the tokens.
    """
    token_centre = jnp.asarray(cell_centres(grid))[None, :, None]  # [1 P 1 2]
    box_centre = (box_xyxy[..., :2] + box_xyxy[..., 2:])[:, None] / 2
    size = (box_xyxy[..., 2:] - box_xyxy[..., :2])[:, None]
    offset = jnp.abs(token_centre - box_centre)
    within = (offset <= MIDDLE * size / 2).all(axis=-1)
    # A box between all tokens would have none; the nearest token predicts it.
    distance = jnp.square(offset).sum(axis=-1)
    nearest = distance <= distance.min(axis=1, keepdims=True)
    candidate = (within | nearest) & box_mask[:, None]
    area = jnp.where(candidate, size[..., 0] * size[..., 1], jnp.inf)
    smallest = area.argmin(axis=-1)
    return candidate.any(axis=-1), jnp.take_along_axis(box_xyxy, smallest[..., None], axis=1)


def proposal_losses(
    objectness: Float[Array, "B P"],
    predicted_xyxy: Float[Array, "B P 4"],
    true_xyxy: Float[Array, "B M 4"],
    box_mask: Bool[Array, "B M"],
    grid: tuple[int, int],
) -> dict[str, Float[Array, " B"]]:
    """The proposal head's two losses and the number of positive tokens, summed over each picture.

    With the tokens p of picture i, of which P_i are positive with target b (after FCOS, 1904.01355;
    L1 and GIoU are our choice):

        objectness_i = Σ_p BCE(o_ip, [p ∈ P_i])
        box_i        = Σ_{p∈P_i} (1 - GIoU(b̂_ip, b_ip) + |b̂_ip - b_ip|₁)
        positives_i  = |P_i|

    The one token of a picture, with the true box at an even chance, costs log 2:

        >>> box, mask = jnp.array([[[0.25, 0.25, 0.75, 0.75]]]), jnp.array([[True]])
        >>> proposal_losses(jnp.zeros((1, 1)), box, box, mask, (1, 1))["objectness"]
        Array([0.6931472], dtype=float32)

    Args:
        objectness: logits.
        predicted_xyxy: the box of each token.
        true_xyxy: the products' boxes.
        box_mask: False = no box.
        grid: rows and columns of the tokens.
    """
    positive, target = token_targets(true_xyxy, box_mask, grid)
    flat = objectness.reshape(-1), positive.reshape(-1).astype(jnp.float32)
    # All tokens learn whether they are positive, the positive ones where their box is.
    entropy = losses.binary_cross_entropy(*flat).reshape(positive.shape)
    distance = 1.0 - boxes.giou(predicted_xyxy, target)
    distance = distance + jnp.abs(predicted_xyxy - target).sum(axis=-1)
    return {
        "objectness": entropy.sum(axis=1),
        "box": jnp.where(positive, distance, 0.0).sum(axis=1),
        "positives": positive.sum(axis=1).astype(jnp.float32),
    }


def nms_indices(
    score: Float[Array, "B P"], box_xyxy: Float[Array, "B P 4"], count: int, *, overlap: float
) -> Int[Array, "B K"]:
    """The places of `count` boxes by greedy non-maximum suppression, best first.

    Each round takes the best box left and drops those whose IoU with it is above `overlap`. Where
    none is left the best dropped ones follow, so that there are always `count`.
    """

    def picture_indices(score: Array, box: Array) -> Array:
        def pick_best(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
            free, dropped = state
            # A dropped one comes behind every other; a taken one never again.
            rank = jnp.where(free, score - dropped * (jnp.ptp(score) + 1.0), -jnp.inf)
            best = rank.argmax()
            near = boxes.iou(jnp.broadcast_to(box[best], box.shape), box) > overlap
            return (free.at[best].set(False), jnp.maximum(dropped, near)), best

        start = (jnp.ones(score.shape, bool), jnp.zeros(score.shape, score.dtype))
        return jax.lax.scan(pick_best, start, length=count)[1]

    return jax.vmap(picture_indices)(score, box_xyxy)


def suppressed_mask(box_xyxy: Float[Array, "B K 4"], *, overlap: float) -> Bool[Array, "B K"]:
    """The boxes of `nms_indices`, in their order, that only fill up the number."""
    # Suppressed is what overlaps any box before it, as in the rounds above.
    pair_iou = boxes.iou(*jnp.broadcast_arrays(box_xyxy[:, :, None], box_xyxy[:, None]))
    earlier = jnp.tril(jnp.ones(pair_iou.shape[1:], bool), -1)[None]
    return ((pair_iou > overlap) & earlier).any(axis=-1)


def regions_in_frame(
    box_xyxy: Float[Array, "B R 4"], mask: Bool[Array, "B R"], frame_xyxy: Float[Array, "B 4"]
) -> tuple[Float[Array, "B R 4"], Bool[Array, "B R"]]:
    """Boxes and mask of the regions that a picture of the frame alone would have.

    These are the regions with half of their area or more in the frame. Their boxes are cut at its
    border and become shares of its sides.
    """
    low, high = frame_xyxy[:, None, :2], frame_xyxy[:, None, 2:]
    cut = jnp.concatenate(
        [jnp.clip(box_xyxy[..., :2], low, high), jnp.clip(box_xyxy[..., 2:], low, high)], axis=-1
    )
    area, cut_area = (jnp.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (box_xyxy, cut))
    # The same corner and sides for both of a box's corners: the frame becomes the unit square.
    corner = jnp.concatenate([low, low], axis=-1)
    side = jnp.maximum(jnp.concatenate([high - low] * 2, axis=-1), 1e-6)
    return (cut - corner) / side, mask & (cut_area >= 0.5 * area)


def roi_align(
    tokens: Float[Array, "B P C"], box_xyxy: Float[Array, "B K 4"], grid: tuple[int, int]
) -> Float[Array, "B K C"]:
    """The mean of each region over SAMPLES x SAMPLES places in it, read bilinearly (1703.06870).

    The mean of bilinear readings on a lattice is a product of one weighting of the rows and one of
    the columns: two small matmuls, no gather. Places outside read the nearest token.
    """

    def axis_weights(low: Array, high: Array, size: int) -> Float[Array, "B K n"]:
        step = (np.arange(SAMPLES, dtype=np.float32) + 0.5) / SAMPLES
        place = low[..., None] + (high - low)[..., None] * step[None, None]
        place = jnp.clip(place * size - 0.5, 0.0, size - 1.0)
        distance = jnp.abs(place[..., None] - np.arange(size, dtype=np.float32)[None, None, None])
        return jnp.maximum(1.0 - distance, 0.0).mean(axis=-2)

    row_weights = axis_weights(box_xyxy[..., 1], box_xyxy[..., 3], grid[0])
    column_weights = axis_weights(box_xyxy[..., 0], box_xyxy[..., 2], grid[1])
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    weights = weights.reshape(*weights.shape[:2], -1).astype(tokens.dtype)
    return jnp.matmul(weights, tokens)
