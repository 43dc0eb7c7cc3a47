"""DATE's network (2304.03669): two extractors, a projection of each into one space, two seekers."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from date_jax import augment, sharding
from date_jax.date import box_heads, confidence, word_places
from date_jax.date.seekers import ImageSeeker, ObjectSeeker
from date_jax.networks import extractors, sizes
from date_jax.pairs.tiles import map_chunks
from date_jax.pairs.vectors import unit_vectors
from date_jax.task import Answer, Batch, Params, Prediction

# What an extractor gives, where a batch has that in place of pictures or words: `(rep, tokens)`.
Features: TypeAlias = tuple[Array, Array]

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

    def image(self, image: Array | Features) -> tuple[Array, Array]:
        """`(V_rep [B D], V [B P D])` of normalised pixels `[B H W 3]`, or of their features."""
        rep, tokens = image if isinstance(image, tuple) else self.image_extractor(image)
        return self.image_projection(rep), self.image_projection(tokens)

    def text(
        self, text: Array | Features, text_mask: Array, *, train: bool = False
    ) -> tuple[Array, Array]:
        """`(Q_rep [B D], Q [B T D])` of token ids `[B T]`, or of their features."""
        if not isinstance(text, tuple):
            text = self.text_extractor(text, text_mask, train=train)
        rep, tokens = text
        return self.text_projection(rep), self.text_projection(tokens)

    def __call__(
        self,
        image: Array | Features,
        text: Array | Features,
        text_mask: Array,
        *,
        token_mask: Array | None = None,
        with_places: bool = False,
        train: bool = False,
    ) -> dict[str, Array]:
        """All that losses and aligner use, by name; `box_cxcywh [B 4]` in [0, 1].

        Args:
            image: normalised pixels `[B H W 3]`, or their features.
            text: token ids `[B T]`, or their features.
            text_mask: bool `[B T]`, False for padding.
            token_mask: bool `[B P]`, False for image tokens that the object seeker does not see.
            with_places: also gives `image_places [B P D]`, the image tokens as unit vectors,
                `words [B D]`, that of all words of the text together, and `heat [B P]`, their
                cosines, see `word_places`.
            train: whether units are dropped.
        """
        image_rep, image_tokens = self.image(image)
        text_rep, text_tokens = self.text(text, text_mask, train=train)
        # The tokens' grid; the pictures of kept features are squares.
        if isinstance(image, tuple):
            grid = (math.isqrt(image_tokens.shape[1]),) * 2
        else:
            grid = sizes.token_grid(self.config.image, *image.shape[1:3])
        # The vectors of retrieval, from `[REP]` alone.
        query, picture, scale, bias = self.image_seeker(image_rep, text_rep)
        # Padding has no say in the mean of a text's tokens.
        share = text_mask / text_mask.sum(axis=1, keepdims=True)
        text_mean = (text_tokens * share[:, :, None].astype(text_tokens.dtype)).sum(axis=1)
        # Where the words are, for those who ask.
        places: dict[str, Array] = {}
        has_heat = self.config.fusion.get("heat", False)
        if with_places or has_heat:
            vectors = unit_vectors(image_tokens.astype(query.dtype))
            words = unit_vectors(text_mean.astype(query.dtype))
            heat = word_places.heat(vectors, words)
            places = {"image_places": vectors, "words": words, "heat": heat}
        # The box, from all tokens of both.
        loc, box, distribution = self.object_seeker(
            image_tokens,
            text_tokens,
            text_mask,
            grid,
            token_mask=token_mask,
            products=vectors * words[:, None] if has_heat else None,
            train=train,
        )
        return {
            "image_rep": image_rep,
            "image_mean": image_tokens.mean(axis=1),
            "text_rep": text_rep,
            "text_mean": text_mean,
            "loc": loc,
            "box_cxcywh": box,
            "query_embedding": query,
            "image_embedding": picture,
            "scale": scale,
            "bias": bias,
            **distribution,
            **(places if with_places else {}),
        }


def inputs(batch: Batch, prefix: str = "") -> dict[str, Any]:
    """The network's arguments for the pictures of a batch as they are.

    They are the features of frozen extractors where the batch has these, see `data.features`.

    Args:
        batch: with `image` or `image_rep` and `image_tokens`, and so on.
        prefix: in front of the names of features: `other_` for those of the other view.
    """
    image = _features(batch, f"{prefix}image") or augment.plain_view(batch["image"])
    text = _features(batch, f"{prefix}text") or batch["text"]
    return {"image": image, "text": text, "text_mask": batch["text_mask"]}


def _features(batch: Batch, name: str) -> Features | None:
    """The features of a batch's pictures or words; None where it has none."""
    parts = f"{name}_rep", f"{name}_tokens"
    return (batch[parts[0]], batch[parts[1]]) if parts[0] in batch else None


