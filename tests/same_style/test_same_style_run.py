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
from PIL import Image

from date_jax import export, search, train
from date_jax.errors import Preempted, UsageError
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


def ask(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """One question to the search, as from a shell."""
    values = search.flags.FlagValues()
    search.define_flags(values)
    values(["search", *arguments])
    monkeypatch.setattr(search.flags, "FLAGS", values)
    search.main([])


def test_words_that_a_run_does_not_see_are_refused() -> None:
    config = ConfigDict({"modality": "image"})
    catalogue = search.Catalogue(config, None, None, "", np.zeros((1, 2), np.float32), None)
    values = search.flags.FlagValues()
    search.define_flags(values)
    values(["search", "--workdir=runs/one", "--row=3", "--words=blue"])
    with pytest.raises(UsageError, match="--words=blue: the run was trained with modality=image"):
        search.answer(catalogue, values)


@pytest.mark.parametrize(
    "question",
    [
        ["--row=3"],
        ["--row=3", "--by=image"],
        ["--row=3", "--words=blue mug"],
        ["--words=blue mug"],
        ["--picture=mug.png", "--words=red"],
        ["--row=3", "--old=red", "--new=blue"],
        ["--duplicates=0.9"],
    ],
)
def test_each_question_is_answered_and_drawn(
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    question: list[str],
) -> None:
    Image.new("RGB", (40, 20), (200, 30, 30)).save(tmp_path / "mug.png")
    question = [x.replace("mug.png", str(tmp_path / "mug.png")) for x in question]
    out = tmp_path / "found.png"
    ask(monkeypatch, f"--workdir={uninterrupted}", f"--out={out}", "--count=4", *question)
    console = capsys.readouterr().out.splitlines()
    assert console[-1] == f"drawn into {out}"
    assert np.asarray(Image.open(out)).std() > 5
    if "--duplicates=0.9" not in question:
        scores = [float(line.split()[0]) for line in console[:-1] if line.split()[0][1:2] == "."]
        assert len(scores) == 4
        assert scores == sorted(scores, reverse=True)


def test_an_offer_s_own_vector_finds_what_a_sorted_list_has_first(uninterrupted: Path) -> None:
    catalogue = search.load_catalogue(uninterrupted, "offer_val")
    image, words = search.question(catalogue, 2, "", "")
    vector = search.query_vector(catalogue, image, words, "joint")
    np.testing.assert_allclose(vector[0], catalogue.vectors[2], atol=1e-5)
    shifted = search.vector_in_style(catalogue, vector, "red", "blue", 0.0)
    np.testing.assert_allclose(shifted, vector, atol=1e-6)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ([], "nothing is asked"),
        (["--row=1", "--picture=a.jpg"], "one or the other"),
        (["--row=1", "--old=red"], "belong together"),
        (["--row=1", "--by=picture"], "--by=picture: one of joint, image, text"),
        (["--duplicates=0.9", "--row=1"], "leave out the other"),
        (["--duplicates=1.5"], "between 0 and 1"),
        (["--row=1", "--count=0"], "must be 1 or more"),
    ],
)
def test_a_question_that_means_nothing_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, question: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ask(monkeypatch, "--workdir=nowhere", *question)
