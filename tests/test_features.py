"""Features of frozen extractors, computed once: a run on them is the run on the same views."""

import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from date_jax import train


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
