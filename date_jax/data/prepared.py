"""Prepared data on disk: made once by a TFDS builder, counted, and read by row number.

The records are ArrayRecord files of group size 1, so any record is one seek away. What is small
(texts, boxes, product ids) is copied once into `rows.npz` beside them, so that nothing has to
decode a picture to know a label.
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from date_jax.data.cache import save_npz, tensorflow
from date_jax.errors import DataError, SetupError

READ_AT_ONCE = 1024
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
LABEL_SEPARATOR = "#;#"  # between the products of a post, in its column product_id


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file, and the number of records that were written into it."""

    path: Path
    size: int


@dataclasses.dataclass(frozen=True)
class PreparedSplit:
    """One split on disk, all of whose records were there when it was opened.

    Attributes:
        name: `<domain>_<split>`.
        shards: its files in order.
        rows: `rows.npz`, whose members of this split are read one by one, when asked for.
        fingerprint: sha256 over all records; equal where two hosts prepared the same.
    """

    name: str
    shards: tuple[Shard, ...]
    rows: Path
    fingerprint: str

    @property
    def size(self) -> int:
        """N, the number of records."""
        return sum(shard.size for shard in self.shards)

    def products(self) -> list[str]:
        """The product of each record; of a post all its products, see LABEL_SEPARATOR."""
        return self.texts("product_id")

    def texts(self, column: str) -> list[str]:
        """A column of texts: one of the builder's, or `image_hash`, which tells pictures apart."""
        return json.loads(bytes(self._member(column)))

    def has_column(self, column: str) -> bool:
        """Whether the builder has a column of that name."""
        with np.load(self.rows, allow_pickle=False) as members:
            return f"{self.name}.{column}" in members

    def box_xyxy(self) -> Float[np.ndarray, "N ... 4"]:
        """Normalised boxes, one or M a row; zeros where the row has none."""
        return self._member("box_xyxy")

    def has_box(self) -> Bool[np.ndarray, "N ..."]:
        """Whether there is a box, for each of `box_xyxy`."""
        return self._member("has_box")

    def _member(self, key: str) -> np.ndarray:
        with np.load(self.rows, allow_pickle=False) as members:
            return members[f"{self.name}.{key}"]


