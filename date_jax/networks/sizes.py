"""Sizes of the image extractor's tokens that follow from a config."""

from ml_collections import ConfigDict


def stride(image: ConfigDict) -> int:
    """Side of the square of pixels that one token of the last stage stands for.

    Args:
        image: `config.model.image`; each stage but the first halves the grid.
    """
    return image.patch * 2 ** (len(image.depths) - 1)


def stage_widths(image: ConfigDict) -> list[int]:
    """Channels of every stage: each has twice as many as the one before."""
    return [image.width * 2**stage for stage in range(len(image.depths))]


def token_grid(image: ConfigDict, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the last stage's tokens, for a picture of `height` by `width` pixels."""
    side = stride(image)
    return -(-height // side), -(-width // side)
