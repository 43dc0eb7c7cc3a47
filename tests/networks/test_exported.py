"""Exports: what is written comes back to the bit, and what is not the same network is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

from configs import date
from date_jax.data.tokenizer import SPECIAL, WordPieces
from date_jax.errors import CheckpointError
from date_jax.networks import exported
from date_jax.run import workdir
from date_jax.tasks import TASKS

NAMES = ("pgda", "date", "same_style", "capture", "precomputed", "vit")


@pytest.fixture
def configs(
    tiny_config: ConfigDict, tiny_same_style: ConfigDict, tiny_capture: ConfigDict
) -> dict[str, ConfigDict]:
    """The smallest config of each task, one of given regions and one of plain encoders."""
    tiny_config.aligner.kind = "cdan"
    supervised, tiny = date.get_config(), workdir.flat(tiny_config.to_dict())
    keys = workdir.flat(supervised.to_dict()).keys() - {"task", "data.source", "data.target"}
    supervised.update_from_flattened_dict({key: tiny[key] for key in keys})
    precomputed = tiny_capture.copy_and_resolve_references()
    precomputed.model.regions.kind = "precomputed"
    plain = supervised.copy_and_resolve_references()
    plain.model.image.update(kind="vit", depths=(2,), heads=(2,), pooling="map")
    plain.model.image.vit.update(class_tokens=0, positions=4)
    plain.model.text.kind = "siglip"
    every = (tiny_config, supervised, tiny_same_style, tiny_capture, precomputed, plain)
    return dict(zip(NAMES, every, strict=True))


def random_params(config: ConfigDict) -> Any:
    """Random numbers in place of all parameters that the config's learner has."""
    tokenizer = WordPieces([*SPECIAL, "red", "mug"], length=config.data.text_length)
    task = TASKS[config.task]
    learner = task.learner(config, tokenizer, {})
    shapes, _ = jax.eval_shape(learner.init, jax.random.key(0), task.example(config))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.asarray(rng.standard_normal(x.shape), x.dtype), shapes)


def written(config: ConfigDict, folder: Path) -> Any:
    """The random parameters that `folder` now is an export of."""
    params = random_params(config)
    rest = TASKS[config.task].card.rest
    exported.write(folder, config, params, rest=rest, meta={"step": 7})
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return params


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_every_task_comes_back_to_the_bit(
    configs: dict[str, ConfigDict], tmp_path: Path, name: str
) -> None:
    params = written(configs[name], tmp_path / "out")
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    again = exported.exported_params(tmp_path / "out", shapes)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    for path, value in flatten_dict(params, sep="/").items():
        actual = flatten_dict(again, sep="/")[path]
        assert actual.dtype == value.dtype, path
        assert actual.shape == value.shape, path
        np.testing.assert_array_equal(actual, value, err_msg=path)
    assert exported.is_export(tmp_path / "out")
    assert exported.exported_meta(tmp_path / "out")["step"] == 7
    assert exported.exported_config(tmp_path / "out").task == configs[name].task


def test_reading_an_export_takes_neither_orbax_nor_tensorflow() -> None:
    code = "import sys, date_jax.networks.exported; print({'orbax', 'tensorflow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "set()\n", done.stdout + done.stderr


def test_the_network_comes_back_without_what_only_training_uses(
    configs: dict[str, ConfigDict], tmp_path: Path
) -> None:
    params = written(configs["pgda"], tmp_path / "out")
    assert (tmp_path / "out/training/aligner.safetensors").exists()
    model = exported.exported_params(tmp_path / "out", {"model": params["model"]})
    jax.tree.map(np.testing.assert_array_equal, model, {"model": params["model"]})


def test_an_export_of_an_earlier_version_is_read(
    configs: dict[str, ConfigDict], tmp_path: Path
) -> None:
    """It had no export.json, and numbers were arrays of one."""
    params = written(configs["date"], tmp_path / "out")
    (tmp_path / "out" / exported.META_FILE).unlink()
    file = tmp_path / "out/seekers.safetensors"
    save_file({k: np.atleast_1d(v) for k, v in load_file(file).items()}, file)
    again = exported.exported_params(tmp_path / "out", params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert again["model"]["image_seeker"]["log_scale"].shape == ()
    assert exported.exported_meta(tmp_path / "out") == {}


def test_a_flipped_bit_is_found(configs: dict[str, ConfigDict], tmp_path: Path) -> None:
    params = written(configs["date"], tmp_path / "out")
    file = tmp_path / "out/text/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not what was exported: its SHA-256"):
        exported.exported_params(tmp_path / "out", params)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("seekers.safetensors", "holds no .*safetensors, so it is no export"),
        ("image/model.safetensors", r"image/model\.safetensors: is missing in this export"),
    ],
)
def test_a_missing_file_is_named(
    configs: dict[str, ConfigDict], tmp_path: Path, name: str, message: str
) -> None:
    params = written(configs["date"], tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    with pytest.raises(CheckpointError, match=message):
        exported.exported_params(tmp_path / "out", params)


def test_a_half_copied_file_is_refused(configs: dict[str, ConfigDict], tmp_path: Path) -> None:
    params = written(configs["date"], tmp_path / "out")
    (tmp_path / "out" / exported.META_FILE).unlink()
    file = tmp_path / "out/seekers.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"seekers\.safetensors: cannot be read as safetens"):
        exported.exported_params(tmp_path / "out", params)


def test_what_differs_from_the_network_is_named(
    configs: dict[str, ConfigDict], tmp_path: Path
) -> None:
    params = written(configs["date"], tmp_path / "out")
    flat = flatten_dict(params, sep="/")
    first = "model/text_extractor/word_embedding/embedding"
    other = {**flat, first: np.zeros((9, 32), np.float32), "model/extra": np.zeros(2, np.float32)}
    del other["model/object_seeker/loc_token"]
    with pytest.raises(CheckpointError) as error:
        exported.exported_params(tmp_path / "out", unflatten_dict(other, sep="/"))
    assert str(error.value).splitlines()[1:] == [
        f"  {first}: (7, 32) in the export, (9, 32) in this network",
        "  missing: 1 (model/extra)",
        "  of no use here: 1 (object_seeker/loc_token)",
    ]


def test_an_export_without_its_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        exported.exported_config(tmp_path)


def test_an_export_of_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / exported.META_FILE).write_text('{"format": 2}')
    with pytest.raises(CheckpointError, match="format 2, this version of date_jax reads 1"):
        exported.exported_meta(tmp_path)
    (tmp_path / exported.META_FILE).write_text("[]")
    with pytest.raises(CheckpointError, match="holds no JSON object"):
        exported.exported_meta(tmp_path)
