"""The contract between the training loop and a system: what is learned, and what a run needs.

A `Learner` is three pure functions, after optax.GradientTransformation. A `Task` has a learner and
what surrounds it: data, batches, measures. The loop knows no more of a system than stands here.

A batch is a dict of arrays, the *global* batch, in one or more named parts:

    image        uint8   [B H W 3]
    text         int32   [B T]        token ids, [REP] first
    text_mask    bool    [B T]        False = padding
    box_cxcywh   float32 [B 4]        normalised to the picture; never in the target training stream
    box_mask     bool    [B]          the row has a box
    regions      float   [B R F]      what a detector found beforehand, in place of `image`, with
                                      `region_box_xyxy` float32 [B R 4] and `region_mask` bool [B R]
    product_id   int32   [B]
    index        int32   [B]          row of its split
    mask         bool    [B]          False = a row that only fills the batch
    view         int32   [B]          number of a fixed view; `view_place` uint32 [B 2], its picture
    image_rep, image_tokens           outputs of a frozen extractor in place of `image`, [B C] and
                                      [B P C]; in a fixed view with `window_xyxy` [B 4], `flip` [B]
    text_rep, text_tokens             the same of the text
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Key, UInt8
from ml_collections import ConfigDict

Batch: TypeAlias = dict[str, Any]
Params: TypeAlias = Any
ShouldStop: TypeAlias = Callable[[], bool]


class Memory(NamedTuple):
    """The state that a learner keeps from step to step without learning it; empty for most.

    Attributes:
        replicated: a tree of arrays that every device holds whole.
        sharded: a tree of arrays that are cut over the devices as the parameters are.
    """

    replicated: Any = ()
    sharded: Any = ()


class Aux(NamedTuple):
    """The second result of a loss, besides its value.

    Attributes:
        metrics: scalars by name.
        memory: the memory after this step.
    """

    metrics: dict[str, Array]
    memory: Memory


@runtime_checkable
class Init(Protocol):
    """Makes parameters and memory: `params, memory = learner.init(rng, batch)`.

    Only the batch's shapes count, so `jax.ShapeDtypeStruct`s do. `params["model"]` is the network.
    Its modules `image_extractor` and `text_extractor`, where it has them, take published weights
    and learn at the rate of a backbone.
    """

    def __call__(self, rng: Key[Array, ""], batch: Batch) -> tuple[Params, Memory]: ...


@runtime_checkable
class Loss(Protocol):
    """The scalar to minimise: `value, aux = learner.loss(params, memory, batch, step=3, rng=rng)`.

    `step` counts the steps done. The same arguments give the same value on any mesh.
    """

    def __call__(
        self, params: Params, memory: Memory, batch: Batch, *, step: Array, rng: Array
    ) -> tuple[Float[Array, ""], Aux]: ...


@runtime_checkable
class Prediction(Protocol):
    """One array for a batch: `learner.predict["box_cxcywh"](params, batch)` is `[B 4]`."""

    def __call__(self, params: Params, batch: Batch) -> Array: ...


class Learner(NamedTuple):
    """One learning problem as pure functions.

    Attributes:
        init: see `Init`.
        loss: see `Loss`.
        predict: by name, all that evaluation, search and export may ask for.
    """

    init: Init
    loss: Loss
    predict: Mapping[str, Prediction]


class Evaluation(NamedTuple):
    """The outcome of one split.

    Attributes:
        metrics: by name.
        sheet: `(count, title) -> picture [Y X 3]` of that many examples. It reads them again, so
            it is called on one host only.
        files: what a finished run keeps of it, by file name: writes the file; on one host only.
        notes: what the console says of it besides the measures.
    """

    metrics: dict[str, float]
    sheet: Callable[[int, str], UInt8[np.ndarray, "Y X 3"]]
    files: Mapping[str, Callable[[Path], None]] = MappingProxyType({})
    notes: tuple[str, ...] = ()


@runtime_checkable
class Evaluate(Protocol):
    """Evaluates parameters, as in `for name, evaluation in evaluate(params, ("val",), stop)`.

    Gives each split of these kinds ("val", "test") as it is done. `should_stop()` is asked now and
    then, answers alike on all hosts, and ends the work with `Preempted`.
    """

    def __call__(
        self, params: Params, kinds: Sequence[str], should_stop: ShouldStop
    ) -> Iterator[tuple[str, Evaluation]]: ...


class Change(NamedTuple):
    """The outcome of what a task does between two steps.

    Attributes:
        memory: the memory from now on, each array where it lives on the mesh.
        metrics: scalars by name.
        sheets: pictures to look at, by name; each is drawn on one host only.
    """

    memory: Memory
    metrics: dict[str, float]
    sheets: Mapping[str, Callable[[], UInt8[np.ndarray, "Y X 3"]]] = MappingProxyType({})


class Between(NamedTuple):
    """The work of a task between steps, now and then.

    The loop does `if between.due(step): change = between.run(state, step, should_stop)` and goes on
    with `change.memory`.

    Attributes:
        name: of its entry in results.json and of its scalars.
        title: the same for a person.
        due: `(step) -> bool`: whether it comes before step `step`.
        run: `(state, step, should_stop) -> Change`.
        label: `(step) -> str`: the part of the training that `step` belongs to, for the console.
    """

    name: str
    title: str
    due: Callable[[int], bool]
    run: Callable[[Any, int, ShouldStop], Change]
    label: Callable[[int], str]


@runtime_checkable
class Load(Protocol):
    """Reads the data: `corpus = task.load(config)`.

    A corpus has `splits`, `tokenizer`, `sizes`, `notes` (lines for the user) and `fingerprint`
    (equal on two hosts exactly if their data are).

    Raises DataError where nothing could be learnt from the data.
    """

    def __call__(self, config: ConfigDict) -> Any: ...


@runtime_checkable
class MakeLearner(Protocol):
    """Builds the learner: `learner = task.learner(config, corpus.tokenizer, corpus.sizes)`.

    `sizes` are the rows of each training split, for what the memory keeps of each row. A run that
    only answers needs none: `task.learner(config, tokenizer, {})`.

    Raises DataError where the vocabulary does not fit.
    """

    def __call__(self, config: ConfigDict, tokenizer: Any, sizes: Mapping[str, int]) -> Learner: ...


@runtime_checkable
class Example(Protocol):
    """The shapes of a training batch that has all parts: `task.example(config)`.

    Its leaves are `jax.ShapeDtypeStruct`s `[B ...]` of the global batch.
    """

    def __call__(self, config: ConfigDict) -> Batch: ...


@runtime_checkable
class Batches(Protocol):
    """Gives the rows of this process in each step's batch: `task.batches(config, corpus, 0)`.

    They are `{part: {key: array}}`, each part with `index`, without end. Any number of processes
    gives the same global batches, and any first step the same ones.
    """

    def __call__(self, config: ConfigDict, corpus: Any, first_step: int) -> Iterator[Batch]: ...


@runtime_checkable
class MakeEvaluator(Protocol):
    """Compiles an evaluation: `evaluate = task.evaluator(config, corpus, learner, mesh)`."""

    def __call__(
        self, config: ConfigDict, corpus: Any, learner: Learner, mesh: jax.sharding.Mesh
    ) -> Evaluate: ...


@runtime_checkable
class Highlight(Protocol):
    """The split to look at, if any: `task.highlight(config, ["mall_val", "live_val"], "val")`."""

    def __call__(self, config: ConfigDict, names: Sequence[str], kind: str) -> str | None: ...


@runtime_checkable
class MakeBetween(Protocol):
    """Builds what happens between steps: `task.between(config, corpus, learner, mesh, ...)`.

    `folder` is the run's, for what a stop must not lose; `say` takes a line for the console.
    """

    def __call__(
        self,
        config: ConfigDict,
        corpus: Any,
        learner: Learner,
        mesh: jax.sharding.Mesh,
        *,
        folder: Path,
        say: Callable[[str], None],
    ) -> Between: ...


@runtime_checkable
class Contradictions(Protocol):
    """Finds what contradicts itself in a config: `lines = [*task.contradictions(config)]`.

    Each value is right on its own. A line is for the user.
    """

    def __call__(self, config: ConfigDict) -> Iterator[str]: ...


class KeptSplit(NamedTuple):
    """What of a split's pictures a task reads more than once, for frozen extractors.

    Attributes:
        name: of the split.
        plain: whether as they are.
        views: whether in the fixed views of training.
        other: window `(x0, y0, x1, y1)` and flip of one more look at each; None for none.
    """

    name: str
    plain: bool = False
    views: bool = False
    other: tuple[tuple[float, ...], bool] | None = None


class Card(NamedTuple):
    """The words of a task on the model card of an export.

    Attributes:
        title: of the card.
        purpose: a sentence that says what the network does.
        paper: that it follows.
        training: `(config) -> str`: how it was trained.
        rows: what a batch has, such as "pairs".
        rest: the name, without its ending, of the file of what is in no extractor.
        rest_content: what that file holds.
        columns: metrics of its table of scores.
    """

    title: str
    purpose: str
    paper: str
    training: Callable[[ConfigDict], str]
    rows: str
    rest: str
    rest_content: str
    columns: tuple[str, ...]


class Answer(NamedTuple):
    """The questions that a finished network answers: names of `Learner.predict`, "" for none.

    Attributes:
        image: vectors of pictures `[B ...]`.
        text: vectors of words `[B ...]`.
        product: vectors of products, each a picture and its title, `[B ...]`.
        box: normalised (cx, cy, w, h) of what words ask for in a picture, `[B 4]`.
        confidence: features `[B F]` of that box, which `scorer` makes a number of.
        scorer: `(folder) -> scores`, with `scores(features) -> [B]`: how likely a box is right, as
            the run in that folder was calibrated; None where it was not.
        instances: `(box, mask, score, vectors)`: the products of a picture, `[B K ...]` each.
        embedding: `(config, vectors) -> [... E]`: from what a prediction of vectors gives to the
            unit vectors whose cosine says how alike two are; on the host.
        probability: `(params, cosine) -> probability`, that a picture and words belong together;
            None where the network does not tell.
        settings: the keys of the config, besides `model` and `data`, that vectors depend on.
    """

    image: str = ""
    text: str = ""
    product: str = ""
    box: str = ""
    confidence: str = ""
    scorer: Callable[[Path], Callable[[np.ndarray], np.ndarray] | None] = lambda folder: None
    instances: tuple[str, ...] = ()
    embedding: Callable[[ConfigDict, np.ndarray], np.ndarray] = lambda config, vectors: vectors
    probability: Callable[[Params, np.ndarray], np.ndarray] | None = None
    settings: tuple[str, ...] = ()


class Task(NamedTuple):
    """All that `config.task` names.

    Its functions are the same on every process, but for the rows that `batches` gives.

    Attributes:
        contradictions: see `Contradictions`.
        load: see `Load`.
        learner: see `MakeLearner`.
        example: see `Example`.
        batches: see `Batches`.
        evaluator: see `MakeEvaluator`.
        highlight: see `Highlight`.
        terms: of the loss, that a line of progress names.
        columns: metrics that people look at first.
        card: see `Card`.
        answer: see `Answer`.
        between: see `MakeBetween`; None where nothing happens between steps.
        kept: `(config, corpus) -> splits`: what `config.init.keep` computes once; None where the
            task reads no features.
    """

    contradictions: Contradictions
    load: Load
    learner: MakeLearner
    example: Example
    batches: Batches
    evaluator: MakeEvaluator
    highlight: Highlight
    terms: tuple[str, ...]
    columns: tuple[str, ...]
    card: Card
    answer: Answer
    between: MakeBetween | None = None
    kept: Callable[[ConfigDict, Any], list[KeptSplit]] | None = None


def record_shapes(
    config: ConfigDict, *keys: str, boxes: tuple[int, ...] = ()
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of one part of a training batch: `keys`, `index` and `mask`, see the module.

    Args:
        boxes: `(M,)` where each row has M boxes.
    """
    # All keys that a part may have, with the shape of a row and its dtype.
    rows, side, length = config.batch_size, config.data.image_size, config.data.text_length
    table: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": ((side, side, 3), np.uint8),
        "text": ((length,), np.int32),
        "text_mask": ((length,), np.bool_),
        "box_cxcywh": ((*boxes, 4), np.float32),
        "box_mask": (boxes, np.bool_),
        "product_id": ((), np.int32),
        "index": ((), np.int32),
        "mask": ((), np.bool_),
    }
    return {
        key: jax.ShapeDtypeStruct((rows, *table[key][0]), table[key][1])
        for key in (*keys, "index", "mask")
    }


def missing_section(config: ConfigDict, *names: str) -> str:
    """The line for a user whose config lacks a section that its task reads; "" where it has all.

    Args:
        names: of the sections.
    """
    for name in names:
        if name not in config:
            task = f"config.task={config.task}"
            return f"{task}: needs config.{name}, which this config file does not have"
    return ""
