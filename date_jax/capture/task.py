"""CAPTURE (2107.14572): posts of several products embedded one by one, learnt from titles alone.

A batch is `{posts, composites}`. Posts have a title and a picture (or regions computed beforehand)
and give the three pretext losses, and a fourth of ours that tells one product's words from
another's; composites have boxes of pasted cut-outs and train the head that proposes regions. No
post has a label or a box.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from date_jax import augment, boxes
from date_jax.capture import pretext
from date_jax.capture import proposals as regions
from date_jax.capture.hybrid_stream import HybridStream
from date_jax.networks.swin import ImageExtractor
from date_jax.pairs import contrastive
from date_jax.pairs.tiles import in_chunks
from date_jax.pairs.vectors import unit_vectors
from date_jax.task import Batch, Params, Task

POST_KEYS = ("image", "text", "text_mask", "regions", "region_box_xyxy", "region_mask")
VECTORS = ("text_co", "image_co", "text_uni", "image_uni")  # of a post, in this order
_GEOMETRIC = {"zoom_in": 1.0, "zoom_out": 1.0, "aspect": 1.0, "flip": 0.0, "focus": 0.0}


class Regions(NamedTuple):
    """What the image stream reads.

    Attributes:
        feature: float `[B R F]`.
        box_xyxy: float `[B R 4]`, inside the picture.
        mask: bool `[B R]`, False = no region.
    """

    feature: Array
    box_xyxy: Array
    mask: Array


class Capture(nn.Module):
    """An image extractor with a head for proposals, and the streams.

    Attributes:
        config: `config.model`.
        vocab_size: rows of the text stream's embedding table.
        text_length: T.
    """

    config: ConfigDict
    vocab_size: int
    text_length: int

    def setup(self) -> None:
        model, dtype = self.config, jnp.dtype(self.config.dtype)
        saving = {"remat": model.remat, "scan": model.scan}
        if model.regions.kind == "precomputed":
            width = model.regions.width
        else:
            width = model.image.width * 2 ** (len(model.image.depths) - 1)
            self.image_extractor = ImageExtractor(
                patch=model.image.patch,
                width=model.image.width,
                depths=tuple(model.image.depths),
                heads=tuple(model.image.heads),
                window=model.image.window,
                mlp_ratio=model.image.mlp_ratio,
                pooling="mean",
                **saving,
                dtype=dtype,
            )
            self.proposal_head = regions.ProposalHead(width, dtype=dtype)
        self.streams = HybridStream(
            model.streams, self.vocab_size, self.text_length, width, **saving, dtype=dtype
        )

    def tokens(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B P C"]:
        """The last stage's tokens of normalised pixels."""
        return self.image_extractor(image)[1]

    def grid(self, image: Any) -> tuple[int, int]:
        """Rows and columns of those tokens, for pictures `[B H W 3]`."""
        last = self.config.image.patch * 2 ** (len(self.config.image.depths) - 1)
        return -(-image.shape[1] // last), -(-image.shape[2] // last)

    def proposed(self, tokens: Float[Array, "B P C"], grid: tuple[int, int]) -> Regions:
        """The best proposals that do not overlap, with what lies there; gradients pass through
        the tokens, not through the boxes."""
        wanted = self.config.regions
        score, box = jax.lax.stop_gradient(self.proposal_head(tokens, grid))
        box = jnp.clip(box, 0.0, 1.0)
        place = regions.best_apart(score, box, wanted.count, overlap=wanted.overlap)
        score = jnp.take_along_axis(score, place, axis=1)
        box = jnp.take_along_axis(box, place[..., None], axis=1)
        kept = ~regions.fills_up(box, overlap=wanted.overlap)
        kept = (kept & (nn.sigmoid(score) >= wanted.min_score)).at[:, 0].set(True)
        return Regions(regions.roi_align(tokens, box, grid), box, kept)

    def regions(self, tokens: Float[Array, "B P C"], grid: tuple[int, int]) -> Regions:
        """What the streams read of pictures, as `config.model.regions.kind` says."""
        if self.config.regions.kind == "proposals":
            return self.proposed(tokens, grid)
        cells = jnp.asarray(regions.cells_xyxy(grid))[None]
        box = jnp.broadcast_to(cells, (*tokens.shape[:2], 4))
        return Regions(tokens, box, jnp.ones(tokens.shape[:2], bool))

    def seen(self, rows: Batch) -> Regions:
        """The regions of a batch's normalised pictures, or those that it brings along."""
        if "regions" in rows:
            feature = rows["regions"].astype(jnp.dtype(self.config.dtype))
            return Regions(feature, rows["region_box_xyxy"], rows["region_mask"])
        return self.regions(self.tokens(rows["image"]), self.grid(rows["image"]))

    def instances(self, rows: Batch) -> Regions:
        """The products that pictures show, best first: proposals, or of the regions that a batch
        brings along those that do not overlap."""
        if "regions" not in rows:
            return self.proposed(self.tokens(rows["image"]), self.grid(rows["image"]))
        seen, count = self.seen(rows), rows["region_mask"].shape[1]
        # They lie in the detector's order; places without one come last.
        score = -jnp.arange(count, dtype=jnp.float32)[None] - count * ~seen.mask
        overlap = self.config.regions.overlap
        place = regions.best_apart(score, seen.box_xyxy, count, overlap=overlap)
        box = jnp.take_along_axis(seen.box_xyxy, place[..., None], axis=1)
        kept = jnp.take_along_axis(seen.mask, place, axis=1)
        kept &= ~regions.fills_up(box, overlap=overlap)
        return Regions(jnp.take_along_axis(seen.feature, place[..., None], axis=1), box, kept)

    def __call__(
        self, text: Array, text_mask: Array, seen: Regions, *, train: bool = False
    ) -> dict[str, Array]:
        """See `HybridStream`."""
        return self.streams(text, text_mask, *seen, train=train)

    def everything(self, rows: Batch) -> Any:
        """All that has parameters, for initialisation."""
        if "image" in rows:
            self.proposal_head(self.tokens(rows["image"]), self.grid(rows["image"]))
        return self(rows["text"], rows["text_mask"], self.seen(rows))


def build(config: ConfigDict, vocab_size: int, mask_id: int, swap_table: Array) -> Task:
    """CAPTURE as three pure functions; see the module's text.

    Args:
        vocab_size: of the corpus' tokenizer.
        mask_id: of [MASK]; the ids of words are above it, as in BERT's vocabularies.
        swap_table: token id → token id under a mirror.
    """
    model = Capture(config.model, vocab_size, config.data.text_length)

    def init(rng: Array, batch: Batch) -> Params:
        posts = {key: batch["posts"][key] for key in POST_KEYS if key in batch["posts"]}
        rows = {key: jnp.zeros((1, *x.shape[1:]), x.dtype) for key, x in posts.items()}
        if "image" in rows:
            rows["image"] = rows["image"].astype(jnp.float32)
        return {"model": model.init(rng, rows, method=Capture.everything)["params"]}

    def loss(
        params: Params, batch: Batch, *, step: Array, rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        view_key, hide_key, join_key, dropout_key = jax.random.split(rng, 4)
        rows = viewed(batch, config, swap_table, step, view_key)
        rows |= hidden(rows, region_count(config, rows), mask_id, vocab_size, hide_key)
        if config.loss.joined:
            text, mask = pretext.joined_titles(rows["text"], rows["text_mask"], rng=join_key)
            rows |= {"joined_text": text, "joined_mask": mask}
        out = in_chunks(
            partial(told, model),
            (params["model"], dropout_key),
            rows,
            at_once=config.model.rows_at_once,
        )
        terms = losses_of(out, config.loss.temperature)
        total = sum((config.loss[name] * term for name, term in terms.items()), jnp.zeros(()))
        return total, {**terms, "loss": total}

    return Task(init, loss, predictions(model, config))


def viewed(
    batch: Batch, config: ConfigDict, swap_table: Array, step: Array, rng: Array
) -> dict[str, Array]:
    """Strong views of posts and of composites, beside each other as rows of one batch.

    A composite keeps its geometry, so its boxes stay where they are.
    """
    rows = {key: batch["posts"][key] for key in POST_KEYS if key in batch["posts"]}
    if "image" not in rows:
        return rows
    nowhere = jnp.broadcast_to(jnp.array([augment.NO_BOX]), (len(rows["image"]), 4))
    still = config.augment.copy_and_resolve_references().unlock()
    still.update(_GEOMETRIC)
    ramp = max(config.augment.ramp * config.steps, 1)
    options = {"strength": jnp.clip(step / ramp, 0.0, 1.0), "swap_table": swap_table}
    keys = jax.random.split(rng)
    rows["image"], _, rows["text"] = augment.strong(
        rows["image"], nowhere, rows["text"], rng=keys[0], config=config.augment, **options
    )
    composites = batch["composites"]
    rows["composite"], _, _ = augment.strong(
        composites["image"], nowhere, rows["text"], rng=keys[1], config=still, **options
    )
    return rows | {key: composites[key] for key in ("box_cxcywh", "box_mask")}


def hidden(rows: Batch, count: int, mask_id: int, vocab_size: int, rng: Array) -> dict[str, Array]:
    """What is hidden of each post: `hidden_text`, `chosen_words`, and of its `count` regions
    `chosen_regions` and `zeroed_regions`."""
    word_key, region_key = jax.random.split(rng)
    text, chosen_words = pretext.hidden_words(
        rows["text"],
        rows["text_mask"] & (rows["text"] > mask_id),
        rng=word_key,
        mask_id=mask_id,
        first_id=mask_id + 1,
        vocab_size=vocab_size,
    )
    chosen, zeroed = pretext.hidden_regions((len(text), count), rng=region_key)
    return {
        "hidden_text": text,
        "chosen_words": chosen_words,
        "chosen_regions": chosen,
        "zeroed_regions": zeroed,
    }


def told(
    model: Capture, shared: tuple[Any, Array], rows: Batch, chunk: Array | None
) -> dict[str, Array]:
    """What the network makes of some rows: vectors, and sums and counts of the losses' parts."""
    params, key = shared
    rngs = {"dropout": key if chunk is None else jax.random.fold_in(key, chunk)}
    bound = model.bind({"params": params}, rngs=rngs)
    out: dict[str, Array] = {}
    if "image" in rows:
        grid = bound.grid(rows["image"])
        # Side by side, so that no row leaves its device, and through the extractor as one.
        pairs = jnp.stack([rows["image"], rows["composite"]], axis=1)
        tokens = bound.tokens(pairs.reshape(-1, *pairs.shape[2:]))
        tokens = tokens.reshape(len(pairs), 2, *tokens.shape[1:])
        seen = bound.regions(tokens[:, 0], grid)
        found, true = bound.proposal_head(tokens[:, 1], grid), boxes.xyxy(rows["box_cxcywh"])
        out |= regions.proposal_losses(*found, true, rows["box_mask"], grid)
    else:
        seen = bound.seen(rows)
    chosen = rows["chosen_regions"] & seen.mask
    feature = jnp.where(rows["zeroed_regions"][..., None], 0.0, seen.feature)
    known = seen._replace(feature=feature)
    guess = bound(rows["hidden_text"], rows["text_mask"], known, train=True)
    if "joined_text" in rows:
        part = bound(rows["joined_text"], rows["joined_mask"], seen, train=True)
        out |= {
            "text_co": unit_vectors(part["text_co"]),
            "image_co": unit_vectors(part["image_co"]),
        }
    whole = jax.lax.stop_gradient(seen.feature).astype(jnp.float32)
    return out | {
        "text_uni": unit_vectors(guess["text_uni"]),
        "image_uni": unit_vectors(guess["image_uni"]),
        "words": pretext.word_losses(guess["words"], rows["text"], rows["chosen_words"]),
        "word_count": rows["chosen_words"].sum(axis=1),
        "regions": pretext.region_losses(guess["regions"], whole, chosen),
        "region_count": chosen.sum(axis=1),
    }


def losses_of(out: dict[str, Array], temperature: float) -> dict[str, Array]:
    """The terms of the loss over the global batch: means over all hidden words, all hidden regions,
    all posts and, of composites, all tokens that stand for a product."""
    pair = out["image_uni"], out["text_uni"]
    terms = {
        "words": out["words"].sum() / jnp.maximum(out["word_count"].sum(), 1),
        "regions": out["regions"].sum() / jnp.maximum(out["region_count"].sum(), 1),
        "contrast": contrastive.nt_xent(*pair, temperature=temperature).mean(),
    }
    if "text_co" in out:
        text, image = (
            contrastive.nt_xent(out[f"{kind}_co"], out[f"{kind}_uni"], temperature=temperature)
            for kind in ("text", "image")
        )
        terms["joined"] = (text.mean() + image.mean()) / 2
    if "stand" not in out:
        return terms
    stand = jnp.maximum(out["stand"].sum(), 1.0)
    return terms | {name: out[name].sum() / stand for name in ("objectness", "box")}


def region_count(config: ConfigDict, rows: Batch) -> int:
    """R, of a batch's posts."""
    wanted = config.model.regions
    if wanted.kind == "grid":
        image = config.model.image
        side = image.patch * 2 ** (len(image.depths) - 1)
        height, width = rows["image"].shape[1:3]
        return -(-height // side) * -(-width // side)
    return wanted.count


def on_even_ground(
    pixels: Float[Array, "B H W 3"], box_xyxy: Float[Array, "B 4"]
) -> tuple[Float[Array, "B H W 3"], Float[Array, "B 3"]]:
    """Pictures that show what lies in a box on an even ground, and the ground's colour: the mean of
    what lies outside, black where nothing does."""
    height, width = pixels.shape[1:3]
    middle = jnp.asarray(regions.centres((height, width)))[None]
    inside = (middle >= box_xyxy[:, None, :2]) & (middle <= box_xyxy[:, None, 2:])
    inside = inside.all(axis=-1).reshape(-1, height, width, 1)
    outside = jnp.maximum((~inside).sum(axis=(1, 2)), 1)
    ground = jnp.where(inside, 0.0, pixels).sum(axis=(1, 2)) / outside
    return jnp.where(inside, pixels, ground[:, None, None]), ground


def predictions(model: Capture, config: ConfigDict) -> dict[str, Any]:
    """What evaluation and search may ask, each `(params, batch)`.

    `vectors [B 4 E]` are VECTORS of the whole post. Of its K instances: `instance_box [B K 4]`
    (xyxy) and `instance_mask [B K]`, and `instance_vectors [B K 4 E]`, of each one's crop under the
    whole title, as `config.retrieval` says; or of the regions that lie in its box, where the batch
    brings regions.
    `proposal_box [B R 4]` are all proposals, best first.
    """
    count = config.retrieval.instances

    def bound(params: Params) -> Any:
        return model.bind({"params": params["model"]})

    def plain(batch: Batch) -> Batch:
        return {**batch, "image": augment.plain(batch["image"])} if "image" in batch else batch

    def of(bound: Any, rows: Batch) -> Array:
        out = bound(rows["text"], rows["text_mask"], bound.seen(rows))
        return jnp.stack([out[name] for name in VECTORS], axis=1).astype(jnp.float32)

    def vectors(params: Params, batch: Batch) -> Array:
        return of(bound(params), plain(batch))

    def proposed(params: Params, batch: Batch) -> Regions:
        return bound(params).instances(plain(batch))

    def proposal_box(params: Params, batch: Batch) -> Array:
        return proposed(params, batch).box_xyxy

    def instance_box(params: Params, batch: Batch) -> Array:
        return proposed(params, batch).box_xyxy[:, :count]

    def instance_mask(params: Params, batch: Batch) -> Array:
        return proposed(params, batch).mask[:, :count]

    def near(each: Batch, box_xyxy: Array) -> Batch:
        if "regions" in each:
            box, mask = regions.close_up(each["region_box_xyxy"], each["region_mask"], box_xyxy)
            return {**each, "region_box_xyxy": box, "region_mask": mask}
        pixels = each["image"].astype(jnp.float32) / 255.0
        box, ground = boxes.cxcywh(box_xyxy), pixels.mean(axis=(1, 2))
        if config.retrieval.context:
            larger = jnp.array([[1.0, 1.0, config.retrieval.context, config.retrieval.context]])
            pixels, ground = on_even_ground(pixels, boxes.xyxy(box * larger))
        window = augment.close_up(box, config.retrieval.margin)
        sharp, upright = jnp.ones((len(box),)), jnp.zeros((len(box),), bool)
        cut = augment.resampled(pixels, window, upright, sharp, ground)
        return {**each, "image": augment.normalised(cut)}

    def instance_vectors(params: Params, batch: Batch) -> Array:
        box = instance_box(params, batch).reshape(-1, 4)
        each = {k: jnp.repeat(batch[k], count, axis=0) for k in POST_KEYS if k in batch}
        found = of(bound(params), near(each, box))
        return found.reshape(-1, count, *found.shape[1:])

    return {
        "vectors": vectors,
        "proposal_box": proposal_box,
        "instance_box": instance_box,
        "instance_mask": instance_mask,
        "instance_vectors": instance_vectors,
    }
