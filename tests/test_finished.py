"""A finished run, or an export of it, is where another run begins."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import date
from date_jax import config as config_checks
from date_jax import export, finished, job, train
from date_jax.errors import CheckpointError, UsageError
from date_jax.run import checkpoint, workdir
from date_jax.run.preemption import Preemption
from date_jax.step import State
from tests.run.test_multihost import output, start


@pytest.fixture
def supervised(tiny_config: ConfigDict) -> ConfigDict:
    """A run of DATE with boxes everywhere, of two steps."""
    config, tiny = date.get_config(), workdir.flat(tiny_config.to_dict())
    keys = workdir.flat(config.to_dict()).keys() - {"task", "data.source", "data.target"}
    config.update_from_flattened_dict({key: tiny[key] for key in keys})
    config.steps, config.optim.learning_rate = 2, 0.01
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the finished run and its export are, or will be."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def first(folder: Path, supervised: ConfigDict) -> Path:
    """The finished run; its export is next to it."""
    if not (folder / "export").exists():
        train.train(supervised, folder / "one")
        export.export(folder / "one", folder / "export")
    return folder / "one"


def begun(config: ConfigDict, directory: Path) -> tuple[job.Job, State]:
    """The parts and the first state of a run in a new folder."""
    directory.mkdir()
    with Preemption() as preemption:
        parts, state = job.prepare(config, directory, preemption)
        parts.progress.close()
    return parts, state


@pytest.mark.parametrize("kind", ["one", "export"])
def test_a_run_begins_as_another_one_ended(
    first: Path, supervised: ConfigDict, tmp_path: Path, kind: str, capfd: Any
) -> None:
    """On other data (more pictures and another seed), with another rate, for more steps."""
    supervised.init.run = str(first.parent / kind)
    supervised.update_from_flattened_dict(
        {"steps": 7, "optim.learning_rate": 1e-3, "seed": 5, "data.vocab_size": 300}
    )
    parts, state = begun(supervised, tmp_path / "two")
    assert f"begins with {first.parent / kind}, step 2\n" in capfd.readouterr().out
    old = checkpoint.latest_part(first).params["model"]
    for tree in (state.params, state.ema):
        jax.tree.map(np.testing.assert_array_equal, tree["model"], old)
    # All else is new.
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert int(state.step) == 0
    assert not any(np.any(x) for x in moments)
    # It evaluates as the other one did when it was done.
    expected = json.loads((first / "results.json").read_text())["eval"]
    for name, evaluation in parts.evaluate(state.ema, ("test",), lambda: False):
        for metric, value in evaluation.metrics.items():
            assert value == pytest.approx(expected[name][metric], abs=1e-6), metric


def test_a_run_on_other_data_reads_words_as_the_first_did_and_goes_on_without_it(
    first: Path, supervised: ConfigDict, tmp_path: Path, capfd: Any
) -> None:
    export.export(first, tmp_path / "gone")
    supervised.init.run = str(tmp_path / "gone")
    supervised.data.shop.update(seed=3, pictures=70)
    supervised.checkpoint.every = 1
    train.train(supervised, tmp_path / "two")
    for name in ("vocab.txt", "tokenizer_config.json"):
        assert (tmp_path / "two" / name).read_text() == (first / name).read_text()
    config = json.loads((tmp_path / "two/config.json").read_text())
    assert config["data"]["vocab"] == str(tmp_path / "two/vocab.txt")
    # The same command once more: nothing of the other run is needed.
    (tmp_path / "gone").rename(tmp_path / "elsewhere")
    capfd.readouterr()
    train.train(supervised, tmp_path / "two")
    out = capfd.readouterr().out
    assert "going on at step 2 of 2" in out
    assert "begins with" not in out
    assert "data.vocab" not in out


def test_adaptation_begins_with_a_network_of_both_domains(
    first: Path, tiny_config: ConfigDict, tmp_path: Path
) -> None:
    """The other task has the same network, and an aligner, which is new."""
    tiny_config.init.run = str(first)
    tiny_config.aligner.kind = "cdan"
    _, state = begun(tiny_config, tmp_path / "two")
    old = checkpoint.latest_part(first).params
    jax.tree.map(np.testing.assert_array_equal, state.params["model"], old["model"])
    assert jax.tree.leaves(state.params["aligner"])


def test_another_network_is_refused_with_what_to_type(first: Path, supervised: ConfigDict) -> None:
    supervised.init.run = str(first)
    supervised.model.width = 48
    supervised.model.image.depths = (2, 1)
    supervised.data.image_size = 48
    supervised.model.dtype, supervised.model.text.dropout = "bfloat16", 0.1  # may change
    with pytest.raises(UsageError) as error:
        finished.named_run(supervised)
    assert str(error.value).splitlines() == [
        f"config.init.run={first}: its network is another one; add its values:",
        "  --config.data.image_size=32 (now 48)",
        "  --config.model.image.depths='(1, 1)' (now (2, 1))",
        "  --config.model.width=32 (now 48)",
    ]


def test_another_system_is_refused(first: Path, tiny_same_style: ConfigDict) -> None:
    tiny_same_style.init.run = str(first)
    with pytest.raises(UsageError, match="run of task date, whose network is not that of task sam"):
        finished.named_run(tiny_same_style)


def test_another_vocabulary_is_refused_and_an_equal_one_is_not(
    first: Path, supervised: ConfigDict, tmp_path: Path
) -> None:
    supervised.init.run = str(first)
    vocab, rules = tmp_path / "vocab.txt", tmp_path / "tokenizer_config.json"
    supervised.data.vocab = str(vocab)
    pieces = (first / "vocab.txt").read_text()
    vocab.write_text(pieces)
    rules.write_text((first / "tokenizer_config.json").read_text())
    assert finished.named_run(supervised) is not None
    rules.unlink()
    with pytest.raises(UsageError, match=r"rules Rules\(.*strip_accents=False.* there, Rules\("):
        finished.named_run(supervised)
    vocab.write_text(pieces + "mugs\n")
    with pytest.raises(UsageError, match=rf"pieces there, .* here\n.*data.vocab={first}/vocab.txt"):
        finished.named_run(supervised)
    lines = pieces.splitlines()
    vocab.write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]) + "\n")
    with pytest.raises(UsageError, match=f"line {len(lines) - 1} is '.*' there, '.*' here"):
        finished.named_run(supervised)


def test_a_folder_without_a_run_is_refused(supervised: ConfigDict, tmp_path: Path) -> None:
    supervised.init.run = str(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere: no such directory"):
        finished.named_run(supervised)
    with pytest.raises(CheckpointError, match="nowhere: no such directory"):
        train.train(supervised, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_programs_are_no_beginning(supervised: ConfigDict, tmp_path: Path) -> None:
    (tmp_path / "box_cxcywh.onnx").touch()
    supervised.init.run = str(tmp_path)
    with pytest.raises(CheckpointError, match="an export with --format=onnx, which only answers"):
        finished.named_run(supervised)


def test_weights_of_an_extractor_next_to_a_run_are_refused(supervised: ConfigDict) -> None:
    supervised.init.update(run="runs/one", text="bert")
    with pytest.raises(UsageError, match=r"leave config\.init\.text empty"):
        config_checks.validate(supervised, device_count=1, process_count=1)


def test_a_changed_config_is_refused_with_both_ways_to_go_on(
    first: Path, supervised: ConfigDict
) -> None:
    supervised.optim.learning_rate = 0.5
    with pytest.raises(UsageError) as error:
        train.train(supervised, first)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{first}: holds a run with another config"
    assert lines[1] == "  optim.learning_rate: 0.01 there, 0.5 now"
    assert lines[2].startswith("to go on with that run, type its values; may change: log.")
    assert lines[3].endswith(f"a new --workdir, these values and --config.init.run={first}")


def test_hosts_begin_alike_or_not_at_all(
    first: Path, supervised: ConfigDict, tmp_path: Path, root: Path
) -> None:
    """Two processes; then with other weights at the same relative path on one of them."""
    disks = [tmp_path / "a", tmp_path / "b"]
    for disk in disks:
        shutil.copytree(root / "configs", disk / "configs")
        shutil.copytree(first.parent / "export", disk / "one")
    supervised.init.run = "one"
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environments = [os.environ | {"PYTHONPATH": path}] * 2

    def codes(name: str) -> tuple[list[int], str]:
        options = {"config_file": "configs/date.py", "environments": environments}
        both = start(supervised, tmp_path / name, disks, processes=2, **options)
        try:
            results = [process.wait(timeout=300) for process in both]
        finally:
            for process in both:
                process.kill()
        return results, "".join(output(tmp_path / name, 2, index) for index in (0, 1))

    results, text = codes("together")
    assert results == [0, 0], text
    assert text.count("begins with one, step 2") == 1
    # The files have the same names, and one number is another.
    file = disks[1] / "one/seekers.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    meta = json.loads((disks[1] / "one/export.json").read_text())
    meta["files"]["seekers.safetensors"] = hashlib.sha256(content).hexdigest()
    (disks[1] / "one/export.json").write_text(json.dumps(meta))
    results, text = codes("apart")
    assert results == [2, 2], text
    assert "host 1 differs from host 0 in weights" in text
