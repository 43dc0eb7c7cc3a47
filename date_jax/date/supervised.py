"""DATE's network (2304.03669) and its supervised losses: retrieval and grounding that cooperate."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32
from ml_collections import ConfigDict

from date_jax import augment, boxes, losses
from date_jax.date.seekers import ImageSeeker, ObjectSeeker
from date_jax.networks import extractors, sizes
from date_jax.pairs import contrastive
from date_jax.pairs.tiles import map_chunks
from date_jax.pairs.vectors import unit_vectors
from date_jax.task import Batch, Params, Task

_PRIME = 16777619  # FNV's: odd, so that no power of it loses a bit
SECOND_LOOK = 1.5  # side of the close-up in which a box is found again, by its longer side
OTHER_ZOOM = 1.25  # how far the other view zooms out where it may not be a mirrored one


class Date(nn.Module):
    """Two extractors, a projection of each into one space, two seekers.

    Attributes:
        config: `config.model`.
        vocab_size: rows of the text extractor's embedding table.
        text_length: T.
    """

    config: ConfigDict
    vocab_size: int
    text_length: int

    def setup(self) -> None:
        model, dtype = self.config, jnp.dtype(self.config.dtype)
        self.image_extractor = extractors.image_extractor(model)
        self.text_extractor = extractors.text_extractor(model, self.vocab_size, self.text_length)
        self.image_projection = nn.Dense(model.width, dtype=dtype)
        self.text_projection = nn.Dense(model.width, dtype=dtype)
        self.image_seeker = ImageSeeker()
        self.object_seeker = ObjectSeeker(
            layers=model.fusion.layers,
            heads=model.fusion.heads,
            mlp_width=model.fusion.mlp_width,
            dropout=model.fusion.dropout,
            norm_first=model.fusion.norm_first,
            remat=model.remat,
            scan=model.scan,
            dtype=dtype,
        )

    def image(self, image: Array) -> tuple[Array, Array]:
        """`(V_rep [B D], V [B P D])` of normalised pixels `[B H W 3]`."""
        rep, tokens = self.image_extractor(image)
        return self.image_projection(rep), self.image_projection(tokens)

    def text(self, text: Array, text_mask: Array, *, train: bool = False) -> tuple[Array, Array]:
        """`(Q_rep [B D], Q [B T D])` of token ids `[B T]`."""
        rep, tokens = self.text_extractor(text, text_mask, train=train)
        return self.text_projection(rep), self.text_projection(tokens)

    def __call__(
        self, image: Array, text: Array, text_mask: Array, *, train: bool = False
    ) -> dict[str, Array]:
        """All that losses and aligner use, by name; `box_cxcywh [B 4]` in [0, 1]."""
        image_rep, image_tokens = self.image(image)
        text_rep, text_tokens = self.text(text, text_mask, train=train)
        grid = sizes.token_grid(self.config.image, *image.shape[1:3])
        loc, box = self.object_seeker(image_tokens, text_tokens, text_mask, grid, train=train)
        share = text_mask / text_mask.sum(axis=1, keepdims=True)
        query, picture, scale, bias = self.image_seeker(image_rep, text_rep)
        return {
            "image_rep": image_rep,
            "image_mean": image_tokens.mean(axis=1),
            "text_rep": text_rep,
            "text_mean": (text_tokens * share[:, :, None].astype(text_tokens.dtype)).sum(axis=1),
            "loc": loc,
            "box_cxcywh": box,
            "query_embedding": query,
            "image_embedding": picture,
            "scale": scale,
            "bias": bias,
        }


def box_loss(
    predicted: Float[Array, "B 4"], true: Float[Array, "B 4"], weight: Array, config: ConfigDict
) -> Float[Array, ""]:
    """`L_obj`: L1 and 1 - GIoU, weighted mean over the rows."""
    each = config.l1_weight * losses.box_l1(predicted, true)
    each = each + config.giou_weight * losses.box_giou(predicted, true)
    return losses.masked_mean(each, weight)


def text_id(text: Int[Array, "B T"]) -> UInt32[Array, " B"]:
    """A number that tells texts apart: a polynomial in their token ids, modulo 2^32."""
    powers = jnp.cumprod(jnp.full((text.shape[1],), _PRIME, jnp.uint32))
    return (text.astype(jnp.uint32) * powers[None]).sum(axis=1, dtype=jnp.uint32)


def image_loss(out: dict[str, Array], batch: Batch, config: ConfigDict) -> Float[Array, ""]:
    """`L_img` over the global batch; rows of one product or one text are each other's positives."""
    identity = jnp.stack([batch["product_id"].astype(jnp.uint32), text_id(batch["text"])], axis=1)
    rows = out["query_embedding"], out["image_embedding"], identity
    if config.loss == "sigmoid":
        each = contrastive.sigmoid(*rows, scale=out["scale"], bias=out["bias"])
    else:
        temperature = config.prior_temperature if config.prior == "dual_softmax" else 0.0
        each = contrastive.softmax(*rows, scale=out["scale"], prior_temperature=temperature)
    return each.mean()


def source_losses(
    out: dict[str, Array], batch: Batch, box: Array, config: ConfigDict
) -> dict[str, Array]:
    """`L_coop` on a batch with boxes as `loss`, its two terms, and the training views' mean IoU."""
    found = box_loss(out["box_cxcywh"], box, batch["box_mask"], config.object_seeker)
    image = image_loss(out, batch, config.image_seeker)
    overlap = boxes.iou(boxes.xyxy(out["box_cxcywh"]), boxes.xyxy(box))
    return {
        "loss": config.object_seeker.weight * found + config.image_seeker.weight * image,
        "box": found,
        "image": image,
        "iou": losses.masked_mean(overlap, batch["box_mask"]),
    }


