"""The plain ViT: what [REP] reads and is read by, poolings, pixels; and configs that ask for it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from date_jax import augment, config
from date_jax.data.tokenizer import SPECIAL, WordPieces
from date_jax.errors import UsageError
from date_jax.networks import layouts, published_config, sizes
from date_jax.networks.extractors import POOLINGS
from date_jax.networks.siglip import SiglipText
from date_jax.networks.vit import PIXELS, VisionTransformer
from date_jax.tasks import TASKS

SHAPE: dict[str, Any] = {"patch": 4, "width": 8, "depth": 3, "heads": 2, "positions": 4}


def picture(side: int = 16) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, side, side, 3)), jnp.float32)


def parameters(network: Any, *inputs: Any) -> Any:
    """Random ones, but for those that begin with 0 so that [REP] is the class token."""
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape), s.dtype), shapes)
    if "rep_offset" in params:
        params["rep_offset"] = jnp.zeros_like(params["rep_offset"])
    return params


def outputs(network: Any, params: Any, image: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    rep, tokens = jax.jit(lambda p, x: network.apply({"params": p}, x))(params, image)
    return np.asarray(rep), np.asarray(tokens)


@pytest.mark.parametrize("rep_layers", [1, 3])
def test_before_training_rep_is_the_class_token_and_no_token_sees_it(rep_layers: int) -> None:
    options = {**SHAPE, "registers": 2, "layer_scale": True}
    network, image = VisionTransformer(**options, rep_layers=rep_layers), picture()
    params = parameters(network, image)
    plain = {name: x for name, x in params.items() if name != "rep_offset"}
    expected_rep, expected = outputs(VisionTransformer(**options, pooling="cls"), plain, image)
    rep, tokens = outputs(network, params, image)
    np.testing.assert_allclose(rep, expected_rep, atol=1e-6)
    np.testing.assert_allclose(tokens, expected, atol=1e-6)
    # An offset that was learnt moves [REP] alone.
    moved_rep, moved = outputs(network, params | {"rep_offset": jnp.linspace(-3, 3, 8)}, image)
    np.testing.assert_array_equal(moved, tokens)
    assert np.abs(moved_rep - rep).max() > 0.1


@pytest.mark.parametrize("class_tokens", [0, 1, 2])
@pytest.mark.parametrize("pooling", POOLINGS["vit"])
def test_every_pooling_sees_the_whole_picture(pooling: str, class_tokens: int) -> None:
    if pooling == "cls" and not class_tokens:
        return
    network = VisionTransformer(**SHAPE, pooling=pooling, class_tokens=class_tokens)
    image = picture()
    params = parameters(network, image)

    def of_rep(image: jax.Array) -> Any:
        rep, tokens = network.apply({"params": params}, image)
        return jnp.sin(rep).sum(), (rep, tokens)

    gradient, (rep, tokens) = jax.jit(jax.grad(of_rep, has_aux=True))(image)
    assert (rep.shape, tokens.shape) == ((2, 8), (2, 16, 8))
    by_patch = np.abs(gradient).reshape(2, 4, 4, 4, 4, 3).max(axis=(2, 4, 5))
    assert (by_patch > 0).all()
    if pooling == "mean":
        np.testing.assert_allclose(rep, tokens.mean(axis=1), atol=1e-6)
    # What a published file has, and what it has not.
    mask = layouts.published_mask({"image_extractor": params})["image_extractor"]
    new = {path for path, published in flatten_dict(mask, sep="/").items() if not published}
    assert new == ({"rep_offset"} if pooling == "rep" else set())


def test_squares_of_tokens_are_averaged_and_the_grid_follows() -> None:
    section = ConfigDict({"patch": 4, "depths": (3,), "pool": 2})
    network, image = VisionTransformer(**SHAPE, pooling="cls"), picture(32)
    params = parameters(network, image)
    rep, tokens = outputs(network, params, image)
    pooled_rep, pooled = outputs(network.clone(pool=2), params, image)
    assert sizes.token_grid(section, 32, 32) == (4, 4)
    for row in range(4):
        for column in range(4):
            places = [
                8 * y + x for y in (2 * row, 2 * row + 1) for x in (2 * column, 2 * column + 1)
            ]
            expected = tokens[:, places].mean(axis=1)
            np.testing.assert_allclose(pooled[:, 4 * row + column], expected, atol=1e-6)
    np.testing.assert_array_equal(pooled_rep, rep)


def test_pixels_reach_the_weights_as_they_expect_them() -> None:
    assert PIXELS["imagenet"] == (augment.MEAN, augment.STD)
    network, plain = VisionTransformer(**SHAPE), np.random.default_rng(0).random((2, 16, 16, 3))
    given = {
        name: jnp.asarray((plain - np.array(mean)) / np.array(std), jnp.float32)
        for name, (mean, std) in PIXELS.items()
    }
    params = parameters(network, given["imagenet"])
    for name, image in given.items():
        expected = outputs(network, params, image)[0]
        actual = outputs(network.clone(pixels=name), params, given["imagenet"])[0]
        np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_siglip_s_text_vector_reads_padding_and_the_order_of_words() -> None:
    network, mask = SiglipText(20, layers=2, width=8, heads=2, max_length=6), jnp.ones((1, 6), bool)
    text = jnp.asarray([[5, 6, 7, 1, 1, 1]])
    params = parameters(network, text, mask)

    @jax.jit
    def extracted(text: jax.Array) -> Any:
        return network.apply({"params": params}, text, mask)

    rep, tokens = extracted(text)
    assert (rep.shape, tokens.shape) == ((1, 8), (1, 6, 8))
    for other in ([5, 6, 7, 1, 1, 2], [6, 5, 7, 1, 1, 1]):
        assert np.abs(extracted(jnp.asarray([other]))[0] - rep).max() > 1e-3


def with_vit(section: ConfigDict) -> None:
    section.kind, section.pool = "vit", 2
    section.update(width=16, depths=(3,), heads=(2,))
    section.vit.update(layer_scale=True, registers=1, positions=4)


@pytest.mark.parametrize("name", ["pgda", "same_style", "capture"])
def test_every_task_takes_a_vit_and_siglip_s_text_encoder(
    name: str, tiny_config: ConfigDict, tiny_same_style: ConfigDict, tiny_capture: ConfigDict
) -> None:
    asked = {"pgda": tiny_config, "same_style": tiny_same_style, "capture": tiny_capture}[name]
    with_vit(asked.model.image)
    if "text" in asked.model:
        asked.model.text.kind = "siglip"
    config.validate(asked, device_count=1, process_count=1)
    tokenizer = WordPieces([*SPECIAL, "red", "mug"], length=asked.data.text_length)
    task = TASKS[name]
    learner = task.learner(asked, tokenizer, {})
    example = task.example(asked)
    params, memory = jax.eval_shape(learner.init, jax.random.key(0), example)
    assert "layer2" in params["model"]["image_extractor"]
    assert "rep" not in params["model"]["image_extractor"]
    # The loss, traced and not compiled.
    step, rng = jnp.zeros((), int), jax.random.key(0)
    value, _ = jax.eval_shape(
        lambda *inputs: learner.loss(*inputs, step=step, rng=rng), params, memory, example
    )
    assert value.shape == ()


def test_a_vit_without_a_published_layout_is_told() -> None:
    section = ConfigDict({"kind": "vit", "vit": {**VIT, "class_tokens": 2}})
    text = "model.image.vit.class_tokens is 2, and Dinov2Model has 1"
    assert published_config.unreadable("image", section) == text
    section.vit.update(class_tokens=1)
    assert published_config.unreadable("image", section) == ""


VIT = {
    "class_tokens": 1,
    "registers": 0,
    "layer_scale": True,
    "input_norm": False,
    "patch_bias": True,
    "pixels": "half",
}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model_type": "resnet"}, "says model_type resnet, which is none of the networks here: c"),
        ({"model_type": "bert"}, "says model_type bert"),
        ({}, "says model_type None"),
        ({"model_type": "dinov2", "hidden_size": "wide"}, "holds an entry that is no size"),
    ],
)
def test_a_config_json_of_another_network_is_refused(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        published_config.sizes_of("image", entries)
