"""Features of frozen extractors, computed once: a run on them is the run on the same views."""

import dataclasses
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from date_jax import augment, config, features, sharding
from date_jax.data import pipeline
from date_jax.data.corpus import Corpus
from date_jax.data.prepared import PreparedSplit
from date_jax.date import adaptive
from date_jax.errors import Preempted, UsageError
from date_jax.networks import extractors
from tests.date import test_tasks
from tests.run.test_multihost import output, start
from tests.test_train import lines

HERE = pipeline.Share(0, 1)


@pytest.fixture
def kept_config(tiny_config: ConfigDict, tmp_path: Path) -> ConfigDict:
    """The main job on fixed views, with both extractors frozen; kept in a folder of the test."""
    tiny_config.data.views = 3
    tiny_config.data.image_size = 16
    tiny_config.model.image.update(patch=4, width=8, depths=(1, 1), heads=(1, 2), window=2)
    tiny_config.model.text.update(layers=1, width=8, heads=2)
    tiny_config.model.image.train = tiny_config.model.text.train = "none"
    tiny_config.pseudo_boxes.looks = 1
    tiny_config.init.update(keep=True, kept_dtype="float32")
    return tiny_config


@pytest.fixture
def corpus(kept_config: ConfigDict) -> Corpus:
    return adaptive.TASK.load(kept_config)


def frozen_params(config: ConfigDict, corpus: Corpus) -> Any:
    """Random parameters of both extractors, on a mesh as those of a state are."""
    size = config.data.image_size
    image = extractors.image_extractor(config.model, config.model.image.pooling)
    words = len(corpus.tokenizer.vocab)
    text = extractors.text_extractor(config.model, words, config.data.text_length)
    ids = jnp.ones((1, config.data.text_length), jnp.int32)
    arguments = {"image": (image, jnp.zeros((1, size, size, 3))), "text": (text, ids, ids > 0)}
    replicated = sharding.replicated_sharding(sharding.device_mesh())
    return {
        f"{kind}_extractor": jax.device_put(
            jax.jit(module.init)(jax.random.key(1), *inputs)["params"], replicated
        )
        for kind, (module, *inputs) in arguments.items()
    }


