"""The folder that `date_jax.export` writes: every parameter of a network, and the way back.

    image/model.safetensors       the image extractor in Hugging Face's layout, with its config.json
    text/model.safetensors        the text extractor, if it has that layout
    text/vocab.txt                the word pieces, with their rules in tokenizer_config.json
    seekers.safetensors           all else under our names; the file's name depends on the task
    training/<part>.safetensors   parameters that only training uses, such as those of an aligner
    config.json, README.md        the run's config, and a model card
    export.json                   step, task, and the SHA-256 of each file of tensors

Neither Orbax nor TensorFlow is needed to read it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import empty_node, flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from safetensors.numpy import save

from date_jax.errors import CheckpointError
from date_jax.networks import pretrained
from date_jax.networks.layouts import (
    KINDS,
    layouts_of,
    our_tensor,
    published_name,
    published_tensor,
    split_tensors,
    stacked_tensors,
)
from date_jax.networks.published_config import config_json

META_FILE = "export.json"
_FORMAT = 1  # of META_FILE; raise it when an older reader would misread a folder
_REST = "*.safetensors"  # at the folder's root
_MAX_NAMES = 3  # in a message
_AGAIN = "  export the run again, or copy the whole folder again"


class Place(NamedTuple):
    """The place of one parameter in an export.

    Attributes:
        file: below the folder; "" for the file at its root.
        name: of the tensor in it.
        layout: of the extractor that it belongs to; "" for none.
        path: of the parameter below its extractor, or its part of the tree.
    """

    file: str
    name: str
    layout: str
    path: str


def place(path: str, layouts: Mapping[str, str]) -> Place:
    """The place of a parameter by its path in the tree of `learner.init`.

    Args:
        path: of the parameter.
        layouts: of the network's extractors, as `layouts_of` gives them.

    >>> place("model/text_extractor/layer0/mlp/up/bias", {"text": "bert"})[:2]
    ('text/model.safetensors', 'encoder.layer.0.intermediate.dense.bias')
    """
    part, _, below = path.partition("/")
    if part != "model":
        return Place(f"training/{part}.safetensors", below, "", below)
    module, _, inner = below.partition("/")
    kind = module.removesuffix("_extractor")
    if module.endswith("_extractor") and kind in KINDS:
        name = published_name(layouts[kind], inner) or inner
        return Place(f"{kind}/model.safetensors", name, layouts[kind], inner)
    return Place("", below, "", below)


def _is_published(spot: Place) -> bool:
    """Whether the tensor is in Hugging Face's layout, not in ours."""
    return bool(spot.layout) and published_name(spot.layout, spot.path) is not None


