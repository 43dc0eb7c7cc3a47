"""One encoder for pictures, words and both: what is missing, and what padding must not do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from date_jax.same_style.joint_encoder import JointEncoder

ROWS, PLACES, LENGTH, WIDTH = 3, 4, 5, 8
GRID = (2, 2)
MODEL = JointEncoder(layers=2, heads=2, mlp_width=16, embedding=6)


def some(seed: int, length: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(ROWS, length, WIDTH)), jnp.float32)


IMAGE, TEXT = some(0, PLACES), some(1, LENGTH)
MASK = jnp.arange(LENGTH)[None] < jnp.array([[5], [3], [2]])


@pytest.fixture(scope="module")
def params() -> Any:
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), IMAGE, TEXT, MASK, GRID))
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape), s.dtype), shapes)


def vectors(params: Any, image: Any, text: Any, mask: Any) -> np.ndarray:
    return np.asarray(MODEL.apply(params, image, text, mask, GRID))


def test_every_combination_gives_unit_vectors_of_one_space(params: Any) -> None:
    found = [
        vectors(params, *given)
        for given in ((IMAGE, TEXT, MASK), (IMAGE, None, None), (None, TEXT, MASK))
    ]
    for each in found:
        assert each.shape == (ROWS, 6)
        np.testing.assert_allclose(np.linalg.norm(each, axis=1), 1, rtol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.01
    assert np.abs(found[0] - found[2]).max() > 0.01


def test_without_picture_and_words_there_is_nothing_to_encode(params: Any) -> None:
    with pytest.raises(ValueError, match="neither a picture nor words"):
        vectors(params, None, None, None)


def test_padding_changes_nothing(params: Any) -> None:
    other = jnp.where(MASK[:, :, None], TEXT, 100.0)
    for image in (IMAGE, None):
        np.testing.assert_array_equal(
            vectors(params, image, TEXT, MASK), vectors(params, image, other, MASK)
        )


def test_a_missing_modality_is_its_learned_token_and_nothing_else(params: Any) -> None:
    """The token given as the only word, or the only place, of a row that has one."""
    none = params["params"]["missing_tokens"]
    token = jnp.broadcast_to(none[1], (ROWS, 1, WIDTH))
    alone = vectors(params, IMAGE, None, None)
    np.testing.assert_allclose(
        alone, vectors(params, IMAGE, token, jnp.ones((ROWS, 1), bool)), atol=1e-6
    )
    gradient = jax.grad(lambda p: MODEL.apply(p, IMAGE, None, None, GRID)[:, 0].sum())(params)
    used = np.abs(gradient["params"]["missing_tokens"]).max(axis=1)
    assert used[1] > 0 == used[0]


def test_each_place_of_a_picture_counts(params: Any) -> None:
    moved = IMAGE[:, ::-1]
    assert np.abs(vectors(params, IMAGE, None, None) - vectors(params, moved, None, None)).max() > 0
