"""Task of same-style products (2302.05093): pictures, words or both as vectors in one space.

Trained on pairs of a trigger and an offer of one product, in a batch `{trigger, offer}`, with the
losses of `matching`: L = Σ PPM + w1 Σ SD + w2 Σ LC. Nothing says which product a row shows.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from date_jax import augment
from date_jax.networks import extractors
from date_jax.pairs import contrastive
from date_jax.pairs.tiles import map_chunks
from date_jax.same_style import evaluation, matching, rules
from date_jax.same_style.batches import batches, example, kept, load
from date_jax.same_style.network import SameStyle
from date_jax.task import Answer, Aux, Batch, Card, Learner, Memory, Params, Prediction, Task

SIDES = ("trigger", "offer")
LOSSES = ("hinge", "softmax")  # of matching and distinctiveness, by config.losses.kind
SINGLES = {"both": ("text", "image"), "image": ("image",), "text": ("text",)}  # by config.modality


def learner(config: ConfigDict, tokenizer: Any, sizes: Mapping[str, int]) -> Learner:
    """The learner for a vocabulary; it keeps nothing of rows, so `sizes` do not matter."""
    del sizes
    swap_table = jnp.asarray(tokenizer.swap_table())
    return pair_learner(config, len(tokenizer.vocab), swap_table)


def pair_learner(config: ConfigDict, vocab_size: int, swap_table: Array) -> Learner:
    """Matching of pairs as three pure functions; see the module's text for the losses.

    With `config.modality` "image" or "text" the other is never looked at, and "joint" is that one.

    Args:
        vocab_size: of the corpus' tokenizer.
        swap_table: token id → token id under a mirror.
    """
    model = SameStyle(config.model, vocab_size, config.data.text_length)
    apply: Callable[..., Any] = model.apply  # Flax types its result too widely to use
    singles = SINGLES[config.modality]

    def inputs(image: Any, text: Any, text_mask: Array) -> tuple[Any, ...]:
        """The part of an offer that the config lets the network see."""
        words = (text, text_mask) if "text" in singles else (None, None)
        return (image if "image" in singles else None, *words)

    def init(rng: Array, batch: Batch) -> tuple[Params, Memory]:
        row = inputs(*extractors.one_row(batch["trigger"]))
        return {"model": model.init(rng, *row)["params"]}, Memory()

    def forward(
        shared: tuple[Params, Array], batch: Batch, chunk: Array | None
    ) -> dict[str, Array]:
        """The vectors that the losses compare, of some pairs."""
        # Either side with its own dropout, and of an offer only what the losses compare.
        params, key = shared
        keys = jax.random.split(key if chunk is None else jax.random.fold_in(key, chunk))
        kinds_of = {"trigger": ("joint", *singles), "offer": ("joint",)}
        outputs: dict[str, Array] = {}
        for side, dropout_key in zip(SIDES, keys, strict=True):
            views = inputs(*network_inputs(batch, f"{side}_"))
            rngs = {"dropout": dropout_key}
            vectors = apply({"params": params}, *views, kinds=kinds_of[side], train=True, rngs=rngs)
            outputs |= {f"{side}_{kind}": vector for kind, vector in vectors.items()}
        return outputs

    def loss(
        params: Params, memory: Memory, batch: Batch, *, step: Array, rng: Array
    ) -> tuple[Float[Array, ""], Aux]:
        *view_keys, dropout_key = jax.random.split(rng, 3)
        # A view of either side, strong or one of its fixed ones.
        views: Batch = {}
        for side, key in zip(SIDES, view_keys, strict=True):
            view = training_view(batch[side], config, swap_table, step=step, rng=key)
            views |= {f"{side}_{name}": value for name, value in view.items()}
        # The network, some pairs after the other; then the losses, over all of them.
        shared = params["model"], dropout_key
        outputs = map_chunks(forward, shared, views, at_once=config.model.rows_at_once)
        identity = jnp.stack([batch[side]["index"] for side in SIDES], axis=1)
        terms = pair_losses(outputs, identity.astype(jnp.uint32), singles, config.losses)
        return terms["loss"], Aux(terms, memory)

    return Learner(init, loss, predictions(model, config.modality, inputs))


def training_view(
    rows: Batch, config: ConfigDict, swap_table: Array, *, step: Array, rng: Array
) -> Batch:
    """What the network sees of one side of a batch of pairs: pictures or features, and words.

    Args:
        rows: with `view` where their views are fixed, then maybe with features of these.
        config: the run's.
        swap_table: token id → token id under a mirror.
        step: of training; strong views grow stronger over the first ones.
        rng: of strong views.
    """
    # There are no boxes, so a strong view keeps most of the picture.
    if "view" not in rows:
        picture = jnp.tile(jnp.array([augment.WHOLE_PICTURE]), (len(rows["image"]), 1))
        options: dict[str, Any] = {"step": step, "config": config, "swap_table": swap_table}
        return augment.strong_view(rows, picture, rng=rng, **options)[0]
    # A fixed view is made now, or its features come with the batch.
    view = {name: rows[name] for name in rows if name.endswith(("_rep", "_tokens"))}
    if "image_rep" in rows:
        flip = rows["flip"]
    else:
        places = rows["view_place"], rows["view"]
        view["image"], _, flip = augment.fixed_view(rows["image"], *places, config=config)
    if "text_rep" not in rows:
        view["text"] = jnp.where(flip[:, None], swap_table[rows["text"]], rows["text"])
    return view | {"text_mask": rows["text_mask"]}


def network_inputs(batch: Batch, prefix: str = "") -> tuple[Any, ...]:
    """`(image, text, text_mask)` of a batch: pixels and token ids, or features in their place.

    Args:
        batch: of normalised pictures.
        prefix: in front of its names.
    """
    inputs = []
    for name in ("image", "text"):
        parts = f"{prefix}{name}_rep", f"{prefix}{name}_tokens"
        is_kept = parts[0] in batch
        inputs.append((batch[parts[0]], batch[parts[1]]) if is_kept else batch[f"{prefix}{name}"])
    return (*inputs, batch[f"{prefix}text_mask"])


def pair_losses(
    outputs: dict[str, Array], identity: Array, singles: tuple[str, ...], config: ConfigDict
) -> dict[str, Array]:
    """The terms of the loss, each a mean over the global batch, and their weighted sum.

    With the losses of `matching` and t from picture or words alone (2302.05093, after the official
    loss file; weights and margins are ours):

        L = Σ_{a ∈ joint, text, image} PPM(a) + w1 Σ_{t ∈ text, image} SD(t) + w2 Σ_t LC(t)

    Where only one modality is learnt there is one PPM and nothing else. Pairs that have an offer in
    common, such as a pair and its own reverse, are no negatives of PPM and SD. Two pairs of which
    each text lies on the other pair's offer, in a run of words alone:

        >>> outputs = {"trigger_text": jnp.eye(2)[::-1], "offer_joint": jnp.eye(2)}
        >>> outputs["trigger_joint"] = outputs["trigger_text"]
        >>> config = ConfigDict({"kind": "hinge", "match_margin": 0.5})
        >>> pair_losses(outputs, jnp.uint32([[0, 1], [2, 3]]), ("text",), config)["loss"]
        Array(0.75, dtype=float32)

    Args:
        outputs: `trigger_joint`, `offer_joint` and `trigger_<single>`, unit vectors `[B E]`.
        identity: numbers of each pair's trigger and offer `[B 2]`, of one numbering of offers.
        singles: modalities there are alone.
        config: `config.losses`.

    Returns:
        `match_<kind>`, `distinct_<single>`, `local_<single>` and `loss`.
    """
    trigger, offer = outputs["trigger_joint"], outputs["offer_joint"]

    def matching_loss(rows: Array, columns: Array, margin: float) -> Array:
        if config.kind == "hinge":
            return matching.hinge(rows, columns, identity, margin=margin).mean()
        scale = jnp.float32(1 / config.temperature)
        matches = contrastive.crosswise_matches
        return contrastive.softmax(rows, columns, identity, scale=scale, matches=matches).mean()

    # PPM: every vector of a trigger is to find its offer.
    terms = {}
    for kind in ("joint", *singles) if len(singles) > 1 else singles:
        terms[f"match_{kind}"] = matching_loss(
            outputs[f"trigger_{kind}"], offer, config.match_margin
        )
    total = jnp.stack([*terms.values()]).sum()
    # SD and LC tie one modality to both together, which takes both.
    for kind in singles if len(singles) > 1 else ():
        single = outputs[f"trigger_{kind}"]
        distinct = matching_loss(single, trigger, config.distinct_margin)
        local = matching.locality(
            trigger, single, offer, margin=config.local_margin, nearest=config.nearest
        ).mean()
        terms |= {f"distinct_{kind}": distinct, f"local_{kind}": local}
        total = total + config.distinct_weight * distinct + config.local_weight * local
    return {**terms, "loss": total}


def predictions(
    model: SameStyle, modality: str, inputs: Callable[..., Any]
) -> dict[str, Prediction]:
    """The functions `(params, batch) -> [B E]` that evaluation and search may ask for, by name.

    They are `joint_embedding`, `image_embedding` and `text_embedding`, as far as the modality lets
    the network learn them.
    """
    apply: Callable[..., Any] = model.apply

    def embedding(params: Params, batch: Batch, *, kind: str) -> Array:
        if "image_rep" not in batch:
            batch = {**batch, "image": augment.plain_view(batch["image"])}
        image, text, text_mask = inputs(*network_inputs(batch))
        if kind == "image":
            text, text_mask = None, None
        if kind == "text":
            image = None
        return apply({"params": params["model"]}, image, text, text_mask)["joint"]

    return {
        f"{kind}_embedding": partial(embedding, kind=kind) for kind in ("joint", *SINGLES[modality])
    }


TASK = Task(
    contradictions=rules.contradictions,
    load=load,
    learner=learner,
    example=example,
    batches=batches,
    evaluator=evaluation.evaluator,
    highlight=evaluation.highlight,
    terms=("loss", "match_joint", "match_text", "match_image", "distinct_text", "distinct_image",
           "local_text", "local_image"),
    columns=("m-m/recall_at_1", "i-i/recall_at_1", "t-t/recall_at_1", "i-t/recall_at_1",
             "t-i/recall_at_1", "m-m/mrr"),
    card=Card(
        title="An encoder of products",
        purpose="Embeds pictures, words or both of a product in one space.",
        paper="the same-style paper (arXiv 2302.05093)",
        training=lambda config: f"modality `{config.modality}`, losses `{config.losses.kind}`",
        rows="pairs",
        rest="joint_encoder",
        rest_content="projections and joint encoder",
        columns=("m-m/recall_at_1", "i-t/recall_at_1", "t-i/recall_at_1", "m-m/mrr"),
    ),
    answer=Answer(
        image="image_embedding",
        text="text_embedding",
        product="joint_embedding",
        settings=("modality",),
    ),
    kept=kept,
)  # fmt: skip
