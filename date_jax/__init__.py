"""date_jax: find products in pictures. Retrieval, grounding and domain-adaptive grounding in JAX."""

__version__ = "0.1.0"
