"""Hugging Face's layouts of published extractors, and their match with ours.

Each layout is a table of names. The tensors differ from ours in a few transpositions and leading
axes, which are here too, both ways. What config.json says next to them is in `published_config`.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from einops import EinopsError, rearrange

# Ours on the left: a module, whose leaves are renamed by LEAVES, or a single parameter. What stands
# in braces is the same on both sides.
SWIN_NAMES = {
    "patch_embedding": "embeddings.patch_embeddings.projection",
    "patch_norm": "embeddings.norm",
    "stage{stage}_block{block}/norm1": "encoder.layers.{stage}.blocks.{block}.layernorm_before",
    "stage{stage}_block{block}/norm2": "encoder.layers.{stage}.blocks.{block}.layernorm_after",
    "stage{stage}_block{block}/attention/out": (
        "encoder.layers.{stage}.blocks.{block}.attention.output.dense"
    ),
    "stage{stage}_block{block}/attention/{part}": (
        "encoder.layers.{stage}.blocks.{block}.attention.self.{part}"
    ),
    "stage{stage}_block{block}/relative_bias": (
        "encoder.layers.{stage}.blocks.{block}.attention.self.relative_position_bias_table"
    ),
    "stage{stage}_block{block}/mlp/up": "encoder.layers.{stage}.blocks.{block}.intermediate.dense",
    "stage{stage}_block{block}/mlp/down": "encoder.layers.{stage}.blocks.{block}.output.dense",
    "merge{stage}/{part}": "encoder.layers.{stage}.downsample.{part}",
    "norm": "layernorm",
}
DINOV2_NAMES = {
    "patch_embedding": "embeddings.patch_embeddings.projection",
    "class_token": "embeddings.cls_token",
    "register_token": "embeddings.register_tokens",
    "position_embedding": "embeddings.position_embeddings",
    "layer{layer}/norm{i}": "encoder.layer.{layer}.norm{i}",
    "layer{layer}/attention/out": "encoder.layer.{layer}.attention.output.dense",
    "layer{layer}/attention/{part}": "encoder.layer.{layer}.attention.attention.{part}",
    "layer{layer}/scale{i}": "encoder.layer.{layer}.layer_scale{i}.lambda1",
    "layer{layer}/mlp/up": "encoder.layer.{layer}.mlp.fc1",
    "layer{layer}/mlp/down": "encoder.layer.{layer}.mlp.fc2",
    "layer{layer}/gated_mlp/up": "encoder.layer.{layer}.mlp.weights_in",
    "layer{layer}/gated_mlp/down": "encoder.layer.{layer}.mlp.weights_out",
    "norm": "layernorm",
}
_CLIP_LAYERS = {  # of CLIP and of both towers of SigLIP
    "layer{layer}/norm{i}": "encoder.layers.{layer}.layer_norm{i}",
    "layer{layer}/attention/query": "encoder.layers.{layer}.self_attn.q_proj",
    "layer{layer}/attention/key": "encoder.layers.{layer}.self_attn.k_proj",
    "layer{layer}/attention/value": "encoder.layers.{layer}.self_attn.v_proj",
    "layer{layer}/attention/out": "encoder.layers.{layer}.self_attn.out_proj",
    "layer{layer}/mlp/up": "encoder.layers.{layer}.mlp.fc1",
    "layer{layer}/mlp/down": "encoder.layers.{layer}.mlp.fc2",
}
CLIP_VISION_NAMES = {
    "patch_embedding": "embeddings.patch_embedding",
    "class_token": "embeddings.class_embedding",
    "position_embedding": "embeddings.position_embedding.weight",
    "input_norm": "pre_layrnorm",
    **_CLIP_LAYERS,
    "norm": "post_layernorm",
}
SIGLIP_VISION_NAMES = {
    "patch_embedding": "embeddings.patch_embedding",
    "position_embedding": "embeddings.position_embedding.weight",
    **_CLIP_LAYERS,
    "norm": "post_layernorm",
    "head/probe": "head.probe",
    "head/attention/query": "head.attention.q_proj",  # stacked in a file: `split_tensors`
    "head/attention/key": "head.attention.k_proj",
    "head/attention/value": "head.attention.v_proj",
    "head/attention/out": "head.attention.out_proj",
    "head/norm": "head.layernorm",
    "head/mlp/up": "head.mlp.fc1",
    "head/mlp/down": "head.mlp.fc2",
}
SIGLIP_TEXT_NAMES = {
    "word_embedding": "embeddings.token_embedding",
    "position_embedding": "embeddings.position_embedding.weight",
    **_CLIP_LAYERS,
    "norm": "final_layer_norm",
    "head": "head",
}
BERT_NAMES = {
    "word_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings.weight",
    "segment_embedding": "embeddings.token_type_embeddings.weight",
    "embedding_norm": "embeddings.LayerNorm",
    "layer{layer}/attention/out": "encoder.layer.{layer}.attention.output.dense",
    "layer{layer}/attention/{part}": "encoder.layer.{layer}.attention.self.{part}",
    "layer{layer}/norm1": "encoder.layer.{layer}.attention.output.LayerNorm",
    "layer{layer}/mlp/up": "encoder.layer.{layer}.intermediate.dense",
    "layer{layer}/mlp/down": "encoder.layer.{layer}.output.dense",
    "layer{layer}/norm2": "encoder.layer.{layer}.output.LayerNorm",
}
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
OLD_LEAVES = {"gamma": "weight", "beta": "bias"}  # of LayerNorm, in files of 2018
# Tensors that follow from the sizes; older files hold them.
DERIVED = re.compile(r"relative_position_index$|position_ids$")
KINDS = ("image", "text")  # of extractors
_STACKED = re.compile(r"(head\.attention\.)in_proj_(weight|bias)$")
_PARTS = ("q_proj", "k_proj", "v_proj")  # that are stacked, in their order there


class Layout(NamedTuple):
    """The published layout of one kind of extractor.

    Attributes:
        kind: of the extractor, one of KINDS.
        module: the name of the published network in transformers.
        names: of our modules and parameters, and theirs.
        anchor: a tensor that every file has; what stands before it is the file's prefix.
        axes: our axes of a parameter and theirs, where they differ, as einops writes them.
    """

    kind: str
    module: str
    names: Mapping[str, str]
    anchor: str
    axes: Mapping[str, str] = {}


_PATCHES = "embeddings.patch_embeddings.projection.weight"
_CLIP_PATCHES = "embeddings.patch_embedding.weight"
LAYOUTS = {
    "swin": Layout("image", "SwinModel", SWIN_NAMES, _PATCHES),
    "dinov2": Layout(
        "image",
        "Dinov2Model",
        DINOV2_NAMES,
        _PATCHES,
        dict.fromkeys(("class_token", "register_token", "position_embedding"), "n c -> 1 n c"),
    ),
    "siglip_vision": Layout(
        "image",
        "SiglipVisionModel",
        SIGLIP_VISION_NAMES,
        _CLIP_PATCHES,
        {"head/probe": "c -> 1 1 c"},
    ),
    "clip_vision": Layout(
        "image", "CLIPVisionModel", CLIP_VISION_NAMES, _CLIP_PATCHES, {"class_token": "1 c -> c"}
    ),
    "bert": Layout("text", "BertModel", BERT_NAMES, "embeddings.word_embeddings.weight"),
    "siglip_text": Layout(
        "text", "SiglipTextModel", SIGLIP_TEXT_NAMES, "embeddings.token_embedding.weight"
    ),
}


def layout_of(kind: str, paths: Collection[str]) -> str:
    """The layout that published files of an extractor have, a key of LAYOUTS.

    Args:
        kind: one of KINDS.
        paths: of the extractor's parameters, of which each layout has one that no other has.
    """
    modules = {path.partition("/")[0] for path in paths}
    if kind == "text":
        return "bert" if "embedding_norm" in modules else "siglip_text"
    if "patch_norm" in modules:
        return "swin"
    if "input_norm" in modules:
        return "clip_vision"
    return "dinov2" if "class_token" in modules else "siglip_vision"


def layouts_of(paths: Iterable[str]) -> dict[str, str]:
    """The layout of each extractor of a network, by kind, from the paths of all parameters."""
    below: dict[str, list[str]] = {}
    for path in paths:
        for kind in KINDS:
            _, module, inner = path.rpartition(f"{kind}_extractor/")
            if module:
                below.setdefault(kind, []).append(inner)
    return {kind: layout_of(kind, inner) for kind, inner in below.items()}


def published_name(layout: str, path: str) -> str | None:
    """The name of our parameter in a published file; None for one that only our network has.

    >>> published_name("bert", "layer3/mlp/up/kernel")
    'encoder.layer.3.intermediate.dense.weight'
    """
    # A parameter is in the table by its whole path, or by its module's.
    module, _, leaf = path.rpartition("/")
    for ours, theirs in LAYOUTS[layout].names.items():
        pattern = re.sub(r"{(\w+)}", r"(?P<\1>\\w+)", ours)
        if match := re.fullmatch(pattern, path):
            return theirs.format(**match.groupdict())
        if leaf in LEAVES and (match := re.fullmatch(pattern, module)):
            return f"{theirs.format(**match.groupdict())}.{LEAVES[leaf]}"
    return None


def published_mask(params: Any) -> Any:
    """True for the extractors' parameters that a published network has, and may have pretrained.

    What only our network has begins with random numbers in every run: `[REP]`, its biases, the
    fusion of `multi_scale`, and everything outside the extractors.

    Args:
        params: of a network, with `image_extractor` or `text_extractor` at any depth.
    """

    def is_published(path: tuple[Any, ...], _: Any) -> bool:
        names = [str(getattr(entry, "key", entry)) for entry in path]
        for layout, (kind, *_) in LAYOUTS.items():
            if (module := f"{kind}_extractor") in names:
                below = "/".join(names[names.index(module) + 1 :])
                if published_name(layout, below) is not None:
                    return True
        return False

    return jax.tree_util.tree_map_with_path(is_published, params)


def our_tensor(layout: str, path: str, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A published tensor in our layout; its shape is wrong if the network is another.

    Args:
        layout: a key of LAYOUTS.
        path: of our parameter.
        tensor: of the name that `published_name` gives.
        shape: of our parameter, which says how large a table has to be.
    """
    # Theirs is a convolution, ours one matmul over the patch's pixels.
    if path.endswith("patch_embedding/kernel") and tensor.ndim == 4:
        return rearrange(tensor, "c rgb a d -> (a d rgb) c")
    # torch keeps a matrix as outputs by inputs.
    if path.endswith("kernel") and tensor.ndim == 2:
        return tensor.T
    # Leading axes of one entry.
    if axes := LAYOUTS[layout].axes.get(path):
        ours, _, theirs = axes.partition(" -> ")
        try:
            return rearrange(tensor, f"{theirs} -> {ours}")
        except EinopsError:
            return tensor
    # Tables: of both sentences, of longer texts, of other windows.
    if path.endswith("segment_embedding") and tensor.ndim == 2:
        return tensor[0]
    if path.endswith("position_embedding") and LAYOUTS[layout].kind == "text":
        return tensor[: shape[0]]
    if path.endswith("relative_bias") and tensor.ndim == 2:
        return resized_table(tensor, shape[0])
    return tensor


