"""Predictions of a trained CAPTURE: vectors of posts, and the products in their pictures."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from date_jax import augment, boxes
from date_jax.capture import proposals
from date_jax.capture.network import POST_KEYS, VECTORS, Capture, Regions
from date_jax.task import Batch, Params, Prediction


def cut_outs(
    pixels: Float[Array, "B H W 3"], box_xyxy: Float[Array, "B 4"]
) -> tuple[Float[Array, "B H W 3"], Float[Array, "B 3"]]:
    """Pictures of what lies in a box on an even ground, and the colour of that ground.

    The colour is the mean of what lies outside, black where nothing does.
    """
    # A pixel is inside where its centre is.
    height, width = pixels.shape[1:3]
    centre = jnp.asarray(proposals.cell_centres((height, width)))[None]
    inside = (centre >= box_xyxy[:, None, :2]) & (centre <= box_xyxy[:, None, 2:])
    inside = inside.all(axis=-1).reshape(-1, height, width, 1)
    count = jnp.maximum((~inside).sum(axis=(1, 2)), 1)
    ground = jnp.where(inside, 0.0, pixels).sum(axis=(1, 2)) / count
    return jnp.where(inside, pixels, ground[:, None, None]), ground


def predictions(model: Capture, config: ConfigDict) -> dict[str, Prediction]:
    """The functions `(params, batch) -> array` that evaluation and search may ask for, by name.

    `vectors [B 4 E]` are VECTORS of the whole post. Of its K instances there are:

        instance_box      [B K 4], xyxy
        instance_mask     [B K]
        instance_score    [B K], how sure the head is that a product is there; pictures alone
        instance_vectors  [B K 4 E], of their crops under the whole title, as `config.retrieval`
                          says; of the regions that lie in its box, where the batch brings regions

    `proposal_box [B R 4]` are all proposals, best first.
    """
    count = config.retrieval.instances

    # Parts that the predictions share.
    def network(params: Params) -> Any:
        return model.bind({"params": params["model"]})

    def normalised_batch(batch: Batch) -> Batch:
        return {**batch, "image": augment.plain_view(batch["image"])} if "image" in batch else batch

    def stacked_vectors(network: Any, batch: Batch) -> Array:
        outputs = network(batch["text"], batch["text_mask"], network.regions(batch))
        return jnp.stack([outputs[name] for name in VECTORS], axis=1).astype(jnp.float32)

    # Vectors of whole posts, then what the head proposes.
    def vectors(params: Params, batch: Batch) -> Array:
        return stacked_vectors(network(params), normalised_batch(batch))

    def instances(params: Params, batch: Batch) -> Regions:
        return network(params).instances(normalised_batch(batch))

    def proposal_box(params: Params, batch: Batch) -> Array:
        return instances(params, batch).box_xyxy

    def instance_box(params: Params, batch: Batch) -> Array:
        return instances(params, batch).box_xyxy[:, :count]

    def instance_mask(params: Params, batch: Batch) -> Array:
        return instances(params, batch).mask[:, :count]

    def instance_score(params: Params, batch: Batch) -> Array:
        capture, image = network(params), augment.plain_view(batch["image"])
        _, score = capture.scored_proposals(capture.tokens(image), capture.grid(image))
        return score[:, :count]

    def close_ups(posts: Batch, box_xyxy: Array) -> Batch:
        """Posts that show nothing but what lies in their box."""
        # Without pixels, regions outside of the box are hidden in place of a crop.
        if "regions" in posts:
            box, mask = proposals.regions_in_frame(
                posts["region_box_xyxy"], posts["region_mask"], box_xyxy
            )
            return {**posts, "region_box_xyxy": box, "region_mask": mask}
        pixels = posts["image"].astype(jnp.float32) / 255.0
        box, ground = boxes.cxcywh(box_xyxy), pixels.mean(axis=(1, 2))
        # What is further from the box than the context is no part of the product: paint it over.
        if config.retrieval.context:
            larger = jnp.array([[1.0, 1.0, config.retrieval.context, config.retrieval.context]])
            pixels, ground = cut_outs(pixels, boxes.xyxy(box * larger))
        # The rest is a square crop, resampled to the picture's size.
        window = augment.close_up_window(box, config.retrieval.margin)
        sharp, upright = jnp.ones((box.shape[0],)), jnp.zeros((box.shape[0],), bool)
        crop = augment.resampled_image(pixels, window, upright, sharp, ground)
        return {**posts, "image": augment.normalised_pixels(crop)}

    def instance_vectors(params: Params, batch: Batch) -> Array:
        # Each post once for each of its instances: one crop is one row.
        box = instance_box(params, batch).reshape(-1, 4)
        posts = {k: jnp.repeat(batch[k], count, axis=0) for k in POST_KEYS if k in batch}
        rows = stacked_vectors(network(params), close_ups(posts, box))
        return rows.reshape(-1, count, *rows.shape[1:])

    # No head has a score for regions that a batch brings along.
    has_head = config.model.regions.kind != "precomputed"
    return {
        "vectors": vectors,
        "proposal_box": proposal_box,
        "instance_box": instance_box,
        "instance_mask": instance_mask,
        **({"instance_score": instance_score} if has_head else {}),
        "instance_vectors": instance_vectors,
    }
