"""DATE's network (2304.03669): two extractors, a projection of each into one space, two seekers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from date_jax import augment
from date_jax.date import box_heads, confidence
from date_jax.date.seekers import ImageSeeker, ObjectSeeker
from date_jax.networks import extractors, sizes
from date_jax.pairs.tiles import map_chunks
from date_jax.pairs.vectors import unit_vectors
from date_jax.task import Answer, Batch, Params, Prediction

ANSWER = Answer(
    image="image_embedding",
    text="query_embedding",
    box="box_cxcywh",
    confidence="confidence_features",
    scorer=confidence.scorer,
)


class Date(nn.Module):
    """The whole network; its parameters are those of the parts, by name.

    Attributes:
        config: `config.model`.
        vocab_size: rows of the text extractor's embedding table.
        text_length: T.
    """

    config: ConfigDict
    vocab_size: int
    text_length: int

    def setup(self) -> None:
        # Each modality: a `[REP]` vector and tokens, brought to the shared width.
        model, dtype = self.config, jnp.dtype(self.config.dtype)
        self.image_extractor = extractors.image_extractor(model, model.image.pooling)
        self.text_extractor = extractors.text_extractor(model, self.vocab_size, self.text_length)
        self.image_projection = nn.Dense(model.width, dtype=dtype)
        self.text_projection = nn.Dense(model.width, dtype=dtype)
        # The seekers: one for vectors, one for tokens.
        self.image_seeker = ImageSeeker()
        self.object_seeker = ObjectSeeker(
            layers=model.fusion.layers,
            heads=model.fusion.heads,
            mlp_width=model.fusion.mlp_width,
            dropout=model.fusion.dropout,
            norm_first=model.fusion.norm_first,
            head=box_heads.head_kind(model),
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
        self,
        image: Array,
        text: Array,
        text_mask: Array,
        *,
        token_mask: Array | None = None,
        train: bool = False,
    ) -> dict[str, Array]:
        """All that losses and aligner use, by name; `box_cxcywh [B 4]` in [0, 1].

        Args:
            image: normalised pixels `[B H W 3]`.
            text, text_mask: token ids `[B T]`, and False where they are padding.
            token_mask: bool `[B P]`, False for image tokens that the object seeker does not see.
            train: whether units are dropped.
        """
        image_rep, image_tokens = self.image(image)
        text_rep, text_tokens = self.text(text, text_mask, train=train)
        # The box, from all tokens of both.
        grid = sizes.token_grid(self.config.image, *image.shape[1:3])
        loc, box, distribution = self.object_seeker(
            image_tokens, text_tokens, text_mask, grid, token_mask=token_mask, train=train
        )
        # The vectors of retrieval, from `[REP]` alone.
        query, picture, scale, bias = self.image_seeker(image_rep, text_rep)
        # Padding has no say in the mean of a text's tokens.
        share = text_mask / text_mask.sum(axis=1, keepdims=True)
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
            **distribution,
        }


def training_forward(model: Date, config: ConfigDict, swap_table: Array) -> Callable[..., Any]:
    """The forward pass of training: `(params, batch, box_cxcywh, step, rng) -> (outputs, box)`.

    The network sees a strong view of a domain's batch; `box` is the box inside that view. With
    `token_mask` `[B P]` the object seeker does not see the image tokens where it is False.
    """
    apply: Callable[..., Any] = model.apply  # Flax types its result too widely to use

    def outputs(shared: tuple[Any, Array], rows: Batch, chunk: Array | None) -> dict[str, Array]:
        params, key = shared
        rngs = {"dropout": key if chunk is None else jax.random.fold_in(key, chunk)}
        return apply({"params": params}, **rows, train=True, rngs=rngs)

    def forward(
        params: Params,
        batch: Batch,
        box: Array,
        step: Array,
        rng: Array,
        *,
        token_mask: Array | None = None,
    ) -> tuple[dict[str, Array], Array]:
        view_key, dropout_key = jax.random.split(rng)
        options = {"config": config, "swap_table": swap_table}
        view, box = augment.strong_view(batch, box, step=step, rng=view_key, **options)
        if token_mask is not None:
            view["token_mask"] = token_mask
        shared = params["model"], dropout_key
        return map_chunks(outputs, shared, view, at_once=config.model.rows_at_once), box

    return forward


def predictions(model: Date) -> dict[str, Prediction]:
    """The predictions that evaluation, search and export may ask for.

    `image_embedding [B D]` and `query_embedding [B D]` have length 1; `box_cxcywh [B 4]`, and
    `confidence_features [B F]`, from which `confidence.probability` tells how good that box is.
    """
    apply: Callable[..., Any] = model.apply

    # Pictures and queries apart, so that a gallery is embedded once for all queries.
    def image_embedding(params: Params, batch: Batch) -> Array:
        image = augment.plain_view(batch["image"])
        rep, _ = apply({"params": params["model"]}, image, method=Date.image)
        return unit_vectors(rep)

    def query_embedding(params: Params, batch: Batch) -> Array:
        text = batch["text"], batch["text_mask"]
        rep, _ = apply({"params": params["model"]}, *text, method=Date.text)
        return unit_vectors(rep)

    # The box needs a picture and its query together.
    def box_cxcywh(params: Params, batch: Batch) -> Array:
        image = augment.plain_view(batch["image"])
        inputs = image, batch["text"], batch["text_mask"]
        return apply({"params": params["model"]}, *inputs)["box_cxcywh"]

    return {
        "image_embedding": image_embedding,
        "query_embedding": query_embedding,
        "box_cxcywh": box_cxcywh,
        "confidence_features": partial(confidence.features, apply),
    }
