"""Published weights in, as safetensors, in the layouts of `layouts`.

A file is read as numbers only, never unpickled. What differs from the network in the run is refused
with both shapes; the tables of relative positions are resized where the window differs.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 - makes bfloat16 a NumPy type, which files may hold
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError, safe_open

from date_jax.errors import CheckpointError, UsageError
from date_jax.networks.layouts import (
    DERIVED,
    KINDS,
    LAYOUTS,
    OLD_LEAVES,
    Layout,
    layout_of,
    our_tensor,
    published_name,
    published_tensor,
    split_tensors,
    stacked_tensors,
)
from date_jax.networks.published_config import requirements, tower_config
from date_jax.run import git_lfs
from date_jax.run.user_paths import user_path

Tensors = Mapping[str, np.ndarray]
_INDEX = ".safetensors.index.json"  # the end of the name of a list of files
_QUANTISED = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8", "U8": "uint8"}
_MAX_NAMES = 4  # in a line of a message
_MAX_MISSING = 0.1  # share of an extractor's tensors that a file may lack


class Report(NamedTuple):
    """The names of a file's tensors and of our parameters, by whether they were loaded.

    Attributes:
        loaded: parameters that now hold what the file says.
        renamed: those of them whose tensor has an outdated name or a prefix.
        resized: tables of another window.
        missing: parameters of the published kind that the file lacks; they stay random.
        ours: parameters that only a file of ours has, e.g. `[REP]`, where this is none.
        left_over: tensors of the file that this network has no place for.
    """

    loaded: list[str]
    renamed: list[str]
    resized: list[str]
    missing: list[str]
    ours: list[str]
    left_over: list[str]

    def lines(self, where: str) -> list[str]:
        """The console's lines about the file `where`."""

        def count_and_names(names: list[str]) -> str:
            more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
            return f"{len(names)} ({', '.join(names[:_MAX_NAMES])}{more})" if names else "0"

        # What fitted in one line, what did not in two.
        first = f"{where}: {len(self.loaded)} tensors loaded, {len(self.renamed)} of them renamed"
        first += f", {len(self.resized)} resized" if self.resized else ""
        warning = "warning: " if self.missing else ""
        return [
            first,
            f"  {warning}missing in the file: {count_and_names(self.missing)}",
            f"  ours alone, new: {count_and_names(self.ours)}; "
            f"left over in the file: {count_and_names(self.left_over)}",
        ]


class WeightFile(NamedTuple):
    """The published weights of one extractor, as a file holds them.

    Attributes:
        path: file or folder that the user named.
        tensors: by their names there.
    """

    path: Path
    tensors: dict[str, np.ndarray]


def weight_files(config: Any) -> dict[str, WeightFile]:
    """The files that `config.init` names, by kind of extractor; read, and of the right sizes.

    Raises:
        CheckpointError: see `read`.
        UsageError: a config.json of a folder tells of another network than config.model.
    """
    # A config.json is optional: without one the shapes must tell.
    files = {}
    for kind in KINDS:
        if name := config.get("init", {}).get(kind, ""):
            path = user_path(name)
            tensors, entries = read(path)
            if entries is not None:
                require_same_sizes(kind, config.model[kind], entries, path)
            files[kind] = WeightFile(path, tensors)
    return files


def require_same_vocabulary(path: Path, vocabulary: list[str]) -> None:
    """Raises UsageError where text weights have another vocab.txt than the run.

    With equally many pieces they would load, and every word get another word's vector.

    Args:
        path: of the weights.
        vocabulary: the run's pieces, in order.
    """
    vocab_file = _folder(path) / "vocab.txt"
    if not vocab_file.exists():
        return
    # Line by line, so that another kind of line break is no difference.
    if vocab_file.read_text(encoding="utf-8").removesuffix("\n").split("\n") != vocabulary:
        raise UsageError(
            f"{path}: its vocabulary is not the one that the queries are read with\n"
            f"  set --config.data.vocab={vocab_file}"
        )


