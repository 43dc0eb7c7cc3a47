"""Same-style products (2302.05093): a picture, words, or both, as vectors in one space.

Trained on pairs of a trigger and an offer of one product, in a batch `{trigger, offer}`, with the
losses of `matching`: L = Σ PPM + w1 Σ SD + w2 Σ LC. Nothing says which product a row shows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from date_jax import augment
from date_jax.networks import extractors, sizes
from date_jax.pairs import contrastive
from date_jax.pairs.tiles import map_chunks
from date_jax.same_style import matching
from date_jax.same_style.joint_encoder import JointEncoder
from date_jax.task import Aux, Batch, Learner, Memory, Params

SINGLES = {"both": ("text", "image"), "image": ("image",), "text": ("text",)}  # by config.modality


class SameStyle(nn.Module):
    """Both extractors, a projection of each to one width, the joint encoder over their tokens.

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
        self.joint_encoder = JointEncoder(
            layers=model.joint.layers,
            heads=model.joint.heads,
            mlp_width=model.joint.mlp_width,
            embedding=model.embedding,
            dropout=model.joint.dropout,
            norm_first=model.joint.norm_first,
            remat=model.remat,
            scan=model.scan,
            dtype=dtype,
        )

    def __call__(
        self,
        image: Float[Array, "B H W 3"] | None,
        text: Int[Array, "B T"] | None,
        text_mask: Bool[Array, "B T"] | None,
        *,
        kinds: tuple[str, ...] = ("joint",),
        train: bool = False,
    ) -> dict[str, Float[Array, "B E"]]:
        """Unit vectors by name, of `kinds`: "joint" from all that is given, "image", "text" from
        that alone. Pixels are normalised."""
        grid = (0, 0)
        if image is not None:
            grid = sizes.token_grid(self.config.image, *image.shape[1:3])
            image = self.image_projection(self.image_extractor(image)[1])
        if text is not None and text_mask is not None:
            text = self.text_projection(self.text_extractor(text, text_mask, train=train)[1])
        given = {
            "joint": (image, text, text_mask),
            "image": (image, None, None),
            "text": (None, text, text_mask),
        }
        return {kind: self.joint_encoder(*given[kind], grid, train=train) for kind in kinds}


def learner(config: ConfigDict, vocab_size: int, swap_table: Array) -> Learner:
    """Matching of pairs as three pure functions; see the module's text for the losses.

    With `config.modality` "image" or "text" the other is never looked at, and "joint" is that one.
    """
    model = SameStyle(config.model, vocab_size, config.data.text_length)
    apply: Callable[..., Any] = model.apply  # Flax types its result too widely to use
    singles = SINGLES[config.modality]

    def inputs(image: Array, text: Array, text_mask: Array) -> tuple[Array | None, ...]:
        """What of an offer the config lets the network see."""
        words = (text, text_mask) if "text" in singles else (None, None)
        return (image if "image" in singles else None, *words)

    def init(rng: Array, batch: Batch) -> tuple[Params, Memory]:
        row = inputs(*extractors.one_row(batch["trigger"]))
        return {"model": model.init(rng, *row)["params"]}, Memory()

    def network(shared: tuple[Any, Array], rows: Batch, chunk: Array | None) -> dict[str, Array]:
        params, key = shared
        keys = jax.random.split(key if chunk is None else jax.random.fold_in(key, chunk))
        found: dict[str, Array] = {}
        for side, own, kinds in zip(("trigger", "offer"), keys, (("joint", *singles), ("joint",)),
                                    strict=True):  # fmt: skip
            given = inputs(*(rows[f"{side}_{name}"] for name in ("image", "text", "text_mask")))
            rngs = {"dropout": own}
            vectors = apply({"params": params}, *given, kinds=kinds, train=True, rngs=rngs)
            found |= {f"{side}_{kind}": vector for kind, vector in vectors.items()}
        return found

    def loss(
        params: Params, memory: Memory, batch: Batch, *, step: Array, rng: Array
    ) -> tuple[Float[Array, ""], Aux]:
        *view_keys, dropout_key = jax.random.split(rng, 3)
        rows: Batch = {}
        for side, key in zip(("trigger", "offer"), view_keys, strict=True):
            whole = jnp.tile(jnp.array([augment.WHOLE_PICTURE]), (len(batch[side]["image"]), 1))
            options: dict[str, Any] = {"config": config, "swap_table": swap_table}
            view, _ = augment.strong_view(batch[side], whole, step=step, rng=key, **options)
            rows |= {f"{side}_{name}": value for name, value in view.items()}
        shared = params["model"], dropout_key
        out = map_chunks(network, shared, rows, at_once=config.model.rows_at_once)
        identity = jnp.stack([batch[side]["index"] for side in ("trigger", "offer")], axis=1)
        terms = pair_losses(out, identity.astype(jnp.uint32), singles, config.losses)
        return terms["loss"], Aux(terms, memory)

    return Learner(init, loss, predictions(model, config.modality, inputs))


def pair_losses(
    out: dict[str, Array], identity: Array, singles: tuple[str, ...], config: ConfigDict
) -> dict[str, Array]:
    """The weighted sum as `loss`, and its terms, each a mean over the global batch.

    Args:
        out: `trigger_joint`, `offer_joint` and `trigger_<single>`, unit vectors `[B E]`.
        identity: numbers of each pair's trigger and offer `[B 2]`, for the softmax.
        singles: modalities there are alone.
        config: `config.losses`.
    """
    trigger, offer = out["trigger_joint"], out["offer_joint"]

    def near(rows: Array, columns: Array, margin: float) -> Array:
        if config.kind == "hinge":
            return matching.hinge(rows, columns, margin=margin).mean()
        scale = jnp.float32(1 / config.temperature)
        return contrastive.softmax(rows, columns, identity, scale=scale).mean()

    terms = {}
    for kind in ("joint", *singles) if len(singles) > 1 else singles:
        terms[f"match_{kind}"] = near(out[f"trigger_{kind}"], offer, config.match_margin)
    total = jnp.stack([*terms.values()]).sum()
    for kind in singles if len(singles) > 1 else ():
        single = out[f"trigger_{kind}"]
        distinct = near(single, trigger, config.distinct_margin)
        local = matching.locality(
            trigger, single, offer, margin=config.local_margin, nearest=config.nearest
        ).mean()
        terms |= {f"distinct_{kind}": distinct, f"local_{kind}": local}
        total = total + config.distinct_weight * distinct + config.local_weight * local
    return {**terms, "loss": total}


def predictions(model: SameStyle, modality: str, inputs: Callable[..., Any]) -> dict[str, Any]:
    """`joint_embedding`, `image_embedding`, `text_embedding`: those the network has learnt."""
    apply: Callable[..., Any] = model.apply

    def embedding(params: Params, batch: Batch, *, kind: str) -> Array:
        image, text, text_mask = inputs(
            augment.plain_view(batch["image"]), batch["text"], batch["text_mask"]
        )
        if kind == "image":
            text, text_mask = None, None
        if kind == "text":
            image = None
        return apply({"params": params["model"]}, image, text, text_mask)["joint"]

    return {
        f"{kind}_embedding": partial(embedding, kind=kind) for kind in ("joint", *SINGLES[modality])
    }
