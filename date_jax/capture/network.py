"""CAPTURE's network (2107.14572): an image extractor, a head that proposes regions, two streams.

`Capture` goes from pixels and token ids to the vectors of a post. Its streams are in
`hybrid_stream`, its head in `proposals`.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from date_jax.capture import proposals
from date_jax.capture.hybrid_stream import HybridStream
from date_jax.networks import extractors, sizes
from date_jax.task import Batch

POST_KEYS = ("image", "text", "text_mask", "regions", "region_box_xyxy", "region_mask")
VECTORS = ("text_co", "image_co", "text_uni", "image_uni")  # of a post, in this order
REGIONS = ("proposals", "grid", "precomputed")  # where they come from, by config.model.regions.kind


class Regions(NamedTuple):
    """The regions of a picture, which the image stream reads.

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
        # Regions that a batch brings along need no extractor, and no head that finds them.
        if model.regions.kind == "precomputed":
            width = model.regions.width
        else:
            width = sizes.stage_widths(model.image)[-1]
            self.image_extractor = extractors.image_extractor(
                model, model.image.get("pooling", "mean")
            )
            self.proposal_head = proposals.ProposalHead(width, dtype=dtype)
        # The streams read features of that width, wherever regions come from.
        self.streams = HybridStream(
            model.streams, self.vocab_size, self.text_length, width, **saving, dtype=dtype
        )

    def __call__(
        self, text: Array, text_mask: Array, regions: Regions, *, train: bool = False
    ) -> dict[str, Array]:
        """The streams' outputs, see `HybridStream`."""
        return self.streams(text, text_mask, *regions, train=train)

    def init_outputs(self, batch: Batch) -> Any:
        """Outputs of every part that has parameters: what initialisation runs."""
        if "image" in batch:
            self.proposal_head(self.tokens(batch["image"]), self.grid(batch["image"]))
        return self(batch["text"], batch["text_mask"], self.regions(batch))

    def tokens(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B P C"]:
        """The last stage's tokens of normalised pixels."""
        return self.image_extractor(image)[1]

    def grid(self, image: Any) -> tuple[int, int]:
        """Rows and columns of those tokens, for pictures `[B H W 3]`."""
        return sizes.token_grid(self.config.image, *image.shape[1:3])

    def regions(self, batch: Batch) -> Regions:
        """The regions of a batch's normalised pictures, or those that it brings along."""
        if "regions" in batch:
            feature = batch["regions"].astype(jnp.dtype(self.config.dtype))
            return Regions(feature, batch["region_box_xyxy"], batch["region_mask"])
        return self.picture_regions(self.tokens(batch["image"]), self.grid(batch["image"]))

    def picture_regions(self, tokens: Float[Array, "B P C"], grid: tuple[int, int]) -> Regions:
        """The regions of pictures, found or cut evenly as `config.model.regions.kind` says."""
        if self.config.regions.kind == "proposals":
            return self.proposals(tokens, grid)
        # A grid has a token for each cell: nothing to find, and no place without a region.
        cells = jnp.asarray(proposals.cells_xyxy(grid))[None]
        box = jnp.broadcast_to(cells, (*tokens.shape[:2], 4))
        return Regions(tokens, box, jnp.ones(tokens.shape[:2], bool))

    def proposals(self, tokens: Float[Array, "B P C"], grid: tuple[int, int]) -> Regions:
        """The best proposals that do not overlap, with what lies there, best first."""
        return self.scored_proposals(tokens, grid)[0]

    def scored_proposals(
        self, tokens: Float[Array, "B P C"], grid: tuple[int, int]
    ) -> tuple[Regions, Float[Array, "B R"]]:
        """`(proposals, score)`; the score is the head's belief that a product is there, in [0, 1].

        Gradients pass through the tokens, not through the boxes: only composites teach the head.
        """
        options = self.config.regions
        score, box = jax.lax.stop_gradient(self.proposal_head(tokens, grid))
        box = jnp.clip(box, 0.0, 1.0)
        # The number of places is fixed, so suppressed boxes stand in some of them.
        place = proposals.nms_indices(score, box, options.count, overlap=options.overlap)
        score = jnp.take_along_axis(score, place, axis=1)
        box = jnp.take_along_axis(box, place[..., None], axis=1)
        mask = ~proposals.suppressed_mask(box, overlap=options.overlap)
        # The best one is always a region, or a post could have none.
        score = nn.sigmoid(score)
        mask = (mask & (score >= options.min_score)).at[:, 0].set(True)
        return Regions(proposals.roi_align(tokens, box, grid), box, mask), score

    def instances(self, batch: Batch) -> Regions:
        """The products that pictures show, best first.

        They are the proposals, or of the regions that a batch brings along those that do not
        overlap.
        """
        if "regions" not in batch:
            return self.proposals(self.tokens(batch["image"]), self.grid(batch["image"]))
        regions, count = self.regions(batch), batch["region_mask"].shape[1]
        # They lie in the detector's order; places without one come last.
        score = -jnp.arange(count, dtype=jnp.float32)[None] - count * ~regions.mask
        overlap = self.config.regions.overlap
        place = proposals.nms_indices(score, regions.box_xyxy, count, overlap=overlap)
        # What the detector found twice is one product.
        feature = jnp.take_along_axis(regions.feature, place[..., None], axis=1)
        box = jnp.take_along_axis(regions.box_xyxy, place[..., None], axis=1)
        mask = jnp.take_along_axis(regions.mask, place, axis=1)
        return Regions(feature, box, mask & ~proposals.suppressed_mask(box, overlap=overlap))


def region_count(model: ConfigDict, batch: Batch) -> int:
    """R, the number of regions that `Capture.regions` gives of a batch.

    Args:
        model: `config.model`.
        batch: has `image`, unless it brings its regions along.
    """
    if model.regions.kind == "grid":
        rows, columns = sizes.token_grid(model.image, *batch["image"].shape[1:3])
        return rows * columns
    return model.regions.count
