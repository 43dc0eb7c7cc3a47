"""Predictions as programs in files that hold their parameters and take any number of rows.

A StableHLO file is read by JAX alone, an ONNX file by onnxruntime. Neither needs this package.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from date_jax.errors import SetupError
from date_jax.task import Answer, Batch, Params, Prediction

PLATFORMS = ("cpu", "cuda", "tpu")  # all in one StableHLO file
_MONTHS = 6  # for which JAX promises that newer versions read an exported program
_MAX_DIFFERENCE = 1e-4  # of an ONNX file's answers from ours
_CHECKED_ROWS = (1, 3)  # numbers of rows that an ONNX file is tried with


class Program(NamedTuple):
    """Predictions that answer one question, with their parameters inside.

    Attributes:
        name: of its file: the prediction's, or "instances".
        inputs: `jax.ShapeDtypeStruct`s of one row by name, of what it reads.
        function: `(**inputs) -> {prediction: array}`, each array `[B ...]`.
    """

    name: str
    inputs: dict[str, jax.ShapeDtypeStruct]
    function: Callable[..., dict[str, Any]]


def programs(
    predict: Mapping[str, Prediction], answer: Answer, params: Params, example: Batch
) -> list[Program]:
    """The programs for all questions that a network answers.

    Args:
        predict: of the learner.
        answer: of the task.
        params: host arrays.
        example: the shapes of a training batch, see `task.Example`.
    """
    # The rows of a batch, as predictions read them: what any part of a training batch has.
    shapes: dict[str, jax.ShapeDtypeStruct] = {}
    for part in example.values():
        for key, leaf in part.items():
            shapes.setdefault(key, jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype))
    params = jax.tree.map(jnp.asarray, params)
    # A single prediction has a file each; what tells of instances belongs together.
    singles = (answer.image, answer.text, answer.product, answer.box, answer.confidence)
    questions = {name: (name,) for name in singles} | {"instances": answer.instances}
    available = {
        name: {each: predict[each] for each in names if each in predict}
        for name, names in questions.items()
    }
    return [
        _program(name, predictions, params, shapes)
        for name, predictions in available.items()
        if predictions
    ]


def _program(
    name: str,
    predict: Mapping[str, Prediction],
    params: Params,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
) -> Program:
    """The program of these predictions, with no input that changes nothing."""

    def function(**rows: Any) -> dict[str, Any]:
        return {each: prediction(params, rows) for each, prediction in predict.items()}

    # An input is read if the answers depend on it: backwards from them through all operations.
    two = {key: jax.ShapeDtypeStruct((2, *x.shape), x.dtype) for key, x in shapes.items()}
    traced = jax.make_jaxpr(lambda rows: function(**rows))(two).jaxpr
    needed = {id(x) for x in traced.outvars}
    for equation in reversed(traced.eqns):
        if any(id(x) in needed for x in equation.outvars):
            needed.update(id(x) for x in equation.invars)
    read = [key for key, x in zip(sorted(two), traced.invars, strict=True) if id(x) in needed]

    def program(**inputs: Any) -> dict[str, Any]:
        # Zeros for what is not read: predictions may look for it, but nothing depends on it.
        count = next(iter(inputs.values())).shape[0]
        unread = {
            key: jnp.zeros((count, *x.shape), x.dtype)
            for key, x in shapes.items()
            if key not in inputs
        }
        return function(**inputs, **unread)

    return Program(name, {key: shapes[key] for key in shapes if key in read}, program)


def stablehlo(program: Program) -> bytes:
    """A program as `jax.export` serialises it: for all PLATFORMS and any number of rows.

    program = jax.export.deserialize(bytearray(Path("box_cxcywh.stablehlo").read_bytes()))
    boxes = program.call(image=pixels, text=ids, text_mask=mask)["box_cxcywh"]
    """
    specs = _symbolic_inputs(program)
    exported = jax.export.export(jax.jit(program.function), platforms=PLATFORMS)(**specs)
    return bytes(exported.serialize())


def _symbolic_inputs(program: Program) -> dict[str, jax.ShapeDtypeStruct]:
    """The inputs of any number of rows."""
    (rows,) = jax.export.symbolic_shape("rows")
    return {
        key: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype) for key, x in program.inputs.items()
    }


def last_day_of_promise(written: date) -> date:
    """The day until which JAX promises to read a program, at the latest.

    It promises so for versions that are released up to six months after the one that wrote the
    program, which is at most as young as the program.

    >>> last_day_of_promise(date(2026, 8, 31))
    datetime.date(2027, 2, 28)
    """
    month = written.month - 1 + _MONTHS
    year, month = written.year + month // 12, month % 12 + 1
    for day in (written.day, 30, 29, 28):
        try:
            return date(year, month, min(day, written.day))
        except ValueError:
            continue
    raise AssertionError("every month has 28 days")


def onnx(program: Program) -> tuple[bytes, str]:
    """A program as ONNX, or why there is none: `(b"", reason)`.

    It is tried with onnxruntime before it is given: random rows must give our answers.

    Raises:
        SetupError: the extra `onnx` is not installed.
    """
    try:
        import onnxruntime
        from jax2onnx import to_onnx
    except ImportError as error:
        raise SetupError(
            f"--format=onnx needs packages that are not here ({error.name})\n"
            '  pip install "date_jax[onnx]"'
        ) from error
    # The converter takes inputs by place, and tells much that is of no use here.
    names, outputs = [*program.inputs], [*_outputs(program)]

    def function(*inputs: Any) -> tuple[Any, ...]:
        answers = program.function(**dict(zip(names, inputs, strict=True)))
        return tuple(answers[name] for name in outputs)

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    options = {"input_names": names, "output_names": outputs}
    try:
        model = to_onnx(function, [*_symbolic_inputs(program).values()], **options)
        content = model.SerializeToString()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            content, settings, providers=["CPUExecutionProvider"]
        )
        difference = max(_difference(program, session, rows) for rows in _CHECKED_ROWS)
    # Whatever the converter or onnxruntime raises, this program cannot be had in this form.
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        return b"", f"{type(error).__name__}: {first}"[:120]
    if difference > _MAX_DIFFERENCE:
        return b"", f"its answers differ from ours by {difference:.1g}"
    return content, ""


def _outputs(program: Program) -> dict[str, Any]:
    """The shapes of a program's answers for one row, by name."""
    one = {key: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for key, x in program.inputs.items()}
    return jax.eval_shape(program.function, **one)


