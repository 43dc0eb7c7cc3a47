"""Sizes of networks by name, as overrides of a config; and the words behind a config's colon."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from date_jax.errors import UsageError, spelling_hint

# The settings of TransVG and QRNet around two published networks.
_AROUND: dict[str, Any] = {
    "steps": 40_000,
    "data.text_length": 40,
    "data.vocab_size": 8_000,
    "model.dtype": "bfloat16",
    "model.remat": True,
    "model.rows_at_once": 0,
    "model.width": 256,
    "model.image.mlp_ratio": 4.0,
    "model.text.mlp_ratio": 4.0,
    "model.fusion.layers": 6,
    "model.fusion.heads": 8,
    "model.fusion.mlp_width": 2048,
    "model.fusion.dropout": 0.1,
    "optim.learning_rate": 1e-4,
    "optim.backbone_scale": 0.1,
    "optim.beta2": 0.999,
    "optim.ema": 0.999,
    "augment.brightness": 0.4,
    "augment.contrast": 0.4,
    "augment.saturation": 0.4,
    "eval.every": 2_000,
    "checkpoint.every": 1_000,
}
_BERT_BASE: dict[str, Any] = {
    "model.text.layers": 12,
    "model.text.width": 768,
    "model.text.heads": 12,
    "model.text.dropout": 0.1,
}
_AROUND_SWIN: dict[str, Any] = {"model.image.patch": 4, **_BERT_BASE, **_AROUND}
_VIT: dict[str, Any] = {
    "data.image_size": 224,
    "model.image.kind": "vit",
    "model.image.depths": (12,),
    "model.image.pool": 2,  # a quarter of the tokens for the seekers
}
# What fits published weights of any size: it begins with them, so it learns less and more slowly.
PRETRAINED: dict[str, Any] = {
    "data.image_size": 224,
    "data.text_length": 32,
    "model.dtype": "float32",  # bfloat16 halves the time on an accelerator, and no other
    "model.width": 128,
    "model.fusion.mlp_width": 256,
    "optim.learning_rate": 5e-4,
    "optim.backbone_scale": 0.05,
}
SCALES: dict[str, dict[str, Any]] = {
    "tiny": {},  # what the configs say themselves
    "swin_t": {
        "data.image_size": 224,
        "model.image.width": 96,
        "model.image.depths": (2, 2, 6, 2),
        "model.image.heads": (3, 6, 12, 24),
        "model.image.window": 7,
        **_AROUND_SWIN,
    },
    "swin_s": {
        "data.image_size": 224,
        "model.image.width": 96,
        "model.image.depths": (2, 2, 18, 2),
        "model.image.heads": (3, 6, 12, 24),
        "model.image.window": 7,
        **_AROUND_SWIN,
    },
    "swin_b": {
        "data.image_size": 384,
        "model.image.width": 128,
        "model.image.depths": (2, 2, 18, 2),
        "model.image.heads": (4, 8, 16, 32),
        "model.image.window": 12,
        **_AROUND_SWIN,
    },
    "vit_s14": {  # DINOv2's, with the six layers of MiniLM
        **_VIT,
        "model.image.patch": 14,
        "model.image.width": 384,
        "model.image.heads": (6,),
        "model.image.vit.layer_scale": True,
        "model.image.vit.positions": 37,
        "model.text.layers": 6,
        "model.text.width": 384,
        "model.text.heads": 12,
        "model.text.dropout": 0.1,
        **_AROUND,
    },
    "vit_b16": {  # of ImageNet, with BERT-base
        **_VIT,
        "model.image.patch": 16,
        "model.image.width": 768,
        "model.image.heads": (12,),
        "model.image.vit.positions": 14,
        **_BERT_BASE,
        **_AROUND,
    },
    "siglip2_b16": {  # both towers of SigLIP 2
        **_VIT,
        "model.image.patch": 16,
        "model.image.width": 768,
        "model.image.heads": (12,),
        "model.image.pooling": "map",
        "model.image.vit.class_tokens": 0,
        "model.image.vit.activation": "gelu_tanh",
        "model.image.vit.positions": 14,
        "model.image.vit.pixels": "half",
        **_BERT_BASE,
        **_AROUND,
        "model.text.kind": "siglip",
        "model.text.dropout": 0.0,
        "data.text_length": 64,
    },
}
ENCODERS = ("pretrained", "vit_s14", "vit_b16", "siglip2_b16")  # words of every config


def words(arg: str, choices: Sequence[str], file: str) -> list[str]:
    """The comma-separated words of a config's argument.

    Args:
        arg: what stands behind the colon.
        choices: the words that the config takes.
        file: the config's, for the message.

    Raises:
        UsageError: one of them is unknown.
    """
    chosen = [word for word in arg.split(",") if word]
    for word in chosen:
        if word not in choices:
            raise UsageError(
                f"{file}:{arg}: unknown word {word!r}{spelling_hint(word, choices)}\n"
                f"It takes any of: {', '.join(choices)} (joined by commas)."
            )
    return chosen


def scale(config: ConfigDict, name: str) -> None:
    """Gives `config` the values of PRETRAINED or of SCALES[name], as far as it has their keys."""
    values = PRETRAINED if name == "pretrained" else SCALES[name]
    keys = _keys(config)
    config.update_from_flattened_dict({key: x for key, x in values.items() if key in keys})


def _keys(section: ConfigDict, prefix: str = "") -> set[str]:
    """The dotted keys of all values of a config."""
    keys = set()
    for key, value in section.items():
        is_section = isinstance(value, ConfigDict)
        keys |= _keys(value, f"{prefix}{key}.") if is_section else {prefix + key}
    return keys
