"""Features of frozen extractors, computed once: a run on them is the run on the same views."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from date_jax import train
from date_jax.date import between_steps
from date_jax.sharding import device_mesh
from date_jax.task import Learner


@pytest.fixture
def config(tiny_config: ConfigDict) -> ConfigDict:
    """The main job on fixed views, with both extractors frozen."""
    tiny_config.data.views = 3
    tiny_config.model.image.train = tiny_config.model.text.train = "none"
    tiny_config.pseudo_boxes.looks = 1
    tiny_config.init.kept_dtype = "float32"
    tiny_config.eval.confidence = False
    return tiny_config


def curve(directory: Path) -> dict[str, list[float]]:
    """All losses of a run, and all measures, by name."""
    entries = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    values: dict[str, list[float]] = {}
    for entry in entries:
        for name, value in entry.items():
            if name.startswith(("train/", "eval/", "pseudo_boxes/")):
                values.setdefault(name, []).append(value)
    return values


def test_training_on_kept_features_equals_training_on_the_same_views(
    config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(config, tmp_path / "views")
    config.init.keep = True
    train.train(config, tmp_path / "kept")
    one, other = (curve(tmp_path / name) for name in ("views", "kept"))
    assert one.keys() == other.keys()
    assert "pseudo_boxes/mean_agreement" in one
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("has_features", [False, True])
def test_a_self_check_reads_pictures_where_all_else_reads_features(
    config: ConfigDict, monkeypatch: pytest.MonkeyPatch, has_features: bool
) -> None:
    config.pseudo_boxes.self_check = 0.3
    calls: list[tuple[set[str], bool]] = []

    def collector(predict: dict[str, Any], *_: Any, **__: Any) -> Any:
        def collect(params: Any, batches: Any, should_stop: Any) -> dict[str, np.ndarray]:
            calls.append(({*predict}, bool(next(batches)["is_kept"])))
            return {name: np.ones(3) for name in predict}

        return collect

    def refresh(rows: Any, *_: Any, expected_precision: float, **__: Any) -> Any:
        assert "confidence_features" not in rows
        return {"weight": np.ones(3)}, {"expected": expected_precision}

    class Countdown:
        def __init__(self, *_: Any) -> None: ...

        def over(self, batches: Any, rows: int) -> Any:
            return batches

    for name, value in {
        "collector": collector,
        "Countdown": Countdown,
        "true_boxes": lambda *_: {},
        "self_check.estimator": lambda *_: lambda params, values, should_stop: values.sum(),
        "pseudo_boxes.refresh": refresh,
        "pipeline.eval_batches": lambda *_, features, **__: iter([{"is_kept": np.array(features)}]),
    }.items():
        monkeypatch.setattr(f"date_jax.date.between_steps.{name}", value)
    names = "image_embedding query_embedding pseudo_box_cxcywh agreement confidence_features"
    learner = Learner(None, None, dict.fromkeys(names.split()))
    splits = {"live_train": SimpleNamespace(size=3)}
    corpus = SimpleNamespace(features=object() if has_features else None, splits=splits)
    options: Any = {"folder": Path(), "say": print}
    table = between_steps.table_maker(config, corpus, learner, device_mesh(), **options)
    _, metrics = table(None, None, config.steps - 1, bool)
    assert metrics["expected"] == 3
    judged = {"confidence_features"}
    boxes = {"pseudo_box_cxcywh", "agreement"}
    expected = [(boxes, True), (judged, False)] if has_features else [(boxes | judged, True)]
    assert calls == expected
