"""Attention and encoder layers against float64 loops, and what padding must not do."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from date_jax.date.seekers import ObjectSeeker
from date_jax.networks.bert import TextExtractor
from date_jax.networks.swin import ImageExtractor
from date_jax.networks.transformer import Attention, EncoderLayer, sincos_2d
from date_jax.networks.vit import VisionTransformer

BATCH, TOKENS, WIDTH, HEADS = 2, 5, 8, 2
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)


def tokens() -> jax.Array:
    values = np.random.default_rng(0).normal(size=(BATCH, TOKENS, WIDTH))
    return jnp.asarray(values, jnp.float32)


def parameters(module: Any) -> Any:
    """In the shapes of `init`, none at an initial 0 or 1 that would hide an error."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens())["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape), s.dtype), shapes)


def run(function: Any, *inputs: Any) -> Any:
    """`function(*inputs)`, compiled."""
    return jax.jit(function)(*inputs)


def double(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def dense(p: dict, x: np.ndarray) -> np.ndarray:
    return x @ p["kernel"] + p["bias"]


def attention_by_loop(
    p: dict, x: np.ndarray, bias: np.ndarray | None = None, mask: np.ndarray | None = None
) -> np.ndarray:
    query, key, value = (dense(p[name], x) for name in ("query", "key", "value"))
    size = WIDTH // HEADS
    mixed = np.zeros_like(x)
    for b in range(BATCH):
        for h in range(HEADS):
            columns = slice(h * size, (h + 1) * size)
            for i in range(TOKENS):
                weights = {}
                for j in range(TOKENS):
                    if mask is None or mask[b, j]:
                        logit = query[b, i, columns] @ key[b, j, columns] / np.sqrt(size)
                        logit += 0 if bias is None else bias[h, i, j]
                        weights[j] = np.exp(logit)
                for j, weight in weights.items():
                    mixed[b, i, columns] += weight / sum(weights.values()) * value[b, j, columns]
    return dense(p["out"], mixed)


def layer_norm(p: dict, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return normed * p["scale"] + p["bias"]


def mlp(p: dict, x: np.ndarray) -> np.ndarray:
    hidden = dense(p["up"], x)
    return dense(p["down"], hidden * (1 + erf(hidden / np.sqrt(2))) / 2)


def layer_by_loop(p: dict, x: np.ndarray, mask: np.ndarray, *, norm_first: bool) -> np.ndarray:
    if norm_first:
        x = x + attention_by_loop(p["attention"], layer_norm(p["norm1"], x), mask=mask)
        return x + mlp(p["mlp"], layer_norm(p["norm2"], x))
    x = layer_norm(p["norm1"], x + attention_by_loop(p["attention"], x, mask=mask))
    return layer_norm(p["norm2"], x + mlp(p["mlp"], x))


@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_attention_is_that_of_a_loop(with_bias: bool, mask: np.ndarray | None) -> None:
    module = Attention(HEADS)
    params, x = parameters(module), tokens()
    rng = np.random.default_rng(2)
    bias = rng.normal(size=(HEADS, TOKENS, TOKENS)).astype(np.float32) if with_bias else None
    arguments = [None if array is None else jnp.asarray(array) for array in (bias, mask)]
    arguments[0] = None if bias is None else arguments[0][None]
    actual = run(lambda x: module.apply({"params": params}, x, *arguments), x)
    expected = attention_by_loop(double(params), double(x), bias, mask)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True], ids=["post_norm", "pre_norm"])
def test_an_encoder_layer_is_that_of_a_loop(norm_first: bool) -> None:
    module = EncoderLayer(HEADS, 12, norm_first=norm_first)
    params, x = parameters(module), tokens()
    actual = run(lambda x: module.apply({"params": params}, x, jnp.asarray(MASK)), x)
    expected = layer_by_loop(double(params), double(x), MASK, norm_first=norm_first)
    np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize("norm_first", [False, True], ids=["post_norm", "pre_norm"])
