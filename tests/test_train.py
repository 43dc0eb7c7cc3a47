"""Whole runs of the main job at its smallest: all stages, stopped and gone on with."""

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import date
from date_jax import export, job, sharding, tasks, train
from date_jax.data import pipeline
from date_jax.data.corpus import Corpus
from date_jax.date import between_steps, confidence, evaluation
from date_jax.errors import CheckpointError, DataError, Preempted, SetupError, UsageError
from date_jax.pairs import all_pairs
from date_jax.run import workdir
from date_jax.step import State, learning_rates
from date_jax.task import Between, Change, Evaluation, Learner, Memory


def lines(directory: Path, prefix: str) -> list[dict[str, Any]]:
    """What metrics.jsonl says under `prefix`, step by step."""
    entries = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    kept = [
        {k: v for k, v in entry.items() if k == "step" or k.startswith(prefix)} for entry in entries
    ]
    return [entry for entry in kept if len(entry) > 1]


def fingerprints(directory: Path, step: int) -> dict[str, Any]:
    signed = json.loads((directory / f"checkpoints/{step}/meta/metadata").read_text())
    return json.loads(signed["body"])["leaves"]


@pytest.fixture
def tiny_config(tiny_config: ConfigDict) -> ConfigDict:
    """With everything that a state can hold."""
    tiny_config.aligner.queue = 24
    return tiny_config


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the uninterrupted run is, or will be."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def uninterrupted(whole: Path, tiny_config: ConfigDict) -> Path:
    if not (whole / "results.json").exists():
        train.train(tiny_config, whole)
    return whole


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the batch of a step come with a signal to this process."""
    task = tasks.TASKS["pgda"]

    def install(step: int, number: int) -> None:
        def interrupted(*arguments: Any) -> Iterator[dict[str, Any]]:
            first = arguments[-1]
            for at, batch in enumerate(task.batches(*arguments), first):
                if at == step and first < step:
                    os.kill(os.getpid(), number)
                yield batch

        monkeypatch.setitem(tasks.TASKS, "pgda", task._replace(batches=interrupted))

    yield install
    monkeypatch.undo()


def test_a_run_leaves_its_results(uninterrupted: Path, tiny_config: ConfigDict) -> None:
    results = json.loads((uninterrupted / "results.json").read_text())
    assert set(results["eval"]) == {"mall_val", "mall_test", "live_val", "live_test"}
    wanted = {"acc_at_0.5", "acc_at_0.75", "mean_iou", "recall_at_1", "recall_at_5"}
    wanted |= {"recall_at_10", "image_to_text_recall_at_1"}
    assert all(wanted <= metrics.keys() for metrics in results["eval"].values())
    assert [entry["step"] for entry in results["pseudo_boxes"]] == [6, 9]
    measured = {"selected", "precision_all", "precision_selected", "recall_selected"}
    assert measured <= results["pseudo_boxes"][0].keys()
    assert results["steps"] == 12
    assert results["config"] == json.loads((uninterrupted / "config.json").read_text())
    assert results["config"]["batch_size"] == 16
    assert results["examples_per_second"] > 0
    spent = results["seconds"]
    assert all(spent[kind] > 0 for kind in ("setup", "compile", "train", "evaluate", "refresh"))
    assert spent["lost"] == 0
    assert 0.7 * results["wall_seconds"] < sum(spent.values()) <= results["wall_seconds"]
    assert (uninterrupted / "predictions.png").stat().st_size > 10_000
    assert (uninterrupted / "failures_live_test.png").stat().st_size > 10_000
    # The confidence is fitted where boxes are known, and measured on the tests.
    calibration = confidence.read(uninterrupted)
    assert calibration is not None
    assert calibration.splits == ("mall_val",)
    for split in ("mall_test", "live_test"):
        assert {"ece", "aurc", "absent_auc"} <= results["eval"][split].keys()
        assert (uninterrupted / f"reliability_{split}.csv").exists()
    assert not {"ece", "aurc"} & results["eval"]["mall_val"].keys()
    assert [entry["step"] for entry in results["history"]] == [6, 12]
    assert results["history"][1]["eval"] == results["eval"]
    for found in results["eval"]["live_val"], results["history"][0]["eval"]["live_val"]:
        assert 0 < found["distance_image"] < 4
        assert 0 < found["distance_query"] < 4
    assert "distance_image" not in results["eval"]["mall_val"]
    assert (uninterrupted / "vocab.txt").read_text().startswith("[PAD]")
    assert "kernel" in (uninterrupted / "parameters.txt").read_text()
    assert list(uninterrupted.glob("events.out.tfevents*"))
    waited = [entry["time/input_wait"] for entry in lines(uninterrupted, "time/i")]
    assert len(waited) == 6
    assert all(0 <= share <= 1 for share in waited)


def test_the_stages_come_in_their_order(uninterrupted: Path) -> None:
    by_step = {entry["step"]: entry for entry in lines(uninterrupted, "train/")}
    assert sorted(by_step) == [2, 4, 6, 8, 10, 12]
    assert "train/target_image" not in by_step[4]
    assert by_step[6]["train/pseudo"] == 0
    assert by_step[8]["train/pseudo"] > 0
    assert [entry["step"] for entry in lines(uninterrupted, "eval/")] == [6, 12]


def test_a_run_stopped_again_and_again_goes_on_to_the_bit(
    uninterrupted: Path,
    tiny_config: ConfigDict,
    tmp_path: Path,
    stop_at: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In stage 1, in the refresh at step 6 and in stage 3."""
    saved = r"step \d+ is saved .* the same command goes on"
    stop_at(3, signal.SIGTERM)
    with pytest.raises(Preempted, match=saved):
        train.train(tiny_config, tmp_path)

    task = tasks.TASKS["pgda"]

    def interrupted_between(*arguments: Any, **options: Any) -> Between:
        between = task.between(*arguments, **options)

        def run(*arguments: Any) -> Change:
            os.kill(os.getpid(), signal.SIGTERM)
            return between.run(*arguments)

        return between._replace(run=run)

    with monkeypatch.context() as patch:
        patch.setitem(tasks.TASKS, "pgda", task._replace(between=interrupted_between))
        with pytest.raises(Preempted, match="step 6 is saved"):
            train.train(tiny_config, tmp_path)
    stop_at(7, signal.SIGTERM)
    with pytest.raises(Preempted, match=saved):
        train.train(tiny_config, tmp_path)
    train.train(tiny_config, tmp_path)
    assert fingerprints(tmp_path, 12) == fingerprints(uninterrupted, 12)
    for prefix in ("train/", "eval/", "pseudo_boxes/"):
        assert lines(tmp_path, prefix) == lines(uninterrupted, prefix)
    results, same = (
        json.loads((d / "results.json").read_text()) for d in (tmp_path, uninterrupted)
    )
    assert results["eval"] == same["eval"]
    assert results["pseudo_boxes"] == same["pseudo_boxes"]


