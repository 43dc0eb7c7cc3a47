import errno
import io
import os
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import pytest
from PIL import Image

from date_jax.data import pipeline, prepared, sources, tokenizer
from date_jax.data.cache import tensorflow
from date_jax.data.domains import check_domains
from date_jax.errors import DataError, SetupError, UsageError

SIZES = {"mall_train": 53, "mall_test": 10, "live_train": 30, "live_test": 7}
SIDE = 16
HERE = pipeline.Share(0, 1)


def data_config(cache: Path, **changes: Any) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(
        {
            "name": "painted",
            "cache_dir": str(cache),
            "source": "mall",
            "target": "live",
            "image_size": SIDE,
            "text_length": 8,
            "vocab": "",
            "vocab_size": 60,
        }
    )
    config.update(changes)
    return config


def painted(config: ml_collections.ConfigDict, cache: Path) -> sources.Parts:
    """A source whose row i of every split is a picture of the one grey value i."""
    tensorflow()
    import tensorflow_datasets as tfds

    from date_jax.data.datasets.records import features

    class Painted(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                features=features(config.image_size, "png"),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {name: self._generate_examples(size) for name, size in SIZES.items()}

        def _generate_examples(self, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
            for row in range(size):
                png = io.BytesIO()
                Image.new("RGB", (SIDE, SIDE), (row, row, row)).save(png, "PNG")
                example = {
                    "image": io.BytesIO(png.getvalue()),
                    "text": f"cup number {row}",
                    "box_xyxy": np.array([0.1, 0.2, 0.5, 0.8], np.float32) * (row % 3 > 0),
                    "has_box": row % 3 > 0,
                    "product_id": f"p{row:03d}",
                    "category": "cup",
                    "row": row,
                }
                yield row, example

    check_domains(SIZES, source=config.source, target=config.target)
    return sources.grounding_parts(config, Painted(data_dir=str(cache), file_format="array_record"))


def load(config: ml_collections.ConfigDict) -> pipeline.Corpus:
    return pipeline.load(config, "grounding")


def use_as_painted(reader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.SOURCES, "painted", sources.Source({"grounding": reader}))


@pytest.fixture(autouse=True)
def _painted_is_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    use_as_painted(painted, monkeypatch)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def corpus(cache: Path) -> pipeline.Corpus:
    return load(data_config(cache))


def batches(corpus: pipeline.Corpus, number: int, **changes: Any) -> list[dict[str, np.ndarray]]:
    options = {"share": HERE, "batch_size": 8, "seed": 3, "start_step": 0, "boxes": True}
    return list(islice(pipeline.train_batches(corpus, ["mall_train"], **options | changes), number))


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def test_a_corpus_holds_every_split_with_its_small_arrays(corpus: pipeline.Corpus) -> None:
    assert {name: split.size for name, split in corpus.splits.items()} == SIZES
    split = corpus.splits["live_test"]
    np.testing.assert_array_equal(split.records.has_box(), np.arange(7) % 3 > 0)
    np.testing.assert_allclose(split.records.box_xyxy()[1], [0.1, 0.2, 0.5, 0.8])
    np.testing.assert_array_equal(split.records.box_xyxy()[0], np.zeros(4))
    np.testing.assert_array_equal(split.numbers["product_id"], np.arange(7))
    assert split.texts == [f"cup number {row}" for row in range(7)]


def test_words_that_a_learned_vocabulary_lacks_are_told_and_a_given_one_is_refused(
    corpus: pipeline.Corpus, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("vocabulary" in note for note in corpus.notes)
    other_language = tokenizer.WordPieces([*tokenizer.SPECIAL, "杯"], length=8)
    monkeypatch.setattr(tokenizer, "tokenizer_of_texts", lambda *_, **__: other_language)
    notes = [note for note in load(data_config(cache)).notes if "not in the vocabulary" in note]
    assert [note.partition("texts of ")[2].split()[0] for note in notes] == list(SIZES)
    # The same pieces as a file are the user's choice, and a wrong one.
    other_language.save(tmp_path)
    with pytest.raises(DataError, match="100% of the words"):
        load(data_config(cache, vocab=str(tmp_path / "vocab.txt")))


def test_a_batch_has_the_keys_shapes_and_types_of_the_contract(corpus: pipeline.Corpus) -> None:
    (batch,) = batches(corpus, 1)
    form = {key: (value.dtype.name, value.shape) for key, value in batch.items()}
    assert form == {
        "image": ("uint8", (8, SIDE, SIDE, 3)),
        "text": ("int32", (8, 8)),
        "text_mask": ("bool", (8, 8)),
        "index": ("int32", (8,)),
        "product_id": ("int32", (8,)),
        "mask": ("bool", (8,)),
        "box_cxcywh": ("float32", (8, 4)),
        "box_mask": ("bool", (8,)),
    }


def test_a_row_of_a_batch_is_all_of_one_record(corpus: pipeline.Corpus) -> None:
    (batch,) = batches(corpus, 1)
    index = batch["index"]
    np.testing.assert_array_equal(batch["image"][:, 5, 5, 1], index)
    np.testing.assert_array_equal(batch["product_id"], index)
    np.testing.assert_array_equal(batch["box_mask"], index % 3 > 0)
    encoded = corpus.tokenizer.encode([f"cup number {row}" for row in index])
    np.testing.assert_array_equal(batch["text"], encoded.ids)
    np.testing.assert_array_equal(batch["text_mask"], encoded.mask)
    boxed = batch["box_cxcywh"][batch["box_mask"]]
    np.testing.assert_allclose(boxed, np.tile([0.3, 0.5, 0.4, 0.6], (len(boxed), 1)), rtol=1e-6)
    assert batch["mask"].all()


def test_every_epoch_is_another_permutation(corpus: pipeline.Corpus) -> None:
    order = joined(batches(corpus, 20))["index"][: 3 * 53].reshape(3, 53)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(53), (3, 1)))
    assert not (order[0] == order[1]).all()
    assert not (order[1] == order[2]).all()
    assert not (order[0] == np.arange(53)).all()


def test_another_seed_gives_another_order(corpus: pipeline.Corpus) -> None:
    assert (batches(corpus, 1, seed=4)[0]["index"] != batches(corpus, 1)[0]["index"]).any()


@pytest.mark.parametrize("start", [1, 6, 7, 13])
def test_a_resumed_stream_gives_the_batches_of_an_uninterrupted_one(
    corpus: pipeline.Corpus, start: int
) -> None:
    uninterrupted = batches(corpus, 15)
    resumed = batches(corpus, 15 - start, start_step=start)
    for expected, batch in zip(uninterrupted[start:], resumed, strict=True):
        assert_equal(batch, expected)


@pytest.mark.parametrize("count", [2, 4])
def test_the_rows_of_several_processes_join_to_the_global_batch(
    corpus: pipeline.Corpus, count: int
) -> None:
    parts = [
        batches(corpus, 3, start_step=5, share=pipeline.Share(process, count))
        for process in range(count)
    ]
    for expected, *local in zip(batches(corpus, 3, start_step=5), *parts, strict=True):
        assert_equal(joined(local), expected)


def test_a_stream_without_boxes_has_no_box_key_and_reads_no_box(
    corpus: pipeline.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(split: prepared.PreparedSplit) -> np.ndarray:
        raise AssertionError(f"boxes of {split.name} were read")

    monkeypatch.setattr(prepared.PreparedSplit, "box_xyxy", refused)
    monkeypatch.setattr(prepared.PreparedSplit, "has_box", refused)
    (batch,) = batches(corpus, 1, boxes=False)
    assert not [key for key in batch if "box" in key]
    with pytest.raises(AssertionError, match="were read"):
        batches(corpus, 1, boxes=True)


def test_joined_splits_count_on_from_one_to_the_next(corpus: pipeline.Corpus) -> None:
    names = ["mall_train", "live_train"]
    stream = pipeline.train_batches(
        corpus, names, share=HERE, batch_size=83, seed=0, start_step=0, boxes=False
    )
    batch = next(stream)
    np.testing.assert_array_equal(np.sort(batch["index"]), np.arange(83))
    of_live = batch["index"] >= 53
    np.testing.assert_array_equal(
        batch["image"][:, 0, 0, 0], np.where(of_live, batch["index"] - 53, batch["index"])
    )


@pytest.mark.parametrize(("batch_size", "count"), [(4, 1), (4, 2), (4, 4), (32, 2), (1, 1)])
def test_evaluation_gives_every_row_exactly_once_and_equally_many_batches(
    corpus: pipeline.Corpus, batch_size: int, count: int
) -> None:
    local = [
        list(
            pipeline.eval_batches(
                corpus,
                ["mall_test", "live_test"],
                share=pipeline.Share(process, count),
                batch_size=batch_size,
                boxes=True,
            )
        )
        for process in range(count)
    ]
    assert {len(part) for part in local} == {-(-17 // batch_size)}
    global_rows = joined([joined(list(parts)) for parts in zip(*local, strict=True)])
    np.testing.assert_array_equal(global_rows["mask"], np.arange(len(global_rows["mask"])) < 17)
    np.testing.assert_array_equal(global_rows["index"][global_rows["mask"]], np.arange(17))
    assert not global_rows["box_mask"][~global_rows["mask"]].any()


def test_a_split_of_one_row_repeats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "live_train", 1)
    corpus = load(data_config(tmp_path))
    stream = pipeline.train_batches(
        corpus, ["live_train"], share=HERE, batch_size=4, seed=0, start_step=0, boxes=False
    )
    for batch in islice(stream, 3):
        np.testing.assert_array_equal(batch["index"], [0, 0, 0, 0])
        assert not batch["image"].any(), "row 0 is black"


def test_a_closed_stream_ends(corpus: pipeline.Corpus) -> None:
    stream = pipeline.train_batches(
        corpus, ["mall_train"], share=HERE, batch_size=8, seed=0, start_step=0, boxes=False
    )
    next(stream)
    stream.close()
    assert next(stream, None) is None


def test_the_prepared_corpus_is_used_again_and_has_the_same_fingerprint(
    cache: Path, corpus: pipeline.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "mall_train", 0)
    assert load(data_config(cache)).fingerprint == corpus.fingerprint
    assert load(data_config(cache, text_length=9)).fingerprint != corpus.fingerprint


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_labels_that_were_damaged_are_copied_again_from_the_records(
    tmp_path: Path, damage: str
) -> None:
    fingerprint = load(data_config(tmp_path)).fingerprint
    (path,) = tmp_path.rglob("rows.npz")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    assert load(data_config(tmp_path)).fingerprint == fingerprint
    assert prepared.is_whole(path)


def test_another_order_of_fields_is_the_same_data_and_another_value_is_not(tmp_path: Path) -> None:
    from array_record.python import array_record_module

    train = tensorflow().train
    fingerprint = load(data_config(tmp_path)).fingerprint
    (path,) = tmp_path.rglob("*mall_train*record*")
    reader = array_record_module.ArrayRecordReader(str(path))
    records = reader.read_all()
    reader.close()

    def fields(record: bytes) -> dict[str, Any]:
        return dict(train.Example.FromString(record).features.feature)

    def rewritten(order: list[str], **changed: Any) -> str:
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            features = fields(record) | changed
            # Messages one after another are read as one message.
            parts = [train.Features(feature={name: features[name]}) for name in order]
            writer.write(b"".join(train.Example(features=p).SerializeToString() for p in parts))
        writer.close()
        (rows,) = tmp_path.rglob("rows.npz")
        rows.unlink()
        return load(data_config(tmp_path)).fingerprint

    order = sorted(fields(records[0]))
    assert rewritten(order) == rewritten(order[::-1]) == fingerprint
    row = train.Feature(int64_list=train.Int64List(value=[7]))
    assert rewritten(order, row=row) != fingerprint


@pytest.mark.parametrize("damage", ["cut", "delete"])
def test_a_short_or_missing_record_file_is_named(tmp_path: Path, damage: str) -> None:
    load(data_config(tmp_path))
    (path,) = tmp_path.rglob("*mall_train*record*")
    if damage == "delete":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match=f"(?s)mall_train are short or missing.*{path.name}"):
        load(data_config(tmp_path))


def test_a_flipped_byte_in_a_record_is_refused(tmp_path: Path) -> None:
    corpus = load(data_config(tmp_path))
    (path,) = tmp_path.rglob("*mall_train*record*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="record of mall_train cannot be read"):
        list(pipeline.eval_batches(corpus, ["mall_train"], share=HERE, batch_size=8, boxes=False))


@pytest.mark.parametrize(
    ("changes", "error", "pattern"),
    [
        ({"name": "shoop"}, UsageError, "did you mean 'shop'"),
        ({"source": "maall"}, DataError, "(?s)data.source: no domain 'maall'.*'mall'.*live, mall"),
        ({"target": "live+street"}, DataError, "data.target: no domain 'street'"),
        ({"source": ""}, DataError, "data.source is empty"),
        ({"vocab": "/nowhere/vocab.txt"}, DataError, "cannot read the vocabulary"),
        ({"cache_dir": "/proc/cache"}, SetupError, "(?s)cannot write the data cache.*cache_dir"),
    ],
)
def test_a_wrong_config_is_answered(
    cache: Path, changes: dict[str, str], error: type[Exception], pattern: str
) -> None:
    with pytest.raises(error, match=pattern) as caught:
        load(data_config(cache, **changes))
    assert len(str(caught.value).splitlines()) <= 8


def test_an_unknown_split_is_answered_with_the_nearest(corpus: pipeline.Corpus) -> None:
    with pytest.raises(DataError, match="did you mean 'mall_test'"):
        next(pipeline.eval_batches(corpus, ["mall_tset"], share=HERE, batch_size=4, boxes=False))


def test_a_batch_that_processes_cannot_share_is_refused(corpus: pipeline.Corpus) -> None:
    with pytest.raises(UsageError, match=r"batch_size=8 cannot be divided among 3.*nearest 6"):
        batches(corpus, 1, share=pipeline.Share(0, 3))


def test_two_that_load_at_once_prepare_once(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Threads stand in for processes: the lock belongs to the opened file, not to the process.
    prepared_by = []

    def counted(config: ml_collections.ConfigDict, cache: Path) -> sources.Parts:
        parts = painted(config, cache)
        (builder,) = parts.builders
        if not (Path(builder.data_path) / "dataset_info.json").exists():
            prepared_by.append(builder)
            time.sleep(0.3)
        return parts

    use_as_painted(counted, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load, data_config(tmp_path)) for _ in range(2)]
        one, other = (load.result().fingerprint for load in loads)
    assert one == other
    assert len(prepared_by) == 1
    assert "waiting for another process" in capsys.readouterr().err


def test_two_that_load_at_once_where_nothing_can_be_locked_leave_each_other_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)

    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def met(config: ml_collections.ConfigDict, cache: Path) -> sources.Parts:
        both.wait()
        return painted(config, cache)

    monkeypatch.setattr("fcntl.flock", no_locks)
    use_as_painted(met, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load, data_config(tmp_path)) for _ in range(2)]
        one, other = (load.result() for load in loads)
    assert one.fingerprint == other.fingerprint
    assert one.splits["mall_train"].size == other.splits["mall_train"].size == SIZES["mall_train"]
    assert not [*tmp_path.rglob("*.part.npz"), *tmp_path.rglob("incomplete*")]


@pytest.fixture
def small_files() -> Iterator[None]:
    """A limit on the size of files, which stands in for a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_disk_that_fills_up_during_preparation_is_named_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    with pytest.raises(SetupError, match=r"cannot write the prepared data to .*: File too") as why:
        load(data_config(tmp_path))
    assert "free some space, or choose another --config.data.cache_dir" in str(why.value)
    assert len(str(why.value).splitlines()) <= 8
    assert not [*tmp_path.rglob("*.array_record*")]


def test_a_fault_of_a_builder_is_not_taken_for_the_disk_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: ml_collections.ConfigDict, cache: Path) -> sources.Parts:
        parts = painted(config, cache)
        monkeypatch.setattr(type(parts.builders[0]), "_split_generators", fault)
        return parts

    def fault(*_: Any) -> None:
        raise RuntimeError("no such colour")

    use_as_painted(broken, monkeypatch)
    with pytest.raises(RuntimeError, match="no such colour"):
        load(data_config(tmp_path))


def test_what_a_killed_preparation_left_behind_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "painted" / "incomplete.ABCDEF_1.0.0"
    left.mkdir(parents=True)
    load(data_config(tmp_path))
    assert not left.exists()


def test_domains_of_other_sizes_are_drawn_as_one_and_shares_whatever_their_sizes(
    corpus: pipeline.Corpus,
) -> None:
    names = ["mall_train", "mall_test", "live_test"]
    options = {"share": HERE, "batch_size": 7, "seed": 3, "start_step": 0, "boxes": True}
    total = 53 + 10 + 7  # of the three splits; 7 rows a step make an epoch 10 steps long

    def index(steps: int, **changes: Any) -> np.ndarray:
        stream = pipeline.train_batches(corpus, names, **options | changes)
        return np.concatenate([batch["index"] for batch in islice(stream, steps)])

    assert sorted(index(10)) == list(range(total))
    # Two fifths from the last split, though it has a tenth of the rows: each of them 4 times.
    shares = {"live_test": 0.4}
    counts = np.bincount(index(10, shares=shares), minlength=total)
    assert counts[63:].tolist() == [4] * 7
    assert counts[:63].max() == 1
    assert counts[:63].sum() == 42
    # The rows that one epoch leaves out come in the next ones: as often as all others.
    counts = np.bincount(index(30, shares=shares), minlength=total)
    assert counts[63:].tolist() == [12] * 7
    assert counts[:63].tolist() == [2] * 63
    # It follows from the step alone.
    later = index(4, shares=shares, start_step=6)
    np.testing.assert_array_equal(later, index(10, shares=shares)[6 * 7 :])
