"""What training changes of an extractor, by name."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from date_jax.date import supervised
from date_jax.networks import freezing
from date_jax.partition import merged, partition
from date_jax.tasks import TASKS

SWIN: dict[str, Any] = {"model.image.depths": (1, 2, 1), "model.image.heads": (2, 2, 2)}
FUSED = {**SWIN, "model.image.pooling": "multi_scale"}
VIT = {"model.image.kind": "vit", "model.image.depths": (3,), "model.image.heads": (2,)}
POOLED = {**VIT, "model.image.pooling": "map", "model.image.vit.class_tokens": 0}
TEXT = {"model.text.layers": 3}
SIGLIP = {**TEXT, "model.text.kind": "siglip"}
REP_BIAS = "stage2_block0/rep_bias"
FUSION = {"rep", "level0", "level0_projection", "level1", "level1_projection", "fuse0", "fuse1"}
CASES: list[tuple[dict[str, Any], str, str, set[str]]] = [
    (SWIN, "image", "none", set()),
    (SWIN, "image", "head", {"norm", "rep", REP_BIAS}),
    (SWIN, "image", "last_1", {"norm", "rep", "stage2_block0"}),
    (SWIN, "image", "last_2", {"norm", "rep", "stage2_block0", "merge1", "stage1_block1"}),
    (FUSED, "image", "head", {"norm", "fuse_norm"} | FUSION),
    (VIT, "image", "none", set()),
    (VIT, "image", "head", {"norm", "rep_offset"}),
    (VIT, "image", "last_2", {"norm", "rep_offset", "layer1", "layer2"}),
    (POOLED, "image", "head", {"norm", "head"}),
    (TEXT, "text", "none", set()),
    (TEXT, "text", "head", {"layer2/norm2/scale", "layer2/norm2/bias"}),
    (TEXT, "text", "last_1", {"layer2"}),
    (SIGLIP, "text", "head", {"norm", "head"}),
    (SIGLIP, "text", "last_2", {"norm", "head", "layer1", "layer2"}),
]


@pytest.fixture
def config() -> ConfigDict:
    from configs.date import get_config

    return get_config()


def shapes(config: ConfigDict) -> Any:
    learner = supervised.learner(config, 50, jnp.arange(50, dtype=jnp.int32))
    return jax.eval_shape(learner.init, jax.random.key(0), TASKS["date"].example(config))[0]


def trained_names(mask: Any, kind: str) -> set[str]:
    """The trained parameters of an extractor; those of a module trained whole by its name alone."""
    inside = {
        path[2:]: is_trained
        for path, is_trained in flatten_dict(mask).items()
        if path[1] == f"{kind}_extractor"
    }
    cut = {path[0] for path, is_trained in inside.items() if not is_trained}
    names = {path for path, is_trained in inside.items() if is_trained}
    return {"/".join(path) if path[0] in cut else path[0] for path in names}


@pytest.mark.parametrize(("changes", "kind", "train", "expected"), CASES)
def test_training_changes_the_named_end_of_an_extractor(
    config: ConfigDict, changes: dict[str, Any], kind: str, train: str, expected: set[str]
) -> None:
    config.update_from_flattened_dict({**changes, f"model.{kind}.train": train})
    params = shapes(config)
    mask = freezing.trained_mask(config.model, params)
    assert trained_names(mask, kind) == expected
    # The other extractor, and what is in none, are trained as ever.
    outside = [v for path, v in flatten_dict(mask).items() if path[1] != f"{kind}_extractor"]
    assert all(outside)


def test_all_blocks_are_less_than_all_by_what_lies_in_front_of_them(config: ConfigDict) -> None:
    config.update_from_flattened_dict({**SWIN, "model.image.train": "last_4"})
    params = shapes(config)
    names = trained_names(freezing.trained_mask(config.model, params), "image")
    everything = {*params["model"]["image_extractor"]}
    assert everything - names == {"patch_embedding", "patch_norm"}
    config.model.image.train = "all"
    assert all(jax.tree.leaves(freezing.trained_mask(config.model, params)))


def test_a_config_of_an_earlier_version_trains_all(config: ConfigDict) -> None:
    params = shapes(config)
    with config.unlocked():
        del config.model.image.train, config.model.text.train
    assert all(jax.tree.leaves(freezing.trained_mask(config.model, params)))


def test_two_trees_join_again() -> None:
    tree = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "empty": {}}
    mask = {"a": True, "b": {"c": False, "d": {"e": False}}, "empty": {}}
    trained, frozen = partition(tree, mask)
    assert trained == {"a": 1, "empty": {}}
    assert frozen == {"b": {"c": 2, "d": {"e": 3}}}
    assert merged(trained, frozen) == tree
    everything = jax.tree.map(lambda _: True, tree)
    assert partition(tree, everything) == (tree, {})