def published_tensor(layout: str, path: str, value: np.ndarray) -> np.ndarray:
    """The way back: a parameter that published files have, in their layout."""
    if path == "patch_embedding/kernel":
        side = math.isqrt(len(value) // 3)
        return rearrange(value, "(a d rgb) c -> c rgb a d", a=side, d=side)
    if path.endswith("kernel") and value.ndim == 2:
        return value.T
    if axes := LAYOUTS[layout].axes.get(path):
        return rearrange(value, axes)
    if path == "segment_embedding":
        return value[None]
    return value


def split_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors of which those that hold queries, keys and values in one are three each.

    Only SigLIP's head has such, at the names of torch's `MultiheadAttention`.
    """
    parts: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if match := _STACKED.search(name):
            start = f"{name[: match.start()]}{match[1]}"
            thirds = np.split(tensor, 3) if len(tensor) % 3 == 0 else [tensor] * 3
            parts |= {f"{start}{p}.{match[2]}": x for p, x in zip(_PARTS, thirds, strict=True)}
        else:
            parts[name] = tensor
    return parts


def stacked_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The way back: queries, keys and values of SigLIP's head in one tensor."""
    stacked = dict(tensors)
    for leaf in ("weight", "bias"):
        names = [f"head.attention.{part}.{leaf}" for part in _PARTS]
        if all(name in stacked for name in names):
            thirds = [stacked.pop(name) for name in names]
            stacked[f"head.attention.in_proj_{leaf}"] = np.concatenate(thirds)
    return stacked


def resized_table(table: np.ndarray, rows: int) -> np.ndarray:
    """A table of relative positions `[(2w-1)² H]` for another window, `[rows H]`, bicubic."""
    # 2w - 1 offsets along each side; a table that fits, or is no square, stays as it is.
    old_side, new_side = math.isqrt(len(table)), math.isqrt(rows)
    if old_side**2 != len(table) or new_side**2 != rows or old_side == new_side:
        return table
    square = rearrange(table, "(a b) h -> a b h", a=old_side)
    shape = (new_side, new_side, table.shape[1])
    resized = jax.image.resize(square, shape, "cubic", antialias=False)
    return np.asarray(rearrange(resized, "a b h -> (a b) h"))