def test_a_stop_while_pairs_are_counted_loses_none_of_them(
    tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config.pseudo_boxes.rank = "count"
    ends: list[int] = []
    stops = True
    counts = all_pairs.counts

    def in_small_blocks(*args: Any, **options: Any) -> np.ndarray:
        def after_block(end: int, rows: int) -> None:
            ends.append(end)
            if stops and end == 20:
                os.kill(os.getpid(), signal.SIGTERM)
            options["after_block"](end, rows)

        changed = {"tile": 10, "block": 1, "after_block": after_block}
        return counts(*args, **{**options, **changed})

    monkeypatch.setattr(all_pairs, "counts", in_small_blocks)
    with pytest.raises(Preempted, match="step 6 is saved"):
        train.train(tiny_config, tmp_path)
    assert ends == [10, 20]
    assert (tmp_path / "counts0.npz").exists()
    stops = False
    train.train(tiny_config, tmp_path)
    assert ends[2:5] == [30, 40, 48]
    assert not (tmp_path / "counts0.npz").exists()


def test_ctrl_c_saves_and_says_how_to_go_on(
    tiny_config: ConfigDict, tmp_path: Path, stop_at: Any, capsys: pytest.CaptureFixture
) -> None:
    tiny_config.log.every = 1
    stop_at(5, signal.SIGINT)
    # A shell that starts the tests in its background has Ctrl-C ignored for them.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as stop:
            train.train(tiny_config, tmp_path, command="the whole command")
    finally:
        signal.signal(signal.SIGINT, previous)
    # Not the regular checkpoint of step 4: the step that was on its way is done and saved too.
    assert str(stop.value) == f"step 6 is saved in {tmp_path}; to go on:\n  the whole command"
    assert (tmp_path / "checkpoints/6").is_dir()
    # What a user reads while the step compiles, and after it.
    console = capsys.readouterr().out.splitlines()
    curves, compiling, first, second, third = console[-10:-5]
    assert curves.startswith("curves: ")
    assert curves.endswith(f"tensorboard --logdir={tmp_path}")
    assert compiling.startswith("compiling the training step (about 0m")
    assert first.startswith("first training step ")
    assert second.startswith("step  1/12 | ")
    assert "examples/s" not in second
    assert "examples/s" in third
    rates = [entry["train/learning_rate"] for entry in lines(tmp_path, "train/l")]
    schedule = learning_rates(tiny_config)
    assert rates == pytest.approx([float(schedule(step)) for step in range(6)])


def test_another_config_does_not_go_on_with_the_run(
    uninterrupted: Path, tiny_config: ConfigDict
) -> None:
    tiny_config.steps, tiny_config.optim.learning_rate = 13, 0.5
    with pytest.raises(
        UsageError, match=r"optim.learning_rate: 0.0015 there, 0.5 now\n  steps: 12"
    ):
        train.train(tiny_config, uninterrupted)


def test_other_data_do_not_go_on_with_the_run(
    uninterrupted: Path, tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks.TASKS["pgda"]

    def load(config: ConfigDict) -> Any:
        return dataclasses.replace(task.load(config), fingerprint="0")

    monkeypatch.setitem(tasks.TASKS, "pgda", task._replace(load=load))
    with pytest.raises(UsageError, match="data: other data there, this data now"):
        train.train(tiny_config, uninterrupted)


def test_a_finished_run_may_log_and_evaluate_otherwise(
    uninterrupted: Path, tiny_config: ConfigDict, capsys: pytest.CaptureFixture
) -> None:
    before = json.loads((uninterrupted / "results.json").read_text())["eval"]
    tiny_config.eval.batch_size = 16
    after = train.train(tiny_config, uninterrupted)["eval"]
    assert "eval.batch_size: 8 before, 16 now" in capsys.readouterr().out
    for split, metrics in before.items():
        assert after[split] == pytest.approx(metrics, abs=1e-5)


def test_updates_that_stay_infinite_end_the_run_and_name_their_rows(
    tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks.TASKS["pgda"]

    def poisoned(*arguments: Any) -> Iterator[dict[str, Any]]:
        for batch in task.batches(*arguments):
            batch["source"]["box_cxcywh"] = np.full_like(batch["source"]["box_cxcywh"], np.nan)
            batch["source"]["box_mask"][:] = True
            yield batch

    monkeypatch.setitem(tasks.TASKS, "pgda", task._replace(batches=poisoned))
    says = r"10 updates in a row .* up to step 10\n .*source \[\d+.*target \[\d+"
    with pytest.raises(DataError, match=says) as error:
        train.train(tiny_config, tmp_path)
    assert len(str(error.value)) < 500


def test_boxes_are_asked_for_only_where_they_are_learnt(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = SimpleNamespace(records=SimpleNamespace(has_box=lambda: np.zeros(3, bool)))
    some = SimpleNamespace(records=SimpleNamespace(has_box=lambda: np.arange(3) > 1))
    corpus = object.__new__(Corpus)  # with no more than this asks for
    vars(corpus)["splits"] = {"mall_train": none, "live_train": some}
    monkeypatch.setattr(pipeline, "load", lambda *_: corpus)
    with pytest.raises(DataError, match="not one training row of mall has a box"):
        evaluation.load_adaptive(tiny_config)
    tiny_config.object_seeker.weight = 0.0
    evaluation.load_adaptive(tiny_config)
    tiny_config.object_seeker.weight, tiny_config.data.source = 1.0, "mall+live"
    evaluation.load_adaptive(tiny_config)
    tiny_config.method, tiny_config.data.target = "oracle", "mall"
    with pytest.raises(DataError, match="method=oracle: not one training row of mall has a box"):
        evaluation.load_adaptive(tiny_config)
    tiny_config.data.target = "live"
    evaluation.load_adaptive(tiny_config)


def test_supervised_training_needs_no_target(tiny_config: ConfigDict, tmp_path: Path) -> None:
    config, own = date.get_config(), ("task", "data.source", "data.target")
    has = workdir.flat(config.to_dict()).keys() - own
    tiny = workdir.flat(tiny_config.to_dict())
    config.update_from_flattened_dict({key: tiny[key] for key in has})
    results = train.train(config, tmp_path / "run", profile=range(9, 11))
    assert len(list((tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz"))) == 1
    assert {"mall_test", "live_test"} <= results["eval"].keys()
    assert "pseudo_boxes" not in results
    assert "train/target_image" not in lines(tmp_path / "run", "train/")[-1]
    told = export.export(tmp_path / "run", tmp_path / "out")
    assert told[-1].startswith("step 12 of")
    calibration = confidence.read(tmp_path / "out")
    assert calibration is not None
    assert calibration.splits == ("mall_val", "live_val")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "domains `mall+live`," in card
    assert "--config=configs/date.py" in card


@pytest.mark.parametrize(("kind", "teachers"), [("frozen", [2.0, 2.0]), ("ema", [2.0, 3.0])])
def test_a_frozen_teacher_stays_what_the_average_was_when_pseudo_boxes_began(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch, kind: str, teachers: list[float]
) -> None:
    """A refresh at step 6, where stage 3 begins, and one at step 9."""
    calls = []

    def table(params: Any, teacher: Any, step: int, should_stop: Any) -> Any:
        calls.append((step, float(params["weight"]), float(teacher["weight"])))
        return {"box_cxcywh": np.zeros((2, 4)), "weight": np.zeros(2)}, {}

    monkeypatch.setattr(between_steps, "table_maker", lambda *_, **__: table)
    between = between_steps.between(
        tiny_config, None, Learner(abs, abs, {}), sharding.device_mesh(), folder=Path(), say=print
    )
    sharded = {"teacher": {"weight": jnp.float32(0)}} if kind == "frozen" else {}
    fields = dict.fromkeys(State.__dataclass_fields__, None)
    state = State(**{**fields, "memory": Memory({"pseudo_boxes": {}}, sharded), "frozen": {}})
    for step, params, average in ((6, 1, 2), (9, 5, 3)):
        assert between.due(step)
        trees = ({"weight": jnp.float32(value)} for value in (params, average))
        state = dataclasses.replace(state, **dict(zip(("params", "ema"), trees, strict=True)))
        change = between.run(state, step, lambda: False)
        state = dataclasses.replace(state, memory=change.memory)
    assert calls == [(6, 1.0, teachers[0]), (9, 5.0, teachers[1])]


def test_a_state_of_another_layout_is_refused_and_not_read_by_halves(
    uninterrupted: Path, tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "LAYOUT", job.LAYOUT + 1)
    with pytest.raises(CheckpointError, match="another version of date_jax") as error:
        train.train(tiny_config, uninterrupted)
    assert len(str(error.value).splitlines()) <= 7


def test_steps_to_trace_are_named_by_the_first_and_the_one_after_the_last() -> None:
    assert list(train.steps_to_trace("20:23")) == [20, 21, 22]
    assert not train.steps_to_trace("")
    for wrong in ("7", "7:7", "9:7", "a:b", "1:2:3", "-1:4"):
        with pytest.raises(UsageError, match=f"--profile={wrong}: must be two steps"):
            train.steps_to_trace(wrong)


@pytest.mark.parametrize("method", ["source_only", "oracle"])
def test_the_baselines_run_from_the_same_config(
    tiny_config: ConfigDict, tmp_path: Path, method: str
) -> None:
    tiny_config.method = method
    results = train.train(tiny_config, tmp_path)
    refreshes = [entry["step"] for entry in results["pseudo_boxes"]]
    assert refreshes == ([6] if method == "oracle" else [])
    last = lines(tmp_path, "train/")[-1]
    assert ("train/target_image" in last) == (method == "oracle")


@pytest.mark.parametrize(
    ("target", "names", "expected"),
    [
        ("live", ["mall_val", "live_val"], "live_val"),
        ("mall", ["mall_collage_val", "mall_val"], "mall_val"),
        ("far+live", ["mall_val", "live_val"], "live_val"),
        ("live", ["mall_val", "shop_val"], "shop_val"),
        ("live", [], None),
    ],
)
def test_one_split_is_looked_at_the_target_s_first(
    tiny_config: ConfigDict, target: str, names: list[str], expected: str | None
) -> None:
    tiny_config.data.target = target
    assert evaluation.highlight(tiny_config, names, "val") == expected


@pytest.mark.parametrize("here", [True, False])
def test_what_one_host_cannot_read_stops_all(here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> str:
        if here:
            raise DataError("shop.jsonl: no such file")
        return "read"

    with pytest.raises(DataError, match="no such file") if here else nullcontext():
        assert job.read_on_all_hosts(read, "its data") == "read"
    monkeypatch.setattr(sharding, "values_of_hosts", lambda _: np.array([False, True]))
    says = "^shop.jsonl: no such file" if here else "^host 1 cannot read its data"
    with pytest.raises(SetupError, match=says):
        job.read_on_all_hosts(read, "its data")


def test_what_an_evaluation_notes_is_said_below_its_measures() -> None:
    outcome = Evaluation({"mean_iou": 0.0}, lambda *_: None, notes=("3 of 8 boxes are odd",))
    console: list[str] = []
    running = Mock(spec=job.Job, progress=Mock(say=console.append), preemption=Mock())
    running.evaluate = lambda *_: [("live_val", outcome)]
    running.task, running.record = Mock(columns=("mean_iou",)), Mock()
    train.evaluate(running, Mock(spec=State, ema={}, frozen={}), 20, "val")
    assert console[0].startswith("step 20 | live_val: mean_iou 0.000")
    assert console[1:] == ["step 20 | live_val: 3 of 8 boxes are odd"]
