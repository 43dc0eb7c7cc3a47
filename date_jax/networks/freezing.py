"""Which parameters training changes: all, or of an extractor only its end, or none of it."""

import re
from collections.abc import Collection
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from date_jax.networks.layouts import KINDS, published_mask

TRAIN = re.compile("all|head|last_[1-9][0-9]*|none")  # by config.model.<kind>.train
# Names of an extractor's modules: its blocks, what joins two stages of them, what is behind all.
_BLOCK = re.compile(r"stage(\d+)_block(\d+)|layer(\d+)")
_MERGE = re.compile(r"merge(\d+)")
_BEHIND = ("norm", "head")


def choice(model: ConfigDict, kind: str) -> str:
    """What training changes of an extractor: all | head | last_<n> | none.

    Args:
        model: `config.model`; configs of earlier versions have no `train`, and train all.
        kind: of extractor, "image" or "text".
    """
    return model.get(kind, {}).get("train", "all")


def block_count(section: ConfigDict) -> int:
    """The number of an extractor's blocks, those of all stages together.

    Args:
        section: `config.model.image` or `config.model.text`.
    """
    return sum(section.depths) if "depths" in section else section.layers


def frozen_blocks(section: ConfigDict) -> int:
    """The number of blocks, from an extractor's first on, that training leaves as they are.

    Args:
        section: `config.model.image` or `config.model.text`.
    """
    train = section.get("train", "all")
    return 0 if train == "all" else block_count(section) - _trained_blocks(train)


def _trained_blocks(train: str) -> int:
    """The blocks at the end that are trained, by `train`, which is not `all`."""
    return int(train.removeprefix("last_")) if train.startswith("last_") else 0


def trained_mask(model: ConfigDict, params: Any) -> Any:
    """True for the parameters that training changes; the others are frozen.

    Of an extractor with `train=none` none is trained. With `head` these are: what only our network
    has (`[REP]`, the fusion of scales), the last norm, and what is behind it. With `last_<n>` the
    last n blocks are too, and what joins stages between them. What is outside the extractors is
    always trained.

    Args:
        model: `config.model`.
        params: of `task.Init`, or their shapes.
    """
    flat = flatten_dict(jax.tree.map(lambda _: True, params), keep_empty_nodes=True)
    is_published = flatten_dict(published_mask(params))
    for kind in KINDS:
        train = choice(model, kind)
        places = [path for path in flat if path[:2] == ("model", f"{kind}_extractor")]
        if train == "none":
            flat.update(dict.fromkeys(places, False))
        elif train != "all":
            ends = _trained_modules({place[2] for place in places}, _trained_blocks(train))
            for place in places:
                below = "/".join(place[2:]) + "/"
                flat[place] = not is_published[place] or below.startswith(ends)
    return unflatten_dict(flat)


def _trained_modules(names: Collection[str], count: int) -> tuple[str, ...]:
    """The modules at an extractor's end that are trained, as beginnings of paths `name/`.

    Args:
        names: of all modules of the extractor.
        count: of blocks among them.
    """
    # Blocks by stage and place. A text encoder of BERT's kind ends with a norm of its last block.
    blocks = sorted((place, name) for name in names if (place := _place(name)))
    trained = {name for name in names if name in _BEHIND}
    if "norm" not in names:
        trained.add(f"{blocks[-1][1]}/norm2")
    if count:
        trained |= {name for _, name in blocks[-count:]}
        first_stage = blocks[-count][0][0]
        merges = {name: match for name in names if (match := _MERGE.fullmatch(name))}
        trained |= {name for name, match in merges.items() if int(match[1]) >= first_stage}
    return tuple(f"{name}/" for name in trained)


def _place(name: str) -> tuple[int, ...]:
    """The numbers in a block's name, `(stage, block)` or `(layer,)`; () for another module."""
    match = _BLOCK.fullmatch(name)
    return tuple(int(number) for number in match.groups() if number) if match else ()
