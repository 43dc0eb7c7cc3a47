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

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array, UInt8
from numpy import ndarray

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


class Evaluated(NamedTuple):
    """One split's.

    Attributes:
        metrics: by name.
        sheet: `(count, title) -> picture [Y X 3]` of that many examples; reads them again, so it is
            asked for on one host only.
        files: what else a finished run keeps of it, by name: writes the file; on one host only.
    """

    metrics: dict[str, float]
    sheet: Callable[[int, str], UInt8[ndarray, "Y X 3"]]
    files: Mapping[str, Callable[[Path], None]] = MappingProxyType({})


# `(params, kinds, should_stop)`, kinds such as ("val", "test") -> name and outcome of each split of
# these kinds, as each is done. `should_stop()` ends the work with `Preempted`.
Evaluate: TypeAlias = Callable[
    [Any, Sequence[str], Callable[[], bool]], Iterator[tuple[str, Evaluated]]
]


class Course(NamedTuple):
    """All functions are the same on every process, but for the rows that `batches` gives.

    Attributes:
        load: `(config) -> corpus`, with the attributes `fingerprint` (equal on two hosts exactly
            if their data are), `notes` (lines for the user) and `tokenizer`. Raises DataError where
            nothing could be learnt from the data.
        task: `(config, corpus) -> Task`.
        batches: `(config, corpus, first_step)` -> this process's rows of each step's batch, without
            end: `{name: {key: array}}`, each part with `index`. Any number of processes gives the
            same global batches, and any first step the same ones.
        evaluator: `(config, corpus, task, mesh) -> Evaluate`; called once, for it compiles.
        shown: `(config, names, kind)`: of the evaluated splits the one to look at, if any.
        terms: of the loss, that a line of progress names.
        columns: metrics that people look at first.
    """

    load: Callable[[Any], Any]
    task: Callable[[Any, Any], Task]
    batches: Callable[[Any, Any, int], Iterator[dict[str, Any]]]
    evaluator: Callable[..., Evaluate]
    shown: Callable[[Any, Sequence[str], str], str | None]
    terms: tuple[str, ...]
    columns: tuple[str, ...]
