"""The heads of the object seeker: how its last states become a box, and how sure that box is.

By `config.model.fusion.head`:

- `loc`: an MLP on `[LOC]` gives the box's four numbers.
- `bins`: an MLP on `[LOC]` gives a distribution over 16 values of each number; the box is its mean.
- `places`: each image token says how likely it lies in the product, and draws a box around itself;
  the box is the mean, under the tokens' probabilities, of those that agree with the best one.

The last two give a distribution, so they also have a loss on it, and a spread.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from date_jax import boxes, losses

HEADS = ("loc", "bins", "places")
BINS = 16  # values of each number, evenly from 0 to 1
AGREES = 0.5  # IoU with the best token's box, from which a token speaks of the same product
MIDDLE = 0.7  # share of each side of a box inside which tokens stand for its product
_UNIFORM = MIDDLE / 12**0.5  # deviation of a place in that middle, of the side
_SIDE = 1e-3  # least side that a deviation is divided by
_FIRST_SCALE = 10.0  # of the heat, before training
_FIRST_DISTANCE = -1.5  # softplus of it, 0.2 of the picture: the sides' distances before training


def head_kind(model: ConfigDict) -> str:
    """The head of a network; configs of earlier versions have no key, and `loc`.

    Args:
        model: `config.model`.
    """
    return model.fusion.get("head", "loc")


class BinsHead(nn.Module):
    """A distribution over BINS values of each of a box's four numbers, from `[LOC]`."""

    @nn.compact
    def __call__(
        self, f_loc: Float[Array, "B D"]
    ) -> tuple[Float[Array, "B 4"], dict[str, Float[Array, "B ..."]]]:
        """`(box_cxcywh, outputs)` with `box_logits [B 4 BINS]`, `deviation` and `spread`."""
        width = f_loc.shape[-1]
        hidden = nn.relu(nn.Dense(width, precision="highest", name="hidden1")(f_loc))
        hidden = nn.relu(nn.Dense(width, precision="highest", name="hidden2")(hidden))
        logits = nn.Dense(4 * BINS, precision="highest", name="logits")(hidden)
        logits = logits.reshape(-1, 4, BINS)
        # Mean and variance of each number.
        probability = jax.nn.softmax(logits, axis=-1)
        values = _bin_values()
        box = (probability * values).sum(axis=-1)
        variance = (probability * (values - box[..., None]) ** 2).sum(axis=-1)
        return box, {"box_logits": logits} | _uncertainty(box, variance)


