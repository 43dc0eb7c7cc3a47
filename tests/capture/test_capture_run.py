"""Whole runs of CAPTURE's job at its smallest: what it leaves, stopped and gone on with."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from date_jax import export, train
from date_jax.errors import Preempted
from date_jax.networks import exported
from date_jax.run import checkpoint
from date_jax.tasks import TASKS
from tests.run.test_multihost import output, start
from tests.test_train import fingerprints, lines

SPLITS = {
    *(f"{kind}_{split}" for kind in ("composite", "suite") for split in ("val", "test")),
    "unseen_test",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the uninterrupted run is, or will be."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def uninterrupted(whole: Path, tiny_capture: ConfigDict) -> Path:
    if not (whole / "results.json").exists():
        train.train(tiny_capture, whole)
    return whole


def test_a_run_leaves_its_results(uninterrupted: Path) -> None:
    results = json.loads((uninterrupted / "results.json").read_text())
    assert set(results["eval"]) == SPLITS
    for name, metrics in results["eval"].items():
        assert 0 <= metrics["proposal_recall_at_10"] <= 1
        if not name.startswith("composite"):
            ways = {key.split("/")[0] for key in metrics if "/" in key}
            assert {"author_round_robin", "sum_max", "sum_whole_post", "text_alone"} <= ways
            assert metrics["map_at_10"] == metrics["sum_round_robin/map_at_10"]
            assert all(0 <= metrics[f"{way}/mar_at_100"] <= 1 for way in ways)
            written = (uninterrupted / f"ranked_{name}.csv").read_text().splitlines()
            lists = [row.split(",") for row in written]
            assert [query for query, *_ in lists] == [f"{name}_{row}" for row in range(12)]
            assert {each.rpartition("_")[0] for _, *ids in lists for each in ids} == {
                f"single_{name.rpartition('_')[2]}"
            }
    assert (uninterrupted / "predictions.png").stat().st_size > 10_000
    assert [entry["step"] for entry in lines(uninterrupted, "eval/")] == [4, 6]


def test_an_exported_run_comes_back_to_the_bit(uninterrupted: Path, tmp_path: Path) -> None:
    export.export(uninterrupted, tmp_path / "out")
    params = checkpoint.latest_part(uninterrupted).params
    again = exported.exported_params(tmp_path / "out", params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert "regions `proposals`, 6 of 6 steps" in (tmp_path / "out/README.md").read_text()


def test_a_run_stopped_by_sigterm_goes_on_to_the_bit(
    uninterrupted: Path, tiny_capture: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TASKS["capture"]

    def interrupted(*arguments: Any) -> Iterator[dict[str, Any]]:
        for at, batch in enumerate(task.batches(*arguments), arguments[-1]):
            if at == 3 and arguments[-1] < 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setitem(TASKS, "capture", task._replace(batches=interrupted))
        with pytest.raises(Preempted, match=r"step \d+ is saved"):
            train.train(tiny_capture, tmp_path)
    train.train(tiny_capture, tmp_path)
    assert fingerprints(tmp_path, 6) == fingerprints(uninterrupted, 6)
    for prefix in ("train/", "eval/"):
        assert lines(tmp_path, prefix) == lines(uninterrupted, prefix)


def test_a_training_stream_has_neither_labels_nor_boxes_of_posts(tiny_capture: ConfigDict) -> None:
    task = TASKS["capture"]
    corpus = task.load(tiny_capture)
    batch = next(task.batches(tiny_capture, corpus, 0))
    assert set(batch["posts"]) == {"image", "text", "text_mask", "index", "mask"}
    assert set(batch["composites"]) == {"image", "box_cxcywh", "box_mask", "index", "mask"}


def test_batches_are_the_same_from_any_first_step(tiny_capture: ConfigDict) -> None:
    task = TASKS["capture"]
    corpus = task.load(tiny_capture)
    batches = task.batches(tiny_capture, corpus, 0)
    third = [next(batches) for _ in range(3)][2]
    again = next(task.batches(tiny_capture, corpus, 2))
    for part, rows in third.items():
        for key, value in rows.items():
            np.testing.assert_array_equal(value, again[part][key], err_msg=f"{part}/{key}")


@pytest.mark.slow
def test_two_processes_train_as_one(tiny_capture: ConfigDict, tmp_path: Path, root: Path) -> None:
    running = start(
        tiny_capture, tmp_path / "run", root, processes=2, config_file="configs/capture.py"
    )
    try:
        codes = [process.wait(timeout=1200) for process in running]
    finally:
        for process in running:
            process.kill()
    assert codes == [0, 0], output(tmp_path / "run", 2, 0)
    expected = train.train(tiny_capture, tmp_path / "same")
    found = json.loads((tmp_path / "run/results.json").read_text())
    for split, metrics in expected["eval"].items():
        assert found["eval"][split] == pytest.approx(metrics, abs=1e-4), split
    for one, other in zip(
        *(lines(tmp_path / name, "train/") for name in ("run", "same")), strict=True
    ):
        assert one == pytest.approx(other, rel=3e-5, abs=3e-5)
