"""Hugging Face's layouts of published Swin and BERT files, and their match with our extractors.

Each layout is a table of names, and what its config.json must say. The tensors differ from ours in
a few transpositions, which are here too, both ways.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from einops import rearrange

from date_jax.networks import bert, swin

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


class Requirement(NamedTuple):
    """One thing that a file's config.json must say for its weights to be of this network.

    Attributes:
        name: theirs.
        key: ours, below the extractor's part of config.model; None where our network is fixed.
        value: what both must say.
    """

    name: str
    key: str | None
    value: Any


def _swin_requirements(image: Any) -> list[Requirement]:
    return [
        Requirement("model_type", None, "swin"),
        Requirement("patch_size", "patch", image.patch),
        Requirement("embed_dim", "width", image.width),
        Requirement("depths", "depths", list(image.depths)),
        Requirement("num_heads", "heads", list(image.heads)),
        Requirement("mlp_ratio", "mlp_ratio", image.mlp_ratio),
        Requirement("hidden_act", None, "gelu"),
        Requirement("qkv_bias", None, True),
        Requirement("use_absolute_embeddings", None, False),
        Requirement("layer_norm_eps", None, swin.EPSILON),
    ]


def _bert_requirements(text: Any) -> list[Requirement]:
    return [
        Requirement("model_type", None, "bert"),
        Requirement("num_hidden_layers", "layers", text.layers),
        Requirement("hidden_size", "width", text.width),
        Requirement("num_attention_heads", "heads", text.heads),
        Requirement("intermediate_size", "mlp_ratio", round(text.mlp_ratio * text.width)),
        Requirement("hidden_act", None, "gelu"),
        Requirement("position_embedding_type", None, "absolute"),
        Requirement("layer_norm_eps", None, bert.EPSILON),
    ]


class Layout(NamedTuple):
    """The published layout of one kind of extractor.

    Attributes:
        names: of our modules and parameters, and theirs.
        anchor: a tensor that every file has; what stands before it is the file's prefix.
        requirements: of config.json, from the part of the config that the extractor is built from.
    """

    names: Mapping[str, str]
    anchor: str
    requirements: Callable[[Any], list[Requirement]]


LAYOUTS = {
    "image": Layout(
        SWIN_NAMES, "embeddings.patch_embeddings.projection.weight", _swin_requirements
    ),
    "text": Layout(BERT_NAMES, "embeddings.word_embeddings.weight", _bert_requirements),
}


def published_name(kind: str, path: str) -> str | None:
    """The name of our parameter in a published file; None for one that only our network has.

    >>> published_name("text", "layer3/mlp/up/kernel")
    'encoder.layer.3.intermediate.dense.weight'
    """
    # A parameter is in the table by its whole path, or by its module's.
    module, _, leaf = path.rpartition("/")
    for ours, theirs in LAYOUTS[kind].names.items():
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
        for kind in LAYOUTS:
            if (module := f"{kind}_extractor") in names:
                below = "/".join(names[names.index(module) + 1 :])
                return published_name(kind, below) is not None
        return False

    return jax.tree_util.tree_map_with_path(is_published, params)


def our_tensor(path: str, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A published tensor in our layout; its shape is wrong if the network is another.

    Args:
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
    # Tables: of both sentences, of longer texts, of other windows.
    if path.endswith("segment_embedding") and tensor.ndim == 2:
        return tensor[0]
    if path.endswith("position_embedding") and tensor.ndim == 2:
        return tensor[: shape[0]]
    if path.endswith("relative_bias") and tensor.ndim == 2:
        return resized_table(tensor, shape[0])
    return tensor


def published_tensor(path: str, value: np.ndarray) -> np.ndarray:
    """The way back: a parameter that published files have, in their layout."""
    if path == "patch_embedding/kernel":
        side = math.isqrt(len(value) // 3)
        return rearrange(value, "(a d rgb) c -> c rgb a d", a=side, d=side)
    if path.endswith("kernel") and value.ndim == 2:
        return value.T
    if path == "segment_embedding":
        return value[None]
    return value


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


def config_json(kind: str, config: Any, *, vocab_size: int) -> dict[str, Any]:
    """The entries of the config.json that stands next to published tensors.

    Args:
        kind: "image" or "text".
        config: the run's.
        vocab_size: rows of the embedding of words.
    """
    # What is required of a file when it is read, and what transformers asks for besides.
    requirements = LAYOUTS[kind].requirements(config.model[kind])
    sizes = {requirement.name: requirement.value for requirement in requirements}
    if kind == "image":
        return sizes | {
            "image_size": config.data.image_size,
            "window_size": config.model.image.window,
            "num_channels": 3,
        }
    return sizes | {
        "vocab_size": vocab_size,
        "type_vocab_size": 1,
        "max_position_embeddings": config.data.text_length,
    }
