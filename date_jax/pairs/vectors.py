"""Vectors of length 1, and their products, which are cosines."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def unit_vectors(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """`x` at length 1 in float32; a zero vector stays zero and has a finite gradient."""
    x = x.astype(jnp.float32)
    # The limit is inside the root, whose gradient at 0 would be infinite.
    return x / jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12))


def host_unit_vectors(x: Float[np.ndarray, "*N D"]) -> Float[np.ndarray, "*N D"]:
    """`x` at length 1, by NumPy and in its own precision; a zero vector stays zero."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def dot_products(rows: Float[Array, "N D"], columns: Float[Array, "M D"]) -> Float[Array, "N M"]:
    """Every row's product with every column, in full float32.

    An accelerator's default would round to bfloat16: an error of the size of a margin, which a
    learnt temperature multiplies by up to 100.
    """
    return jnp.matmul(rows, columns.T, precision="highest")
