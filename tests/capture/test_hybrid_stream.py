"""CAPTURE's network: what each vector may see, against loops in float64, and its published size."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.capture import PUBLISHED
from date_jax.capture.hybrid_stream import CrossLayer, HybridStream, geometry, image_inputs

ROWS, LENGTH, REGIONS, WIDTH, FEATURES, VOCAB = 3, 5, 4, 8, 6, 11
SIZES = {
    "width": WIDTH,
    "embedding": 6,
    "dropout": 0.0,
    "text": {"layers": 1, "heads": 2, "mlp_width": 12, "max_length": 5},
    "image": {"layers": 2, "heads": 2, "mlp_width": 10},
    "cross": {"layers": 2, "heads": 2, "width": 4},
    "joint": {"layers": 2, "heads": 2},
}


def inputs() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "text": jnp.asarray(rng.integers(5, VOCAB, (ROWS, LENGTH)), jnp.int32),
        "text_mask": jnp.asarray(np.arange(LENGTH)[None] < [[5], [4], [3]]),
        "region": jnp.asarray(rng.normal(size=(ROWS, REGIONS, FEATURES)), jnp.float32),
        "box_xyxy": jnp.asarray(np.sort(rng.random((ROWS, REGIONS, 4)), axis=-1), jnp.float32),
        "region_mask": jnp.asarray(np.arange(REGIONS)[None] < [[4], [2], [1]]),
    }


def compiled(function: Any, *inputs: Any) -> Any:
    """For these inputs."""
    return jax.jit(function).lower(*inputs).compile()


def in_shape(module: Any, *arguments: Any, **options: Any) -> Any:
    """Parameters in the shapes of `init`, none at a 0 or 1 that would hide an error."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments, **options)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.4, s.shape), s.dtype), shapes)


class Net:
    def __init__(self) -> None:
        self.module = HybridStream(ConfigDict(SIZES), VOCAB, LENGTH, FEATURES)
        self.params = in_shape(self.module, **inputs())
        self.out = compiled(lambda given: self.module.apply(self.params, **given), inputs())


@pytest.fixture(scope="module")
def net() -> Net:
    return Net()


def test_the_geometry_of_a_region_is_its_corners_and_its_area() -> None:
    box = jnp.array([[0.1, 0.2, 0.6, 0.4]])
    np.testing.assert_allclose(geometry(box), [[0.1, 0.2, 0.6, 0.4, 0.1]], rtol=1e-6)


def test_the_global_token_is_the_mean_of_the_real_regions_and_covers_the_picture() -> None:
    given = inputs()
    feature, place, mask = image_inputs(given["region"], given["box_xyxy"], given["region_mask"])
    expected = np.asarray(given["region"])[1, :2].mean(axis=0)
    np.testing.assert_allclose(feature[1, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(place[:, 0], [[0, 0, 1, 1, 1]] * ROWS)
    np.testing.assert_array_equal(mask[:, 0], [True] * ROWS)


def test_outputs_have_their_shapes_and_vectors_are_not_negative(net: Net) -> None:
    out = net.out(inputs())
    for name in ("text_uni", "image_uni", "text_co", "image_co"):
        assert out[name].shape == (ROWS, 6)
        assert (out[name] >= 0).all()
        assert (out[name] > 0).any()
    assert out["words"].shape == (ROWS, LENGTH, VOCAB)
    assert out["regions"].shape == (ROWS, REGIONS, FEATURES)


def test_the_published_streams_have_the_size_of_the_published_code() -> None:
    """Counted layer by layer, with what is shared counted once."""
    sizes = ConfigDict(PUBLISHED["model.streams"])
    length, count, features, words = 36, 36, 2048, 21_128
    assert (PUBLISHED["data.text_length"], PUBLISHED["data.vocab_size"]) == (length, words)
    given = {
        "text": jnp.zeros((1, length), jnp.int32),
        "text_mask": jnp.ones((1, length), bool),
        "region": jnp.zeros((1, count, features)),
        "box_xyxy": jnp.zeros((1, count, 4)),
        "region_mask": jnp.ones((1, count), bool),
    }
    net = HybridStream(sizes, words, length, features)
    shapes = jax.eval_shape(net.init, jax.random.key(0), **given)
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes))

    wide, inner, out = 768, 512, 512

    def dense(a: int, b: int) -> int:
        return a * b + b

    def layer(mlp: int) -> int:
        return 4 * dense(wide, wide) + dense(wide, mlp) + dense(mlp, wide) + 4 * wide

    def cross(mlp: int) -> int:
        attention = 3 * dense(wide, inner) + dense(inner, wide)
        return attention + dense(wide, mlp) + dense(mlp, wide) + 4 * wide

    # Words, places and the segment, their norm.
    text = (words + 512 + 1) * wide + 2 * wide + 4 * layer(3072)
    image = dense(features, wide) + dense(5, wide) + 2 * wide + 4 * layer(1024)
    joint = 6 * layer(4 * wide)
    guesses = 2 * (dense(out, wide) + dense(wide, wide) + 2 * wide) + words + dense(wide, features)
    both = 4 * (cross(3072) + cross(1024))
    assert found == text + image + both + joint + guesses + 4 * dense(wide, out) == 147_798_152