def require_same_sizes(kind: str, config: Any, file_config: Mapping[str, Any], where: Path) -> None:
    """Raises UsageError where the file's own config.json tells of another network.

    Heads leave no trace in a BERT's shapes: with another number it would load, and be wrong.
    """
    # What the file does not say is taken to be right.
    wrong = []
    entries = tower_config(kind, file_config)
    for theirs, ours, value in requirements(kind, config):
        file_value = entries.get(theirs, value)
        if file_value != value and not (
            isinstance(value, float)
            and isinstance(file_value, int | float)
            and math.isclose(file_value, value)
        ):
            name = f"config.model.{kind}.{ours}" if ours else "this network"
            wrong.append(f"  {theirs} is {file_value} there, {name} has {value}")
    if wrong:
        raise UsageError("\n".join([f"{where}: weights of another network", *wrong[:6]]))


def digest(files: Mapping[str, WeightFile]) -> str:
    """A fingerprint that is equal on two hosts exactly if they read the same tensors."""
    fingerprint = hashlib.sha256()
    for kind, file in sorted(files.items()):
        for name, tensor in sorted(file.tensors.items()):
            fingerprint.update(f"{kind} {name} {tensor.dtype} {tensor.shape}".encode())
            fingerprint.update(np.ascontiguousarray(tensor).tobytes())
    return fingerprint.hexdigest()


