"""The door to the data: `load` it once, then ask for training or evaluation batches.

Training order is arithmetic, not state. Example number `step * batch_size + row` gives an epoch and
a place in it, and a stateless permutation of that epoch gives the record. So a run resumes at any
step at once, to the bit, and any number of processes reads the same global batches.
"""

import collections
import dataclasses
import re
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8, UInt32

from date_jax.boxes import cxcywh
from date_jax.data import decode
from date_jax.data.cache import tensorflow
from date_jax.data.corpus import Corpus, Split, load
from date_jax.data.prepared import Records
from date_jax.data.sources import PAIRED
from date_jax.errors import DataError, UsageError, spelling_hint

__all__ = ["Corpus", "Split", "load"]  # of `data.corpus`; all else is defined here

AHEAD = 2  # batches made while one is used; more only costs memory


@dataclasses.dataclass(frozen=True)
class Share:
    """A process's share of every global batch: its rows are part `index` of `count` equal ones."""

    index: int
    count: int

    @classmethod
    def here(cls) -> "Share":
        """The share of this process in a run of all of them."""
        return cls(jax.process_index(), jax.process_count())

    def rows(self, batch_size: int) -> range:
        """The rows of a global batch of `batch_size` that this process gives.

        Raises:
            UsageError: the processes cannot share a batch of that size evenly.
        """
        if batch_size % self.count:
            nearest_size = batch_size // self.count * self.count or self.count
            raise UsageError(
                f"config.batch_size={batch_size} cannot be divided among {self.count} processes: "
                f"nearest {nearest_size}"
            )
        rows = batch_size // self.count
        return range(self.index * rows, (self.index + 1) * rows)


