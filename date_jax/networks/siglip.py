"""SigLIP's text extractor (2303.15343): a pre-norm encoder that reads a text with its padding."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from date_jax.networks.transformer import encoded_tokens, encoder_layers, tanh_gelu

EPSILON = 1e-6  # of every LayerNorm


class SiglipText(nn.Module):
    """The text tower of SigLIP: token ids to one vector and a row of tokens.

    It was trained on texts that are padded to one length, without a mask. So padding takes part,
    the last token's output behind a linear layer is the text's vector, and published weights want
    the length that they were trained with (64 ids).

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
    max_length: int = 64
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
        """`(rep, tokens)`; see the class for what padding does.

        Args:
            text: token ids.
            text_mask: not read; extractors have one interface.
            train: whether units are dropped.
        """
        del text_mask
        # A token's vector: of its word and its place.
        init = nn.initializers.normal(0.02)
        embed = nn.Embed(self.vocab_size, self.width, embedding_init=init, name="word_embedding")
        position = self.param("position_embedding", init, (self.max_length, self.width))
        x = (embed(text) + position[: text.shape[1]][None]).astype(self.dtype)

        # Pre-norm layers over it, and the norm that they need behind the last one.
        layers = encoder_layers(
            self.layers,
            self.heads,
            round(self.mlp_ratio * self.width),
            frozen=self.frozen,
            dropout=self.dropout,
            norm_first=True,
            activation=tanh_gelu,
            epsilon=EPSILON,
            dtype=self.dtype,
        )
        x = encoded_tokens(
            self,
            layers,
            x,
            None,
            frozen=self.frozen,
            remat=self.remat,
            scan=self.scan,
            train=train,
        )
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(x)
        return nn.Dense(self.width, dtype=self.dtype, name="head")(x[:, -1]), x
