"""A run's directory: for one job at a time, writable, with room."""

import errno
import functools
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from date_jax.data import cache
from date_jax.errors import DataError, SetupError
from date_jax.run import workdir


def test_a_second_job_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    first = workdir.Workdir(tmp_path)
    with first, pytest.raises(SetupError, match="another job is running in it"):
        workdir.Workdir(tmp_path)
    with workdir.Workdir(tmp_path) as second:
        assert second.path == tmp_path


def test_a_start_that_fails_before_it_writes_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    with pytest.raises(DataError), workdir.Workdir(folder):
        raise DataError("no rows")
    assert not folder.exists()
    with workdir.Workdir(folder):
        (folder / "config.json").write_text("{}")
    with pytest.raises(DataError), workdir.Workdir(folder):
        raise DataError("no rows")
    assert (folder / "config.json").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError), workdir.Workdir(tmp_path / "mine"):
        raise DataError("no rows")
    assert (tmp_path / "mine").exists(), "the user has made it"


def test_a_directory_that_cannot_be_locked_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with workdir.Workdir(tmp_path) as one, cache.folder_lock(tmp_path):
        assert one.path == tmp_path
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert all("cannot be locked (No locks available)" in line for line in warnings)


def test_the_checkpoints_of_a_run_are_no_directory_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "500").mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    for inside in (tmp_path / "checkpoints", tmp_path / "checkpoints" / "500"):
        with pytest.raises(SetupError, match=f"go on with --workdir={tmp_path} "):
            workdir.Workdir(inside)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["500"]


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot write there"):
        workdir.Workdir(tmp_path / "file" / "run")


def test_a_disk_without_room_for_the_checkpoints_is_refused_at_the_start(tmp_path: Path) -> None:
    state = {"kernel": np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (2**40,), (0,))}
    with pytest.raises(SetupError, match=r"MiB free, .* needed for 3 checkpoints"):
        workdir.require_space(tmp_path, state, keep=2)


def test_an_option_that_came_later_is_no_change_where_it_does_what_was_done_before() -> None:
    saved = {"model": {"image": {"width": 32}}, "data": {"name": "shop"}}
    now = {
        "model": {"image": {"width": 32, "train": "all", "kind": "swin", "vit": {"registers": 0}}},
        "data": {"name": "shop", "paste": {"pictures": 0, "most": 4}},
    }
    assert not workdir.config_changes(saved, now)
    assert not workdir.config_changes(now, saved)
    now["model"]["image"]["train"] = "none"
    now["data"]["paste"]["pictures"] = 9
    assert workdir.config_changes(saved, now) == {
        "data.paste.pictures": (0, 9),
        "model.image.train": ("all", "none"),
    }


@pytest.mark.parametrize("name", ["date", "pgda", "capture", "same_style"])
def test_the_configs_begin_with_what_was_done_before_an_option_came(name: str) -> None:
    config = importlib.import_module(f"configs.{name}").get_config()
    now = config.to_dict()
    later = {*workdir._SINCE_ADDED} - ({"model.image.pooling"} if name != "capture" else set())
    saved = config.copy_and_resolve_references().unlock()
    for key in later & {*workdir.flat(now)}:
        section, _, option = key.rpartition(".")
        del config_section(saved, section)[option]
    assert saved.to_dict() != now
    saved_values = json.loads(json.dumps(saved.to_dict()))
    assert not workdir.config_changes(saved_values, now)


def config_section(config: Any, name: str) -> Any:
    return functools.reduce(lambda section, part: section[part], name.split("."), config)
