import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from date_jax import losses


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
        actual = losses.binary_cross_entropy(jnp.array(logits), jnp.full(33, target))
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    far = losses.binary_cross_entropy(jnp.array([1000.0, -1000.0]), jnp.array([0.0, 0.0]))
    np.testing.assert_allclose(far, [1000.0, 0.0])
