"""Contradictions in a config of same-style products: values that are each right alone."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from date_jax.task import missing_section


def contradictions(config: ConfigDict) -> Iterator[str]:
    """The contradictions in a config of the task `same_style`, a line each."""
    if missing := missing_section(config, "modality", "losses"):
        yield missing
        return
    without = config.data.clicks.without
    if without and config.data.name != "suppliers":
        yield (
            f"config.data.clicks.without={without}: no clicks are simulated where pairs are given; "
            'leave it ""'
        )
