"""The text extractor: a BERT-style encoder whose first slot is `[REP]` (as DATE is recalled)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from date_jax.networks.transformer import encoded_tokens, encoder_layers

EPSILON = 1e-12  # of BERT's LayerNorms


class TextExtractor(nn.Module):
    """BERT (1810.04805): token ids to one vector and a row of tokens.

    Post-norm, learnt positions and GELU are the published ones, so that its weights fit. The
    `[CLS]` slot serves as `[REP]`.

    Attributes:
        vocab_size: rows of the embedding table.
        layers, width, heads, mlp_ratio: size of the encoder.
        max_length: rows of the position table.
        remat, scan: see `apply_layers`.
        frozen: the first so many layers, and what is in front of them, are not trained: nothing is
            dropped there.
    """

    vocab_size: int
    layers: int
    width: int
    heads: int
    mlp_ratio: float = 4.0
    max_length: int = 512
    dropout: float = 0.0
    remat: bool = False
    scan: bool = False
    frozen: int = 0
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        text: Int[Array, "B T"],
        text_mask: Bool[Array, "B T"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B C"], Float[Array, "B T C"]]:
        """`(rep, tokens)`; nothing attends to padding, and its outputs mean nothing.

        Args:
            text: token ids, the first that of `[CLS]`.
            text_mask: False = padding.
            train: whether units are dropped.
        """
        # A token's vector: of its word, its place and its sentence.
        init = nn.initializers.normal(0.02)
        embed = nn.Embed(self.vocab_size, self.width, embedding_init=init, name="word_embedding")
        position = self.param("position_embedding", init, (self.max_length, self.width))
        # BERT adds the embedding of "sentence A" everywhere; kept so that its weights fit.
        segment = self.param("segment_embedding", init, (self.width,))
        x = embed(text) + (position[: text.shape[1]] + segment[None])[None]
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="embedding_norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train or self.frozen > 0)(x)

        # Layers of equal size over it, of which [REP] is the first token.
        layers = encoder_layers(
            self.layers,
            self.heads,
            round(self.mlp_ratio * self.width),
            frozen=self.frozen,
            dropout=self.dropout,
            epsilon=EPSILON,
            dtype=self.dtype,
        )
        x = encoded_tokens(
            self,
            layers,
            x,
            text_mask,
            frozen=self.frozen,
            remat=self.remat,
            scan=self.scan,
            train=train,
        )
        return x[:, 0], x
