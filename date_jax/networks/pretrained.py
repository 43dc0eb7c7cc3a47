"""Published weights in, a run's own out: Swin and BERT in Hugging Face's layout, as safetensors.

A file is read as numbers only, never unpickled. What differs from the network in the run is refused
with both shapes; the tables of relative positions are resized where the window differs.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes  # noqa: F401 - makes bfloat16 a NumPy type, which files may hold
import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from date_jax.errors import CheckpointError, UsageError

Tensors = Mapping[str, np.ndarray]
_SHOWN = 4  # names in a line
_MISSING = 0.1  # share of an extractor's tensors that a file may lack

# Our module or parameter, and what it is called there; \1, \2: number of stage and of block.
_SWIN_BLOCK = r"encoder.layers.\1.blocks.\2"
_SWIN_MODULES = (
    (r"patch_embedding", r"embeddings.patch_embeddings.projection"),
    (r"patch_norm", r"embeddings.norm"),
    (r"stage(\d+)_block(\d+)/norm1", rf"{_SWIN_BLOCK}.layernorm_before"),
    (r"stage(\d+)_block(\d+)/norm2", rf"{_SWIN_BLOCK}.layernorm_after"),
    (r"stage(\d+)_block(\d+)/attention/out", rf"{_SWIN_BLOCK}.attention.output.dense"),
    (r"stage(\d+)_block(\d+)/attention/(\w+)", rf"{_SWIN_BLOCK}.attention.self.\3"),
    (r"stage(\d+)_block(\d+)/mlp/up", rf"{_SWIN_BLOCK}.intermediate.dense"),
    (r"stage(\d+)_block(\d+)/mlp/down", rf"{_SWIN_BLOCK}.output.dense"),
    (r"merge(\d+)/(\w+)", r"encoder.layers.\1.downsample.\2"),
    (r"norm", r"layernorm"),
)
_SWIN_PARAMETERS = (
    (
        r"stage(\d+)_block(\d+)/relative_bias",
        rf"{_SWIN_BLOCK}.attention.self.relative_position_bias_table",
    ),
)
_BERT_MODULES = (
    (r"word_embedding", r"embeddings.word_embeddings"),
    (r"embedding_norm", r"embeddings.LayerNorm"),
    (r"layer(\d+)/attention/out", r"encoder.layer.\1.attention.output.dense"),
    (r"layer(\d+)/attention/(\w+)", r"encoder.layer.\1.attention.self.\2"),
    (r"layer(\d+)/norm1", r"encoder.layer.\1.attention.output.LayerNorm"),
    (r"layer(\d+)/mlp/up", r"encoder.layer.\1.intermediate.dense"),
    (r"layer(\d+)/mlp/down", r"encoder.layer.\1.output.dense"),
    (r"layer(\d+)/norm2", r"encoder.layer.\1.output.LayerNorm"),
)
_BERT_PARAMETERS = (
    (r"position_embedding", r"embeddings.position_embeddings.weight"),
    (r"segment_embedding", r"embeddings.token_type_embeddings.weight"),
)
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
_OLD_LEAVES = {"gamma": "weight", "beta": "bias"}  # of LayerNorm, in files of 2018
# Derived from the window; older files hold it.
_DERIVED = re.compile(r"relative_position_index$|position_ids$")


class Layout(NamedTuple):
    """How one kind of extractor is written down.

    Attributes:
        modules: ours, as regular expressions, and theirs; the leaves are renamed by `_LEAVES`.
        parameters: the same of single parameters.
        anchor: a tensor that every file has; what stands before it is the file's prefix.
        expected: what config.json must say, from the part of the config that the extractor is
            built from: `(their key, our key or None, value)`.
    """

    modules: tuple[tuple[str, str], ...]
    parameters: tuple[tuple[str, str], ...]
    anchor: str
    expected: Callable[[Any], list[tuple[str, str | None, Any]]]


def _swin_says(image: Any) -> list[tuple[str, str | None, Any]]:
    return [
        ("model_type", None, "swin"),
        ("patch_size", "patch", image.patch),
        ("embed_dim", "width", image.width),
        ("depths", "depths", list(image.depths)),
        ("num_heads", "heads", list(image.heads)),
        ("mlp_ratio", "mlp_ratio", image.mlp_ratio),
        ("hidden_act", None, "gelu"),
        ("qkv_bias", None, True),
        ("use_absolute_embeddings", None, False),
        ("layer_norm_eps", None, 1e-5),
    ]


def _bert_says(text: Any) -> list[tuple[str, str | None, Any]]:
    return [
        ("model_type", None, "bert"),
        ("num_hidden_layers", "layers", text.layers),
        ("hidden_size", "width", text.width),
        ("num_attention_heads", "heads", text.heads),
        ("intermediate_size", "mlp_ratio", round(text.mlp_ratio * text.width)),
        ("hidden_act", None, "gelu"),
        ("position_embedding_type", None, "absolute"),
        ("layer_norm_eps", None, 1e-12),
    ]


LAYOUTS = {
    "image": Layout(
        _SWIN_MODULES, _SWIN_PARAMETERS, "embeddings.patch_embeddings.projection.weight", _swin_says
    ),
    "text": Layout(
        _BERT_MODULES, _BERT_PARAMETERS, "embeddings.word_embeddings.weight", _bert_says
    ),
}


class Report(NamedTuple):
    """What became of a file's tensors, by name.

    Attributes:
        loaded: parameters that now hold what the file says.
        renamed: those of them whose tensor has an outdated name or a prefix.
        resized: tables of another window.
        missing: parameters of the published kind that the file lacks; they stay random.
        own: parameters that only a file of ours has, e.g. `[REP]`, where this is none.
        left_over: tensors of the file that this network has no place for.
    """

    loaded: list[str]
    renamed: list[str]
    resized: list[str]
    missing: list[str]
    own: list[str]
    left_over: list[str]

    def lines(self, where: str) -> list[str]:
        """For the console."""

        def named(names: list[str]) -> str:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})" if names else "0"

        first = f"{where}: {len(self.loaded)} tensors loaded, {len(self.renamed)} of them renamed"
        first += f", {len(self.resized)} resized" if self.resized else ""
        warn = "warning: " if self.missing else ""
        return [
            first,
            f"  {warn}missing in the file: {named(self.missing)}",
            f"  ours alone, new: {named(self.own)}; left over in the file: {named(self.left_over)}",
        ]


def given(config: Any) -> dict[str, tuple[Path, dict[str, np.ndarray]]]:
    """The files that `config.init` names, by kind of extractor; read, and of the right sizes.

    Raises:
        CheckpointError: see `read`.
        UsageError: a config.json beside them tells of another network than config.model.
    """
    found = {}
    for kind, name in config.get("init", {}).items():
        if name:
            path = Path(name)
            tensors, about = read(path)
            if about is not None:
                require_same_sizes(kind, config.model[kind], about, path)
            found[kind] = path, tensors
    return found


def require_same_vocabulary(path: Path, vocabulary: list[str]) -> None:
    """Raises UsageError where the vocab.txt beside text weights is not the run's: with equally many
    pieces they would load, and every word get another word's vector.

    Args:
        path: of the weights.
        vocabulary: the run's pieces, in order.
    """
    beside = _folder(path) / "vocab.txt"
    if not beside.exists():
        return
    if beside.read_text(encoding="utf-8").removesuffix("\n").split("\n") != vocabulary:
        raise UsageError(
            f"{path}: its vocabulary is not the one that the queries are read with\n"
            f"  set --config.data.vocab={beside}"
        )


def digest(files: Mapping[str, tuple[Path, dict[str, np.ndarray]]]) -> str:
    """Equal on two hosts exactly if they read the same tensors."""
    found = hashlib.sha256()
    for kind, (_, tensors) in sorted(files.items()):
        for name, tensor in sorted(tensors.items()):
            found.update(f"{kind} {name} {tensor.dtype} {tensor.shape}".encode())
            found.update(np.ascontiguousarray(tensor).tobytes())
    return found.hexdigest()


def replaced(
    params: Any, files: Mapping[str, tuple[Path, dict[str, np.ndarray]]]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """What takes the place of which parameters, by their paths, and lines that report it.

    Args:
        params: the network's, or their shapes, with `image_extractor` and `text_extractor`.
        files: of `given`.

    Raises:
        CheckpointError: see `matched`.
    """
    values: dict[str, np.ndarray] = {}
    lines = []
    for kind, (path, tensors) in files.items():
        module = f"{kind}_extractor"
        fitting, report = matched(kind, params[module], tensors, where=str(path))
        values |= {f"{module}/{name}": value for name, value in fitting.items()}
        lines += report.lines(f"{module} from {path}")
    return values, lines


def their_name(kind: str, path: str) -> str | None:
    """What a parameter of ours is called in a published file; None for one of our own."""
    for ours, theirs in LAYOUTS[kind].parameters:
        if match := re.fullmatch(ours, path):
            return match.expand(theirs)
    module, _, leaf = path.rpartition("/")
    for ours, theirs in LAYOUTS[kind].modules:
        if leaf in _LEAVES and (match := re.fullmatch(ours, module)):
            return f"{match.expand(theirs)}.{_LEAVES[leaf]}"
    return None


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """The tensors of a file, or of the files in a folder, and its config.json if there is one.

    Raises:
        CheckpointError: it is absent, damaged, or of a kind that would have to be unpickled.
    """
    folder = _folder(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    files = [file for file in files if file.exists()]
    if not files:
        pickles = [p for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
        what = "no *.safetensors in this folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {what}" + (_no_pickle(pickles[0]) if pickles else ""))
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        if file.suffix != ".safetensors":
            raise CheckpointError(f"{file}: not a safetensors file" + _no_pickle(file))
        try:
            with safe_open(file, framework="np") as opened:
                found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, TypeError) as error:
            raise CheckpointError(f"{file}: cannot be read as safetensors ({error})") from error
        if twice := sorted(found.keys() & tensors.keys()):
            raise CheckpointError(f"{file}: {twice[0]} stands in another file of this folder too")
        tensors |= found
    about = folder / "config.json"
    try:
        return tensors, json.loads(about.read_text()) if about.exists() else None
    except ValueError as error:
        raise CheckpointError(f"{about}: is no JSON ({error})") from error


def _folder(path: Path) -> Path:
    """Where the files beside the weights lie."""
    return path if path.is_dir() else path.parent


def _no_pickle(path: Path) -> str:
    return (
        f"\n{path.name} may run code when it is opened, so it never is; save it as safetensors "
        "where you trust it:\n  model.save_pretrained(folder, safe_serialization=True)"
    )


def require_same_sizes(kind: str, config: Any, about: Mapping[str, Any], where: Path) -> None:
    """Raises UsageError where the file's own config.json tells of another network.

    Heads leave no trace in a BERT's shapes: with another number it would load, and be wrong.
    """
    wrong = []
    for theirs, ours, value in LAYOUTS[kind].expected(config):
        said = about.get(theirs, value)
        if said != value and not (isinstance(value, float) and math.isclose(said, value)):
            name = f"config.model.{kind}.{ours}" if ours else "this network"
            wrong.append(f"  {theirs} is {said} there, {name} has {value}")
    if wrong:
        raise UsageError("\n".join([f"{where}: weights of another network", *wrong[:6]]))


def matched(
    kind: str, shapes: Any, tensors: Tensors, *, where: str
) -> tuple[dict[str, np.ndarray], Report]:
    """The parameters that a published file gives to an extractor, by path, and what was done.

    Args:
        kind: "image" or "text".
        shapes: the extractor's parameters, or their shapes.
        tensors: of `read`.
        where: the file's name, for messages.

    Raises:
        CheckpointError: shapes differ, or too much is missing for it to be this network.
    """
    known, renamed = _plainly_named(tensors, LAYOUTS[kind].anchor, where)
    values: dict[str, np.ndarray] = {}
    report = Report([], [], [], [], [], [])
    wrong = []
    used = set()
    for path, leaf in flatten_dict(shapes, sep="/").items():
        published_name = their_name(kind, path)
        name = published_name or path  # a file of ours holds what others do not have
        if name not in known:
            (report.missing if published_name else report.own).append(path)
        else:
            used.add(name)
            tensor = np.asarray(known[name], np.float32)
            value = _as_ours(path, tensor, leaf.shape) if published_name else tensor
            if value.shape != leaf.shape:
                wrong.append(f"  {name}: {tensor.shape} in the file, {path} is {leaf.shape}")
                if path.startswith("word_embedding") and value.shape[1:] == leaf.shape[1:]:
                    wrong.append("  its vocabulary is another: --config.data.vocab=<its vocab.txt>")
                continue
            if path.endswith("relative_bias") and value.shape != tensor.shape:
                report.resized.append(path)
            if name in renamed:
                report.renamed.append(name)
            values[path] = value
            report.loaded.append(path)
    if wrong:
        wrong.sort(key=lambda line: LAYOUTS[kind].anchor not in line)  # that one says it best
        more = [f"  and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        raise CheckpointError(
            "\n".join([f"{where}: the shapes are of another network", *wrong[:_SHOWN], *more])
        )
    if len(report.missing) > _MISSING * (len(report.missing) + len(report.loaded)):
        raise CheckpointError(
            f"{where}: lacks {len(report.missing)} of the {kind} extractor's tensors, so it is of "
            f"another network\n  e.g. {', '.join(report.missing[:_SHOWN])}"
        )
    report.left_over.extend(name for name in known if name not in used)
    return values, report


def _plainly_named(
    tensors: Tensors, anchor: str, where: str
) -> tuple[dict[str, np.ndarray], set[str]]:
    """The tensors without the prefix of a larger model and by today's names; which were changed."""
    prefixes = [name.removesuffix(anchor) for name in tensors if name.endswith(anchor)]
    if not prefixes:
        found = ", ".join([*tensors][:_SHOWN]) or "nothing"
        raise CheckpointError(f"{where}: there is no {anchor} in it\n  it holds: {found}")
    prefix = min(prefixes, key=len)
    plain, renamed = {}, set()
    for name, tensor in tensors.items():
        if _DERIVED.search(name):
            continue
        head, dot, leaf = name.removeprefix(prefix).rpartition(".")
        now = f"{head}{dot}{_OLD_LEAVES.get(leaf, leaf)}"
        plain[now] = tensor
        if now != name:
            renamed.add(now)
    return plain, renamed


