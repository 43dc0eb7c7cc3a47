"""Both seekers: what they may see, where positions enter, what they give."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from date_jax.date.seekers import ImageSeeker, ObjectSeeker
from date_jax.networks.transformer import EncoderLayer, sincos_2d

BATCH, GRID, LENGTH, WIDTH = 2, (2, 3), 4, 8
PLACES = GRID[0] * GRID[1]
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)


def inputs() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    shapes = [(BATCH, PLACES, WIDTH), (BATCH, LENGTH, WIDTH)]
    image, text = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return image, text


def run(function: Any, *inputs: Any) -> Any:
    """`function(*inputs)`, compiled."""
    return jax.jit(function)(*inputs)


@pytest.fixture(scope="module", params=[True, False], ids=["pre_norm", "post_norm"])
def seeker(request: pytest.FixtureRequest) -> tuple[ObjectSeeker, Any, Any]:
    """`(module, params, found)`; the last gives `(f_loc, box)` of image and text tokens."""
    module = ObjectSeeker(layers=2, heads=2, mlp_width=12, norm_first=request.param)
    given = (*inputs(), jnp.asarray(MASK), GRID)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *given))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape), s.dtype), shapes)

    def found(image: jax.Array, text: jax.Array) -> Any:
        return module.apply({"params": params}, image, text, jnp.asarray(MASK), GRID)[:2]

    return module, params, jax.jit(found)


def test_the_box_lies_in_the_unit_square(seeker: Any) -> None:
    *_, found = seeker
    image, text = inputs()
    _, box = found(100 * image, 100 * text)
    assert box.shape == (BATCH, 4)
    assert ((box >= 0) & (box <= 1)).all()


def test_positions_and_types_enter_at_every_layer_and_loc_is_read_at_the_end(seeker: Any) -> None:
    module, params, found = seeker
    image, text = inputs()
    kind = params["type_embedding"]
    where = [kind[0]]
    where += [row + kind[1] for row in sincos_2d(*GRID, WIDTH)]
    where += [row + kind[2] for row in params["text_position"]]
    where = jnp.stack(where)[None]
    loc = jnp.tile(params["loc_token"], (BATCH, 1, 1))
    x = jnp.concatenate([loc, image, text], axis=1)
    seen = jnp.concatenate([jnp.ones((BATCH, 1 + PLACES), bool), MASK], axis=1)
    layer = EncoderLayer(2, 12, norm_first=module.norm_first, activation=jax.nn.relu)
    apply = jax.jit(lambda p, x: layer.apply({"params": p}, x + where, seen))
    for name in ("layer0", "layer1"):
        x = apply(params[name], x)
    expected = np.asarray(x[:, 0], np.float64)
    if module.norm_first:
        expected = expected - expected.mean(-1, keepdims=True)
        expected /= np.sqrt((expected**2).mean(-1, keepdims=True) + 1e-5)
        expected = expected * params["norm"]["scale"][None] + params["norm"]["bias"][None]
    loc, box = found(image, text)
    np.testing.assert_allclose(loc, expected, atol=2e-5)
    for name in ("box1", "box2", "box3"):
        p = params[name]
        expected = np.asarray(expected) @ np.asarray(p["kernel"]) + np.asarray(p["bias"])
        if name != "box3":
            expected = np.maximum(expected, 0)
    np.testing.assert_allclose(box, 1 / (1 + np.exp(-expected)), atol=2e-5)


def test_padding_has_no_gradient_and_everything_else_has_one(seeker: Any) -> None:
    *_, found = seeker

    def of_box(image: jax.Array, text: jax.Array) -> jax.Array:
        return found(image, text)[1].sum()

    of_image, of_text = map(np.asarray, run(jax.grad(of_box, argnums=(0, 1)), *inputs()))
    assert not of_text[~MASK].any()
    assert (np.abs(of_text[MASK]).max(axis=1) > 0).all()
    assert (np.abs(of_image).max(axis=2) > 0).all()


def test_the_places_of_tokens_count(seeker: Any) -> None:
    *_, found = seeker
    image, text = inputs()
    loc, _ = found(image, text)
    moved, _ = found(image[:, ::-1], text)
    reworded, _ = found(image, text[:, jnp.array([1, 0, 2, 3])])
    assert np.abs(loc - moved).max() > 1e-3
    assert np.abs(loc - reworded).max() > 1e-3


def test_the_box_stays_float32_where_the_network_computes_in_bfloat16() -> None:
    module = ObjectSeeker(layers=1, heads=2, mlp_width=12, dtype=jnp.dtype("bfloat16"))
    given = (*inputs(), jnp.asarray(MASK), GRID)
    (loc, box, _), _ = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), *given))
    assert loc.dtype == box.dtype == jnp.float32


def test_the_image_seeker_gives_vectors_whose_products_are_cosines() -> None:
    rng = np.random.default_rng(0)
    image, text = jnp.asarray(rng.normal(size=(2, 3, 5)), jnp.float32)
    module = ImageSeeker()
    found, variables = module.init_with_output(jax.random.key(0), image, text)
    query, picture, scale, _ = found
    expected = [
        [q @ v / np.linalg.norm(q) / np.linalg.norm(v) for v in np.asarray(image, np.float64)]
        for q in np.asarray(text, np.float64)
    ]
    np.testing.assert_allclose(query @ picture.T, expected, atol=1e-6)
    assert scale == pytest.approx(1 / 0.07)
    assert variables["params"].keys() == {"log_scale", "bias"}


@pytest.mark.parametrize(("learnt", "scale"), [(20.0, 20.0), (99.0, 99.0), (1e4, 100.0)])
def test_the_scale_is_clamped_at_a_hundred(learnt: float, scale: float) -> None:
    params = {"log_scale": jnp.log(learnt), "bias": jnp.zeros(())}
    rows = jnp.ones((2, 3))
    assert ImageSeeker().apply({"params": params}, rows, rows)[2] == pytest.approx(scale, rel=1e-5)
