"""Sizes of network by name, as overrides of a config; and the words behind a config's colon."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from date_jax.errors import UsageError, nearest

_BERT_BASE = {"layers": 12, "width": 768, "heads": 12, "mlp_ratio": 4.0, "dropout": 0.1}
_FUSION = {"layers": 6, "heads": 8, "mlp_width": 2048, "dropout": 0.1}


def _published(width: int, depths: tuple, heads: tuple, window: int, side: int) -> dict[str, Any]:
    """A published Swin with BERT-base, and the settings of TransVG and QRNet around them."""
    image = {"patch": 4, "width": width, "depths": depths, "heads": heads, "window": window}
    sections: dict[str, dict[str, Any]] = {
        "data": {"image_size": side, "text_length": 40, "vocab_size": 8_000},
        "model": {"dtype": "bfloat16", "remat": True, "rows_at_once": 0, "width": 256},
        "model.image": {**image, "mlp_ratio": 4.0},
        "model.text": _BERT_BASE,
        "model.fusion": _FUSION,
        "optim": {"learning_rate": 1e-4, "backbone_scale": 0.1, "beta2": 0.999, "ema": 0.999},
        "augment": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
        "eval": {"every": 2_000},
        "checkpoint": {"every": 1_000},
        "pseudo_boxes": {"every": 2_000},
    }
    flat = {f"{name}.{key}": v for name, keys in sections.items() for key, v in keys.items()}
    return {"steps": 40_000, **flat}


SCALES: dict[str, dict[str, Any]] = {
    "tiny": {},  # what the configs say themselves
    "swin_t": _published(96, (2, 2, 6, 2), (3, 6, 12, 24), 7, 224),
    "swin_s": _published(96, (2, 2, 18, 2), (3, 6, 12, 24), 7, 224),
    "swin_b": _published(128, (2, 2, 18, 2), (4, 8, 16, 32), 12, 384),
}


def words(arg: str, known: Sequence[str], where: str) -> list[str]:
    """The comma-separated words of a config's argument.

    Args:
        arg: what stands behind the colon.
        known: the words that the config takes.
        where: the config's file, for the message.

    Raises:
        UsageError: one of them is unknown.
    """
    given = [word for word in arg.split(",") if word]
    for word in given:
        if word not in known:
            raise UsageError(
                f"{where}:{arg}: unknown word {word!r}{nearest(word, known)}\n"
                f"It takes any of: {', '.join(known)} (joined by commas)."
            )
    return given


def scale(config: ConfigDict, name: str) -> None:
    """Gives `config` the sizes of SCALES[name]."""
    config.update_from_flattened_dict(SCALES[name])