def _difference(program: Program, session: Any, rows: int) -> float:
    """The largest difference of an ONNX session's answers from ours, on random rows."""
    rng = np.random.default_rng(rows)
    inputs = {key: random_rows(x, rows, rng) for key, x in program.inputs.items()}
    ours = jax.jit(program.function)(**inputs)
    names = [*ours]
    theirs: Sequence[Any] = session.run(names, inputs)
    return max(
        float(np.abs(answer.astype(np.float64) - np.asarray(ours[name], np.float64)).max())
        for name, answer in zip(names, theirs, strict=True)
    )


def random_rows(shape: jax.ShapeDtypeStruct, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Random numbers `[rows ...]` of an input's shape: bytes, small ids, true, or from 0 to 1."""
    size = (rows, *shape.shape)
    if shape.dtype == np.bool_:
        return np.ones(size, np.bool_)
    if jnp.issubdtype(shape.dtype, jnp.integer):
        top = 256 if shape.dtype == np.uint8 else 5  # every vocabulary has the special pieces
        return rng.integers(0, top, size).astype(shape.dtype)
    return rng.random(size).astype(shape.dtype)


def description(program: Program) -> tuple[str, str]:
    """What a program takes and gives, for a person: `("image uint8 [B 64 64 3]", "…")`."""

    def text(name: str, dtype: Any, shape: tuple[int, ...]) -> str:
        return f"`{name}` {dtype} [{' '.join(['B', *map(str, shape)])}]"

    takes = [text(key, x.dtype, x.shape) for key, x in program.inputs.items()]
    gives = [text(name, x.dtype, x.shape[1:]) for name, x in _outputs(program).items()]
    return ", ".join(takes), ", ".join(gives)
