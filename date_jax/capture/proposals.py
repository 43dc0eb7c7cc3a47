"""Where in a picture a product may be, and what of the picture lies there. Shapes are static.

A class-agnostic, anchor-free head (after FCOS, 1904.01355) on an image extractor's tokens: each
token says whether a product's middle is here, and how far its four sides are away. It learns from
pictures whose boxes are known because they were pasted together.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from date_jax import boxes, losses
from date_jax.networks.transformer import exact_gelu

SAMPLES = 7  # places along each side of a region that are read
MIDDLE = 0.5  # share of a box's sides within which a token stands for it


def centres(grid: tuple[int, int]) -> np.ndarray:
    """The middles of a grid's cells, row by row: x, y in [0, 1], float32 `[P 2]`."""
    y, x = np.meshgrid(*((np.arange(n) + 0.5) / n for n in grid), indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


def cells_xyxy(grid: tuple[int, int]) -> np.ndarray:
    """The grid's cells as boxes, float32 `[P 4]`: the regions where no head proposes any."""
    half = np.array([0.5 / grid[1], 0.5 / grid[0]], np.float32)
    middle = centres(grid)
    return np.concatenate([middle - half, middle + half], axis=1)


class ProposalHead(nn.Module):
    """Tokens of a grid to one box each, and how likely it holds a product.

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
        middle = jnp.asarray(centres(grid))[None]
        box = jnp.concatenate([middle - sides[..., :2], middle + sides[..., 2:]], axis=-1)
        return objectness, box


def assigned(
    box_xyxy: Float[Array, "B M 4"], box_mask: Bool[Array, "B M"], grid: tuple[int, int]
) -> tuple[Bool[Array, "B P"], Float[Array, "B P 4"]]:
    """Which tokens stand for a product, and for which box.

    A token does where it lies in the middle of a box, or is the nearest to a box's centre; of
    several such boxes it stands for the smallest.
    """
    middle = jnp.asarray(centres(grid))[None, :, None]  # [1 P 1 2]
    centre = (box_xyxy[..., :2] + box_xyxy[..., 2:])[:, None] / 2
    size = (box_xyxy[..., 2:] - box_xyxy[..., :2])[:, None]
    away = jnp.abs(middle - centre)
    within = (away <= MIDDLE * size / 2).all(axis=-1)
    distance = jnp.square(away).sum(axis=-1)
    nearest = distance <= distance.min(axis=1, keepdims=True)
    may = (within | nearest) & box_mask[:, None]
    area = jnp.where(may, size[..., 0] * size[..., 1], jnp.inf)
    which = area.argmin(axis=-1)
    box = jnp.take_along_axis(box_xyxy, which[..., None], axis=1)
    return may.any(axis=-1), box


def proposal_losses(
    objectness: Float[Array, "B P"],
    found_xyxy: Float[Array, "B P 4"],
    box_xyxy: Float[Array, "B M 4"],
    box_mask: Bool[Array, "B M"],
    grid: tuple[int, int],
) -> dict[str, Float[Array, " B"]]:
    """Of each picture: `objectness`, cross-entropy over all tokens; `box`, 1 - GIoU and L1 summed
    over the tokens that stand for a product; and `stand`, how many do.
    """
    stands, wanted = assigned(box_xyxy, box_mask, grid)
    flat = objectness.reshape(-1), stands.reshape(-1).astype(jnp.float32)
    each = losses.binary_cross_entropy(*flat).reshape(stands.shape)
    apart = 1.0 - boxes.giou(found_xyxy, wanted) + jnp.abs(found_xyxy - wanted).sum(axis=-1)
    return {
        "objectness": each.sum(axis=1),
        "box": jnp.where(stands, apart, 0.0).sum(axis=1),
        "stand": stands.sum(axis=1).astype(jnp.float32),
    }


def best_apart(
    score: Float[Array, "B P"], box_xyxy: Float[Array, "B P 4"], count: int, *, overlap: float
) -> Int[Array, "B K"]:
    """Greedy non-maximum suppression: the places of `count` boxes, best first.

    Each round takes the best box left and drops those whose IoU with it is above `overlap`. Where
    none is left the best dropped ones follow, so that there are always `count`.
    """

    def one(score: Array, box: Array) -> Array:
        def taken(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
            free, dropped = state
            # A dropped one comes behind every other; a taken one never again.
            rank = jnp.where(free, score - dropped * (jnp.ptp(score) + 1.0), -jnp.inf)
            place = rank.argmax()
            near = boxes.iou(jnp.broadcast_to(box[place], box.shape), box) > overlap
            return (free.at[place].set(False), jnp.maximum(dropped, near)), place

        start = (jnp.ones(score.shape, bool), jnp.zeros(score.shape, score.dtype))
        return jax.lax.scan(taken, start, length=count)[1]

    return jax.vmap(one)(score, box_xyxy)


def fills_up(box_xyxy: Float[Array, "B K 4"], *, overlap: float) -> Bool[Array, "B K"]:
    """Of the boxes of `best_apart` in their order, those that only fill up the number."""
    pairs = boxes.iou(*jnp.broadcast_arrays(box_xyxy[:, :, None], box_xyxy[:, None]))
    earlier = jnp.tril(jnp.ones(pairs.shape[1:], bool), -1)[None]
    return ((pairs > overlap) & earlier).any(axis=-1)


def close_up(
    box_xyxy: Float[Array, "B R 4"], mask: Bool[Array, "B R"], frame_xyxy: Float[Array, "B 4"]
) -> tuple[Float[Array, "B R 4"], Bool[Array, "B R"]]:
    """Regions as a picture of the frame alone would have them: `(box_xyxy, mask)`.

    Left are those with half of their area or more in the frame; their boxes are cut at its border
    and become shares of its sides.
    """
    low, high = frame_xyxy[:, None, :2], frame_xyxy[:, None, 2:]
    cut = jnp.concatenate(
        [jnp.clip(box_xyxy[..., :2], low, high), jnp.clip(box_xyxy[..., 2:], low, high)], axis=-1
    )
    area, left = (jnp.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (box_xyxy, cut))
    twice = jnp.concatenate([low, low], axis=-1)
    side = jnp.maximum(jnp.concatenate([high - low] * 2, axis=-1), 1e-6)
    return (cut - twice) / side, mask & (left >= 0.5 * area)


def roi_align(
    tokens: Float[Array, "B P C"], box_xyxy: Float[Array, "B K 4"], grid: tuple[int, int]
) -> Float[Array, "B K C"]:
    """Each region's mean over SAMPLES x SAMPLES evenly spaced places, read bilinearly (1703.06870).

    The mean of bilinear readings on a lattice is a product of one weighting of the rows and one of
    the columns: two small matmuls, no gather. Places outside read the nearest token.
    """

    def weights(low: Array, high: Array, size: int) -> Float[Array, "B K n"]:
        step = (np.arange(SAMPLES, dtype=np.float32) + 0.5) / SAMPLES
        place = low[..., None] + (high - low)[..., None] * step[None, None]
        place = jnp.clip(place * size - 0.5, 0.0, size - 1.0)
        away = jnp.abs(place[..., None] - np.arange(size, dtype=np.float32)[None, None, None])
        return jnp.maximum(1.0 - away, 0.0).mean(axis=-2)

    rows = weights(box_xyxy[..., 1], box_xyxy[..., 3], grid[0])
    columns = weights(box_xyxy[..., 0], box_xyxy[..., 2], grid[1])
    both = rows[..., :, None] * columns[..., None, :]
    both = both.reshape(*both.shape[:2], -1).astype(tokens.dtype)
    return jnp.matmul(both, tokens)