def _as_ours(path: str, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A published tensor in our layout; its shape is wrong if the network is another."""
    if path.endswith("patch_embedding/kernel") and tensor.ndim == 4:
        return rearrange(tensor, "c rgb a d -> (a d rgb) c")
    if path.endswith("kernel") and tensor.ndim == 2:
        return tensor.T
    if path.endswith("segment_embedding") and tensor.ndim == 2:
        return tensor[0]  # of "sentence A"
    if path.endswith("position_embedding") and tensor.ndim == 2:
        return tensor[: shape[0]]
    if path.endswith("relative_bias") and tensor.ndim == 2:
        return resized_table(tensor, shape[0])
    return tensor


def resized_table(table: np.ndarray, rows: int) -> np.ndarray:
    """A table of relative positions `[(2w-1)² H]` for another window, `[rows H]`, bicubic."""
    old, new = math.isqrt(len(table)), math.isqrt(rows)
    if old**2 != len(table) or new**2 != rows or old == new:
        return table
    square = rearrange(table, "(a b) h -> a b h", a=old)
    resized = jax.image.resize(square, (new, new, table.shape[1]), "cubic", antialias=False)
    return np.asarray(rearrange(resized, "a b h -> (a b) h"))


def published(kind: str, params: Any) -> dict[str, np.ndarray]:
    """An extractor's parameters under published names and in their layout; our own keep theirs.

    Args:
        kind: "image" or "text".
        params: the extractor's.
    """
    tensors = {}
    for path, leaf in flatten_dict(params, sep="/").items():
        value, name = np.asarray(leaf), their_name(kind, path)
        if path == "patch_embedding/kernel":
            side = math.isqrt(len(value) // 3)
            value = rearrange(value, "(a d rgb) c -> c rgb a d", a=side, d=side)
        elif path.endswith("kernel") and value.ndim == 2 and name is not None:
            value = value.T
        elif path == "segment_embedding":
            value = value[None]
        tensors[name or path] = np.ascontiguousarray(value)
    return tensors


def write(folder: Path, config: Any, params: Any) -> None:
    """A network as files: `image/` and `text/`, the extractors as transformers reads them, and all
    else under our names in `seekers.safetensors`.

    Args:
        folder: made if absent; holds neither extractor yet.
        config: the run's.
        params: of the network.
    """
    words = len(params["text_extractor"]["word_embedding"]["embedding"])
    for kind in LAYOUTS:
        (folder / kind).mkdir(parents=True)
        tensors = published(kind, params[f"{kind}_extractor"])
        file = folder / kind / "model.safetensors"
        file.write_bytes(save(tensors, metadata={"format": "pt"}))
        said = about(kind, config, vocab_size=words)
        (folder / kind / "config.json").write_text(json.dumps(said, indent=2) + "\n")
    rest = {name: part for name, part in params.items() if not name.endswith("_extractor")}
    seekers = {name: np.ascontiguousarray(x) for name, x in flatten_dict(rest, sep="/").items()}
    (folder / "seekers.safetensors").write_bytes(save(seekers))


def about(kind: str, config: Any, *, vocab_size: int) -> dict[str, Any]:
    """The config.json that belongs to `published` tensors.

    Args:
        kind: "image" or "text".
        config: the run's.
        vocab_size: rows of the embedding of words.
    """
    said = {theirs: value for theirs, _, value in LAYOUTS[kind].expected(config.model[kind])}
    if kind == "image":
        more = {"image_size": config.data.image_size, "window_size": config.model.image.window}
        return said | more | {"num_channels": 3}
    length = config.data.text_length
    more = {"vocab_size": vocab_size, "type_vocab_size": 1}
    return said | more | {"max_position_embeddings": length}
