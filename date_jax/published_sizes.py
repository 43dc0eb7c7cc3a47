"""The sizes of published weights, read from their folders, so that nobody types them.

`--config.init.image=folder` takes what folder/config.json says into `config.model.image`, and
`--config.init.text=folder` that of the text, with its vocabulary and the length of its texts. A run
that goes on takes them from its own folder: the weights may be gone.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from date_jax.data.tokenizer_files import vocabulary_file
from date_jax.errors import UsageError
from date_jax.networks import pretrained
from date_jax.networks.layouts import KINDS
from date_jax.networks.published_config import sizes_of, tower_config
from date_jax.run.checkpoint import steps_in
from date_jax.run.user_paths import user_path
from date_jax.run.workdir import flat

_MOST_LINES = 5  # of a message
_POSITIONS = {"bert": 512, "siglip": 64}  # where a file does not say it, as transformers has it


def with_published_sizes(
    config: ConfigDict, typed: Collection[str], directory: Path | None
) -> tuple[ConfigDict, list[str]]:
    """The config with the sizes of the weights that `config.init` names, and lines that say them.

    Args:
        config: as the user wrote it.
        typed: the dotted keys that stand in the command; of these none is changed.
        directory: of the run; None where the command names none.

    Raises:
        UsageError: a size that stands in the command is not that of the weights, which could not
            be loaded; or the weights are of a network that we do not have.
        CheckpointError: a config.json cannot be read.
    """
    lines: list[str] = []
    config = config.copy_and_resolve_references()
    saved = _saved_config(directory) if directory else {}
    for kind in KINDS:
        name = config.get("init", {}).get(kind, "")
        if not name or kind not in config.model:
            continue
        if saved.get("init", {}).get(kind):
            values = _values_of_run(kind, saved)
            if kind == "text" and saved["data"]["vocab"]:
                values["data.vocab"] = str(vocabulary_file(Path(directory or "")))
        else:
            path = user_path(name)
            values = _values_of_weights(kind, config, path)
            _require_equal(config, typed, values, path)
            lines += [f"sizes of {path}: {_text_of(values)}"] if values else []
        keys = flat(config.to_dict())
        values = {key: value for key, value in values.items() if key in keys and key not in typed}
        config.update_from_flattened_dict(values)
    return config, lines


def _saved_config(directory: Path) -> dict[str, Any]:
    """The config of the run that goes on in a folder; an empty one where none does."""
    file = user_path(str(directory)) / "config.json"
    if not steps_in(file.parent / "checkpoints") or not file.exists():
        return {}
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # whoever goes on without it is told what differs
    return saved if isinstance(saved, dict) else {}


def _values_of_run(kind: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """What a run took of its weights when it began, by dotted key."""
    values = {
        f"model.{kind}.{key}": tuple(value) if isinstance(value, list) else value
        for key, value in flat(saved["model"][kind]).items()
        if key != "train"
    }
    return values | ({"data.text_length": saved["data"]["text_length"]} if kind == "text" else {})


def _values_of_weights(kind: str, config: ConfigDict, path: Path) -> dict[str, Any]:
    """What a folder of weights asks for, by dotted key; nothing without a config.json."""
    file_config = pretrained.file_config(path)
    if file_config is None:
        return {}
    section = config.model[kind]
    sizes = sizes_of(kind, file_config)
    values = {f"model.{kind}.{key}": value for key, value in sizes.items()}
    # Windows of another size are no other network: their tables are resized.
    window = file_config.get("window_size")
    if sizes["kind"] == "swin" and isinstance(window, int):
        values["model.image.window"] = window
    # SigLIP has no class token: its vector is what its own head pools.
    has_head = sizes["kind"] == "vit" and not sizes["vit.class_tokens"]
    if kind == "image" and has_head and section.get("pooling") == "rep":
        values["model.image.pooling"] = "map"
    if kind == "text":
        # SigLIP reads padding too, so that its texts have one length. BERT's may be shorter.
        most = tower_config(kind, file_config).get("max_position_embeddings")
        most = most if isinstance(most, int) else _POSITIONS[sizes["kind"]]
        is_fixed = sizes["kind"] == "siglip"
        values["data.text_length"] = most if is_fixed else min(config.data.text_length, most)
        vocab = vocabulary_file(path if path.is_dir() else path.parent)
        if not config.data.vocab and vocab.exists():
            values["data.vocab"] = str(vocab)
    return values


def _require_equal(
    config: ConfigDict, typed: Collection[str], values: Mapping[str, Any], path: Path
) -> None:
    """Raises UsageError where the command asks for another network than the weights are of.

    Pooling, windows, and how long texts are, are the user's to choose.
    """
    ours = flat(config.to_dict())
    free = (
        *("model.image.pooling", "model.image.window", "model.image.vit.pixels"),
        *("data.text_length", "data.vocab"),
    )
    wrong = [
        f"  --config.{key}={ours[key]}: {value} there"
        for key, value in values.items()
        if key in typed and key not in free and key in ours and ours[key] != value
    ]
    if wrong:
        more = [f"  and {len(wrong) - _MOST_LINES} more"] if len(wrong) > _MOST_LINES else []
        head = f"{path}: the weights are of another network than the command asks for"
        end = "leave these out: sizes are read from the config.json there"
        raise UsageError("\n".join([head, *wrong[:_MOST_LINES], *more, end]))


def _text_of(values: Mapping[str, Any]) -> str:
    """Values in a line, by the last part of their keys."""
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values.items())
