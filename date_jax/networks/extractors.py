"""The extractors that a config describes: of a picture or a text, a `[REP]` vector and tokens."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from date_jax.networks import swin, vit
from date_jax.networks.bert import TextExtractor
from date_jax.networks.freezing import frozen_blocks
from date_jax.networks.siglip import SiglipText
from date_jax.networks.swin import ImageExtractor
from date_jax.networks.vit import VisionTransformer

DTYPES = ("float32", "bfloat16")  # that layers compute with, by config.model.dtype
IMAGE_KINDS = ("swin", "vit")  # of config.model.image.kind
_TEXT_KINDS: dict[str, type[TextExtractor] | type[SiglipText]] = {
    "bert": TextExtractor,
    "siglip": SiglipText,
}
TEXT_KINDS = tuple(_TEXT_KINDS)  # of config.model.text.kind
POOLINGS = {  # where a picture's one vector comes from, by kind
    "swin": swin.POOLINGS,
    "vit": vit.POOLINGS,
}


def image_extractor(model: ConfigDict, pooling: str) -> ImageExtractor | VisionTransformer:
    """The image extractor that `config.model` describes, with one of POOLINGS.

    Configs of earlier versions have neither `kind` nor `pool` nor `train`: a Swin whose tokens stay
    as they are, all of it trained.
    """
    image = model.image
    shape = {
        "patch": image.patch,
        "width": image.width,
        "mlp_ratio": image.mlp_ratio,
        "pooling": pooling,
        "pool": image.get("pool", 1),
        "frozen": frozen_blocks(image),
        "remat": model.remat,
        "scan": model.scan,
        "dtype": jnp.dtype(model.dtype),
    }
    if image.get("kind", "swin") == "vit":
        return VisionTransformer(
            **shape, depth=image.depths[0], heads=image.heads[0], **image.vit.to_dict()
        )
    depths, heads = tuple(image.depths), tuple(image.heads)
    return ImageExtractor(**shape, depths=depths, heads=heads, window=image.window)


def text_extractor(
    model: ConfigDict, vocab_size: int, text_length: int
) -> TextExtractor | SiglipText:
    """The text extractor that `config.model` describes, for texts of `text_length` ids.

    Configs of earlier versions have no `kind`: a BERT.
    """
    kind = _TEXT_KINDS[model.text.get("kind", "bert")]
    return kind(
        vocab_size=vocab_size,
        layers=model.text.layers,
        width=model.text.width,
        heads=model.text.heads,
        mlp_ratio=model.text.mlp_ratio,
        max_length=text_length,
        dropout=model.text.dropout,
        frozen=frozen_blocks(model.text),
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
