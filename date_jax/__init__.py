"""Finds products in pictures: retrieval, grounding, and grounding across domains, in JAX."""

__version__ = "0.1.0"