def training_forward(model: Date, config: ConfigDict, swap_table: Array) -> Callable[..., Any]:
    """The forward pass of training: `(params, batch, box_cxcywh, step, rng) -> (outputs, box)`.

    The network sees a view of a domain's batch; `box` is the box inside that view. With
    `token_mask` `[B P]` the object seeker does not see the image tokens where it is False.
    `outputs` has besides those of the network `box_seen [B]`: 0 for a box that lost more than half
    of its area in the view, which fixed views do without regard to boxes.
    """
    apply: Callable[..., Any] = model.apply  # Flax types its result too widely to use
    has_places = config.image_seeker.get("places_weight", 0.0) > 0

    def outputs(shared: tuple[Any, Array], rows: Batch, chunk: Array | None) -> dict[str, Array]:
        params, key = shared
        rngs = {"dropout": key if chunk is None else jax.random.fold_in(key, chunk)}
        image, text = (_features(rows, name) or rows[name] for name in ("image", "text"))
        options: dict[str, Any] = {"with_places": has_places, "train": True}
        options |= {name: rows[name] for name in ("text_mask", "token_mask") if name in rows}
        return apply({"params": params}, image, text, **options, rngs=rngs)

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
        if "view" in batch:
            view, box, seen = fixed_rows(batch, box, config, swap_table)
        else:
            options = {"config": config, "swap_table": swap_table}
            view, box = augment.strong_view(batch, box, step=step, rng=view_key, **options)
            seen = jnp.ones(len(box))
        if token_mask is not None:
            view["token_mask"] = token_mask
        shared = params["model"], dropout_key
        named = map_chunks(outputs, shared, view, at_once=config.model.rows_at_once)
        return {**named, "box_seen": seen}, box

    return forward


def fixed_rows(
    batch: Batch, box_cxcywh: Array, config: ConfigDict, swap_table: Array
) -> tuple[Batch, Array, Array]:
    """`(rows, box, seen)` of a batch with fixed views: what the network sees, and the boxes there.

    Args:
        batch: with `view`; with features of these views, or with the pictures.
        box_cxcywh: in the whole pictures.
        config: the run's.
        swap_table: token id → token id under a mirror.
    """
    # Features come with the window of their view; of pictures the view is made now.
    rows = {name: batch[name] for name in batch if name.endswith(("_rep", "_tokens"))}
    if "image_rep" in batch:
        window, flip = batch["window_xyxy"], batch["flip"]
    else:
        arguments = [batch["image"], batch["view_place"], batch["view"]]

        # Each device makes the views of its rows: nothing is exchanged for them.
        def fixed_views(_: sharding.Gather, rows: list[Array]) -> augment.FixedView:
            return augment.fixed_view(*rows, config=config)

        rows["image"], window, flip = sharding.map_rows(fixed_views, arguments)
    if "text_rep" not in batch:
        rows["text"] = jnp.where(flip[:, None], swap_table[batch["text"]], batch["text"])
    seen = (augment.seen_share(box_cxcywh, window) > 0.5).astype(jnp.float32)
    rows["text_mask"] = batch["text_mask"]
    return rows, augment.moved_box(box_cxcywh, window, flip), seen


def predictions(model: Date) -> dict[str, Prediction]:
    """The predictions that evaluation, search and export may ask for.

    `image_embedding [B D]` and `query_embedding [B D]` have length 1; `box_cxcywh [B 4]`, and
    `confidence_features [B F]`, from which `confidence.probability` tells how good that box is.
    """
    apply: Callable[..., Any] = model.apply

    # Pictures and queries apart, so that a gallery is embedded once for all queries.
    def image_embedding(params: Params, batch: Batch) -> Array:
        image = _features(batch, "image") or augment.plain_view(batch["image"])
        rep, _ = apply({"params": params["model"]}, image, method=Date.image)
        return unit_vectors(rep)

    def query_embedding(params: Params, batch: Batch) -> Array:
        text = _features(batch, "text") or batch["text"], batch["text_mask"]
        rep, _ = apply({"params": params["model"]}, *text, method=Date.text)
        return unit_vectors(rep)

    # The box needs a picture and its query together.
    def box_cxcywh(params: Params, batch: Batch) -> Array:
        return apply({"params": params["model"]}, **inputs(batch))["box_cxcywh"]

    return {
        "image_embedding": image_embedding,
        "query_embedding": query_embedding,
        "box_cxcywh": box_cxcywh,
        "confidence_features": partial(confidence.features, apply),
    }
