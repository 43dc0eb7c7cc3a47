"""CAPTURE's hybrid stream (2107.14572): a text and an image stream that meet twice.

Each modality goes through its own layers, then through layers in which each attends to the other,
then all tokens go through the last ones together. Sizes and order follow the official code.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from date_jax.networks.bert import EPSILON, TextExtractor
from date_jax.networks.transformer import (
    Attention,
    EncoderLayer,
    Mlp,
    encoded_tokens,
    encoder_layers,
    exact_gelu,
    quick_gelu,
)

PICTURE_XYXY = (0.0, 0.0, 1.0, 1.0)  # the global token's box


def geometry(box_xyxy: Float[Array, "*B 4"]) -> Float[Array, "*B 5"]:
    """The five numbers that place a region: its corners and its area, in shares of the picture."""
    sides = jnp.maximum(box_xyxy[..., 2:] - box_xyxy[..., :2], 0.0)
    return jnp.concatenate([box_xyxy, sides[..., :1] * sides[..., 1:]], axis=-1)


def image_inputs(
    region: Float[Array, "B R F"], box_xyxy: Float[Array, "B R 4"], mask: Bool[Array, "B R"]
) -> tuple[Float[Array, "B K F"], Float[Array, "B K 5"], Bool[Array, "B K"]]:
    """Features, geometry and mask of K = R + 1 tokens: a global one, then the regions.

    The global token is the mean of the real regions, and covers the picture.
    """
    weight = mask / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    mean = jnp.einsum("br,brf->bf", weight.astype(region.dtype), region)
    picture = jnp.broadcast_to(jnp.array([[PICTURE_XYXY]]), (region.shape[0], 1, 4))
    return (
        jnp.concatenate([mean[:, None], region], axis=1),
        geometry(jnp.concatenate([picture, box_xyxy], axis=1)),
        jnp.concatenate([jnp.ones((mask.shape[0], 1), bool), mask], axis=1),
    )


class ImageStream(nn.Module):
    """A transformer over regions and their places.

    Attributes:
        layers, width, heads, mlp_width, dropout: size of the encoder.
        remat, scan: see `apply_layers`.
    """

    layers: int
    width: int
    heads: int
    mlp_width: int
    dropout: float = 0.0
    remat: bool = False
    scan: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        feature: Float[Array, "B K F"],
        place: Float[Array, "B K 5"],
        mask: Bool[Array, "B K"],
        *,
        train: bool = False,
    ) -> Float[Array, "B K C"]:
        """The tokens behind the last layer; `place` is the `geometry` of each."""
        # A region is what it looks like and where it is.
        x = nn.Dense(self.width, dtype=self.dtype, name="feature")(feature)
        x = x + nn.Dense(self.width, dtype=self.dtype, name="place")(place)
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        layers = encoder_layers(
            self.layers,
            self.heads,
            self.mlp_width,
            dropout=self.dropout,
            epsilon=EPSILON,
            dtype=self.dtype,
        )
        return encoded_tokens(self, layers, x, mask, remat=self.remat, scan=self.scan, train=train)


class CrossLayer(nn.Module):
    """One layer in which text attends to the image and the image to the text. Post-norm.

    Each modality has its own attention and its own MLP.

    Attributes:
        heads, width: of both attentions.
        text_mlp_width, image_mlp_width: of the two MLPs.
        dropout: rate on the attention weights, and on what either branch adds.
    """

    heads: int
    width: int
    text_mlp_width: int
    image_mlp_width: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "B T C"],
        text_mask: Bool[Array, "B T"],
        image: Float[Array, "B K C"],
        image_mask: Bool[Array, "B K"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B T C"], Float[Array, "B K C"]]:
        """The tokens of both modalities behind the layer, text first."""

        def half(x: Array, context: Array, mask: Array, mlp_width: int, name: str) -> Array:
            attention = Attention(
                self.heads, self.dropout, self.dtype, width=self.width, name=f"{name}_attention"
            )
            mlp = Mlp(mlp_width, exact_gelu, dtype=self.dtype, name=f"{name}_mlp")
            norms = [
                nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name=f"{name}_norm{i}")
                for i in (1, 2)
            ]
            drop = nn.Dropout(self.dropout, deterministic=not train)
            # Queries come from this modality, keys and values from the other one.
            x = norms[0](x + drop(attention(x, mask=mask, context=context, train=train)))
            return norms[1](x + drop(mlp(x, train=train)))

        return (
            half(text, image, image_mask, self.text_mlp_width, "text"),
            half(image, text, text_mask, self.image_mlp_width, "image"),
        )


class HybridStream(nn.Module):
    """The network from titles and regions to their vectors, and to guesses of what is masked.

    Attributes:
        config: `config.model.streams`.
        vocab_size: rows of the text stream's embedding table.
        text_length: T.
        region_width: F.
        remat, scan: see `apply_layers`; the cross layers, each of two sequences, run as they are.
    """

    config: ConfigDict
    vocab_size: int
    text_length: int
    region_width: int
    remat: bool = False
    scan: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    def setup(self) -> None:
        size, dtype = self.config, self.dtype
        saving: dict[str, Any] = {"remat": self.remat, "scan": self.scan, "dtype": dtype}
        # Each modality's own layers.
        self.text = TextExtractor(
            vocab_size=self.vocab_size,
            layers=size.text.layers,
            width=size.width,
            heads=size.text.heads,
            mlp_ratio=size.text.mlp_width / size.width,
            max_length=max(self.text_length, size.text.max_length),
            dropout=size.dropout,
            **saving,
        )
        self.image = ImageStream(
            layers=size.image.layers,
            width=size.width,
            heads=size.image.heads,
            mlp_width=size.image.mlp_width,
            dropout=size.dropout,
            **saving,
        )
        # Layers in which each modality attends to the other.
        self.cross = [
            CrossLayer(
                heads=size.cross.heads,
                width=size.cross.width,
                text_mlp_width=size.text.mlp_width,
                image_mlp_width=size.image.mlp_width,
                dropout=size.dropout,
                dtype=dtype,
            )
            for _ in range(size.cross.layers)
        ]
        # Layers in which all tokens attend to all: pre-norm, with the quick form of GELU.
        self.joint = [
            EncoderLayer(
                size.joint.heads,
                4 * size.width,
                dropout=size.dropout,
                norm_first=True,
                activation=quick_gelu,
                dtype=dtype,
            )
            for _ in range(size.joint.layers)
        ]
        # Heads of the vectors: of each modality alone, then behind all layers.
        self.text_uni, self.image_uni, self.text_out, self.image_out = (
            nn.Dense(size.embedding, dtype=dtype) for _ in range(4)
        )
        # Heads that guess masked words and regions: widened to the width of the tokens first.
        self.word_widened, self.region_widened = (
            nn.Dense(size.width, dtype=dtype) for _ in range(2)
        )
        self.word_head, self.region_head = (nn.Dense(size.width, dtype=dtype) for _ in range(2))
        self.word_norm, self.region_norm = (
            nn.LayerNorm(epsilon=EPSILON, dtype=dtype) for _ in range(2)
        )
        # The words' last matrix is the text stream's table, so only a bias is added.
        self.word_bias = self.param("word_bias", nn.initializers.zeros, (self.vocab_size,))
        self.region_guess = nn.Dense(self.region_width, dtype=dtype)

    def __call__(
        self,
        text: Int[Array, "B T"],
        text_mask: Bool[Array, "B T"],
        region: Float[Array, "B R F"],
        box_xyxy: Float[Array, "B R 4"],
        region_mask: Bool[Array, "B R"],
        *,
        train: bool = False,
    ) -> dict[str, Array]:
        """The vectors of a post, and guesses of its masked words and regions, by name.

        Returns:
            `text_uni`, `image_uni` before the streams meet and `text_co`, `image_co` behind, each
            `[B E]` and not negative; `words [B T V]`, logits; `regions [B R F]`.
        """
        feature, place, mask = image_inputs(region, box_xyxy, region_mask)
        # Each modality alone: vectors for search by title or by picture.
        _, words = self.text(text, text_mask, train=train)
        image = self.image(feature, place, mask, train=train)
        outputs = {
            "text_uni": nn.relu(self.text_uni(words[:, 0])),
            "image_uni": nn.relu(self.image_uni(image[:, 0])),
        }
        # Each modality attends to the other, then all tokens to all.
        for layer in self.cross:
            words, image = layer(words, text_mask, image, mask, train=train)
        length, joint_mask = words.shape[1], jnp.concatenate([text_mask, mask], axis=1)
        x = encoded_tokens(
            self,
            self.joint,
            jnp.concatenate([words, image], axis=1),
            joint_mask,
            remat=self.remat,
            scan=self.scan,
            train=train,
        )
        # The first token of each modality is its vector, the others guess what was masked.
        words = nn.relu(self.text_out(x[:, :length]))
        image = nn.relu(self.image_out(x[:, length:]))
        outputs |= {"text_co": words[:, 0], "image_co": image[:, 0]}
        guesses = {
            "words": self._word_logits(words),
            "regions": self._region_features(image[:, 1:]),
        }
        return outputs | guesses

    def _word_logits(self, words: Float[Array, "B T E"]) -> Float[Array, "B T V"]:
        """Logits over the vocabulary; the last matrix is the text stream's embedding table."""
        hidden = self.word_norm(exact_gelu(self.word_head(self.word_widened(words))))
        table = self.text.variables["params"]["word_embedding"]["embedding"]
        logits = jnp.matmul(hidden, table.T.astype(hidden.dtype)).astype(jnp.float32)
        return logits + self.word_bias[None, None]

    def _region_features(self, regions: Float[Array, "B R E"]) -> Float[Array, "B R F"]:
        hidden = self.region_norm(exact_gelu(self.region_head(self.region_widened(regions))))
        return self.region_guess(hidden).astype(jnp.float32)
