"""Vectors of length 1, whose products are cosines."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def unit_vectors(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """`x` at length 1 in float32; a zero vector stays zero and has a finite gradient."""
    x = x.astype(jnp.float32)
    return x / jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12))
