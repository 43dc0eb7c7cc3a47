"""One modality in; a concentrated `[REP]` vector and comprehensive tokens out."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from date_jax.extractors.bert import TextExtractor
from date_jax.extractors.swin import ImageExtractor


def image_extractor(model: ConfigDict) -> ImageExtractor:
    """As `config.model` describes it."""
    return ImageExtractor(
        patch=model.image.patch,
        width=model.image.width,
        depths=tuple(model.image.depths),
        heads=tuple(model.image.heads),
        window=model.image.window,
        mlp_ratio=model.image.mlp_ratio,
        pooling=model.image.pooling,
        remat=model.remat,
        scan=model.scan,
        dtype=jnp.dtype(model.dtype),
    )


def text_extractor(model: ConfigDict, vocab_size: int, text_length: int) -> TextExtractor:
    """As `config.model` describes it, for texts of `text_length` ids below `vocab_size`."""
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


def grid(model: ConfigDict, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the tokens that `image_extractor` makes of a picture of that size."""
    side = model.image.patch * 2 ** (len(model.image.depths) - 1)
    return -(-height // side), -(-width // side)
