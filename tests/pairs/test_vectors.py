"""Unit vectors on the device and on the host, and products that nothing rounds."""

import jax
import jax.numpy as jnp
import numpy as np

from date_jax.pairs.vectors import dot_products, host_unit_vectors, unit_vectors


def test_a_zero_vector_stays_zero_and_has_a_finite_gradient() -> None:
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit_vectors(x), [[0.6, 0.8], [0, 0]], atol=1e-6)
    assert np.isfinite(jax.grad(lambda x: unit_vectors(x).sum())(x)).all()


def test_the_host_gives_the_same_vectors_in_the_precision_of_its_input() -> None:
    x = np.array([[[3.0, 4.0], [0.0, 0.0]]])
    assert host_unit_vectors(x).tolist() == [[[0.6, 0.8], [0.0, 0.0]]]
    assert host_unit_vectors(x.astype(np.float32)).dtype == np.float32


def test_products_are_asked_for_in_full_precision() -> None:
    rows, columns = jnp.eye(2, 3), jnp.arange(12.0).reshape(4, 3)
    assert dot_products(rows, columns).tolist() == [[0, 3, 6, 9], [1, 4, 7, 10]]
    assert "HIGHEST" in str(jax.make_jaxpr(dot_products)(rows, columns))
