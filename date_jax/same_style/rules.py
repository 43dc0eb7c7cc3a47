"""What contradicts itself in a config of same-style products: values that are each right alone."""

from collections.abc import Iterator

from ml_collections import ConfigDict


def contradictions(config: ConfigDict) -> Iterator[str]:
    """What contradicts itself in a config of the task `same_style`, a line each."""
    without = config.data.clicks.without
    if without and config.data.name != "suppliers":
        yield (
            f"config.data.clicks.without={without}: no clicks are simulated where pairs are given; "
            'leave it ""'
        )