def train_batches(
    corpus: Corpus,
    names: list[str],
    *,
    share: Share,
    batch_size: int,
    seed: int,
    start_step: int,
    boxes: bool,
    columns: Sequence[str] | None = None,
    regions: bool = False,
    shares: Mapping[str, float] | None = None,
    views: int = 0,
) -> Generator[dict[str, np.ndarray]]:
    """Batches without end: this process's rows of the global ones, from `start_step` on.

    Args:
        corpus: of `load`.
        names: splits, joined as one; `index` counts through them.
        share: which rows are this process's.
        batch_size: of the global batch.
        seed: of the order.
        start_step: the first batch; the order does not depend on where a run began.
        boxes: whether batches hold `box_cxcywh` and `box_mask`. Without, boxes are not even read.
        columns: which of the splits' `columns` batches hold; None for all.
        regions: whether batches hold the corpus' `regions`, `region_box_xyxy` and `region_mask` in
            place of `image`.
        shares: of the drawn rows, that some of the splits have, whatever their sizes: the last of
            `names`, in their order. The others have the rest, each by its size.
        views: fixed views of each picture, one of which each batch names: `view` is its number and
            `view_place` tells the picture. Where the corpus has features, they
            stand in place of the picture. 0 for none.
    """
    tf = tensorflow()
    table = _Table(corpus, names, boxes=boxes, columns=columns)
    rows = share.rows(batch_size)
    quotas = _quotas([corpus.splits[name].size for name in names], [*(shares or {}).values()])
    # Streams of one run must not walk in step where their sizes are equal.
    stream = zlib.crc32("+".join(names).encode())

    # Example number -> epoch and place in it -> record: this is all that orders a run.
    def row_numbers(step: Any) -> Any:
        number = step * batch_size + rows.start + tf.range(len(rows), dtype=tf.int64)
        place = _shuffled_numbers(number, table.size, seed, stream, len(rows))
        return _quota_rows(quotas, place, number // table.size)

    steps = _steps_from(start_step, batch_size)
    mask = np.ones(len(rows), bool)
    if not views:
        read = _region_batches if regions else _picture_batches
        for index, contents in read(corpus, names, steps, row_numbers, len(rows)):
            yield {**contents, **table[index], "mask": mask}
        return

    # Which of its views a row has in a step is arithmetic too.
    places = view_places(corpus, names)
    read = _picture_batches if corpus.features is None else _index_batches
    stepped = enumerate(read(corpus, names, steps, row_numbers, len(rows)), start_step)

    def batch(step: int, index: Int[np.ndarray, " B"], contents: Any) -> dict[str, np.ndarray]:
        view = _view_numbers(step * batch_size + np.array(rows), seed, stream, views)
        if corpus.features is not None:
            contents = corpus.features.training_rows(names, index, view)
        chosen = {"view": view, "view_place": places[index]}
        return {**contents, **table[index], **chosen, "mask": mask}

    yield from _made_ahead(batch, ((step, *rest) for step, rest in stepped))


def view_places(corpus: Corpus, names: Sequence[str]) -> UInt32[np.ndarray, "N 2"]:
    """A number of 64 bits, in two halves, that tells each row's picture from others.

    Args:
        corpus: of `load`.
        names: splits, joined as one.
    """
    hashes = [h for name in names for h in corpus.splits[name].records.texts("image_hash")]
    halves = [[int(h[:8], 16), int(h[8:16], 16)] for h in hashes]
    return np.array(halves, np.uint32)


def _view_numbers(
    number: Int[np.ndarray, " B"], seed: int, stream: int, views: int
) -> Int[np.ndarray, " B"]:
    """A random number below `views` for each example, by its number through all epochs.

    The mixing of SplitMix64, whose outputs of neighbouring numbers have nothing in common.
    """
    x = number.astype(np.uint64) + np.uint64((stream << 32) + seed)
    x = x * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (x % np.uint64(views)).astype(np.int32)


def _made_ahead(make: Callable[..., Any], arguments: Iterator[tuple[Any, ...]]) -> Iterator[Any]:
    """Yields `make(*each)` for each of `arguments`, AHEAD of use, by a thread."""
    pending: collections.deque[futures.Future[Any]] = collections.deque()
    with futures.ThreadPoolExecutor(1) as pool:
        for each in arguments:
            pending.append(pool.submit(make, *each))
            if len(pending) > AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def pair_batches(
    corpus: Corpus,
    *,
    share: Share,
    batch_size: int,
    seed: int,
    start_step: int,
    views: int = 0,
) -> Generator[dict[str, dict[str, np.ndarray]]]:
    """Batches `{trigger, offer}` of pairs from `start_step` on: this process's part of each.

    An epoch has every one of the corpus' pairs twice, once with each of its rows as the trigger.

    Args:
        corpus: of `load`, with pairs.
        share, batch_size, seed, start_step, views: as in `train_batches`.
    """
    tf = tensorflow()
    table = _Table(corpus, [PAIRED], boxes=False, columns=None)
    rows = share.rows(batch_size)
    pairs = _pairs(corpus)
    both_ways = tf.constant(np.concatenate([pairs, pairs[:, ::-1]]), tf.int64)
    stream = zlib.crc32(PAIRED.encode())

    # The rows of all triggers, and behind them those of their offers.
    def row_numbers(step: Any) -> Any:
        number = step * batch_size + rows.start + tf.range(len(rows), dtype=tf.int64)
        pair = _shuffled_numbers(number, 2 * len(pairs), seed, stream, len(rows))
        return tf.reshape(tf.transpose(tf.gather(both_ways, pair)), [2 * len(rows)])

    # Both sides are read as one batch, for the pictures to be decoded together, then parted.
    steps = _steps_from(start_step, batch_size)
    mask = np.ones(2 * len(rows), bool)
    features = corpus.features if views else None
    places = view_places(corpus, [PAIRED]) if views else None
    read = _picture_batches if features is None else _index_batches

    def batch(step: int, index: Int[np.ndarray, " B"], contents: Any) -> dict[str, Any]:
        chosen: dict[str, np.ndarray] = {}
        if places is not None:
            # Either side of a pair in a view of its own.
            number = 2 * (step * batch_size + np.array(rows))
            view = _view_numbers(np.concatenate([number, number + 1]), seed, stream, views)
            chosen = {"view": view, "view_place": places[index]}
            if features is not None:
                contents = features.training_rows([PAIRED], index, view)
        both = {**contents, **table[index], **chosen, "mask": mask}
        return {
            "trigger": {key: value[: len(rows)] for key, value in both.items()},
            "offer": {key: value[len(rows) :] for key, value in both.items()},
        }

    stepped = enumerate(read(corpus, [PAIRED], steps, row_numbers, 2 * len(rows)), start_step)
    numbered = ((step, *rest) for step, rest in stepped)
    if features is None:
        yield from (batch(*each) for each in numbered)
    else:
        yield from _made_ahead(batch, numbered)


def _pairs(corpus: Corpus) -> Int[np.ndarray, "M 2"]:
    """The corpus' pairs, which a corpus of offers has."""
    if corpus.pairs is None:
        raise ValueError("the corpus has no pairs: it was not loaded as offers")
    return corpus.pairs


def _shuffled_numbers(number: Any, size: int, seed: int, stream: int, rows: int) -> Any:
    """The shuffled numbers, below `size`, of the examples that `number` counts through all epochs.

    Args:
        number: `[rows]`, counted through all epochs.
        size: of an epoch.
        seed: of the run.
        stream: another one for each stream of a run.
        rows: how many they are.
    """
    tf = tensorflow()

    def constant(value: int) -> Any:
        return tf.fill([rows], tf.constant(value, tf.int64))

    return tf.raw_ops.RandomIndexShuffle(
        index=number % size,
        seed=tf.stack([constant(seed), constant(stream), number // size], axis=1),
        max_index=constant(size - 1),
    )


class _Quota(NamedTuple):
    """Rows that a share of all drawn ones come from.

    Attributes:
        first: of the rows.
        size: how many they are.
        drawn: how many of them an epoch draws.
    """

    first: int
    size: int
    drawn: int


def _quotas(sizes: Sequence[int], shares: Sequence[float]) -> list[_Quota]:
    """The quotas of an epoch that draws as many rows as there are.

    Args:
        sizes: of all splits.
        shares: of the last ones; the others are one quota.
    """
    others = len(sizes) - len(shares)
    parts = [sum(sizes[:others]), *sizes[others:]]
    drawn = [round(sum(sizes) * share) for share in shares]
    drawn = [sum(sizes) - sum(drawn), *drawn]
    firsts = np.cumsum([0, *parts[:-1]]).tolist()
    return [_Quota(*numbers) for numbers in zip(firsts, parts, drawn, strict=True)]


def _quota_rows(quotas: Sequence[_Quota], place: Any, epoch: Any) -> Any:
    """The rows at some places of an epoch: each quota goes through its rows, over the epochs.

    Args:
        quotas: of an epoch.
        place: int64 `[rows]`, below the number of drawn rows.
        epoch: int64 `[rows]`.
    """
    tf = tensorflow()
    firsts, sizes, drawn = (tf.constant(column, tf.int64) for column in zip(*quotas, strict=True))
    ends = tf.cumsum(drawn)
    # Where an epoch draws fewer rows than there are, the next one goes on with the others.
    quota = tf.searchsorted(ends, place, side="right")
    drawn = tf.gather(drawn, quota)
    count = place - (tf.gather(ends, quota) - drawn) + epoch % tf.gather(sizes, quota) * drawn
    return tf.gather(firsts, quota) + count % tf.gather(sizes, quota)


def _steps_from(start_step: int, batch_size: int) -> Any:
    """The numbers of steps from the first one on, until example numbers would overflow."""
    return tensorflow().data.Dataset.range(start_step, np.iinfo(np.int64).max // (2 * batch_size))


def eval_batches(
    corpus: Corpus,
    names: list[str],
    *,
    share: Share,
    batch_size: int,
    boxes: bool,
    columns: Sequence[str] | None = None,
    regions: bool = False,
    features: bool = True,
) -> Generator[dict[str, np.ndarray]]:
    """Batches of every example once, in order: this process's rows of them.

    Row i of global batch b is example `b * batch_size + i`; behind the last one rows are filled up
    with `mask` False. Every process gets the same number of batches. Arguments as `train_batches`.
    Where the corpus has features of these splits, they stand in place of the pictures, unless
    `features` is False.
    """
    tf = tensorflow()
    table = _Table(corpus, names, boxes=boxes, columns=columns)
    rows = share.rows(batch_size)

    # Behind the last example its record is read again, and masked.
    def row_numbers(step: Any) -> Any:
        number = step * batch_size + rows.start + tf.range(len(rows), dtype=tf.int64)
        return tf.minimum(number, table.size - 1)

    steps = tf.data.Dataset.range(-(-table.size // batch_size))
    kept = corpus.features if features else None
    if kept is not None and not kept.has(names, "plain"):
        kept = None
    read = _region_batches if regions else _picture_batches if kept is None else _index_batches
    for step, (index, contents) in enumerate(read(corpus, names, steps, row_numbers, len(rows))):
        mask = step * batch_size + np.array(rows) < table.size
        if kept is not None:
            contents = kept.plain_rows(names, index)
        batch = {**contents, **table[index], "mask": mask}
        if boxes:
            batch["box_mask"] &= mask.reshape(-1, *[1] * (batch["box_mask"].ndim - 1))
        yield batch


def pictures(
    corpus: Corpus, name: str, rows: Int[np.ndarray, " N"]
) -> UInt8[np.ndarray, "N S S 3"]:
    """The pictures of some rows of a split, to look at; S as in the corpus."""
    records = Records([corpus.splits[name].records])[rows]
    return decode.pictures(decode.picture_files(records), corpus.image_size)


class _Table:
    """All columns of a batch but pictures and regions, looked up by row number."""

    def __init__(
        self, corpus: Corpus, names: list[str], *, boxes: bool, columns: Sequence[str] | None
    ):
        for name in names:
            if name not in corpus.splits:
                raise DataError(
                    f"no split {name!r} in the data{spelling_hint(name, corpus.splits)}: "
                    f"it has {', '.join(corpus.splits)}"
                )
        # Columns of all splits, one after the other, as rows are numbered.
        splits = [corpus.splits[name] for name in names]
        keys = splits[0].columns if columns is None else columns
        self._columns = {
            key: np.concatenate([split.columns[key] for split in splits]) for key in keys
        }
        self.size = sum(split.size for split in splits)
        # Boxes are read from disk only here: a stream without them cannot leak one.
        if boxes:
            xyxy = np.concatenate([split.records.box_xyxy() for split in splits])
            self._columns["box_cxcywh"] = np.asarray(cxcywh(jnp.asarray(xyxy)))
            has_box = [split.records.has_box() for split in splits]
            self._columns["box_mask"] = np.concatenate(has_box)

    def __getitem__(self, index: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
        columns = {key: column[index] for key, column in self._columns.items()}
        return {**columns, "index": index.astype(np.int32)}


def _picture_batches(
    corpus: Corpus, names: list[str], steps: Any, row_numbers: Callable, rows: int
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
        return decode.pictures(decode.picture_files(records[index]), side)

    def read(index: Any) -> dict[str, Any]:
        # One call into Python: what goes in and out of each is copied.
        image = tf.numpy_function(images, [index], tf.uint8)
        return {"image": tf.ensure_shape(image, [rows, side, side, 3])}

    # Files may be cut or deleted after their check: the message names their folder.
    try:
        yield from _batches_ahead(steps, row_numbers, rows, read)
    except tf.errors.OpError as error:
        folders = sorted({str(split.shards[0].path.parent) for split in splits})
        raise DataError(
            f"a prepared record of {', '.join(names)} cannot be read: "
            f"{_reason(error)}\n"
            f"  delete {', '.join(folders)} and start again: it is made anew"
        ) from error


def _region_batches(
    corpus: Corpus, names: list[str], steps: Any, row_numbers: Callable, rows: int
) -> Iterator[tuple[Int[np.ndarray, " B"], dict[str, np.ndarray]]]:
    """Row numbers and regions of the batch of each of `steps`, read ahead.

    Regions are `regions [B R F]`, `region_box_xyxy [B R 4]` and `region_mask [B R]`.
    """
    tf = tensorflow()
    files: Any = corpus.regions
    # From a row of the joined splits to its row in the region files.
    region_row = np.concatenate([corpus.splits[name].region_row for name in names])
    count, width = files.shape
    # Types for the call into Python, and shapes, which it loses.
    forms = {
        "regions": (tf.as_dtype(files.dtype), [rows, count, width]),
        "region_box_xyxy": (tf.float32, [rows, count, 4]),
        "region_mask": (tf.bool, [rows, count]),
    }

    def read(index: Any) -> dict[str, Any]:
        arrays = tf.numpy_function(
            lambda batch_index: tuple(files[region_row[batch_index]]),
            [index],
            [dtype for dtype, _ in forms.values()],
        )
        return {
            key: tf.ensure_shape(array, shape)
            for (key, (_, shape)), array in zip(forms.items(), arrays, strict=True)
        }

    yield from _batches_ahead(steps, row_numbers, rows, read)


def _index_batches(
    corpus: Corpus, names: list[str], steps: Any, row_numbers: Callable, rows: int
) -> Iterator[tuple[Int[np.ndarray, " B"], dict[str, np.ndarray]]]:
    """Row numbers of the batch of each of `steps`, without contents."""
    yield from _batches_ahead(steps, row_numbers, rows, lambda index: {})


def _batches_ahead(
    steps: Any, row_numbers: Callable, rows: int, read: Callable[[Any], dict[str, Any]]
) -> Iterator[tuple[Int[np.ndarray, " B"], dict[str, np.ndarray]]]:
    """Row numbers of the batch of each of `steps`, and what `read` gives of them, AHEAD of use."""
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