class Records:
    """The records of several splits as one sequence, any of them one seek away.

    Args:
        splits: joined in this order; row numbers count on from one to the next.
    """

    def __init__(self, splits: list[PreparedSplit]):
        from array_record.python import array_record_module

        shards = [shard for split in splits for shard in split.shards]
        # Without read-ahead: the rows of a shuffled batch are nowhere near each other.
        self._readers = [
            array_record_module.ArrayRecordReader(
                str(shard.path), options="readahead_buffer_size:0", file_reader_buffer_size=32768
            )
            for shard in shards
        ]
        self._ends = np.cumsum([shard.size for shard in shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The serialised records of `rows`, as an array of bytes objects in the same order."""
        shards = np.searchsorted(self._ends, rows, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])[shards]
        records = np.empty(len(rows), object)
        # One by one: asked for many, the reader wakes a thread for each, which takes several times
        # as long as reading it. What reads at once are the calls of this, one for each batch.
        for place, (shard, row) in enumerate(zip(shards, (rows - starts).tolist(), strict=True)):
            (records[place],) = self._readers[shard].read([row])
        return records


def prepare_splits(builder: Any, *, is_alone: bool) -> dict[str, PreparedSplit]:
    """Prepares the splits of a TFDS `builder` where that was not done yet, and opens them.

    Args:
        is_alone: of `folder_lock`: whether no other process can be at it.

    Returns:
        The splits by name.

    Raises:
        DataError: a record file is missing, or holds fewer records than were written.
        SetupError: the disk is full or not writable.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    folder = Path(builder.data_path)
    # The records, unless this host or another one has made them.
    if not (folder / "dataset_info.json").exists():
        pattern = f"{tfds.core.constants.INCOMPLETE_PREFIX}*_{folder.name}"
        for stale in folder.parent.glob(pattern) if is_alone else ():
            shutil.rmtree(stale)  # of a process that was killed: the lock is ours now
        # Never the network: the default would ask a bucket whether it has this data set.
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        try:
            builder.download_and_prepare(download_config=config)
        except Exception as error:
            reason = _disk_reason(error)
            if not reason:
                raise
            if is_alone or not (folder / "dataset_info.json").exists():
                raise _write_error(folder, reason) from error
            builder.info.read_from_directory(folder)  # of another host, which was done first
    # Files may have been lost or cut since then.
    shards_of = {}
    for name, info in builder.info.splits.items():
        paths = [folder / Path(path).name for path in info.filenames]
        shards_of[name] = tuple(map(Shard, sorted(paths), info.shard_lengths))
        _check_shards(name, shards_of[name])
    # What is small of them, in a file that is read at every start.
    rows = folder / "rows.npz"
    if not is_whole(rows):
        try:
            _write_rows(rows, shards_of, builder.info.features)
        except OSError as error:
            raise _write_error(folder, str(error)) from error
    with np.load(rows, allow_pickle=False) as members:
        fingerprints = {name: bytes(members[f"{name}.sha256"]).hex() for name in shards_of}
    return {
        name: PreparedSplit(name, shards, rows, fingerprints[name])
        for name, shards in shards_of.items()
    }


def _disk_reason(error: Exception) -> str:
    """Why the disk cannot be written, if `error` tells that; else "".

    The writers of ArrayRecord and TensorFlow raise errors of their own, with the system's words.
    """
    if isinstance(error, OSError):
        return str(error)
    reasons = [os.strerror(number) for number in _DISK_ERRORS]
    return next((reason for reason in reasons if reason in str(error)), "")


def _write_error(folder: Path, reason: str) -> SetupError:
    return SetupError(
        f"cannot write the prepared data to {folder}: {reason}\n"
        "  free some space, or choose another --config.data.cache_dir"
    )


def is_whole(path: Path) -> bool:
    """Whether all members of an `.npz` are as they were written: a copy may have been cut short."""
    try:
        with zipfile.ZipFile(path) as members:
            return members.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile):
        return False


def _check_shards(name: str, shards: tuple[Shard, ...]) -> None:
    """Refuses files that are missing or short: one cut between two records reads without error.

    Raises:
        DataError: naming the files.
    """
    from array_record.python import array_record_module

    # A file tells how many records it holds; one that cannot be read counts as empty.
    wrong = []
    for shard in shards:
        try:
            reader = array_record_module.ArrayRecordReader(str(shard.path))
            count = reader.num_records()
            reader.close()
        except (ValueError, RuntimeError, OSError):
            count = 0
        if count != shard.size:
            state = f"{count} of {shard.size} records" if shard.path.exists() else "missing"
            wrong.append(f"  {shard.path.name}: {state}")
    # A few files by name are enough: they are all made anew together.
    if wrong:
        raise DataError(
            "\n".join(
                [
                    f"{len(wrong)} of {len(shards)} record files of {name} are short or missing:",
                    *wrong[:4],
                    f"  delete {shards[0].path.parent} and start again: it is made anew",
                ]
            )
        )


def _write_rows(path: Path, shards_of: dict[str, tuple[Shard, ...]], features: Any) -> None:
    """Copies what is small out of all records, in one pass, into `path`.

    Args:
        shards_of: the files of each split.
        features: of the builder: all but `image` is small, and of that a hash is kept.
    """
    tf = tensorflow()
    texts = [name for name, feature in features.items() if feature.np_dtype in (object, str)]
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in (*texts, "image")}
    spec["box_xyxy"] = tf.io.FixedLenFeature(features["box_xyxy"].shape, tf.float32)
    spec["has_box"] = tf.io.FixedLenFeature(features["has_box"].shape, tf.int64)
    members: dict[str, np.ndarray] = {}
    for name, shards in shards_of.items():
        records = Records([PreparedSplit(name, shards, path, "")])
        digest = hashlib.sha256()
        parts = []
        for start in range(0, len(records), READ_AT_ONCE):
            batch = records[np.arange(start, min(start + READ_AT_ONCE, len(records)))]
            # The fingerprint: each process has another order for the fields of what it writes.
            for record in batch:
                example = tf.train.Example.FromString(record)
                digest.update(example.SerializeToString(deterministic=True))
            # The small columns, and of each picture a hash.
            part = {key: x.numpy() for key, x in tf.io.parse_example(batch, spec).items()}
            hashes = [hashlib.sha256(image).hexdigest()[:32] for image in part.pop("image")]
            parts.append({**part, "image_hash": np.array(hashes, np.bytes_)})
        # Texts lie as one JSON list in bytes: an array of objects would need pickle.
        columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for key in (*texts, "image_hash"):
            decoded = [text.decode() for text in columns[key].tolist()]
            members[f"{name}.{key}"] = np.frombuffer(json.dumps(decoded).encode(), np.uint8)
        members[f"{name}.box_xyxy"] = columns["box_xyxy"]
        members[f"{name}.has_box"] = columns["has_box"].astype(bool)
        members[f"{name}.sha256"] = np.frombuffer(digest.digest(), np.uint8)
    save_npz(path, **members)
