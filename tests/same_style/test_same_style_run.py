"""Whole runs of same_style's job at its smallest: what it leaves, stopped and gone on with."""

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
from date_jax.same_style import modes
from date_jax.tasks import TASKS
from tests.run.test_multihost import output, start
from tests.test_train import fingerprints, lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the uninterrupted run is, or will be."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def tiny_same_style(tiny_same_style: ConfigDict) -> ConfigDict:
    """The job with both extractors frozen, one of them but for its end."""
    tiny_same_style.model.image.train, tiny_same_style.model.text.train = "last_1", "none"
    return tiny_same_style


@pytest.fixture
def uninterrupted(whole: Path, tiny_same_style: ConfigDict) -> Path:
    if not (whole / "results.json").exists():
        train.train(tiny_same_style, whole)
    return whole


def test_a_run_leaves_its_results(uninterrupted: Path) -> None:
    results = json.loads((uninterrupted / "results.json").read_text())
    assert set(results["eval"]) == {"offer_val", "offer_test"}
    for metrics in results["eval"].values():
        for mode in modes.MODES:
            recall = [metrics[f"{mode}/recall_at_{k}"] for k in modes.RECALL_AT]
            assert 0 <= metrics[f"{mode}/mrr"] <= 1
            assert recall == sorted(recall)
        assert 0 < metrics["pair_precision"] <= 1
        assert metrics["queries"] <= metrics["offers"]
    assert (uninterrupted / "predictions.png").stat().st_size > 10_000
    assert [entry["step"] for entry in lines(uninterrupted, "eval/")] == [4, 6]


def test_what_is_frozen_stays_to_the_bit_and_is_saved_once(uninterrupted: Path) -> None:
    first, last = (fingerprints(uninterrupted, step) for step in (4, 6))
    frozen = {name for name in first if name.startswith(".frozen")}
    assert any("text_extractor" in name for name in frozen)
    for name in frozen:
        assert first[name] == last[name]
        place = name.removeprefix(".frozen")
        assert {other for other in last if other.endswith(place)} == {name}
    trained = {name for name in first if name.startswith(".params") and name.endswith("'kernel']")}
    assert not any("text_extractor" in name for name in trained)
    assert all(first[name] != last[name] for name in trained)
    table = (uninterrupted / "parameters.txt").read_text()
    assert "text_extractor" in table.partition("Frozen:")[2]
    assert "text_extractor" not in table.partition("Frozen:")[0]


def test_an_exported_run_comes_back_to_the_bit(uninterrupted: Path, tmp_path: Path) -> None:
    export.export(uninterrupted, tmp_path / "out")
    params = checkpoint.latest_part(uninterrupted).params
    again = exported.exported_params(tmp_path / "out", params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    card = (tmp_path / "out/README.md").read_text()
    assert "modality `both`, losses `hinge`, 6 of 6 steps" in card
    assert "| offer_test | 0." in card


def test_a_run_stopped_by_sigterm_goes_on_to_the_bit(
    uninterrupted: Path,
    tiny_same_style: ConfigDict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = TASKS["same_style"]

    def interrupted(*arguments: Any) -> Iterator[dict[str, Any]]:
        for at, batch in enumerate(task.batches(*arguments), arguments[-1]):
            if at == 3 and arguments[-1] < 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setitem(TASKS, "same_style", task._replace(batches=interrupted))
        with pytest.raises(Preempted, match="is saved"):
            train.train(tiny_same_style, tmp_path)
    train.train(tiny_same_style, tmp_path)
    assert fingerprints(tmp_path, 6) == fingerprints(uninterrupted, 6)
    for prefix in ("train/", "eval/"):
        assert lines(tmp_path, prefix) == lines(uninterrupted, prefix)


@pytest.mark.slow
def test_two_processes_train_as_one(
    tiny_same_style: ConfigDict, uninterrupted: Path, tmp_path: Path, root: Path
) -> None:
    directory = tmp_path / "run"
    both = start(tiny_same_style, directory, root, processes=2, config_file="configs/same_style.py")
    try:
        codes = [process.wait(timeout=600) for process in both]
    finally:
        for process in both:
            process.kill()
    assert codes == [0, 0], output(directory, 2, 0) + output(directory, 2, 1)
    first_lines, other_lines = (lines(d, "train/") for d in (directory, uninterrupted))
    assert len(first_lines) == 3
    for one, other in zip(first_lines, other_lines, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
