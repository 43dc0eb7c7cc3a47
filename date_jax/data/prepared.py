"""Prepared data on disk: made once by a TFDS builder, locked, counted, and read by row number.

The records are ArrayRecord files of group size 1, so any record is one seek away. What is small
(texts, boxes, product ids) is copied once into `rows.npz` beside them, so that nothing has to
decode a picture to know a label.
"""

import dataclasses
import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from date_jax.data.cache import save_npz, tensorflow
from date_jax.errors import DataError, SetupError

READ_AT_ONCE = 1024
LABEL_SEPARATOR = "#;#"  # between the products of a post, in its column product_id


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file and the number of records that was written into it."""

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
        return sum(shard.size for shard in self.shards)

    def products(self) -> list[str]:
        return self.texts("product_id")

    def texts(self, column: str) -> list[str]:
        """A column of texts that the builder has; `image_hash` tells pictures apart."""
        return _texts(self._member(column))

    def has(self, column: str) -> bool:
        """Whether the builder has it."""
        with np.load(self.rows, allow_pickle=False) as members:
            return f"{self.name}.{column}" in members

    def box_xyxy(self) -> Float[np.ndarray, "N ... 4"]:
        """Normalised boxes, one or M a row; zeros where the row has none."""
        return self._member("box_xyxy")

    def has_box(self) -> Bool[np.ndarray, "N ..."]:
        return self._member("has_box")

    def _member(self, key: str) -> np.ndarray:
        with np.load(self.rows, allow_pickle=False) as members:
            return members[f"{self.name}.{key}"]


class Records:
    """Random access to the records of several splits joined into one sequence.

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


def prepared(builder: Any, *, alone: bool) -> dict[str, PreparedSplit]:
    """The splits of a TFDS `builder`, prepared first where they are not there yet.

    Args:
        alone: from `locked`: whether no other process can be at it.

    Raises:
        DataError: a record file is missing, or holds fewer records than were written.
        SetupError: the disk is full or not writable.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    folder = Path(builder.data_path)
    if not (folder / "dataset_info.json").exists():
        pattern = f"{tfds.core.constants.INCOMPLETE_PREFIX}*_{folder.name}"
        for stale in folder.parent.glob(pattern) if alone else ():
            shutil.rmtree(stale)  # of a process that was killed: the lock is ours now
        # Never the network: the default would ask a bucket whether it has this data set.
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        try:
            builder.download_and_prepare(download_config=config)
        except OSError as error:
            if alone or not (folder / "dataset_info.json").exists():
                raise _unwritable(folder, error) from error
            builder.info.read_from_directory(folder)  # of another host, which was done first
    splits = {}
    for name, info in builder.info.splits.items():
        paths = [folder / Path(path).name for path in info.filenames]
        shards = tuple(map(Shard, sorted(paths), info.shard_lengths))
        _check_shards(name, shards)
        splits[name] = shards
    rows = folder / "rows.npz"
    if not is_whole(rows):
        try:
            _write_rows(rows, splits, builder.info.features)
        except OSError as error:
            raise _unwritable(folder, error) from error
    with np.load(rows, allow_pickle=False) as members:
        fingerprints = {name: bytes(members[f"{name}.sha256"]).hex() for name in splits}
    return {
        name: PreparedSplit(name, shards, rows, fingerprints[name])
        for name, shards in splits.items()
    }


def _unwritable(folder: Path, error: OSError) -> SetupError:
    return SetupError(
        f"cannot write the prepared data to {folder}: {error}\n"
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
    """Counts every file's records: a file cut at a record boundary reads without any error."""
    from array_record.python import array_record_module

    wrong = []
    for shard in shards:
        try:
            reader = array_record_module.ArrayRecordReader(str(shard.path))
            found = reader.num_records()
            reader.close()
        except (ValueError, RuntimeError, OSError):
            found = 0
        if found != shard.size:
            state = f"{found} of {shard.size} records" if shard.path.exists() else "missing"
            wrong.append(f"  {shard.path.name}: {state}")
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


def _write_rows(path: Path, splits: dict[str, tuple[Shard, ...]], features: Any) -> None:
    """Copies what is small out of all records, in one pass, into `path`.

    Args:
        features: of the builder: all but `image` is small, and of that a hash is kept.
    """
    tf = tensorflow()
    texts = [name for name, each in features.items() if each.np_dtype in (object, str)]
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in (*texts, "image")}
    spec["box_xyxy"] = tf.io.FixedLenFeature(features["box_xyxy"].shape, tf.float32)
    spec["has_box"] = tf.io.FixedLenFeature(features["has_box"].shape, tf.int64)
    members: dict[str, np.ndarray] = {}
    for name, shards in splits.items():
        records = Records([PreparedSplit(name, shards, path, "")])
        digest = hashlib.sha256()
        parts = []
        for start in range(0, len(records), READ_AT_ONCE):
            batch = records[np.arange(start, min(start + READ_AT_ONCE, len(records)))]
            for record in batch:
                # Each process has an order of its own for the fields of what it writes.
                example = tf.train.Example.FromString(record)
                digest.update(example.SerializeToString(deterministic=True))
            found = {key: x.numpy() for key, x in tf.io.parse_example(batch, spec).items()}
            hashes = [hashlib.sha256(image).hexdigest()[:32] for image in found.pop("image")]
            parts.append({**found, "image_hash": np.array(hashes, np.bytes_)})
        columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for key in (*texts, "image_hash"):
            decoded = [text.decode() for text in columns[key].tolist()]
            members[f"{name}.{key}"] = np.frombuffer(json.dumps(decoded).encode(), np.uint8)
        members[f"{name}.box_xyxy"] = columns["box_xyxy"]
        members[f"{name}.has_box"] = columns["has_box"].astype(bool)
        members[f"{name}.sha256"] = np.frombuffer(digest.digest(), np.uint8)
    save_npz(path, **members)


def _texts(member: np.ndarray) -> list[str]:
    # Texts lie as one JSON list in bytes: an array of objects would need pickle.
    return json.loads(bytes(member))
