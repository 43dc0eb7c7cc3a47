"""The teacher of PG-DA: its boxes on the target, and how far two of its views agree on them."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from date_jax import augment, boxes
from date_jax.date import batches, network, supervised, word_places
from date_jax.date.network import Date
from date_jax.task import Batch, Params, Prediction

TEACHERS = ("ema", "frozen")  # whose parameters it has, by config.pseudo_boxes.teacher
CLOSE_UP = 1.5  # side of the close-up in which a box is sought again, by its longer side


def predictions(model: Date, config: ConfigDict, swap_table: Array) -> dict[str, Prediction]:
    """The predictions of a teacher: `pseudo_box_cxcywh [B 4]`, `agreement [B]` and some more.

    The agreement is the IoU of that box with the one of another view.
    The other view is the mirrored picture or, where `config.augment.flip` forbids that, a smaller
    one. With `config.pseudo_boxes.looks` = 2 a box is sought in the whole picture, then in a
    close-up of what was found: there the product has a size that both domains' close-ups share, so
    a box drawn to the source's usual size comes out right.

    Where the config asks for them there are also

    - `pseudo_deviation [B 4]` of the box, see `box_heads`;
    - `liking [B]`: the cosine of query and close-up of the box less that of query and picture; of
      kept features, which have no close-ups, see `word_places.heat_gain`;
    - `heat_inside [B]`: the share of the words' heat in the box, see `word_places`.
    """
    apply: Callable[..., Any] = model.apply  # Flax types its result too widely to use
    mirrors = config.augment.flip > 0
    pseudo = config.pseudo_boxes
    looks = pseudo.looks

    def with_original_box(
        outputs: dict[str, Array], window_xyxy: Array, flip: Array
    ) -> dict[str, Array]:
        """The outputs with the way back to the whole picture, at whose border the box is cut."""
        original = augment.original_box(outputs["box_cxcywh"], window_xyxy, flip)
        cut = boxes.cxcywh(jnp.clip(boxes.xyxy(original), 0.0, 1.0))
        return {**outputs, "original_cxcywh": cut}

    def outputs_in_view(
        params: Params, batch: Batch, window_xyxy: Array, mirrored: bool
    ) -> dict[str, Array]:
        """The network's outputs for a view; `original_cxcywh` is the box in the whole picture."""
        # The view: a window of the picture, without any other change.
        flip = jnp.full((len(batch["image"]),), mirrored)
        image = augment.window_view(batch["image"], window_xyxy, flip)
        # A mirrored picture exchanges left and right in its query too.
        text = swap_table[batch["text"]] if mirrored else batch["text"]
        outputs = apply({"params": params["model"]}, image, text, batch["text_mask"])
        return with_original_box(outputs, window_xyxy, flip)

    def outputs_of_kept_view(params: Params, batch: Batch, *, other: bool) -> dict[str, Array]:
        """The same where the batch has a view's features in place of the picture."""
        text = swap_table[batch["text"]] if other and mirrors else batch["text"]
        arguments = network.inputs({**batch, "text": text}, "other_" if other else "")
        outputs = apply({"params": params["model"]}, **arguments)
        window, flip = batches.other_view(config) if other else (batches.WHOLE_WINDOW, False)
        windows = jnp.tile(jnp.array([window]), (len(text), 1))
        return with_original_box(outputs, windows, jnp.full((len(text),), flip))

    def outputs_of_looks(
        params: Params, batch: Batch, zoom: float, mirrored: bool
    ) -> dict[str, Array]:
        """The outputs of the last look of one or two."""
        picture = jnp.tile(jnp.array([augment.WHOLE_PICTURE]), (len(batch["image"]), 1))
        window = augment.close_up_window(picture, zoom)
        first = outputs_in_view(params, batch, window, mirrored)
        if looks == 1:
            return first
        window = augment.close_up_window(first["original_cxcywh"], CLOSE_UP)
        return outputs_in_view(params, batch, window, mirrored)

    def pseudo_box_cxcywh(params: Params, batch: Batch) -> Array:
        if "image_rep" in batch:
            return outputs_of_kept_view(params, batch, other=False)["original_cxcywh"]
        return outputs_of_looks(params, batch, 1.0, False)["original_cxcywh"]

    def agreement(params: Params, batch: Batch) -> Array:
        zoom = 1.0 if mirrors else batches.OTHER_ZOOM
        if "image_rep" in batch:
            outputs = outputs_of_kept_view(params, batch, other=True)
        else:
            outputs = outputs_of_looks(params, batch, zoom, mirrors)
        other = outputs["original_cxcywh"]
        return boxes.iou(boxes.xyxy(other), boxes.xyxy(pseudo_box_cxcywh(params, batch)))

    def pseudo_deviation(params: Params, batch: Batch) -> Array:
        if "image_rep" in batch:
            return outputs_of_kept_view(params, batch, other=False)["deviation"]
        return outputs_of_looks(params, batch, 1.0, False)["deviation"]

    def cosine_in_window(params: Params, batch: Batch, window_xyxy: Array) -> Array:
        outputs = outputs_in_view(params, batch, window_xyxy, False)
        return (outputs["query_embedding"] * outputs["image_embedding"]).sum(axis=-1)

    def liking(params: Params, batch: Batch) -> Array:
        box = pseudo_box_cxcywh(params, batch)
        if "image_rep" in batch:
            inputs = network.inputs(batch)
            outputs = apply({"params": params["model"]}, **inputs, with_places=True)
            return word_places.heat_gain(outputs["heat"], box, supervised.view_grid(config))
        picture = jnp.tile(jnp.array([augment.WHOLE_PICTURE]), (len(box), 1))
        close_up, whole = (
            cosine_in_window(params, batch, augment.close_up_window(shown, margin))
            for shown, margin in ((box, CLOSE_UP), (picture, 1.0))
        )
        return close_up - whole

    def heat_inside(params: Params, batch: Batch) -> Array:
        inputs = network.inputs(batch)
        outputs = apply({"params": params["model"]}, **inputs, with_places=True)
        box = pseudo_box_cxcywh(params, batch)
        grid = supervised.view_grid(config)
        return word_places.heat_inside(outputs["heat"], box, grid, outputs["scale"])

    predict: dict[str, Prediction] = {
        "pseudo_box_cxcywh": pseudo_box_cxcywh,
        "agreement": agreement,
    }
    if pseudo.get("soft", False):
        predict["pseudo_deviation"] = pseudo_deviation
    if pseudo.get("verify", False):
        predict["liking"] = liking
    if pseudo.get("rank") == "heat":
        predict["heat_inside"] = heat_inside
    return predict
