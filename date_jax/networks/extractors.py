"""The extractors that a config describes: of a picture or a text, a `[REP]` vector and tokens."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from date_jax.networks.bert import TextExtractor
from date_jax.networks.swin import ImageExtractor

DTYPES = ("float32", "bfloat16")  # that layers compute with, by config.model.dtype


def image_extractor(model: ConfigDict, pooling: str) -> ImageExtractor:
    """The image extractor that `config.model` describes, with one of `swin.POOLINGS`."""
    return ImageExtractor(
        patch=model.image.patch,
        width=model.image.width,
        depths=tuple(model.image.depths),
        heads=tuple(model.image.heads),
        window=model.image.window,
        mlp_ratio=model.image.mlp_ratio,
        pooling=pooling,
        remat=model.remat,
        scan=model.scan,
        dtype=jnp.dtype(model.dtype),
    )


def text_extractor(model: ConfigDict, vocab_size: int, text_length: int) -> TextExtractor:
    """The text extractor that `config.model` describes, for texts of `text_length` ids."""
    return TextExtractor(
        vocab_size=vocab_size,
        layers=model.text.layers,
        width=model.text.width,
        heads=model.text.heads,
        mlp_ratio=model.text.mlp_ratio,
        max_length=text_length,
        dropout=model.text.dropout,
        remat=model.remat,
        scan=model.scan,
        dtype=jnp.dtype(model.dtype),
    )


def one_row(batch: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Image, text and text mask of one example, all zeros: what initialisation needs of a batch."""
    # Pixels as a view has them: floats, where the batch has bytes.
    image = jnp.zeros((1, *batch["image"].shape[1:]), jnp.float32)
    text = jnp.zeros((1, batch["text"].shape[1]), jnp.int32)
    return image, text, jnp.ones(text.shape, bool)