def kept(config: ConfigDict, corpus: Corpus, params: Any, cache: Path, **options: Any) -> Any:
    config.data.cache_dir = str(cache)
    splits = adaptive.TASK.kept(config, corpus)
    options = {"say": lambda line: None, "should_stop": lambda: False} | options
    return features.with_features(config, corpus, params, splits, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of the features below a cache folder, by name."""
    return {path.name: path.read_bytes() for path in folder.glob("features/*/*.npy")}


def test_a_pass_that_was_stopped_goes_on_with_the_blocks_that_are_not_there(
    kept_config: ConfigDict, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_BLOCK", 64)
    params = frozen_params(kept_config, corpus)
    kept(kept_config, corpus, params, tmp_path / "whole")
    written: Counter[str] = Counter()
    save = features._save

    def counted_save(path: Path, values: np.ndarray) -> None:
        written[path.name] += 1
        save(path, values)

    monkeypatch.setattr(features, "_save", counted_save)
    answers = iter([False, False, True])
    with pytest.raises(Preempted):
        kept(kept_config, corpus, params, tmp_path / "parts", should_stop=lambda: next(answers))
    assert len(written) == 6  # three blocks, each with its windows
    kept(kept_config, corpus, params, tmp_path / "parts")
    assert set(written.values()) == {1}
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) > 10


def test_what_features_depend_on_is_in_the_name_of_their_folder(
    kept_config: ConfigDict, corpus: Corpus
) -> None:
    params = jax.device_get(frozen_params(kept_config, corpus))
    splits = adaptive.TASK.kept(kept_config, corpus)

    def name(params: Any = params, corpus: Corpus = corpus, **changes: Any) -> str:
        changed = kept_config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        return features.fingerprint(changed, corpus, params, splits)

    leaves, tree = jax.tree.flatten(params)
    other = jax.tree.unflatten(tree, [*leaves[:-1], leaves[-1] + 1e-6])
    names = [
        name(),
        name(other),
        name(corpus=dataclasses.replace(corpus, fingerprint="other")),
        name(**{"data.views": 4}),
        name(**{"augment.zoom_in": 1.5}),
        name(**{"model.image.pool": 2}),
        name(**{"init.kept_dtype": "float16"}),
    ]
    assert len(set(names)) == len(names)
    # What the features do not depend on.
    assert (
        name(**{"seed": 1, "steps": 99, "augment.ramp": 0.1, "model.fusion.layers": 9}) == names[0]
    )


def test_batches_of_features_hold_what_the_extractors_say_of_the_same_views(
    kept_config: ConfigDict, corpus: Corpus, tmp_path: Path
) -> None:
    params = frozen_params(kept_config, corpus)
    with_features = kept(kept_config, corpus, params, tmp_path / "cache")
    image = extractors.image_extractor(kept_config.model, kept_config.model.image.pooling)
    text = extractors.text_extractor(
        kept_config.model, len(corpus.tokenizer.vocab), kept_config.data.text_length
    )
    swap = jnp.asarray(corpus.tokenizer.swap_table())

    @jax.jit
    def outputs(batch: Any) -> dict[str, Any]:
        places = batch["view_place"], batch["view"]
        view = augment.fixed_view(batch["image"], *places, config=kept_config)
        ids = jnp.where(view.flip[:, None], swap[batch["text"]], batch["text"])
        parts = {
            "image": image.apply({"params": params["image_extractor"]}, view.image),
            "text": text.apply({"params": params["text_extractor"]}, ids, batch["text_mask"]),
        }
        names = [(kind, part) for kind in parts for part in ("rep", "tokens")]
        values = {f"{kind}_{part}": parts[kind][part == "tokens"] for kind, part in names}
        return {**values, "window_xyxy": view.window_xyxy, "flip": view.flip}

    for name, has_boxes in (("mall_train", True), ("live_train", False)):
        options: dict[str, Any] = {"share": HERE, "batch_size": 16, "seed": 3, "start_step": 5}
        options |= {"boxes": has_boxes, "views": 3}
        batch, theirs = (
            next(pipeline.train_batches(each, [name], **options))
            for each in (corpus, with_features)
        )
        assert "image" not in theirs
        for key in ("index", "view", "view_place", "text"):
            np.testing.assert_array_equal(batch[key], theirs[key])
        for key, values in outputs(batch).items():
            np.testing.assert_allclose(theirs[key], values, atol=2e-5, err_msg=key)
    # The other view of evaluation's plain pictures is the mirrored one.
    whole: dict[str, Any] = {"boxes": False, "share": HERE, "batch_size": 16}
    batch, theirs = (
        next(pipeline.eval_batches(each, ["live_train"], **whole))
        for each in (corpus, with_features)
    )
    apply = jax.jit(lambda variables, rows: image.apply(variables, augment.plain_view(rows)))
    for prefix, step in (("", 1), ("other_", -1)):
        shown = batch["image"][:, :, ::step]
        rep, _ = apply({"params": params["image_extractor"]}, shown)
        np.testing.assert_allclose(theirs[f"{prefix}image_rep"], rep, atol=2e-5)


def test_rows_of_one_picture_share_its_views(kept_config: ConfigDict, corpus: Corpus) -> None:
    # As if every two rows of a split had one picture.
    class Doubled(PreparedSplit):
        def texts(self, column: str) -> list[str]:
            texts = super().texts(column)
            return [texts[row // 2 * 2] for row in range(len(texts))]

    def doubled(records: PreparedSplit) -> PreparedSplit:
        return Doubled(records.name, records.shards, records.rows, records.fingerprint)

    splits = {
        name: dataclasses.replace(split, records=doubled(split.records))
        for name, split in corpus.splits.items()
    }
    one, other = (
        features.image_entries(kept_config, each, adaptive.TASK.kept(kept_config, each))
        for each in (corpus, dataclasses.replace(corpus, splits=splits))
    )
    # Per live row: plain, other, three views; per mall row three views; 24 rows evaluated.
    assert len(one.row) == 48 * 5 + 48 * 3 + 24
    assert len(other.row) == len(one.row) / 2
    for name, parts in (("live_train", ("plain", "other", "views")), ("mall_train", ("views",))):
        for part in (*parts, "picture"):
            entry = other.columns[name][part]
            np.testing.assert_array_equal(entry[::2], entry[1::2])
            assert len(set(entry)) == 24


def test_boxes_out_of_view_and_boxes_of_the_target_teach_nothing(kept_config: ConfigDict) -> None:
    sizes = {"data.image_size": 16, "data.text_length": 6, "batch_size": test_tasks.ROWS}
    kept_config.update_from_flattened_dict(sizes)
    learner = adaptive.learner(
        kept_config, test_tasks.VOCAB, jnp.arange(test_tasks.VOCAB, dtype=jnp.int32), 8
    )
    params = test_tasks.some_params(learner)
    grid, width = 4, 16
    rng = np.random.default_rng(0)

    def part(seed: int) -> dict[str, np.ndarray]:
        rows = test_tasks.ROWS
        domain = {k: v for k, v in test_tasks.domain(seed).items() if k != "image"}
        values = {
            "image_rep": (rows, width),
            "image_tokens": (rows, grid, width),
            "text_rep": (rows, 8),
            "text_tokens": (rows, 6, 8),
        }
        drawn = {k: rng.normal(size=shape).astype(np.float32) for k, shape in values.items()}
        window = np.tile(np.float32([[0.0, 0.0, 0.5, 0.5]]), (rows, 1))
        view = {"view": np.zeros(rows, np.int32), "view_place": np.zeros((rows, 2), np.uint32)}
        return domain | drawn | view | {"window_xyxy": window, "flip": np.arange(rows) % 2 > 0}

    batch = {"source": part(0), "target": part(1)}
    step = test_tasks.step_of(learner)
    # Boxes on the left are in the window; those on the right are not, and weigh nothing.
    inside = np.float32([0.25, 0.25, 0.2, 0.2])
    outside = np.float32([0.75, 0.75, 0.2, 0.2])
    is_inside = np.arange(8)[:, None] < 4
    box = np.where(is_inside, inside, outside)
    memory = test_tasks.memory(box_cxcywh=box, weight=np.ones(8, np.float32))
    batch["source"] |= {"box_cxcywh": box, "box_mask": np.ones(8, bool)}
    (_, aux), gradient = step(params, memory, batch)
    assert aux.metrics["pseudo_share"] == 0.5
    elsewhere = np.where(is_inside, inside, np.float32([0.8, 0.9, 0.1, 0.1]))
    source = {**batch["source"], "box_cxcywh": elsewhere}
    assert test_tasks.is_same(gradient, step(params, memory, batch | {"source": source})[1])
    source = {**batch["source"], "box_cxcywh": np.where(is_inside, inside * 0.9, outside)}
    assert not test_tasks.is_same(gradient, step(params, memory, batch | {"source": source})[1])
    garbage = {**batch["target"], "box_cxcywh": np.full((8, 4), np.nan, np.float32)}
    assert test_tasks.is_same(gradient, step(params, memory, batch | {"target": garbage})[1])


SHARE = """
import sys
from pathlib import Path
import jax
import numpy as np
jax.config.update("jax_platforms", "cpu")
index, address, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.distributed.initialize(address, 2, index, coordinator_bind_address=address)
from date_jax import features, sharding
store = features.Store(folder, "text", 1000, (1, 2), np.dtype("float32"))
asked = []
def outputs(part, after):
    asked.append(part.start)
    return {"values": np.full((part.stop - part.start, 1, 2), index)}
# One block is there already: three are left for two hosts.
if index == 0:
    features._save(store.paths[1], np.zeros((256, 1, 2)))
sharding.wait_for_hosts("begun")
features._fill(store, outputs, index, 2, say=print, should_stop=lambda: False)
sharding.wait_for_hosts("filled")
assert asked == ([0, 768] if index == 0 else [512]), asked
assert [int(np.load(path)[0, 0, 0]) for path in store.paths] == [0, 0, 1, 0]
"""


def test_two_processes_share_the_blocks_that_are_not_there(root: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-c", SHARE]
    both = [
        subprocess.Popen([*command, str(index), address, str(tmp_path)], cwd=root)
        for index in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()


@pytest.mark.slow
def test_a_run_of_two_processes_on_kept_features_is_that_of_one(
    kept_config: ConfigDict, tmp_path: Path, root: Path
) -> None:
    kept_config.data.cache_dir = str(tmp_path / "cache")
    kept_config.eval.confidence = False
    losses = []
    for processes in (2, 1):
        folder = tmp_path / str(processes) / "run"
        folder.parent.mkdir()
        children = start(kept_config, folder, root, processes=processes, devices=2 // processes)
        codes = [child.wait(timeout=900) for child in children]
        assert codes == [0] * processes, output(folder, processes, 0)
        losses.append([entry["train/loss"] for entry in lines(folder, "train/")])
    assert "GB of it to be computed" in output(tmp_path / "2/run", 2, 0)
    assert "all there" in output(tmp_path / "1/run", 1, 0)
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_what_cannot_be_kept_is_refused_with_what_to_set(kept_config: ConfigDict) -> None:
    def problems(**changes: Any) -> str:
        changed = kept_config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        with pytest.raises(UsageError) as error:
            config.validate(changed, device_count=8, process_count=1)
        return str(error.value)

    config.validate(kept_config, device_count=8, process_count=1)
    assert "set --config.data.views" in problems(**{"data.views": 0})
    assert "set it to none" in problems(**{"model.image.train": "head"})
    assert "set pseudo_boxes.looks=1" in problems(**{"pseudo_boxes.looks": 2})
    assert "must be one of float16, float32" in problems(**{"init.kept_dtype": "float8"})