def initial_values(
    params: Any, files: Mapping[str, WeightFile]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Initial values by path, from files instead of random numbers, and lines that report them.

    Args:
        params: the network's, or their shapes, with `image_extractor` and `text_extractor`.
        files: of `weight_files`; or "run", whose tensors are all of a network by our paths.

    Raises:
        CheckpointError: see `fitting_values`; or the network is another one than that of "run".
    """
    if "run" in files:
        _require_same_parameters(params, files["run"])
        return dict(files["run"].tensors), []
    values: dict[str, np.ndarray] = {}
    lines = []
    for kind, file in files.items():
        module = f"{kind}_extractor"
        fitting, report = fitting_values(kind, params[module], file.tensors, where=str(file.path))
        values |= {f"{module}/{name}": value for name, value in fitting.items()}
        lines += report.lines(f"{module} from {file.path}")
    return values, lines


def _require_same_parameters(params: Any, file: WeightFile) -> None:
    """Raises CheckpointError where a finished run has other parameters than the network."""
    shapes = {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items()}
    theirs = {path: tensor.shape for path, tensor in file.tensors.items()}
    lines = [
        f"  {path}: {theirs.get(path, 'none')} there, {shapes.get(path, 'none')} here"
        for path in sorted(shapes.keys() | theirs.keys())
        if theirs.get(path) != shapes.get(path)
    ]
    if lines:
        more = [f"  and {len(lines) - _MAX_NAMES} more"] if len(lines) > _MAX_NAMES else []
        head = f"{file.path}: its network has other parameters"
        raise CheckpointError("\n".join([head, *lines[:_MAX_NAMES], *more]))


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """The tensors of a file, or of the files in a folder, and its config.json if there is one.

    Raises:
        CheckpointError: it is absent, damaged, or of a kind that would have to be unpickled.
    """
    # The index of a model in several files stands for its folder.
    if path.name.endswith(".index.json") and path.exists():
        path = path.parent
    if path.is_dir():
        _require_all_parts(path)
    # A pickle is named, so that the user knows what to do with it.
    folder = _folder(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    files = [file for file in files if file.exists()]
    if not files:
        pickles = [p for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
        what = "no *.safetensors in this folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {what}" + (_no_pickle(pickles[0]) if pickles else ""))

    # A large model comes in several files, and no tensor stands in two of them.
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        part = _file_tensors(file)
        if twice := sorted(part.keys() & tensors.keys()):
            raise CheckpointError(f"{file}: {twice[0]} stands in another file of this folder too")
        tensors |= part

    return tensors, file_config(folder)


def file_config(path: Path) -> dict[str, Any] | None:
    """The entries of the config.json of weights; None where there is none.

    Args:
        path: file or folder that the user named.

    Raises:
        CheckpointError: it is damaged.
    """
    config_file = _folder(path) / "config.json"
    if not config_file.exists():
        return None
    try:
        entries = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{config_file}: is no JSON ({error})") from error
    if not isinstance(entries, dict):
        raise CheckpointError(
            f"{config_file}: holds a {type(entries).__name__}, not the settings of a network\n"
            "  copy the one that was published with the weights, or remove it"
        )
    return entries


def _require_all_parts(folder: Path) -> None:
    """Raises CheckpointError where an index in the folder names a file that is not in it."""
    for index in sorted(folder.glob(f"*{_INDEX}")):
        if index.with_name(index.name.removesuffix(".index.json")).exists():
            continue  # the same model in one file
        try:
            names = {str(name) for name in json.loads(index.read_text())["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{index}: is no index of weights, which has a weight_map; download it again"
            ) from error
        if missing := sorted(name for name in names if not (folder / name).exists()):
            more = f" and {len(missing) - _MAX_NAMES} more" if len(missing) > _MAX_NAMES else ""
            raise CheckpointError(
                f"{folder}: lacks {', '.join(missing[:_MAX_NAMES])}{more}, of the {len(names)} "
                f"files that {index.name} names\n  download what is missing into this folder"
            )


def _file_tensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of one safetensors file, none of them quantised."""
    # Git LFS leaves a few lines of text in the place of a file that was not downloaded.
    try:
        is_pointer = git_lfs.is_pointer_file(file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    if is_pointer:
        raise CheckpointError(f"{file}: is a Git LFS pointer, not the weights\n  {git_lfs.WAY_OUT}")
    if file.suffix != ".safetensors":
        raise CheckpointError(f"{file}: not a safetensors file" + _no_pickle(file))
    try:
        with safe_open(file, framework="np") as opened:
            names = [*opened.keys()]
            for name in names:
                _require_plain_numbers(file, name, opened.get_slice(name).get_dtype())
            return {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError, TypeError) as error:
        raise CheckpointError(f"{file}: cannot be read as safetensors ({error})") from error


def _require_plain_numbers(file: Path, name: str, dtype: str) -> None:
    """Raises CheckpointError where a tensor is quantised: its scales stand elsewhere, if at all."""
    if dtype in _QUANTISED or (dtype.startswith("F") and dtype not in ("F16", "F32", "F64")):
        raise CheckpointError(
            f"{file}: holds {_QUANTISED.get(dtype, dtype)} ({name}), which cannot be trained on\n"
            "  save it as float16 or float32: model.float().save_pretrained(folder)"
        )


def _folder(path: Path) -> Path:
    """The folder that config.json and vocab.txt of weights lie in."""
    return path if path.is_dir() else path.parent


def _no_pickle(path: Path) -> str:
    return (
        f"\n{path.name} may run code when it is opened, so it never is; save it as safetensors "
        "where you trust it:\n  model.save_pretrained(folder, safe_serialization=True)"
    )


def fitting_values(
    kind: str, shapes: Any, tensors: Tensors, *, where: str
) -> tuple[dict[str, np.ndarray], Report]:
    """The parameters that a published file gives to an extractor, by path, and what was done.

    Args:
        kind: "image" or "text".
        shapes: the extractor's parameters, or their shapes.
        tensors: of `read`.
        where: the file's name, for messages.

    Raises:
        CheckpointError: shapes differ, numbers are NaN or infinite, or too much is missing for it
            to be this network.
    """
    # Every parameter looks for its tensor; what none asked for is left over.
    leaves = flatten_dict(shapes, sep="/")
    layout = layout_of(kind, leaves)
    plain, renamed = _plain_tensors(tensors, LAYOUTS[layout], where)
    values: dict[str, np.ndarray] = {}
    report = Report([], [], [], [], [], [])
    misfits = []
    for path, leaf in leaves.items():
        # A file of ours holds under our names what no published file has.
        theirs = published_name(layout, path)
        name = theirs or path
        if name not in plain:
            (report.missing if theirs else report.ours).append(path)
            continue
        # Half precision is widened. A misfit is reported with the shape that the file has.
        tensor = np.asarray(plain.pop(name), np.float32)
        if not np.isfinite(tensor).all():
            count = np.count_nonzero(~np.isfinite(tensor))
            raise CheckpointError(
                f"{where}: {name} holds {count} numbers that are NaN or infinite\n"
                "  the file is damaged, or its training diverged; take another one"
            )
        value = our_tensor(layout, path, tensor, leaf.shape) if theirs else tensor
        if value.shape != leaf.shape:
            misfits.append(f"  {name}: {tensor.shape} in the file, {path} is {leaf.shape}")
            if path.startswith("word_embedding") and value.shape[1:] == leaf.shape[1:]:
                misfits.append("  its vocabulary is another: --config.data.vocab=<its vocab.txt>")
            continue
        if path.endswith("relative_bias") and value.shape != tensor.shape:
            report.resized.append(path)
        if name in renamed:
            report.renamed.append(name)
        values[path] = value
        report.loaded.append(path)
    report.left_over.extend(plain)
    _require_same_network(LAYOUTS[layout], misfits, report, where)
    return values, report


def _plain_tensors(
    tensors: Tensors, layout: Layout, where: str
) -> tuple[dict[str, np.ndarray], set[str]]:
    """The tensors without a larger model's prefix and by today's names, and which were renamed."""
    # A larger model, such as one with a head or of two towers, has the extractor under a prefix.
    anchor = layout.anchor
    prefixes = [name.removesuffix(anchor) for name in tensors if name.endswith(anchor)]
    if not prefixes:
        names = ", ".join([*tensors][:_MAX_NAMES]) or "nothing"
        raise CheckpointError(f"{where}: there is no {anchor} in it\n  it holds: {names}")
    prefix = min(prefixes, key=len)

    # Old files have other names for the leaves of a norm, and tables that follow from sizes.
    plain, renamed = {}, set()
    for name, tensor in split_tensors(tensors).items():
        if DERIVED.search(name):
            continue
        module, dot, leaf = name.removeprefix(prefix).rpartition(".")
        plain_name = f"{module}{dot}{OLD_LEAVES.get(leaf, leaf)}"
        plain[plain_name] = tensor
        if plain_name != name:
            renamed.add(plain_name)
    return plain, renamed


def _require_same_network(layout: Layout, misfits: list[str], report: Report, where: str) -> None:
    """Raises CheckpointError where a shape does not fit, or too many tensors are missing."""
    if misfits:
        misfits.sort(key=lambda line: layout.anchor not in line)  # that one says it best
        more = [f"  and {len(misfits) - _MAX_NAMES} more"] if len(misfits) > _MAX_NAMES else []
        raise CheckpointError(
            "\n".join([f"{where}: the shapes are of another network", *misfits[:_MAX_NAMES], *more])
        )
    if len(report.missing) > _MAX_MISSING * (len(report.missing) + len(report.loaded)):
        raise CheckpointError(
            f"{where}: lacks {len(report.missing)} of the {layout.kind} extractor's tensors, so it "
            f"is of another network\n  e.g. {', '.join(report.missing[:_MAX_NAMES])}"
        )


def published_tensors(kind: str, params: Any) -> dict[str, np.ndarray]:
    """An extractor's parameters under published names and in their layout; our own keep theirs.

    Args:
        kind: "image" or "text".
        params: the extractor's.
    """
    leaves = flatten_dict(params, sep="/")
    layout = layout_of(kind, leaves)
    tensors = {}
    for path, leaf in leaves.items():
        value, name = np.asarray(leaf), published_name(layout, path)
        value = value if name is None else published_tensor(layout, path, value)
        tensors[name or path] = value
    return {name: np.ascontiguousarray(x) for name, x in stacked_tensors(tensors).items()}
