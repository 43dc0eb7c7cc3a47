"""The teacher of PG-DA: its boxes on the target, and how far two of its views agree on them."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from date_jax import augment, boxes
from date_jax.date.network import Date
from date_jax.task import Batch, Params, Prediction

TEACHERS = ("ema", "frozen")  # whose parameters it has, by config.pseudo_boxes.teacher
CLOSE_UP = 1.5  # side of the close-up in which a box is sought again, by its longer side
OTHER_ZOOM = 1.25  # how far the other view zooms out where it may not be a mirrored one


def predictions(model: Date, config: ConfigDict, swap_table: Array) -> dict[str, Prediction]:
    """The predictions of a teacher: `pseudo_box_cxcywh [B 4]` and `agreement [B]`.

    The agreement is the IoU of that box with the one of another view.
    The other view is the mirrored picture or, where `config.augment.flip` forbids that, a smaller
    one. With `config.pseudo_boxes.looks` = 2 a box is sought in the whole picture, then in a
    close-up of what was found: there the product has a size that both domains' close-ups share, so
    a box drawn to the source's usual size comes out right.
    """
    apply: Callable[..., Any] = model.apply  # Flax types its result too widely to use
    mirrors = config.augment.flip > 0
    looks = config.pseudo_boxes.looks

    def box_in_view(
        params: Params, batch: Batch, window_xyxy: Array, mirrored: bool
    ) -> Float[Array, "B 4"]:
        """The box that a view shows, in the whole picture's coordinates and cut at its border."""
        # The view: a window of the picture, without any other change.
        pixels = batch["image"].astype(jnp.float32) / 255.0
        flip = jnp.full((len(pixels),), mirrored)
        sharp, fill = jnp.ones((len(pixels),)), pixels.mean(axis=(1, 2))
        image = augment.normalised_pixels(
            augment.resampled_image(pixels, window_xyxy, flip, sharp, fill)
        )
        # A mirrored picture exchanges left and right in its query too.
        text = swap_table[batch["text"]] if mirrored else batch["text"]
        outputs = apply({"params": params["model"]}, image, text, batch["text_mask"])
        # The way back to the whole picture.
        original = augment.original_box(outputs["box_cxcywh"], window_xyxy, flip)
        return boxes.cxcywh(jnp.clip(boxes.xyxy(original), 0.0, 1.0))

    def box_of_looks(
        params: Params, batch: Batch, zoom: float, mirrored: bool
    ) -> Float[Array, "B 4"]:
        """The box after one look or two."""
        picture = jnp.tile(jnp.array([augment.WHOLE_PICTURE]), (len(batch["image"]), 1))
        first = box_in_view(params, batch, augment.close_up_window(picture, zoom), mirrored)
        if looks == 1:
            return first
        return box_in_view(params, batch, augment.close_up_window(first, CLOSE_UP), mirrored)

    def pseudo_box_cxcywh(params: Params, batch: Batch) -> Array:
        return box_of_looks(params, batch, 1.0, False)

    def agreement(params: Params, batch: Batch) -> Array:
        other = box_of_looks(params, batch, 1.0 if mirrors else OTHER_ZOOM, mirrors)
        return boxes.iou(boxes.xyxy(other), boxes.xyxy(pseudo_box_cxcywh(params, batch)))

    return {"pseudo_box_cxcywh": pseudo_box_cxcywh, "agreement": agreement}
