"""Boxes as arrays in [0, 1]: cxcywh (centre, size) or xyxy (corners), as every name says."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def xyxy(cxcywh: Float[Array, "*N 4"]) -> Float[Array, "*N 4"]:
    """Corners `(x_min, y_min, x_max, y_max)` of boxes given by centre and size."""
    centre, half = cxcywh[..., :2], cxcywh[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def cxcywh(xyxy: Float[Array, "*N 4"]) -> Float[Array, "*N 4"]:
    """Centre and size of boxes given by their corners."""
    low, high = xyxy[..., :2], xyxy[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def _area(xyxy: Float[Array, "*N 4"]) -> Float[Array, "*N"]:
    # A reversed box has no area, rather than a positive one from two negative sides.
    sides = jnp.maximum(xyxy[..., 2:] - xyxy[..., :2], 0.0)
    return sides[..., 0] * sides[..., 1]


def _intersection_and_union(
    a: Float[Array, "*N 4"], b: Float[Array, "*N 4"]
) -> tuple[Float[Array, "*N"], Float[Array, "*N"]]:
    # Boxes that do not meet have a reversed overlap, which has no area.
    overlap = _area(
        jnp.concatenate(
            [jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])], axis=-1
        )
    )
    return overlap, _area(a) + _area(b) - overlap


def iou(a: Float[Array, "*N 4"], b: Float[Array, "*N 4"]) -> Float[Array, "*N"]:
    """Intersection over union of two sets of xyxy boxes, pair by pair; 0 where both are empty.

    Example: halves of a picture, which meet in a quarter of it.

        >>> iou(jnp.array([0.0, 0.0, 0.5, 1.0]), jnp.array([0.0, 0.0, 1.0, 0.5]))
        Array(0.333, dtype=float32)
    """
    overlap, union = _intersection_and_union(a, b)
    return jnp.where(union > 0, overlap / jnp.where(union > 0, union, 1.0), 0.0)


def giou(a: Float[Array, "*N 4"], b: Float[Array, "*N 4"]) -> Float[Array, "*N"]:
    r"""Generalised IoU of xyxy boxes, pair by pair, in (-1, 1] (1902.09630).

        GIoU = IoU - (|hull| - |union|) / |hull|

    The hull is the smallest box around both: unlike IoU it has a gradient where they do not meet.

    Example: two quarters of a picture that touch in its centre.

        >>> giou(jnp.array([0.0, 0.0, 0.5, 0.5]), jnp.array([0.5, 0.5, 1.0, 1.0]))
        Array(-0.5, dtype=float32)
    """
    # A hull without area has nothing outside of the boxes.
    hull = _area(
        jnp.concatenate(
            [jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], axis=-1
        )
    )
    _, union = _intersection_and_union(a, b)
    outside = jnp.where(hull > 0, (hull - union) / jnp.where(hull > 0, hull, 1.0), 0.0)
    return iou(a, b) - outside