def test_unimodal_vectors_see_one_modality_and_joint_ones_see_both(net: Net) -> None:
    before, given = net.out(inputs()), inputs()
    given["text"] = given["text"].at[:, 1].add(1) % VOCAB
    after = net.out(given)
    np.testing.assert_array_equal(before["image_uni"], after["image_uni"])
    for name in ("text_uni", "text_co", "image_co"):
        assert np.abs(before[name] - after[name]).max() > 1e-4, name
    given = inputs()
    given["region"] = given["region"].at[:, 0].add(1.0)
    after = net.out(given)
    np.testing.assert_array_equal(before["text_uni"], after["text_uni"])
    for name in ("image_uni", "text_co", "image_co"):
        assert np.abs(before[name] - after[name]).max() > 1e-4, name


def test_what_is_masked_changes_nothing(net: Net) -> None:
    before, given = net.out(inputs()), inputs()
    given["text"] = jnp.where(given["text_mask"], given["text"], 7)
    hidden = ~given["region_mask"][..., None]
    given["region"] = jnp.where(hidden, 9.0, given["region"])
    given["box_xyxy"] = jnp.where(hidden, 0.5, given["box_xyxy"])
    after = net.out(given)
    for name in ("text_uni", "image_uni", "text_co", "image_co"):
        np.testing.assert_allclose(before[name], after[name], atol=1e-6, err_msg=name)


def layer_norm(p: Any, x: np.ndarray) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return x * p["scale"] + p["bias"]


def test_a_cross_layer_is_its_formula_in_a_loop() -> None:
    from scipy.special import erf

    rng = np.random.default_rng(2)
    text, image = (rng.normal(size=(2, n, WIDTH)).astype(np.float32) for n in (3, 4))
    masks = np.array([[1, 1, 0], [1, 1, 1]], bool), np.array([[1, 1, 1, 0], [1, 0, 1, 0]], bool)
    module = CrossLayer(heads=2, width=4, text_mlp_width=12, image_mlp_width=10)
    given = [jnp.asarray(x) for x in (text, masks[0], image, masks[1])]
    params = in_shape(module, *given)
    found = compiled(module.apply, params, *given)(params, *given)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])

    def dense(p: Any, x: np.ndarray) -> np.ndarray:
        return x @ p["kernel"] + p["bias"]

    def one(name: str, x: np.ndarray, others: np.ndarray, mask: np.ndarray) -> np.ndarray:
        a = p[f"{name}_attention"]
        mixed = np.zeros((*x.shape[:2], 4))
        for b in range(2):
            real = others[b][mask[b]]
            query, key, value = dense(a["query"], x[b]), dense(a["key"], real), None
            value = dense(a["value"], real)
            for own in (slice(0, 2), slice(2, 4)):
                logits = query[:, own] @ key[:, own].T / np.sqrt(2)
                weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
                mixed[b, :, own] = weights @ value[:, own]
        x = layer_norm(p[f"{name}_norm1"], x + dense(a["out"], mixed))
        hidden = dense(p[f"{name}_mlp"]["up"], x)
        hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
        return layer_norm(p[f"{name}_norm2"], x + dense(p[f"{name}_mlp"]["down"], hidden))

    np.testing.assert_allclose(found[0], one("text", text, image, masks[1]), atol=2e-5)
    np.testing.assert_allclose(found[1], one("image", image, text, masks[0]), atol=2e-5)


def test_remat_and_scan_change_no_number(net: Net) -> None:
    saving = HybridStream(ConfigDict(SIZES), VOCAB, LENGTH, FEATURES, remat=True, scan=True)
    found = compiled(lambda given: saving.apply(net.params, **given), inputs())(inputs())
    for name, expected in net.out(inputs()).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=name)
