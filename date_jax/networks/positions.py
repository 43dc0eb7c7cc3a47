"""Tables of learnt positions resized to another grid, bicubic, as PyTorch does it."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_SHARP, _SMOOTH = -0.75, -0.5  # the cubic's free number, without and with antialiasing


def resized_positions(
    table: Float[Array, "S C"], grid: tuple[int, int], *, antialias: bool
) -> Float[Array, "P C"]:
    """The positions of a square table, row by row, for a grid of other sides.

    Args:
        table: of a square of √S by √S places.
        grid: rows and columns of the P places.
        antialias: smooth before shrinking, as DINOv2 with registers does; DINOv2 without them,
            SigLIP and CLIP do not.
    """
    side = round(len(table) ** 0.5)
    if grid == (side, side):
        return table
    rows, columns = (_resize_matrix(side, size, antialias=antialias) for size in grid)
    square = table.reshape(side, side, -1)
    # In float32 also where an accelerator's matrices are bfloat16: a table is resized once a step.
    resized = jnp.einsum("ia,jb,abc->ijc", rows, columns, square, precision="highest")
    return resized.reshape(-1, table.shape[1])


def _resize_matrix(old: int, new: int, *, antialias: bool) -> np.ndarray:
    """The weight `[new old]` of each old place in each new one, along one axis."""
    scale = old / new
    centre = (np.arange(new)[:, None] + 0.5) * scale
    # PIL's way: the kernel grows with what it shrinks, and is cut off at the border.
    if antialias:
        offset = (np.arange(old)[None] + 0.5 - centre) / max(scale, 1.0)
        weights = _cubic(offset, _SMOOTH)
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    # Four neighbours of each new place; beyond the border lies the border's place again.
    first = np.floor(centre - 0.5).astype(int) - 1
    place = first + np.arange(4)
    weights = np.zeros((new, old))
    rows = np.broadcast_to(np.arange(new)[:, None], place.shape)
    np.add.at(weights, (rows, place.clip(0, old - 1)), _cubic(place + 0.5 - centre, _SHARP))
    return weights.astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic kernel, which is 1 at 0 and 0 at every other whole number."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
