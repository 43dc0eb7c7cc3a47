"""Sizes of the image extractor's tokens that follow from a config.

A ViT is an extractor of one stage, so all of this holds for it too.
"""

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


def token_side(image: ConfigDict) -> int:
    """Side of the square of pixels that one token stands for behind the extractor.

    Args:
        image: `config.model.image`; `pool` of it averages squares of last-stage tokens. Configs of
            earlier versions have no such key, and no such average.
    """
    return stride(image) * image.get("pool", 1)


def token_grid(image: ConfigDict, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the extractor's tokens, for a picture of `height` by `width` pixels."""
    side = token_side(image)
    return -(-height // side), -(-width // side)
