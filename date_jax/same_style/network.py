"""Network for same-style products (2302.05093): two extractors, a joint encoder over both."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from date_jax.networks import extractors, sizes
from date_jax.same_style.joint_encoder import JointEncoder

Features = tuple[Array, Array]  # `(rep, tokens)` of a frozen extractor


class SameStyle(nn.Module):
    """Two extractors, a projection of each to one width, the joint encoder over their tokens.

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
        self.image_extractor = extractors.image_extractor(model, model.image.pooling)
        self.text_extractor = extractors.text_extractor(model, self.vocab_size, self.text_length)
        # Tokens of both at one width, so that one transformer reads them.
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
        image: Float[Array, "B H W 3"] | Features | None,
        text: Int[Array, "B T"] | Features | None,
        text_mask: Bool[Array, "B T"] | None,
        *,
        kinds: tuple[str, ...] = ("joint",),
        train: bool = False,
    ) -> dict[str, Float[Array, "B E"]]:
        """Unit vectors of each row, by kind.

        Args:
            image: normalised pixels, or the extractor's outputs; None where there is no picture.
            text, text_mask: token ids, or the extractor's outputs; None where there are no words.
            kinds: "joint" from all that there is, "image" and "text" from that alone.
            train: whether units are dropped.
        """
        # Each extractor runs once, however many kinds read its tokens.
        grid, image_tokens, text_tokens = (0, 0), None, None
        if image is not None:
            # The pictures of kept features are squares.
            outputs = image if isinstance(image, tuple) else self.image_extractor(image)
            side = math.isqrt(outputs[1].shape[1])
            grid = (side, side)
            if not isinstance(image, tuple):
                grid = sizes.token_grid(self.config.image, *image.shape[1:3])
            image_tokens = self.image_projection(outputs[1])
        if text is not None and text_mask is not None:
            if not isinstance(text, tuple):
                text = self.text_extractor(text, text_mask, train=train)
            text_tokens = self.text_projection(text[1])
        inputs = {
            "joint": (image_tokens, text_tokens, text_mask),
            "image": (image_tokens, None, None),
            "text": (None, text_tokens, text_mask),
        }
        return {kind: self.joint_encoder(*inputs[kind], grid, train=train) for kind in kinds}