def test_the_first_token_alone_is_that_of_the_whole_computation(norm_first: bool) -> None:
    module = EncoderLayer(HEADS, 12, norm_first=norm_first)
    params, x = parameters(module), tokens()

    def both(x: jax.Array) -> list[jax.Array]:
        seen = jnp.asarray(MASK)
        return [module.apply({"params": params}, x, seen, first=first) for first in (None, 1)]

    whole, first = run(both, x)
    assert first.shape == (BATCH, 1, WIDTH)
    np.testing.assert_allclose(first, whole[:, :1], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_has_no_gradient_and_real_tokens_have_one(dtype: str) -> None:
    module = EncoderLayer(HEADS, 12, dtype=jnp.dtype(dtype))
    params = parameters(module)

    def of_real_tokens(x: jax.Array) -> jax.Array:
        out = module.apply({"params": params}, x, jnp.asarray(MASK))
        return (jnp.sin(out.astype(jnp.float32)) * MASK[:, :, None]).sum()

    gradient = np.asarray(run(jax.grad(of_real_tokens), tokens()))
    assert not gradient[~MASK].any()
    assert (np.abs(gradient[MASK]).max(axis=1) > 0).all()


def test_dropout_is_for_training_only() -> None:
    module = EncoderLayer(HEADS, 12, dropout=0.5)
    params, x = parameters(module), tokens()

    def in_training(x: jax.Array, key: jax.Array) -> jax.Array:
        return module.apply({"params": params}, x, train=True, rngs={"dropout": key})

    still = run(lambda x: module.apply({"params": params}, x), x)
    seen = [run(in_training, x, jax.random.key(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(seen[0], seen[1])
    assert not np.allclose(seen[0], seen[2])
    assert not np.allclose(seen[0], still)


@pytest.mark.parametrize("mlp_dropout", [0.0, 0.2])
def test_units_are_dropped_from_weights_and_branches_and_inside_the_mlp_if_asked(
    mlp_dropout: float,
) -> None:
    module = EncoderLayer(HEADS, 12, dropout=0.5, mlp_dropout=mlp_dropout)
    params = parameters(module)

    def in_training(x: jax.Array, key: jax.Array) -> jax.Array:
        return module.apply({"params": params}, x, train=True, rngs={"dropout": key})

    program = str(jax.make_jaxpr(in_training)(tokens(), jax.random.key(0)))
    drawn = set(re.findall(r"random_bits\[bit_width=32 shape=\((.*?)\)\]", program))
    inside = {f"{BATCH}, {TOKENS}, 12"} if mlp_dropout else set()
    assert drawn == {
        f"{BATCH}, {HEADS}, {TOKENS}, {TOKENS}",
        f"{BATCH}, {TOKENS}, {WIDTH}",
        *inside,
    }


def test_positions_are_sines_and_cosines_of_y_then_x() -> None:
    height, width, channels = 2, 3, 8
    expected = []
    for y in range(height):
        for x in range(width):
            row = []
            for place in (y, x):
                angles = [place / 10000 ** (i / 2) for i in range(2)]
                row += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
            expected.append(row)
    np.testing.assert_allclose(sincos_2d(height, width, channels), expected, atol=1e-6)


def test_positions_need_four_channels_at_a_time() -> None:
    with pytest.raises(ValueError, match="divisible by 4, got 6"):
        sincos_2d(2, 2, 6)


def networks() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Each network that runs layers in turn, with arguments of its call."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.standard_normal((2, 32, 32, 3)), jnp.float32)
    text, mask = (
        jnp.asarray(rng.integers(0, 9, (2, 5))),
        jnp.arange(5)[None] < jnp.array([[5], [3]]),
    )
    tokens = jnp.asarray(rng.standard_normal((2, 4, 16)), jnp.float32)
    words = jnp.asarray(rng.standard_normal((2, 5, 16)), jnp.float32)
    return {
        "swin": (
            functools.partial(ImageExtractor, 4, 8, depths=(4, 3), heads=(1, 2), window=2),
            (image,),
        ),
        "bert": (
            functools.partial(TextExtractor, 9, layers=3, width=16, heads=2, max_length=5),
            (text, mask),
        ),
        "vit": (
            functools.partial(VisionTransformer, 8, 16, depth=4, heads=2, positions=3),
            (image,),
        ),
        "object seeker": (
            functools.partial(ObjectSeeker, layers=4, heads=2, mlp_width=16),
            (tokens, words, mask, (2, 2)),
        ),
    }


@pytest.mark.parametrize(
    ("name", "remat", "scan"),
    [
        ("bert", True, False),
        ("bert", False, True),
        ("swin", True, True),
        ("vit", True, True),
        ("object seeker", True, True),
    ],
)
def test_recomputed_and_scanned_layers_have_the_same_parameters_and_numbers(
    name: str, remat: bool, scan: bool
) -> None:
    build, arguments = networks()[name]
    plain, saving = build(), build(remat=remat, scan=scan)
    params = jax.jit(lambda key: plain.init(key, *arguments))(jax.random.key(0))
    again = jax.jit(lambda key: saving.init(key, *arguments))(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, again)

    def loss(network: Any) -> Any:
        def value(params: Any) -> jax.Array:
            outputs = jax.tree.leaves(network.apply(params, *arguments))
            return sum((jnp.sin(3 * x).mean() for x in outputs), start=jnp.zeros(()))

        return value

    # In float64: two programs of one computation may round otherwise, and a float32 gradient that
    # is a difference of large terms shows it in its fifth digit.
    with jax.enable_x64(True):
        plain, saving = (network.clone(dtype=jnp.dtype("float64")) for network in (plain, saving))
        params = jax.tree.map(
            lambda x: np.asarray(x, np.float64) + 0.1 * np.sin(np.arange(x.size)).reshape(x.shape),
            params,
        )
        program = str(jax.make_jaxpr(jax.grad(loss(saving)))(params))
        expected, computed = (
            jax.jit(jax.value_and_grad(loss(network)))(params) for network in (plain, saving)
        )
    assert ("remat" in program or "checkpoint" in program) == remat
    assert ("scan[" in program) == scan
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-10, 1e-12), computed, expected)


def test_dropped_units_are_as_many_and_other_ones_in_each_layer_that_is_scanned() -> None:
    build, arguments = networks()["bert"]
    plain = build(dropout=0.3)
    params = plain.init(jax.random.key(0), *arguments)

    def outputs(key: int, **options: bool) -> jax.Array:
        network = build(dropout=0.3, **options)
        rngs = {"dropout": jax.random.key(key)}
        return jax.jit(lambda p: network.apply(p, *arguments, train=True, rngs=rngs)[1])(params)

    recomputed = outputs(1, remat=True)
    np.testing.assert_allclose(outputs(1, scan=True), recomputed, 1e-5, 1e-6)
    np.testing.assert_allclose(outputs(1, scan=True, remat=True), recomputed, 1e-5, 1e-6)
    assert np.abs(outputs(2, scan=True) - recomputed).max() > 0.01
    calm = plain.apply(params, *arguments)[1]
    assert np.abs(calm - recomputed).max() > 0.01
