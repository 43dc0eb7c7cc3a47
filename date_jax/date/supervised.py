"""Retrieval and grounding with boxes everywhere: DATE's two seekers cooperate (2304.03669).

    L_coop = λ_co L_img + L_obj

The loss of each seeker alone is this one with the other's weight at 0.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32
from ml_collections import ConfigDict

from date_jax import augment, boxes, losses
from date_jax.date import batches, box_heads, evaluation, network, rules, word_places
from date_jax.date.network import Date
from date_jax.networks import extractors, sizes
from date_jax.pairs import contrastive
from date_jax.task import Aux, Batch, Card, Learner, Memory, Params, Task

LOSSES = ("softmax", "sigmoid")  # of the image seeker, by config.image_seeker.loss
PRIORS = ("none", "dual_softmax")  # of its softmax, by config.image_seeker.prior
_PRIME = 16777619  # FNV's: odd, so that no power of it loses a bit


def box_loss(
    predicted: Float[Array, "B 4"], true: Float[Array, "B 4"], weight: Array, config: ConfigDict
) -> Float[Array, ""]:
    """The object seeker's loss, `L_obj`, as a weighted mean over the rows.

        L_obj = λ_1 |b - b̂|₁ + λ_g (1 - GIoU(b, b̂))

    Args:
        predicted, true: boxes as (cx, cy, w, h), normalised.
        weight: `[B]`, 0 or more; 0 for rows without a box.
        config: `config.object_seeker`, with λ_1 as `l1_weight` and λ_g as `giou_weight`.
    """
    distance = config.l1_weight * losses.box_l1(predicted, true)
    distance = distance + config.giou_weight * losses.box_giou(predicted, true)
    return losses.masked_mean(distance, weight)


def box_terms(
    outputs: dict[str, Array],
    box_cxcywh: Float[Array, "B 4"],
    weight: Array,
    config: ConfigDict,
    *,
    deviation: Float[Array, "B 4"] | None = None,
) -> dict[str, Array]:
    """The object seeker's loss as `total`, and its terms: `box` is `L_obj`, the rest the head's.

        L = L_obj + λ_s L_scores + λ_p L_places

    Args:
        outputs: of `network.Date`.
        box_cxcywh: boxes in the view that the network saw.
        weight: `[B]`, 0 or more.
        config: the whole config, with λ_s as `object_seeker.score_weight` and λ_p as
            `object_seeker.place_weight`.
        deviation: of boxes that are not certain, see `box_heads.place_target`.
    """
    seeker = config.object_seeker
    terms = {"box": box_loss(outputs["box_cxcywh"], box_cxcywh, weight, seeker)}
    total = terms["box"]
    if box_heads.head_kind(config.model) != "loc":
        options: dict[str, Any] = {"grid": view_grid(config), "deviation": deviation}
        weight = weight.astype(jnp.float32)
        terms |= box_heads.distribution_terms(outputs, box_cxcywh, weight, seeker, **options)
    for name, key in (("scores", "score_weight"), ("places", "place_weight")):
        if name in terms:
            total = total + seeker[key] * terms[name]
    return {"total": total, **terms}


def view_grid(config: ConfigDict) -> tuple[int, int]:
    """Rows and columns of the image tokens of a training view."""
    side = config.data.image_size
    return sizes.token_grid(config.model.image, side, side)


def text_id(text: Int[Array, "B T"]) -> UInt32[Array, " B"]:
    """A number that tells texts apart: a polynomial in their token ids, modulo 2^32."""
    powers = jnp.cumprod(jnp.full((text.shape[1],), _PRIME, jnp.uint32))
    return (text.astype(jnp.uint32) * powers[None]).sum(axis=1, dtype=jnp.uint32)


def identity(batch: Batch) -> UInt32[Array, "B 2"]:
    """The numbers of product and text of each row, by which rows are each other's positives."""
    return jnp.stack([batch["product_id"].astype(jnp.uint32), text_id(batch["text"])], axis=1)


def places_loss(
    outputs: dict[str, Array], batch: Batch, config: ConfigDict
) -> dict[str, Float[Array, ""]]:
    """The loss of the words' places as `word_places`, see that module; none at a weight of 0.

    Args:
        outputs: of `network.Date`.
        batch: with `product_id` and `text`.
        config: `config.image_seeker`.
    """
    if "image_places" not in outputs:
        return {}
    # The inverse temperature is the image seeker's, and learnt there alone.
    scale = jax.lax.stop_gradient(outputs["scale"])
    rows = outputs["image_places"], outputs["words"], identity(batch)
    return {"word_places": config.places_weight * word_places.loss(*rows, scale)}


