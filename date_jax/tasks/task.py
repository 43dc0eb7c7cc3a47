"""What the loop needs to know of a task: three pure functions, after optax.GradientTransformation.

A batch is a dict of arrays, the *global* batch; PG-DA nests two of them as `source` and `target`.

    image        uint8   [B H W 3]
    text         int32   [B T]        token ids, [REP] first
    text_mask    bool    [B T]        False = padding
    box_cxcywh   float32 [B 4]        normalised to the picture; never in the target training stream
    box_mask     bool    [B]          the row has a box
    pseudo_box_cxcywh, pseudo_weight   float32 [B 4], [B]: in the target stream, 0 = no box yet
    product_id   int32   [B]
    index        int32   [B]          row of its split
    mask         bool    [B]          False = a row that only fills the batch

Beside them `queue` may hold features of earlier batches, see `aligner.remembered`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array

Batch: TypeAlias = dict[str, Any]
Params: TypeAlias = Any


class Task(NamedTuple):
    """One learning problem.

    Attributes:
        init: `(rng, batch) -> params`.
        loss: `(params, batch, *, step, rng) -> (scalar, metrics)`; metrics are scalars by name,
            but for `features`, what later batches shall find in their `queue`.
        predict: by name, `(params, batch) -> [B ...]`: what evaluation, search and export may ask.
    """

    init: Callable[..., Params]
    loss: Callable[..., tuple[Array, dict[str, Array]]]
    predict: dict[str, Callable[[Params, Batch], Array]]
