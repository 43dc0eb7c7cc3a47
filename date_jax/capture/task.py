"""CAPTURE (2107.14572): posts of several products embedded one by one, learnt from titles alone.

A batch is `{posts, composites}`. Posts have a title and a picture, or regions computed beforehand.
They give the three pretext losses, and a fourth of ours that tells one product's words from
another's. Composites have boxes of pasted cut-outs, and train the head that proposes regions. No
post has a label or a box.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from date_jax import augment, boxes
from date_jax.capture import evaluation, post_search, pretext, proposals, rules
from date_jax.capture.batches import batches, example, load
from date_jax.capture.network import POST_KEYS, Capture, region_count
from date_jax.capture.predictions import predictions
from date_jax.data.tokenizer import SPECIAL
from date_jax.errors import DataError
from date_jax.pairs import contrastive
from date_jax.pairs.tiles import map_chunks
from date_jax.pairs.vectors import unit_vectors
from date_jax.task import Answer, Aux, Batch, Card, Learner, Memory, Params, Task

_NO_GEOMETRY = {"zoom_in": 1.0, "zoom_out": 1.0, "aspect": 1.0, "flip": 0.0, "focus": 0.0}


def learner(config: ConfigDict, tokenizer: Any, sizes: Mapping[str, int]) -> Learner:
    """The learner for a vocabulary; it keeps nothing of rows, so `sizes` do not matter.

    Raises:
        DataError: no word stands behind [MASK] in the vocabulary, or a special piece does.
    """
    del sizes
    mask_id = tokenizer.special.mask
    if mask_id is None:
        raise DataError(
            f"config.data.vocab={config.data.vocab}: has no piece that hides a word, such as "
            "[MASK], which this task learns from; take another vocabulary"
        )
    special = [number for number in tokenizer.special if number is not None]
    if not max(special) == mask_id < len(tokenizer.vocab) - 1:
        raise DataError(
            f"config.data.vocab={config.data.vocab}: [MASK] is line {mask_id + 1}; {SPECIAL} must "
            "come first with [MASK] last of them, for what is behind it is taken for words"
        )
    swap_table = jnp.asarray(tokenizer.swap_table())
    return post_learner(config, len(tokenizer.vocab), mask_id, swap_table)


def post_learner(config: ConfigDict, vocab_size: int, mask_id: int, swap_table: Array) -> Learner:
    """CAPTURE as three pure functions; see the module's text.

    Args:
        vocab_size: of the corpus' tokenizer.
        mask_id: of [MASK]; the ids of words are above it, as in BERT's vocabularies.
        swap_table: token id → token id under a mirror.
    """
    model = Capture(config.model, vocab_size, config.data.text_length)

    def init(rng: Array, batch: Batch) -> tuple[Params, Memory]:
        # Parameters depend on shapes alone, and one row has them.
        posts = {key: batch["posts"][key] for key in POST_KEYS if key in batch["posts"]}
        row = {key: jnp.zeros((1, *x.shape[1:]), x.dtype) for key, x in posts.items()}
        if "image" in row:
            row["image"] = row["image"].astype(jnp.float32)
        variables = model.init(rng, row, method=Capture.init_outputs)
        return {"model": variables["params"]}, Memory()

    def loss(
        params: Params, memory: Memory, batch: Batch, *, step: Array, rng: Array
    ) -> tuple[Float[Array, ""], Aux]:
        view_key, mask_key, join_key, dropout_key = jax.random.split(rng, 4)
        # What the network reads: views of the pictures, masked words, titles of two posts.
        views = augmented_batch(batch, config, swap_table, step, view_key)
        count = region_count(config.model, views)
        views |= masked_inputs(views, count, mask_id, vocab_size, mask_key)
        if config.loss.joined:
            text, mask = pretext.joined_titles(views["text"], views["text_mask"], rng=join_key)
            views |= {"joined_text": text, "joined_mask": mask}
        # The network, some rows after the other; then the terms, over all of them.
        outputs = map_chunks(
            partial(forward, model),
            (params["model"], dropout_key),
            views,
            at_once=config.model.rows_at_once,
        )
        terms = loss_terms(outputs, config.loss.temperature)
        total = sum((config.loss[name] * term for name, term in terms.items()), jnp.zeros(()))
        return total, Aux({**terms, "loss": total}, memory)

    return Learner(init, loss, predictions(model, config))


def augmented_batch(
    batch: dict[str, Batch], config: ConfigDict, swap_table: Array, step: Array, rng: Array
) -> Batch:
    """Strong views of posts and of composites, as the rows of one batch.

    A composite keeps its geometry, so its boxes stay where they are.

    Args:
        batch: `{posts, composites}`; the latter only where posts have pictures.
        swap_table: token id → token id under a mirror.
        step: of training; views grow stronger over the first ones.
    """
    views = {key: batch["posts"][key] for key in POST_KEYS if key in batch["posts"]}
    if "image" not in views:
        return views
    # Posts have no box that a view must keep; composites have several, so nothing may move.
    nowhere = jnp.broadcast_to(jnp.array([augment.NO_BOX]), (len(views["image"]), 4))
    without_geometry = config.augment.copy_and_resolve_references().unlock()
    without_geometry.update(_NO_GEOMETRY)
    # Views grow stronger over the first steps.
    ramp = max(config.augment.ramp * config.steps, 1)
    options = {"strength": jnp.clip(step / ramp, 0.0, 1.0), "swap_table": swap_table}
    keys = jax.random.split(rng)
    views["image"], _, views["text"] = augment.random_view(
        views["image"], nowhere, views["text"], rng=keys[0], config=config.augment, **options
    )
    # Composites have no title; `random_view` needs one, and this result of it is dropped.
    composites = batch["composites"]
    views["composite"], _, _ = augment.random_view(
        composites["image"],
        nowhere,
        views["text"],
        rng=keys[1],
        config=without_geometry,
        **options,
    )
    return views | {key: composites[key] for key in ("box_cxcywh", "box_mask")}


def masked_inputs(
    batch: Batch, count: int, mask_id: int, vocab_size: int, rng: Array
) -> dict[str, Array]:
    """The words and regions of each post that the pretext tasks hide, and ask the network for.

    Args:
        batch: `text` and `text_mask` are read.
        count: R, regions of a post.
        mask_id: of [MASK]; the ids of words are above it.
        vocab_size: one above the largest id.

    Returns:
        `masked_text [B T]` and `chosen_words [B T]`; `chosen_regions [B R]` and, of these,
        `zeroed_regions [B R]`.
    """
    # Only words are masked: special tokens have the smallest ids, and padding is no text.
    word_key, region_key = jax.random.split(rng)
    text, chosen_words = pretext.masked_words(
        batch["text"],
        batch["text_mask"] & (batch["text"] > mask_id),
        rng=word_key,
        mask_id=mask_id,
        first_id=mask_id + 1,
        vocab_size=vocab_size,
    )
    chosen, zeroed = pretext.region_masks((len(text), count), rng=region_key)
    return {
        "masked_text": text,
        "chosen_words": chosen_words,
        "chosen_regions": chosen,
        "zeroed_regions": zeroed,
    }


def forward(
    model: Capture, shared: tuple[Params, Array], batch: Batch, chunk: Array | None
) -> dict[str, Array]:
    """CAPTURE's forward pass: vectors of some posts, and sums and counts of the losses' parts.

    Args:
        shared: the network's parameters, and the key of its dropout.
        batch: of `augmented_batch`, `masked_inputs` and, for the fourth loss, `joined_titles`.
        chunk: see `map_chunks`.

    Returns:
        What `loss_terms` reads, each `[B ...]`.
    """
    params, key = shared
    rngs = {"dropout": key if chunk is None else jax.random.fold_in(key, chunk)}
    network = model.bind({"params": params}, rngs=rngs)
    outputs: dict[str, Array] = {}
    if "image" in batch:
        grid = network.grid(batch["image"])
        # Side by side, so that no row leaves its device, and through the extractor as one.
        pairs = jnp.stack([batch["image"], batch["composite"]], axis=1)
        tokens = network.tokens(pairs.reshape(-1, *pairs.shape[2:]))
        tokens = tokens.reshape(len(pairs), 2, *tokens.shape[1:])
        regions = network.picture_regions(tokens[:, 0], grid)
        # The composites' boxes are known: they teach the proposal head, and nothing else.
        predicted, true = network.proposal_head(tokens[:, 1], grid), boxes.xyxy(batch["box_cxcywh"])
        outputs |= proposals.proposal_losses(*predicted, true, batch["box_mask"], grid)
    else:
        regions = network.regions(batch)
    # Masked words and regions go in; guesses of them, and the vectors before the streams meet, out.
    chosen = batch["chosen_regions"] & regions.mask
    feature = jnp.where(batch["zeroed_regions"][..., None], 0.0, regions.feature)
    masked = regions._replace(feature=feature)
    guess = network(batch["masked_text"], batch["text_mask"], masked, train=True)
    # The joined titles say more than the picture shows: whose words belong to it?
    if "joined_text" in batch:
        joined = network(batch["joined_text"], batch["joined_mask"], regions, train=True)
        outputs |= {
            "text_co": unit_vectors(joined["text_co"]),
            "image_co": unit_vectors(joined["image_co"]),
        }
    true_feature = jax.lax.stop_gradient(regions.feature).astype(jnp.float32)
    return outputs | {
        "text_uni": unit_vectors(guess["text_uni"]),
        "image_uni": unit_vectors(guess["image_uni"]),
        "words": pretext.word_losses(guess["words"], batch["text"], batch["chosen_words"]),
        "word_count": batch["chosen_words"].sum(axis=1),
        "regions": pretext.region_losses(guess["regions"], true_feature, chosen),
        "region_count": chosen.sum(axis=1),
    }


def loss_terms(outputs: dict[str, Array], temperature: float) -> dict[str, Array]:
    """The terms of the loss, over the global batch.

    Words, regions and contrast are the official code's pretext losses (2107.14572), the others are
    ours. With the sums l and counts n of `forward`, and NT-Xent of `contrastive`:

        words       Σ_i l_i / Σ_i n_i                         over all masked words
        regions     Σ_i l_i / Σ_i n_i                         over all chosen regions
        contrast    mean_i NT-Xent(v_uni, t_uni)_i            a post's picture against its title
        joined      ½ mean_i [NT-Xent(t_co, t_uni)_i + NT-Xent(v_co, v_uni)_i]
        objectness, box   Σ_i l_i / Σ_i positives_i           over the composites' positive tokens

    Two posts that lose 3 and 1 on one word and three words:

        >>> none, unit = jnp.zeros(2), jnp.eye(2)
        >>> outputs = {"text_uni": unit, "image_uni": unit, "regions": none, "region_count": none}
        >>> outputs |= {"words": jnp.array([3.0, 1.0]), "word_count": jnp.array([1, 3])}
        >>> loss_terms(outputs, 0.07)["words"]
        Array(1., dtype=float32)

    Args:
        outputs: of `forward`.
        temperature: of NT-Xent.
    """
    # The pretext losses; a batch in which nothing was chosen has none to divide by.
    contrast = partial(contrastive.nt_xent, temperature=temperature)
    terms = {
        "words": outputs["words"].sum() / jnp.maximum(outputs["word_count"].sum(), 1),
        "regions": outputs["regions"].sum() / jnp.maximum(outputs["region_count"].sum(), 1),
        "contrast": contrast(outputs["image_uni"], outputs["text_uni"]).mean(),
    }
    # Vectors behind two joined titles are to be near those of the post's title and picture alone.
    if "text_co" in outputs:
        text = contrast(outputs["text_co"], outputs["text_uni"])
        image = contrast(outputs["image_co"], outputs["image_uni"])
        terms["joined"] = (text.mean() + image.mean()) / 2
    # Only pictures have composites; regions found beforehand come without.
    if "positives" in outputs:
        count = jnp.maximum(outputs["positives"].sum(), 1.0)
        terms |= {name: outputs[name].sum() / count for name in ("objectness", "box")}
    return terms


TASK = Task(
    contradictions=rules.contradictions,
    load=load,
    learner=learner,
    example=example,
    batches=batches,
    evaluator=evaluation.evaluator,
    highlight=evaluation.highlight,
    terms=("loss", "contrast", "joined", "words", "regions", "objectness", "box"),
    columns=("map_at_10", "mar_at_10", "precision_at_10", "proposal_recall_at_10", "instances"),
    card=Card(
        title="An encoder of every product in a picture",
        purpose="Finds the products in a post's picture and embeds each of them.",
        paper="CAPTURE (arXiv 2107.14572)",
        training=lambda config: f"regions `{config.model.regions.kind}`",
        rows="posts",
        rest="streams",
        rest_content="head of proposals, text, image and cross streams",
        columns=("map_at_10", "mar_at_10", "precision_at_10", "proposal_recall_at_10"),
    ),
    answer=Answer(
        product="vectors",
        instances=("instance_box", "instance_mask", "instance_score", "instance_vectors"),
        embedding=post_search.post_embedding,
        settings=("retrieval",),
    ),
)