class PlacesHead(nn.Module):
    """A score and a box of each image token; a token's box reaches from its centre to four sides.

    A score is the sum of a number of the token alone and of its product with a query from `[LOC]`.
    """

    @nn.compact
    def __call__(
        self,
        f_loc: Float[Array, "B D"],
        places: Float[Array, "B P D"],
        grid: tuple[int, int],
        heat: Float[Array, "B P"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B 4"], dict[str, Float[Array, "B ..."]]]:
        """`(box_cxcywh, outputs)`: `scores [B P]`, `place_boxes [B P 4]` as corners, `spread`.

        Args:
            f_loc, places: last states of `[LOC]` and of the image tokens.
            grid: shape of the tokens.
            heat: cosines of tokens and words, another summand of the scores; None for none.
            train: whether the box is the mean of all tokens' boxes. Else it is that of the tokens
                which agree with the best one: between two products there is none.
        """
        width = places.shape[-1]
        hidden = nn.relu(nn.Dense(width, precision="highest", name="hidden")(places))
        query = nn.Dense(width, precision="highest", name="query")(f_loc)
        scores = nn.Dense(1, precision="highest", name="score")(hidden)[..., 0]
        scores = scores + jnp.einsum("bpd,bd->bp", places, query, precision="highest") / width**0.5
        if heat is not None:
            first = nn.initializers.constant(_FIRST_SCALE)
            scores = scores + heat * self.param("heat_scale", first, ())
        # Each token's own box, by its distances to the four sides.
        first = nn.initializers.constant(_FIRST_DISTANCE)
        distances = nn.Dense(4, precision="highest", bias_init=first, name="distances")(hidden)
        distances = nn.softplus(distances)
        centre = jnp.asarray(centres(grid))[None]
        corners = jnp.concatenate(
            [centre - distances[..., :2], centre + distances[..., 2:]], axis=-1
        )
        # The mean of all, cut at the picture's border. Its gradient passes the border, or a side
        # beyond it could never come back.
        probability = jax.nn.softmax(scores, axis=-1)[..., None]
        mean = (probability * corners).sum(axis=1)
        if not train:
            mean = box_of_best(scores, corners)
        mean = mean + jax.lax.stop_gradient(jnp.clip(mean, 0.0, 1.0) - mean)
        box, place_boxes = boxes.cxcywh(mean), boxes.cxcywh(corners)
        variance = (probability * (place_boxes - box[:, None]) ** 2).sum(axis=1)
        return box, {"scores": scores, "place_boxes": corners} | _uncertainty(box, variance)


def box_of_best(scores: Float[Array, "B P"], corners: Float[Array, "B P 4"]) -> Float[Array, "B 4"]:
    """The mean of the boxes that overlap that of the best token by half or more, as corners.

    Args:
        scores: of the tokens; their weights are the softmax of these.
        corners: the tokens' own boxes.
    """
    best = jnp.take_along_axis(corners, scores.argmax(axis=1)[:, None, None], axis=1)
    count = corners.shape[1]
    overlap = boxes.iou(jnp.repeat(best[:, 0], count, axis=0), corners.reshape(-1, 4))
    agrees = overlap.reshape(-1, count) >= AGREES
    weight = jax.nn.softmax(jnp.where(agrees, scores, losses.MASKED), axis=-1)
    return (weight[..., None] * corners).sum(axis=1)


def _uncertainty(box_cxcywh: Array, variance: Array) -> dict[str, Array]:
    """`deviation [B 4]` of a box's numbers, relative to its sides, and their mean `spread [B]`.

    Relative to its sides a deviation is the same in every view of the picture.
    """
    sides = jnp.tile(jnp.maximum(box_cxcywh[:, 2:], _SIDE), (1, 2))
    # The root has no gradient at 0.
    deviation = jnp.sqrt(variance + 1e-12) / sides
    return {"deviation": deviation, "spread": deviation.mean(axis=1)}


def centres(grid: tuple[int, int]) -> Float[np.ndarray, "P 2"]:
    """The centres (x, y) of a grid's cells in [0, 1], row by row.

    >>> centres((1, 2)).tolist()
    [[0.25, 0.5], [0.75, 0.5]]
    """
    y, x = np.meshgrid(*((np.arange(n) + 0.5) / n for n in grid), indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def is_inside(box_cxcywh: Float[Array, "B 4"], grid: tuple[int, int], share: float = 1.0) -> Array:
    """Whether a cell's centre lies in the middle `share` of a box's sides: bool `[B P]`."""
    offset = jnp.abs(jnp.asarray(centres(grid))[None] - box_cxcywh[:, None, :2])
    return (offset <= share / 2 * box_cxcywh[:, None, 2:]).all(axis=-1)


def place_target(
    box_cxcywh: Float[Array, "B 4"],
    grid: tuple[int, int],
    deviation: Float[Array, "B 4"] | None = None,
) -> Float[Array, "B P"]:
    """The distribution over image tokens that a box asks for.

    Args:
        box_cxcywh: boxes in the view that the tokens are of.
        grid: shape of the tokens.
        deviation: of a box that is not certain, relative to its sides. Without it the tokens whose
            centre lies in the middle 0.7 of each side share the probability evenly, the nearest
            has all where there is none. With it the probability is a Gaussian around the box's
            centre, whose variance is the deviation's plus that of the even share.
    """
    offset = jnp.asarray(centres(grid))[None] - box_cxcywh[:, None, :2]
    if deviation is not None:
        # Not narrower than half a token: between two tokens it would be 0 / 0.
        half_token = jnp.array([0.5 / grid[1], 0.5 / grid[0]])[None]
        scale = jnp.sqrt(deviation[:, :2] ** 2 + _UNIFORM**2) * box_cxcywh[:, 2:]
        scale = jnp.maximum(scale, half_token)
        return jax.nn.softmax(-((offset / scale[:, None]) ** 2).sum(axis=-1) / 2, axis=-1)
    inside = is_inside(box_cxcywh, grid, MIDDLE).astype(jnp.float32)
    nearest = jax.nn.one_hot((offset**2).sum(axis=-1).argmin(axis=-1), offset.shape[1])
    count = inside.sum(axis=-1, keepdims=True)
    return jnp.where(count > 0, inside / jnp.maximum(count, 1.0), nearest)


def bin_target(
    box_cxcywh: Float[Array, "B 4"], deviation: Float[Array, "B 4"] | None = None
) -> Float[Array, "B 4 N"]:
    """The distribution over BINS values of each number that a box asks for: a Gaussian.

    Its deviation is that of a box that is not certain, see `place_target`, and half of the distance
    between two values at least.
    """
    scale = jnp.full(box_cxcywh.shape, 0.5 / (BINS - 1))
    if deviation is not None:
        scale = jnp.maximum(scale, deviation * jnp.tile(box_cxcywh[:, 2:], (1, 2)))
    offset = (_bin_values() - box_cxcywh[..., None]) / scale[..., None]
    return jax.nn.softmax(-(offset**2) / 2, axis=-1)


def distribution_terms(
    outputs: dict[str, Array],
    box_cxcywh: Float[Array, "B 4"],
    weight: Float[Array, " B"],
    config: ConfigDict,
    *,
    grid: tuple[int, int],
    deviation: Float[Array, "B 4"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """The losses of a head's distribution, as weighted means over the rows; none of `loc`.

        scores = -Σ_i t_i log p_i
        places = Σ_i t_i [λ_1 |b - b̂_i|₁ + λ_g (1 - GIoU(b, b̂_i))]

    p are the probabilities of the tokens (of `bins` those of a number's values, and the mean over
    the four numbers), t those that the box asks for, b̂_i is a token's own box.

    Args:
        outputs: of `network.Date`.
        box_cxcywh: b, in the view.
        weight: 0 or more.
        config: `config.object_seeker`.
        grid: shape of the image tokens.
        deviation: of boxes that are not certain, see `place_target`.
    """
    if "box_logits" in outputs:
        target = bin_target(box_cxcywh, deviation)
        entropy = -(target * jax.nn.log_softmax(outputs["box_logits"], axis=-1)).sum(axis=-1)
        return {"scores": losses.masked_mean(entropy.mean(axis=-1), weight)}
    if "scores" not in outputs:
        return {}
    target = place_target(box_cxcywh, grid, deviation)
    entropy = -(target * jax.nn.log_softmax(outputs["scores"], axis=-1)).sum(axis=-1)
    # Every token's box against the one of its row.
    own = boxes.cxcywh(outputs["place_boxes"]).reshape(-1, 4)
    true = jnp.repeat(box_cxcywh, target.shape[1], axis=0)
    distance = config.l1_weight * losses.box_l1(own, true)
    distance = distance + config.giou_weight * losses.box_giou(own, true)
    distance = (target * distance.reshape(target.shape)).sum(axis=-1)
    return {
        "scores": losses.masked_mean(entropy, weight),
        "places": losses.masked_mean(distance, weight),
    }


def _bin_values() -> Float[Array, "1 1 N"]:
    return jnp.linspace(0.0, 1.0, BINS)[None, None]
