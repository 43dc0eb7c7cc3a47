import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from date_jax import losses


def similarity(rows: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (rows, rows)).astype(np.float32)


def same(product: list[int]) -> np.ndarray:
    return np.array([[a == b for b in product] for a in product])


def contrastive_by_loop(
    s: np.ndarray, positive: np.ndarray, scale: float, prior_temperature: float
) -> np.ndarray:
    """METHODS 1.2 word for word: queries i, images j."""
    s = s.astype(np.float64)
    rows = len(s)

    def cross_entropy(search: list[float], wanted: list[int]) -> float:
        total = sum(np.exp(x) for x in search)
        return -sum(np.log(np.exp(search[k]) / total) for k in wanted) / len(wanted)

    def claim(i: int, j: int, over_queries: bool) -> float:
        if not prior_temperature:
            return 1.0
        rivals = s[:, j] if over_queries else s[i, :]
        return np.exp(prior_temperature * s[i, j]) / sum(np.exp(prior_temperature * rivals))

    found = []
    for k in range(rows):
        images = [scale * s[k, j] * claim(k, j, True) for j in range(rows)]
        queries = [scale * s[i, k] * claim(i, k, False) for i in range(rows)]
        both = cross_entropy(images, [j for j in range(rows) if positive[k, j]])
        both += cross_entropy(queries, [i for i in range(rows) if positive[i, k]])
        found.append(both / 2)
    return np.array(found)


@pytest.mark.parametrize("prior_temperature", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("product", [[0, 1, 2, 3, 4, 5], [0, 1, 0, 0, 2, 1]], ids=str)
def test_contrastive_softmax_is_that_of_a_loop(
    product: list[int], prior_temperature: float
) -> None:
    s, positive = similarity(), same(product)
    found = losses.contrastive_softmax(
        jnp.array(s),
        jnp.array(positive),
        scale=jnp.float32(14.3),
        prior_temperature=prior_temperature,
    )
    expected = contrastive_by_loop(s, positive, 14.3, prior_temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_contrastive_sigmoid_is_that_of_a_loop() -> None:
    s, positive = similarity(), same([0, 1, 0, 2, 3, 3])
    found = losses.contrastive_sigmoid(
        jnp.array(s), jnp.array(positive), scale=jnp.float32(10), bias=jnp.float32(-10)
    )
    expected = [
        sum(-np.log(expit((1 if p else -1) * (10 * x - 10))) for x, p in zip(row, ps, strict=True))
        for row, ps in zip(s.astype(np.float64), positive, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_second_picture_of_a_product_is_not_pushed_away() -> None:
    s = jnp.eye(3) * 0.9 + 0.05

    def loss(s: jax.Array, product: list[int]) -> jax.Array:
        positive = jnp.array(same(product))
        return losses.contrastive_softmax(s, positive, scale=jnp.float32(10)).sum()

    assert jax.grad(loss)(s, [0, 0, 1])[0, 1] < 0
    assert jax.grad(loss)(s, [0, 1, 2])[0, 1] > 0


def test_contrastive_losses_stay_finite_at_the_largest_scale() -> None:
    s = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    wrong = jnp.array([[False, True], [True, False]])
    for prior in (0.0, 100.0):
        found = losses.contrastive_softmax(
            s, wrong, scale=jnp.float32(100), prior_temperature=prior
        )
        assert np.isfinite(found).all()
    sigmoid = losses.contrastive_sigmoid(s, wrong, scale=jnp.float32(100), bias=jnp.float32(-10))
    assert np.isfinite(sigmoid).all()


def test_box_l1_is_the_sum_of_four_differences() -> None:
    a, b = np.random.default_rng(1).uniform(0, 1, (2, 30, 4)).astype(np.float32)
    expected = [
        sum(abs(float(x) - float(y)) for x, y in zip(p, q, strict=True))
        for p, q in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(losses.box_l1(jnp.array(a), jnp.array(b)), expected, rtol=1e-5)


def test_box_giou_by_hand() -> None:
    true = jnp.array([[0.25, 0.25, 0.5, 0.5]] * 3)
    # The same; the lower right quarter, touching in a corner; half of it.
    predicted = jnp.array(
        [[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5], [0.25, 0.125, 0.5, 0.25]]
    )
    np.testing.assert_allclose(losses.box_giou(predicted, true), [0.0, 1.5, 0.5], atol=1e-6)


def test_masked_mean_is_weighted_and_zero_without_weight() -> None:
    values = jnp.array([1.0, 2.0, 6.0])
    assert losses.masked_mean(values, jnp.array([True, False, True])) == 3.5
    np.testing.assert_allclose(losses.masked_mean(values, jnp.array([0.5, 0.25, 0.25])), 2.5)
    assert losses.masked_mean(values, jnp.zeros(3)) == 0.0
    gradient = jax.grad(lambda v: losses.masked_mean(v, jnp.zeros(3)))(values)
    np.testing.assert_array_equal(gradient, 0.0)


def test_binary_cross_entropy_is_that_of_probabilities_and_finite_far_out() -> None:
    logits = np.linspace(-8, 8, 33).astype(np.float32)
    for target in (0.0, 0.3, 1.0):
        p = expit(logits.astype(np.float64))
        expected = -(target * np.log(p) + (1 - target) * np.log1p(-p))
        found = losses.binary_cross_entropy(jnp.array(logits), jnp.full(33, target))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    far = losses.binary_cross_entropy(jnp.array([1000.0, -1000.0]), jnp.array([0.0, 0.0]))
    np.testing.assert_allclose(far, [1000.0, 0.0])