def predictions(model: Date, config: ConfigDict, swap_table: Array) -> dict[str, Any]:
    """What evaluation, search and the pseudo-box generator may ask, each `(params, batch)`."""

    apply: Callable[..., Any] = model.apply  # Flax types its result too widely to use

    def whole(params: Params, batch: Batch) -> dict[str, Array]:
        return apply(
            {"params": params["model"]},
            augment.plain_view(batch["image"]),
            batch["text"],
            batch["text_mask"],
        )

    def image_embedding(params: Params, batch: Batch) -> Array:
        image = augment.plain_view(batch["image"])
        rep, _ = apply({"params": params["model"]}, image, method=Date.image)
        return unit_vectors(rep)

    def query_embedding(params: Params, batch: Batch) -> Array:
        rep, _ = apply(
            {"params": params["model"]}, batch["text"], batch["text_mask"], method=Date.text
        )
        return unit_vectors(rep)

    def box_cxcywh(params: Params, batch: Batch) -> Array:
        return whole(params, batch)["box_cxcywh"]

    mirrors = config.augment.flip > 0

    def seen(batch: Batch, window: Array, flip: Array) -> Array:
        """The pictures in a view without any other change."""
        pixels = batch["image"].astype(jnp.float32) / 255.0
        sharp, fill = jnp.ones((len(pixels),)), pixels.mean(axis=(1, 2))
        return augment.normalised_pixels(augment.resampled_image(pixels, window, flip, sharp, fill))

    def found(params: Params, batch: Batch, window: Array, mirrored: bool) -> Array:
        """The box that a view shows, in the whole picture's coordinates and cut at its border."""
        flip = jnp.full((len(window),), mirrored)
        text = swap_table[batch["text"]] if mirrored else batch["text"]
        image = seen(batch, window, flip)
        out = apply({"params": params["model"]}, image, text, batch["text_mask"])
        box = boxes.xyxy(augment.original_box(out["box_cxcywh"], window, flip))
        return boxes.cxcywh(jnp.clip(box, 0.0, 1.0))

    looks = config.pseudo_boxes.looks if "pseudo_boxes" in config else 1

    def searched(params: Params, batch: Batch, zoom: float, mirrored: bool) -> Array:
        """Found in the whole picture, then, with two looks, again in a close-up of what was found.

        There the product has a size that both domains' close-ups share, so a box that was drawn to
        the source's usual size comes out right.
        """
        picture = jnp.tile(jnp.array([augment.WHOLE_PICTURE]), (len(batch["image"]), 1))
        first = found(params, batch, augment.close_up_window(picture, zoom), mirrored)
        if looks == 1:
            return first
        return found(params, batch, augment.close_up_window(first, SECOND_LOOK), mirrored)

    def pseudo_box_cxcywh(params: Params, batch: Batch) -> Array:
        return searched(params, batch, 1.0, False)

    def agreement(params: Params, batch: Batch) -> Array:
        """IoU of the pseudo box with the one found in the mirrored picture or, where that must not
        be mirrored, in a smaller view."""
        other = searched(params, batch, 1.0 if mirrors else OTHER_ZOOM, mirrors)
        return boxes.iou(boxes.xyxy(other), boxes.xyxy(pseudo_box_cxcywh(params, batch)))

    return {
        "image_embedding": image_embedding,
        "query_embedding": query_embedding,
        "box_cxcywh": box_cxcywh,
        "pseudo_box_cxcywh": pseudo_box_cxcywh,
        "agreement": agreement,
    }


def build(config: ConfigDict, vocab_size: int, swap_table: Array) -> Task:
    """Supervised retrieval and grounding, `L_coop` on a batch `{source}` (2304.03669)."""
    model = Date(config.model, vocab_size, config.data.text_length)
    forward = training_view(model, config, swap_table)

    def init(rng: Array, batch: Batch) -> Params:
        return {"model": model.init(rng, *extractors.one_row(batch["source"]))["params"]}

    def loss(
        params: Params, batch: Batch, *, step: Array, rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        source = batch["source"]
        out, box = forward(params, source, known_box(source), step, rng)
        terms = source_losses(out, source, box, config)
        return terms["loss"], terms

    return Task(init, loss, predictions(model, config, swap_table))


def training_view(model: Date, config: ConfigDict, swap_table: Array) -> Callable[..., Any]:
    """`(params, batch, box_cxcywh, step, rng) -> (out, box)`: what the network makes of a strong
    view of a domain's batch, and the box inside that view."""
    apply: Callable[..., Any] = model.apply  # Flax types its result too widely to use

    def network(shared: tuple[Any, Array], rows: Batch, chunk: Array | None) -> dict[str, Array]:
        params, key = shared
        rngs = {"dropout": key if chunk is None else jax.random.fold_in(key, chunk)}
        return apply({"params": params}, **rows, train=True, rngs=rngs)

    def forward(
        params: Params, batch: Batch, box: Array, step: Array, rng: Array
    ) -> tuple[dict[str, Array], Array]:
        view_key, dropout_key = jax.random.split(rng)
        inputs, box = augment.strong_view(
            batch, box, step=step, rng=view_key, config=config, swap_table=swap_table
        )

        shared = params["model"], dropout_key
        return map_chunks(network, shared, inputs, at_once=config.model.rows_at_once), box

    return forward


def known_box(batch: Batch) -> Float[Array, "B 4"]:
    """The boxes of a batch; where a row has none, one that binds no crop."""
    return jnp.where(batch["box_mask"][:, None], batch["box_cxcywh"], jnp.array(augment.NO_BOX))