def image_loss(outputs: dict[str, Array], batch: Batch, config: ConfigDict) -> Float[Array, ""]:
    """The image seeker's loss, `L_img`, over the global batch; see `pairs.contrastive`.

    Rows of one product or of one text are each other's positives.

    Args:
        outputs: of `network.Date`.
        batch: with `product_id` and `text`.
        config: `config.image_seeker`.
    """
    rows = outputs["query_embedding"], outputs["image_embedding"], identity(batch)
    if config.loss == "sigmoid":
        loss = contrastive.sigmoid(*rows, scale=outputs["scale"], bias=outputs["bias"])
    else:
        temperature = config.prior_temperature if config.prior == "dual_softmax" else 0.0
        loss = contrastive.softmax(*rows, scale=outputs["scale"], prior_temperature=temperature)
    return loss.mean()


def cooperation_terms(
    outputs: dict[str, Array], batch: Batch, box_cxcywh: Array, config: ConfigDict
) -> dict[str, Array]:
    """The loss of cooperation, `L_coop`, on a batch with boxes, and its terms.

    `loss` is the weighted sum of `box` and `image`, of `scores` and `places` where the head has
    them, and `word_places` where it has a weight, which that term contains; `iou` is the mean
    overlap in the training views.

    Args:
        outputs: of `network.Date`; with `box_seen` where some views do not show their box.
        box_cxcywh: the true boxes in the views that the network saw, `[B 4]`.
        config: the whole config.
    """
    # A box that its view does not show teaches nothing.
    weight = batch["box_mask"] * outputs.get("box_seen", 1.0)
    terms = box_terms(outputs, box_cxcywh, weight, config)
    box = terms.pop("total")
    image = image_loss(outputs, batch, config.image_seeker)
    from_pairs = places_loss(outputs, batch, config.image_seeker)
    overlap = boxes.iou(boxes.xyxy(outputs["box_cxcywh"]), boxes.xyxy(box_cxcywh))
    loss = config.object_seeker.weight * box + config.image_seeker.weight * image
    return {
        "loss": loss + sum(from_pairs.values()) if from_pairs else loss,
        **from_pairs,
        **terms,
        "image": image,
        "iou": losses.masked_mean(overlap, weight),
    }


def true_box(batch: Batch) -> Float[Array, "B 4"]:
    """The boxes of a batch; where a row has none, one that binds no crop."""
    return jnp.where(batch["box_mask"][:, None], batch["box_cxcywh"], jnp.array(augment.NO_BOX))


def learner(config: ConfigDict, vocab_size: int, swap_table: Array) -> Learner:
    """`L_coop` on a batch `{source}` as pure functions.

    Args:
        vocab_size: of the tokenizer.
        swap_table: int `[vocab_size]`, token id → token id under a mirror.
    """
    model = Date(config.model, vocab_size, config.data.text_length)
    forward = network.training_forward(model, config, swap_table)

    def init(rng: Array, batch: Batch) -> tuple[Params, Memory]:
        return {"model": model.init(rng, *extractors.one_row(batch["source"]))["params"]}, Memory()

    def loss(
        params: Params, memory: Memory, batch: Batch, *, step: Array, rng: Array
    ) -> tuple[Float[Array, ""], Aux]:
        source = batch["source"]
        outputs, box = forward(params, source, true_box(source), step, rng)
        terms = cooperation_terms(outputs, source, box, config)
        return terms["loss"], Aux(terms, memory)

    return Learner(init, loss, network.predictions(model))


CARD = Card(
    title="A product seeker",
    purpose="Finds the picture and the box that a text query asks for.",
    paper="DATE (arXiv 2304.03669)",
    training=lambda config: f"`supervised`, domains `{config.data.source}`",
    rows="pairs a domain",
    rest="seekers",
    rest_content="projections, image seeker, object seeker",
    columns=("acc_at_0.5", "mean_iou", "recall_at_1", "recall_at_10"),
)
TASK = Task(
    contradictions=rules.contradictions,
    load=evaluation.load,
    learner=lambda config, tokenizer, sizes: learner(config, *batches.vocabulary(tokenizer)),
    example=batches.supervised_example,
    batches=batches.supervised_batches,
    evaluator=evaluation.evaluator,
    highlight=evaluation.highlight,
    terms=("loss", "box", "image", "iou"),
    columns=evaluation.COLUMNS,
    card=CARD,
    answer=network.ANSWER,
    kept=batches.supervised_kept,
)
