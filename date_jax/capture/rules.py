"""Contradictions in a config of CAPTURE: values that are each right, but not together."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from date_jax.networks import freezing
from date_jax.networks.sizes import token_grid
from date_jax.task import missing_section


def contradictions(config: ConfigDict) -> Iterator[str]:
    """The contradictions in a config of the task `capture`, a line each."""
    # Without these sections no other rule can be read.
    if missing := missing_section(config, "loss", "retrieval"):
        yield missing
        return
    yield from _precomputed_contradictions(config)
    # The picture limits the regions, and these limit the instances.
    regions, side = config.model.regions, config.data.image_size
    rows, columns = token_grid(config.model.image, side, side)
    if regions.count > rows * columns and regions.kind != "precomputed":
        yield (
            f"config.model.regions.count={regions.count}: there are {rows * columns} tokens to "
            "propose"
        )
    if config.retrieval.instances > regions.count:
        yield (
            f"config.retrieval.instances={config.retrieval.instances}: must not be above "
            f"config.model.regions.count={regions.count}"
        )


def _precomputed_contradictions(config: ConfigDict) -> Iterator[str]:
    """The contradictions about regions that a detector found beforehand, a line each."""
    # The kind of the regions and their folder belong together.
    precomputed = config.model.regions.kind == "precomputed"
    if precomputed and not config.data.regions:
        yield (
            "config.data.regions is empty, but config.model.regions.kind=precomputed: name the "
            "folder that date_jax.data.region_files wrote"
        )
    if config.data.regions and not precomputed:
        yield (
            f"config.data.regions={config.data.regions}: not read unless "
            "config.model.regions.kind=precomputed"
        )
    # The regions would not lie where the picture's parts do.
    if precomputed and config.data.fit != "stretch":
        yield (
            f"config.data.fit={config.data.fit}: precomputed regions lie in shares of the whole "
            "picture; set fit=stretch"
        )
    # They come with their features.
    train = freezing.choice(config.model, "image")
    if precomputed and train != "all":
        yield (
            f"config.model.image.train={train}: precomputed regions need no image extractor; leave "
            "it all"
        )