def write(
    folder: Path, config: ConfigDict, params: Any, *, rest: str, meta: dict[str, Any]
) -> None:
    """Writes the tensors of a network, the configs of its extractors, and export.json.

    Args:
        folder: made if absent; holds no export yet.
        config: the run's.
        params: host arrays, as the learner's `init` names them.
        rest: the name, without its ending, of the file of what is in no extractor.
        meta: JSON values that `exported_meta` shall give back.
    """
    # Every parameter in its file, in the layout that the file has.
    files: dict[str, dict[str, np.ndarray]] = {}
    leaves = flatten_dict(params, sep="/")
    layouts = layouts_of(leaves)
    for path, leaf in leaves.items():
        spot = place(path, layouts)
        value = np.asarray(leaf)
        value = published_tensor(spot.layout, spot.path, value) if _is_published(spot) else value
        tensors = files.setdefault(spot.file or f"{rest}.safetensors", {})
        tensors[spot.name] = np.array(value, order="C")
    for name, tensors in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tensors = stacked_tensors(tensors)
        (folder / name).write_bytes(save(tensors, metadata={"format": "pt"}))
    # An extractor is what transformers' from_pretrained takes: a folder with its config.
    for kind in KINDS:
        if f"{kind}/model.safetensors" in files:
            extractor = params["model"][f"{kind}_extractor"]
            words = len(extractor["word_embedding"]["embedding"]) if kind == "text" else 0
            file_config = config_json(kind, config, vocab_size=words)
            _write_json(folder / kind / "config.json", file_config)
    digests = {name: _digest(folder / name) for name in sorted(files)}
    _write_json(folder / META_FILE, {"format": _FORMAT, **meta, "files": digests})


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _digest(file: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def is_export(folder: Path) -> bool:
    """Whether `folder` is an export: a config and tensors, which a run's folder has not both."""
    return (folder / "config.json").is_file() and any(folder.glob(_REST))


def require_parameters(folder: Path) -> None:
    """Raises CheckpointError where `folder` is an export of programs, which hide their numbers."""
    for file_format in ("stablehlo", "onnx"):
        if any(folder.glob(f"*.{file_format}")):
            raise CheckpointError(
                f"{folder}: an export with --format={file_format}, which only answers\n"
                "  take the run, or an export of it with --format=safetensors"
            )


def exported_meta(folder: Path) -> dict[str, Any]:
    """The values of export.json; `{}` of an export that an earlier version wrote without it.

    Raises:
        CheckpointError: the file is damaged, or of a later version.
    """
    file = folder / META_FILE
    if not file.exists():
        return {}
    meta = _json_object(file)
    if meta.get("format") != _FORMAT:
        raise CheckpointError(
            f"{file}: format {meta.get('format')}, this version of date_jax reads {_FORMAT}\n"
            "  use the version that wrote it, or export the run again with this one"
        )
    return meta


def exported_config(folder: Path) -> ConfigDict:
    """The config of the run that an export was made from.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    return ConfigDict(_json_object(folder / "config.json"))


def _json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file; CheckpointError where there is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})\n{_AGAIN}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds no JSON object\n{_AGAIN}")
    return value


def exported_params(folder: Path, shapes: Any) -> dict[str, Any]:
    """The parameters in an export, bit for bit those of the run's moving average.

    Args:
        folder: of `date_jax.export`.
        shapes: the tree of `learner.init`, or its part `{"model": ...}`; arrays or their shapes.

    Returns:
        A tree like `shapes`, of host arrays.

    Raises:
        CheckpointError: a file or a tensor is missing, damaged, of another shape, or belongs to
            nothing in `shapes`.
    """
    # Each file is read once, as far as the tree asks for it.
    wanted = flatten_dict(shapes, sep="/", keep_empty_nodes=True)
    paths = [path for path, leaf in wanted.items() if leaf is not empty_node]
    layouts = layouts_of(paths)
    spots = {path: place(path, layouts) for path in paths}
    files = {name: _tensors(folder, name) for name in {spot.file for spot in spots.values()}}
    # Each parameter takes its tensor; what nobody took is of another network.
    values: dict[str, Any] = {path: wanted[path] for path in wanted.keys() - spots.keys()}
    missing, misfits = [], []
    for path, spot in spots.items():
        tensor = files[spot.file].pop(spot.name, None)
        if tensor is None:
            missing.append(path)
            continue
        like = wanted[path]
        if misfit := _misfit(spot, tensor, like):
            misfits.append(f"  {path}: {misfit}")
            continue
        value = (
            our_tensor(spot.layout, spot.path, tensor, like.shape)
            if _is_published(spot)
            else tensor
        )
        values[path] = np.ascontiguousarray(value).reshape(like.shape)
    left_over = [name for tensors in files.values() for name in tensors]
    _require_same_network(folder, missing, misfits, left_over)
    return unflatten_dict(values, sep="/")


def _tensors(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The tensors of one file of an export, which are those that were written.

    Args:
        folder: of the export.
        name: of `Place.file`.
    """
    roots = sorted(folder.glob(_REST))
    if not name and len(roots) != 1:
        problem = "holds no *.safetensors" if not roots else "holds several *.safetensors"
        raise CheckpointError(f"{folder}: {problem}, so it is no export\n{_AGAIN}")
    file = folder / name if name else roots[0]
    if not file.exists():
        raise CheckpointError(f"{file}: is missing in this export\n{_AGAIN}")
    digest = exported_meta(folder).get("files", {}).get(str(file.relative_to(folder)))
    if digest is not None and digest != _digest(file):
        raise CheckpointError(
            f"{file}: is not what was exported: its SHA-256 is not that of {META_FILE}\n{_AGAIN}"
        )
    return split_tensors(pretrained.read(file)[0])


def _misfit(spot: Place, tensor: np.ndarray, like: Any) -> str:
    """The difference between a tensor and what the network needs; "" where it fits."""
    shape = like.shape
    if _is_published(spot):
        shape = published_tensor(spot.layout, spot.path, np.empty(shape, like.dtype)).shape
    # Earlier versions wrote a single number as an array of one.
    if tensor.shape != shape and not (shape == () and tensor.shape == (1,)):
        return f"{tensor.shape} in the export, {shape} in this network"
    if tensor.dtype != like.dtype:
        return f"{tensor.dtype} in the export, {like.dtype} in this network"
    return ""


def _require_same_network(
    folder: Path, missing: list[str], misfits: list[str], left_over: list[str]
) -> None:
    """Raises CheckpointError where an export is not of exactly this network."""
    lines = misfits[:_MAX_NAMES]
    if len(misfits) > _MAX_NAMES:
        lines.append(f"  and {len(misfits) - _MAX_NAMES} more")
    for what, names in (("missing", missing), ("of no use here", left_over)):
        if names:
            dots = ", ..." if len(names) > _MAX_NAMES else ""
            lines.append(f"  {what}: {len(names)} ({', '.join(names[:_MAX_NAMES])}{dots})")
    if lines:
        raise CheckpointError("\n".join([f"{folder}: an export of another network", *lines]))
