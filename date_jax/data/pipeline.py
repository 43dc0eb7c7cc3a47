"""The door to the data: `load` it once, then ask for training or evaluation batches.

Training order is arithmetic, not state. Example number `step * batch_size + row` gives an epoch and
a place in it, and a stateless permutation of that epoch gives the record. So a run resumes at any
step at once, to the bit, and any number of processes reads the same global batches.
"""

import re
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from date_jax.boxes import cxcywh
from date_jax.data import decode
from date_jax.data.cache import tensorflow
from date_jax.data.corpus import Corpus, Split, load
from date_jax.data.prepared import Records
from date_jax.errors import DataError, UsageError, nearest

__all__ = ["Corpus", "Split", "eval_batches", "load", "train_batches"]

AHEAD = 2  # batches made while one is used; more only costs memory


COLUMNS = ("text", "text_mask", "product_id")  # of a split, that batches hold


def train_batches(
    corpus: Any,
    names: list[str],
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    boxes: bool,
    columns: Sequence[str] = COLUMNS,
    regions: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[dict[str, np.ndarray]]:
    """This process's rows of the global batches from `start_step` on, without end.

    Args:
        corpus: from `load`, here or in `posts`.
        names: splits, joined as one; `index` counts through them.
        batch_size: of the global batch.
        seed: of the order.
        start_step: the first batch; the order does not depend on where a run began.
        boxes: whether batches hold `box_cxcywh` and `box_mask`. Without, boxes are not even read.
        columns: attributes of the splits that batches hold.
        regions: whether batches hold the corpus' `regions`, `region_box_xyxy` and `region_mask` in
            place of `image`.
        process_index: which rows: the p-th of `process_count` equal parts of each batch.
        process_count: how many processes share a batch.
    """
    tf = tensorflow()
    rows_of = _Rows(corpus, names, boxes=boxes, columns=columns)
    size = rows_of.size
    first, rows = _share(batch_size, process_index, process_count)
    # Streams of one run must not walk in step where their sizes are equal.
    stream = zlib.crc32("+".join(names).encode())

    def row_numbers(step: Any) -> Any:
        number = step * batch_size + first + tf.range(rows, dtype=tf.int64)
        return _shuffled(number, size, seed, stream, rows)

    steps = _steps_from(start_step, batch_size)
    read = _regions if regions else _pictures
    for index, seen in read(corpus, names, steps, row_numbers, rows):
        yield {**seen, **rows_of[index], "mask": np.ones(rows, bool)}


def pair_batches(
    corpus: Any,
    name: str,
    pairs: Int[np.ndarray, "M 2"],
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[dict[str, dict[str, np.ndarray]]]:
    """This process's part `{trigger, offer}` of the batches of pairs from `start_step` on.

    An epoch has every pair twice, once with each of its rows as the trigger.

    Args:
        corpus: from `catalogue.load`.
        name: of a split.
        pairs: rows of it that belong together.
        batch_size, seed, start_step, process_index, process_count: as in `train_batches`.
    """
    tf = tensorflow()
    rows_of = _Rows(corpus, [name], boxes=False, columns=("text", "text_mask"))
    first, rows = _share(batch_size, process_index, process_count)
    both = tf.constant(np.concatenate([pairs, pairs[:, ::-1]]), tf.int64)

    def row_numbers(step: Any) -> Any:
        number = step * batch_size + first + tf.range(rows, dtype=tf.int64)
        pair = _shuffled(number, 2 * len(pairs), seed, zlib.crc32(name.encode()), rows)
        return tf.reshape(tf.transpose(tf.gather(both, pair)), [2 * rows])

    steps = _steps_from(start_step, batch_size)
    for index, seen in _pictures(corpus, [name], steps, row_numbers, 2 * rows):
        found = {**seen, **rows_of[index], "mask": np.ones(2 * rows, bool)}
        yield {
            "trigger": {key: value[:rows] for key, value in found.items()},
            "offer": {key: value[rows:] for key, value in found.items()},
        }


def _shuffled(number: Any, size: int, seed: int, stream: int, rows: int) -> Any:
    """Which of `size` examples the examples `number` of all epochs are."""
    tf = tensorflow()

    def constant(value: int) -> Any:
        return tf.fill([rows], tf.constant(value, tf.int64))

    return tf.raw_ops.RandomIndexShuffle(
        index=number % size,
        seed=tf.stack([constant(seed), constant(stream), number // size], axis=1),
        max_index=constant(size - 1),
    )


def _steps_from(start_step: int, batch_size: int) -> Any:
    return tensorflow().data.Dataset.range(start_step, np.iinfo(np.int64).max // (2 * batch_size))


def eval_batches(
    corpus: Any,
    names: list[str],
    *,
    batch_size: int,
    boxes: bool,
    columns: Sequence[str] = COLUMNS,
    regions: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[dict[str, np.ndarray]]:
    """This process's rows of every example once, in order.

    Row i of global batch b is example `b * batch_size + i`; behind the last one rows are filled up
    with `mask` False. Every process gets the same number of batches. Arguments as `train_batches`.
    """
    tf = tensorflow()
    rows_of = _Rows(corpus, names, boxes=boxes, columns=columns)
    first, rows = _share(batch_size, process_index, process_count)

    def row_numbers(step: Any) -> Any:
        return tf.minimum(
            step * batch_size + first + tf.range(rows, dtype=tf.int64), rows_of.size - 1
        )

    steps = tf.data.Dataset.range(-(-rows_of.size // batch_size))
    batches = (_regions if regions else _pictures)(corpus, names, steps, row_numbers, rows)
    for step, (index, seen) in enumerate(batches):
        mask = step * batch_size + first + np.arange(rows) < rows_of.size
        batch = {**seen, **rows_of[index], "mask": mask}
        if boxes:
            batch["box_mask"] &= mask.reshape(-1, *[1] * (batch["box_mask"].ndim - 1))
        yield batch


def pictures(corpus: Any, name: str, rows: Int[np.ndarray, " N"]) -> UInt8[np.ndarray, "N S S 3"]:
    """The pictures of some rows of a split, to look at; S as in the corpus."""
    records = Records([corpus.splits[name].records])[rows]
    return decode.pictures(decode.encoded(records), corpus.image_size)


class _Rows:
    """All of a batch but the pictures, looked up by row number."""

    def __init__(self, corpus: Any, names: list[str], *, boxes: bool, columns: Sequence[str]):
        for name in names:
            if name not in corpus.splits:
                raise DataError(
                    f"no split {name!r} in the data{nearest(name, corpus.splits)}: "
                    f"it has {', '.join(corpus.splits)}"
                )
        splits = [corpus.splits[name] for name in names]
        self._columns = {
            key: np.concatenate([getattr(split, key) for split in splits]) for key in columns
        }
        self.size = sum(split.size for split in splits)
        if boxes:
            xyxy = np.concatenate([split.records.box_xyxy() for split in splits])
            self._columns["box_cxcywh"] = np.asarray(cxcywh(jnp.asarray(xyxy)))
            self._columns["box_mask"] = np.concatenate([s.records.has_box() for s in splits])

    def __getitem__(self, index: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
        looked_up = {key: column[index] for key, column in self._columns.items()}
        return {**looked_up, "index": index.astype(np.int32)}


def _share(batch_size: int, process_index: int, process_count: int) -> tuple[int, int]:
    """The first row of a global batch that is this process's, and how many are."""
    if batch_size % process_count:
        raise UsageError(
            f"config.batch_size={batch_size} cannot be divided among {process_count} processes: "
            f"nearest {batch_size // process_count * process_count or process_count}"
        )
    rows = batch_size // process_count
    return process_index * rows, rows


def _pictures(
    corpus: Any, names: list[str], steps: Any, row_numbers: Callable, rows: int
) -> Iterator[tuple[Int[np.ndarray, " B"], dict[str, np.ndarray]]]:
    """Row numbers and `image` of the batch of each of `steps`, read and decoded ahead.

    Raises:
        DataError: a record cannot be read.
    """
    tf = tensorflow()
    splits = [corpus.splits[name].records for name in names]
    records = Records(splits)
    side = corpus.image_size

    def images(index: Int[np.ndarray, " B"]) -> UInt8[np.ndarray, "B S S 3"]:
        return decode.pictures(decode.encoded(records[index]), side)

    def read(index: Any) -> dict[str, Any]:
        # One call into Python: what goes in and out of each is copied.
        image = tf.numpy_function(images, [index], tf.uint8)
        return {"image": tf.ensure_shape(image, [rows, side, side, 3])}

    try:
        yield from _ahead(steps, row_numbers, rows, read)
    except tf.errors.OpError as error:
        folders = sorted({str(split.shards[0].path.parent) for split in splits})
        raise DataError(
            f"a prepared record of {', '.join(names)} cannot be read: "
            f"{_reason(error)}\n"
            f"  delete {', '.join(folders)} and start again: it is made anew"
        ) from error


def _regions(
    corpus: Any, names: list[str], steps: Any, row_numbers: Callable, rows: int
) -> Iterator[tuple[Int[np.ndarray, " B"], dict[str, np.ndarray]]]:
    """As `_pictures`: `regions [B R F]`, `region_box_xyxy [B R 4]` and `region_mask [B R]`."""
    tf = tensorflow()
    files = corpus.regions
    at = np.concatenate([corpus.splits[name].region_row for name in names])
    count, width = files.shape
    kinds = {
        "regions": (tf.as_dtype(files.dtype), [rows, count, width]),
        "region_box_xyxy": (tf.float32, [rows, count, 4]),
        "region_mask": (tf.bool, [rows, count]),
    }

    def read(index: Any) -> dict[str, Any]:
        found = tf.numpy_function(
            lambda rows: tuple(files[at[rows]]), [index], [kind for kind, _ in kinds.values()]
        )
        shapes = [shape for _, shape in kinds.values()]
        return dict(zip(kinds, map(tf.ensure_shape, found, shapes), strict=True))

    yield from _ahead(steps, row_numbers, rows, read)


def _ahead(
    steps: Any, row_numbers: Callable, rows: int, read: Callable[[Any], dict[str, Any]]
) -> Iterator[tuple[Int[np.ndarray, " B"], dict[str, np.ndarray]]]:
    """Row numbers of the batch of each of `steps`, and what `read` finds there, before asked."""
    tf = tensorflow()

    def batch(step: Any) -> tuple[Any, Any]:
        index = tf.ensure_shape(row_numbers(step), [rows])
        return index, read(index)

    # It is a graph already; AutoGraph would read all of its source to find that out.
    batch = tf.autograph.experimental.do_not_convert(batch)
    batches = steps.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(AHEAD)
    yield from batches.as_numpy_iterator()


def _reason(error: Exception) -> str:
    """The one telling line of a tf.data error, which leads with the path through the graph."""
    line = str(error).splitlines()[0]
    return re.sub(r".*Iterator::\S+: ", "", line)[:200]
