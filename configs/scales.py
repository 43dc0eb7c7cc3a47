"""Sizes of networks by name, as overrides of a config; and the words behind a config's colon."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from date_jax.errors import UsageError, spelling_hint

# BERT-base, and the settings of TransVG and QRNet around the two published networks.
_AROUND_SWIN: dict[str, Any] = {
    "steps": 40_000,
    "data.text_length": 40,
    "data.vocab_size": 8_000,
    "model.dtype": "bfloat16",
    "model.remat": True,
    "model.rows_at_once": 0,
    "model.width": 256,
    "model.image.patch": 4,
    "model.image.mlp_ratio": 4.0,
    "model.text.layers": 12,
    "model.text.width": 768,
    "model.text.heads": 12,
    "model.text.mlp_ratio": 4.0,
    "model.text.dropout": 0.1,
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
}


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
    """Gives `config` the sizes of SCALES[name]."""
    config.update_from_flattened_dict(SCALES[name])
