"""One encoder for a picture, for words, and for both: all their vectors lie in one space.

After the same-style model of arXiv 2302.05093: what an offer lacks is replaced by a learned token.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from date_jax.networks.transformer import encoded_tokens, encoder_layers, sincos_2d
from date_jax.pairs.vectors import unit_vectors


class JointEncoder(nn.Module):
    """A transformer over `[CLS; image tokens; text tokens]`, of which `[CLS]` becomes the vector.

    Attributes:
        layers, heads, mlp_width, dropout: size of the transformer.
        embedding: E, numbers of the vector.
        norm_first: see `EncoderLayer`.
        remat, scan: see `apply_layers`.
    """

    layers: int
    heads: int
    mlp_width: int
    embedding: int
    dropout: float = 0.0
    norm_first: bool = True
    remat: bool = False
    scan: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        image_tokens: Float[Array, "B P D"] | None,
        text_tokens: Float[Array, "B T D"] | None,
        text_mask: Bool[Array, "B T"] | None,
        grid: tuple[int, int],
        *,
        train: bool = False,
    ) -> Float[Array, "B E"]:
        """A unit vector of each row, in float32.

        Args:
            image_tokens: None where there is no picture.
            text_tokens, text_mask: None where there are no words; False = padding.
            grid: shape of the image tokens.

        Raises:
            ValueError: there is neither.
        """
        tokens = text_tokens if image_tokens is None else image_tokens
        if tokens is None:
            raise ValueError("neither a picture nor words to encode")
        batch, _, width = tokens.shape
        init = nn.initializers.normal(0.02)
        type_embedding = self.param("type_embedding", init, (3, width))
        missing_tokens = self.param("missing_tokens", init, (2, width))  # "no image", "no text"
        cls_token = self.param("cls_token", init, (1, width))

        def token_of_each_row(token: Array) -> Array:
            return jnp.broadcast_to(token[None], (batch, 1, width))

        # What an offer lacks is one learned token, which is seen like any other.
        image, text = token_of_each_row(missing_tokens[:1]), token_of_each_row(missing_tokens[1:])
        if image_tokens is not None:
            image = image_tokens + jnp.asarray(sincos_2d(*grid, width), image_tokens.dtype)[None]
        if text_tokens is not None:
            text = text_tokens
        image_mask = jnp.ones((batch, 1 + image.shape[1]), bool)  # [CLS] and the picture
        text_mask = jnp.ones((batch, 1), bool) if text_mask is None else text_mask
        parts = [
            (part + type_embedding[None, i : i + 1]).astype(self.dtype)
            for i, part in enumerate((token_of_each_row(cls_token), image, text))
        ]
        x = jnp.concatenate(parts, axis=1)
        return self._vector(x, jnp.concatenate([image_mask, text_mask], axis=1), train)

    def _vector(
        self, x: Float[Array, "B N D"], mask: Bool[Array, "B N"], train: bool
    ) -> Float[Array, "B E"]:
        """The unit vector that `[CLS]` becomes."""
        layers = encoder_layers(
            self.layers,
            self.heads,
            self.mlp_width,
            dropout=self.dropout,
            mlp_dropout=self.dropout,
            norm_first=self.norm_first,
            dtype=self.dtype,
        )
        # Only [CLS] is read at the end, so the last layer computes nothing else.
        x = encoded_tokens(
            self, layers, x, mask, first=1, remat=self.remat, scan=self.scan, train=train
        )[:, 0]
        if self.norm_first:
            x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x)
        return unit_vectors(nn.Dense(self.embedding, name="projection")(x.astype(jnp.float32)))
