"""Swin against a float64 loop in the grid's own coordinates; published sizes without a flop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from configs.pgda import get_config
from configs.scales import SCALES
from date_jax.networks.bert import TextExtractor
from date_jax.networks.swin import ImageExtractor, PatchMerging, SwinBlock
from date_jax.networks.transformer import EncoderLayer, sincos_2d

WIDTH, HEADS = 4, 2


def parameters(module: Any, *inputs: Any) -> Any:
    """In the shapes of `init`, none at an initial 0 or 1 that would hide an error."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape), s.dtype), shapes)


def run(function: Any, *inputs: Any) -> Any:
    """`function(*inputs)`, compiled."""
    return jax.jit(function)(*inputs)


def double(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def block_and_input(
    grid: tuple[int, int], window: int, shift: int, *, with_rep: bool = False
) -> tuple[SwinBlock, Any, jax.Array]:
    block = SwinBlock(HEADS, window, shift, mlp_ratio=2.0, with_rep=with_rep)
    shape = (2, grid[0] * grid[1] + with_rep, WIDTH)
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    return block, parameters(block, x, grid), x


def dense(p: dict, x: np.ndarray) -> np.ndarray:
    return x @ p["kernel"] + p["bias"]


def layer_norm(p: dict, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return normed * p["scale"] + p["bias"]


def with_mlp(p: dict, x: np.ndarray) -> np.ndarray:
    hidden = dense(p["mlp"]["up"], layer_norm(p["norm2"], x))
    return x + dense(p["mlp"]["down"], hidden * (1 + erf(hidden / np.sqrt(2))) / 2)


def attended(p: dict, asking: np.ndarray, seen: list[np.ndarray], bias: list[Any]) -> np.ndarray:
    """Attention of one token over a list of them, with a bias `[heads]` for each."""
    size = WIDTH // HEADS
    query = dense(p["query"], asking)
    mixed = []
    for h in range(HEADS):
        columns = slice(h * size, (h + 1) * size)
        logits = [query[columns] @ dense(p["key"], x)[columns] / np.sqrt(size) for x in seen]
        weights = np.exp([logit + b[h] for logit, b in zip(logits, bias, strict=True)])
        values = [dense(p["value"], x)[columns] for x in seen]
        mixed.append(sum(w * v for w, v in zip(weights, values, strict=True)) / weights.sum())
    return dense(p["out"], np.concatenate(mixed))


def block_by_loop(
    p: dict, x: np.ndarray, grid: tuple[int, int], window: int, shift: int
) -> np.ndarray:
    """Nothing is rolled: a place asks those of its window that were not wrapped around to it.

    Places beyond the grid, up to whole windows, hold zeros that take part.
    """
    (height, width), side = grid, 2 * window - 1
    full = [-(-n // window) * window for n in grid]
    places = [(r, c) for r in range(full[0]) for c in range(full[1])]

    def window_of(place: tuple[int, int]) -> list[int]:
        return [(k - shift) % n // window for k, n in zip(place, full, strict=True)]

    out = x.copy()
    for b in range(len(x)):
        normed = layer_norm(p["norm1"], x[b])

        def token(place: tuple[int, int], normed: np.ndarray = normed) -> np.ndarray:
            r, c = place
            return normed[r * width + c] if r < height and c < width else np.zeros(WIDTH)

        for r, c in places:
            if r >= height or c >= width:
                continue
            near = [
                (y, x)
                for y, x in places
                if window_of((y, x)) == window_of((r, c))
                and abs(y - r) < window
                and abs(x - c) < window
            ]
            bias = [
                p["relative_bias"][(r - y + window - 1) * side + (c - x + window - 1)]
                for y, x in near
            ]
            seen = [token(place) for place in near]
            out[b, r * width + c] += attended(p["attention"], token((r, c)), seen, bias)
    return with_mlp(p, out)


@pytest.mark.parametrize(
    ("grid", "window", "shift"),
    [((4, 4), 2, 0), ((4, 4), 2, 1), ((6, 9), 3, 1), ((5, 7), 3, 0), ((5, 7), 3, 1)],
    ids=str,
)
def test_a_block_is_that_of_a_loop(grid: tuple[int, int], window: int, shift: int) -> None:
    block, params, x = block_and_input(grid, window, shift)
    actual = run(lambda x: block.apply({"params": params}, x, grid), x)
    expected = block_by_loop(double(params), double(x), grid, window, shift)
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_a_grid_not_larger_than_a_window_is_one_unshifted_window() -> None:
    block, params, x = block_and_input((3, 3), 7, 3)
    assert params["relative_bias"].shape == (5 * 5, HEADS)
    actual = run(lambda x: block.apply({"params": params}, x, (3, 3)), x)
    expected = block_by_loop(double(params), double(x), (3, 3), 3, 0)
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def reached(block: SwinBlock, params: Any, x: jax.Array, grid: tuple[int, int]) -> np.ndarray:
    """`[T T]`: whether the first output depends on the second input."""

    def one(x: jax.Array) -> jax.Array:
        return block.apply({"params": params}, x[None], grid)[0].sum(axis=-1)

    return np.abs(run(jax.jacrev(one), x[0])).max(axis=-1) > 0


def test_a_token_of_an_unshifted_block_depends_on_its_window_alone() -> None:
    grid = (4, 6)
    actual = reached(*block_and_input(grid, 2, 0), grid)
    home = [(r // 2, c // 2) for r in range(4) for c in range(6)]
    assert np.array_equal(actual, [[a == b for b in home] for a in home])


def test_a_shifted_block_joins_neighbouring_windows_but_never_opposite_borders() -> None:
    grid = (4, 6)
    actual = reached(*block_and_input(grid, 2, 1), grid)
    home = [((r + 1) // 2, (c + 1) // 2) for r in range(4) for c in range(6)]
    assert np.array_equal(actual, [[a == b for b in home] for a in home])


@pytest.mark.parametrize("grid", [(2, 2), (2, 3)], ids=str)
def test_rep_and_the_last_grid_attend_to_each_other(grid: tuple[int, int]) -> None:
    block, params, x = block_and_input(grid, max(grid), 0, with_rep=True)
    assert reached(block, params, x, grid).all()
    p, side = double(params), 2 * max(grid) - 1
    to_rep, from_rep, corner = p["rep_bias"]
    places = [(r, c) for r in range(grid[0]) for c in range(grid[1])]
    out = double(x)
    for b in range(len(x)):
        normed = list(layer_norm(p["norm1"], double(x[b])))
        rep_bias = [corner] + [from_rep] * len(places)
        out[b, 0] += attended(p["attention"], normed[0], normed, rep_bias)
        for i, (r, c) in enumerate(places, 1):
            offsets = [(r - y + max(grid) - 1, c - x + max(grid) - 1) for y, x in places]
            bias = [to_rep] + [p["relative_bias"][dy * side + dx] for dy, dx in offsets]
            out[b, i] += attended(p["attention"], normed[i], normed, bias)
    actual = run(lambda x: block.apply({"params": params}, x, grid), x)
    np.testing.assert_allclose(actual, with_mlp(p, out), atol=2e-5)


def test_rep_starts_without_a_preference() -> None:
    block = SwinBlock(HEADS, 2, 0, with_rep=True)
    x = jnp.zeros((1, 5, WIDTH))
    bias = run(lambda key: block.init(key, x, (2, 2))["params"]["rep_bias"], jax.random.key(0))
    assert bias.shape == (3, HEADS)
    assert not bias.any()


@pytest.mark.parametrize("grid", [(4, 6), (3, 5)], ids=str)
def test_merging_takes_the_published_order_of_four(grid: tuple[int, int]) -> None:
    module = PatchMerging()
    x = np.random.default_rng(0).normal(size=(2, grid[0] * grid[1], 3))
    x = jnp.asarray(x, jnp.float32)
    params = parameters(module, x, grid)
    even = np.zeros((2, grid[0] + grid[0] % 2, grid[1] + grid[1] % 2, 3))
    even[:, : grid[0], : grid[1]] = x.reshape(2, *grid, 3)
    starts = [(0, 0), (1, 0), (0, 1), (1, 1)]
    four = np.concatenate([even[:, r::2, c::2] for r, c in starts], axis=-1)
    p = double(params)
    expected = layer_norm(p["norm"], four) @ p["reduction"]["kernel"]
    actual = run(lambda x: module.apply({"params": params}, x, grid), x)
    np.testing.assert_allclose(actual, expected.reshape(2, -1, 6), atol=2e-5)


def small(pooling: str) -> ImageExtractor:
    return ImageExtractor(
        patch=2, width=4, depths=(1, 2, 1), heads=(1, 2, 2), window=2, pooling=pooling
    )


@pytest.mark.parametrize("pooling", ["rep", "mean", "multi_scale"])
def test_every_pooling_sees_the_whole_picture(pooling: str) -> None:
    module = small(pooling)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 16, 16, 3)), jnp.float32)
    params = parameters(module, image)

    def of_rep(image: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        rep, tokens = module.apply({"params": params}, image)
        return jnp.sin(rep).sum(), (rep, tokens)

    gradient, (rep, tokens) = run(jax.grad(of_rep, has_aux=True), image)
    assert rep.shape == (1, 16)
    assert tokens.shape == (1, 2 * 2, 16)
    by_patch = np.abs(gradient).reshape(8, 2, 8, 2, 3).max(axis=(1, 3, 4))
    assert (by_patch > 0).all()
    if pooling == "mean":
        np.testing.assert_allclose(rep, tokens.mean(axis=1), atol=1e-6)


def test_multi_scale_pools_every_level_to_the_last_grid_and_lets_rep_see_them_all() -> None:
    module = small("multi_scale")
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 20, 20, 3)), jnp.float32)
    params = parameters(module, image)

    def whole(image: jax.Array) -> Any:
        return module.apply({"params": params}, image, capture_intermediates=True)

    (rep, tokens), captured = run(whole, image)
    p, calls = double(params), captured["intermediates"]
    finest, coarsest = (
        np.asarray(calls[name]["__call__"][0], np.float64) for name in ("stage1_block1", "norm")
    )
    pooled = np.zeros((2, 3, 3, 8))  # of a grid of 5 x 5
    for y in range(3):
        for x in range(3):
            cells = finest.reshape(2, 5, 5, 8)[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            pooled[:, y, x] = cells.mean(axis=(1, 2))
    levels = []
    for i, level in enumerate((pooled.reshape(2, 9, 8), coarsest)):
        levels.append(
            dense(p[f"level{i}_projection"], level) + p[f"level{i}"] + sincos_2d(3, 3, 16)
        )
    together = jnp.asarray(np.concatenate([np.tile(p["rep"], (2, 1, 1)), *levels], 1), jnp.float32)
    for i in range(2):
        layer = EncoderLayer(2, 64, norm_first=True)
        together = layer.apply({"params": params[f"fuse{i}"]}, together)
    expected = layer_norm(p["fuse_norm"], np.asarray(together, np.float64))
    np.testing.assert_allclose(rep, expected[:, 0], atol=2e-5)
    np.testing.assert_allclose(tokens, expected[:, -9:], atol=2e-5)


def test_pictures_of_any_shape_are_padded_to_whole_patches() -> None:
    for pooling in ("rep", "mean", "multi_scale"):
        image = jax.ShapeDtypeStruct((2, 17, 30, 3), jnp.float32)
        (rep, tokens), _ = shapes(small(pooling), image)
        assert rep.shape == (2, 16)
        assert tokens.shape == (2, 3 * 4, 16)


PUBLISHED = {  # parameters of the backbones without a head, as Hugging Face's SwinModel has them
    "swin_t": 27_519_354,
    "swin_s": 48_837_258,
    "swin_b": 86_743_224,
}


def shapes(module: Any, *inputs: Any) -> tuple[Any, int]:
    """Outputs' shapes and the number of parameters, without computing either."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    out, variables = jax.eval_shape(module.init_with_output, key, *inputs)
    return out, sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_have_their_parameters_and_those_of_rep(size: str) -> None:
    count = PUBLISHED[size]
    width, depths, heads = (
        SCALES[size][f"model.image.{key}"] for key in ("width", "depths", "heads")
    )
    module = ImageExtractor(patch=4, width=width, depths=depths, heads=heads, window=7)
    (rep, tokens), actual = shapes(module, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    assert rep.shape == (1, 8 * width)
    assert tokens.shape == (1, 7 * 7, 8 * width)
    of_rep = 8 * width + 3 * heads[-1] * depths[-1]  # the token; its biases in each block
    assert actual == count + of_rep


def test_the_full_size_has_twelve_by_twelve_tokens() -> None:
    module = ImageExtractor(
        patch=4, width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12
    )
    (_, tokens), _ = shapes(module, jax.ShapeDtypeStruct((1, 384, 384, 3), jnp.float32))
    assert tokens.shape == (1, 12 * 12, 1024)


def test_the_default_last_grid_is_not_coarser_than_eight_by_eight() -> None:
    config = get_config()
    image = config.model.image
    module = ImageExtractor(
        patch=image.patch,
        width=image.width,
        depths=tuple(image.depths),
        heads=tuple(image.heads),
        window=image.window,
        mlp_ratio=image.mlp_ratio,
    )
    side = config.data.image_size
    (_, tokens), _ = shapes(module, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    assert tokens.shape[1] >= 8 * 8


LENGTH = 6
TEXT_MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], bool)


@pytest.fixture(scope="module")
def text_extractor() -> tuple[Any, jax.Array]:
    module = TextExtractor(20, layers=2, width=8, heads=2, max_length=LENGTH)
    text = jnp.asarray(np.random.default_rng(0).integers(5, 20, (2, LENGTH)), jnp.int32)
    params = parameters(module, text, jnp.asarray(TEXT_MASK))

    def extracted(text: jax.Array) -> Any:
        return module.apply({"params": params}, text, jnp.asarray(TEXT_MASK))

    return jax.jit(extracted), text


def test_the_text_s_rep_is_its_first_slot(text_extractor: Any) -> None:
    extracted, text = text_extractor
    rep, tokens = extracted(text)
    assert tokens.shape == (2, LENGTH, 8)
    assert np.array_equal(rep, tokens[:, 0])


def test_what_stands_in_the_padding_changes_nothing(text_extractor: Any) -> None:
    extracted, text = text_extractor
    rep, tokens = extracted(text)
    other = jnp.where(jnp.asarray(TEXT_MASK), text, (text + 7) % 20)
    other_rep, other_tokens = extracted(other)
    assert np.array_equal(rep, other_rep)
    assert np.array_equal(np.asarray(tokens)[TEXT_MASK], np.asarray(other_tokens)[TEXT_MASK])
    reworded = text.at[:, 3].set((text[:, 3] + 7) % 20)
    assert not np.allclose(rep, extracted(reworded)[0])


def test_the_order_of_words_counts(text_extractor: Any) -> None:
    extracted, text = text_extractor
    rep, _ = extracted(text)
    order = jnp.array([0, 2, 1, 3, 4, 5])
    swapped, _ = extracted(text[:, order])
    assert np.abs(rep - swapped).max() > 1e-3


def test_bert_base_has_its_published_parameters_without_pooler_and_second_segment() -> None:
    module = TextExtractor(30_522, layers=12, width=768, heads=12)
    _, count = shapes(
        module,
        jax.ShapeDtypeStruct((1, 40), jnp.int32),
        jax.ShapeDtypeStruct((1, 40), jnp.bool_),
    )
    assert count == 109_482_240 - 590_592 - 768
