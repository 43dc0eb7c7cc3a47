"""The plan for accelerators that are not here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.benchmarks import plan, step
from date_jax.errors import UsageError
from date_jax.run import workdir


def test_more_devices_keep_their_rows_and_exchange_more() -> None:
    chip = plan.CHIPS["v5e"]
    step_on_chips = {
        "estimated_cycles": 1.5e8,
        "rows_per_device": 64.0,
        "flops_per_device": 1.97e12,
    }
    step_on_chips |= {
        "devices": 4,
        "exchanged_bytes": {"all-reduce": 10**9, "all-gather": 4 * 10**6},
    }
    one, many = (plan._row("x", step_on_chips, chip, devices) for devices in (1, 256))
    assert one["estimated_ms"] == many["estimated_ms"] == pytest.approx(100)
    assert one["efficiency_modelled"] == 1.0
    assert one["mfu_estimated"] == pytest.approx(0.1)
    gathered = 255 * 1e6  # each device's own megabyte goes once around
    assert many["exchange_ms_modelled"] == pytest.approx((2 * 255 / 256 * 1e9 + gathered) / 1e8)
    expected = 64 * 256 / (0.1 + many["exchange_ms_modelled"] / 1e3)
    assert many["examples_per_second_modelled"] == pytest.approx(expected)


def test_an_unknown_chip_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--topology=v9:2x2: must begin with v4, v5e, v5p, v6e"):
        plan.topology_devices("v9:2x2")
    with pytest.raises(UsageError, match=r"--topology=v5e:four: after the chip come its sides"):
        plan.topology_devices("v5e:four")


def test_a_gpu_is_modelled_whatever_compiler_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: object())
    assert plan.size("h100:1x1") == 1
    assert plan.topology_devices("h100:1x1") is None


def test_without_the_accelerators_compiler_a_plan_is_modelled(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"params": np.zeros((1000, 1000), np.float32), "step": np.zeros((), np.int32)}
    line = plan.Line((1e6, 2e6), (1e9, 1e8), (0.0, 1e12), state, 4_000_000)
    monkeypatch.setattr(plan, "line_through_small_steps", lambda config: line)
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    tiny_config.mesh.fsdp = 4
    names = ("v5e:2x2", "v5e:4x4")
    config, topologies = plan.planned_config(tiny_config, names)
    report = plan.run(config, topologies)
    assert report["modelled"].startswith("all:")
    small, large = report["v5e:2x2"], report["v5e:4x4"]
    assert (small["devices"], large["devices"], large["batch_size"]) == (4, 16, 64)
    assert small["bytes_per_device"] == large["bytes_per_device"]
    assert small["bytes_per_device"]["temporary"] == 9_000_000, "4 rows"
    batch = sum(x.nbytes for x in jax.tree.leaves(step.random_batch(tiny_config, 0, 50)))
    assert small["bytes_per_device"]["arguments"] == 1_000_000 + 4 + batch // 4, "a quarter"
    assert [row["devices"] for row in report["scaling"]] == [4, 16], (
        "no others where there are groups"
    )
    third = 4_000_000 * 3 / 4 / 100e9 * 1e3  # for each of three times around the ring, in ms
    assert report["scaling"][0]["exchange_ms_modelled"] == pytest.approx(3 * third)
    free = 16 * 2**30 - (small["bytes_per_device"]["arguments"] - batch // 4) - 1_000_000
    rows = free / (2_000_000 + batch / 16)
    assert report["largest_batch_modelled"] == pytest.approx(4 * rows, rel=1e-3)
    config.mesh.fsdp = 1
    report = plan.run(config, topologies)
    assert [row["devices"] for row in report["scaling"]] == [2**n for n in range(11)]
    alone, _, four, *_ = report["scaling"]
    assert alone["mfu_estimated"] == 1.0, "products bound it"
    assert alone["estimated_ms"] == pytest.approx(4e12 / 197e12 * 1e3)
    assert four["exchange_ms_modelled"] == pytest.approx(2 * third)


def test_a_small_batch_is_planned_with_some_rows_a_chip(
    tiny_config: ConfigDict,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    config, _ = plan.planned_config(tiny_config, ["v5e:16x16"])
    assert config.batch_size == 16 * 256
    assert "planned with batch_size=4096: 16 rows a chip" in capsys.readouterr().err
    assert (
        plan.planned_config(tiny_config, ["v5e:2x2"])[0].batch_size == tiny_config.batch_size == 16
    )


@pytest.mark.parametrize(
    ("names", "fsdp", "says"),
    [
        ("v5e:2x2,v4:2x2x1", 1, "--topology=v5e:2x2,v4:2x2x1: must be of one kind of chip"),
        ("v5e:2x2,v5e:3x2", 4, "config.mesh.fsdp=4"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    names: str, fsdp: int, says: str, tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    tiny_config.mesh.fsdp = fsdp
    with pytest.raises(UsageError, match=re.escape(says)):
        plan.planned_config(tiny_config, names.split(","))


@pytest.mark.slow
def test_libtpu_compiles_for_chips_that_are_not_here(
    tiny_config: ConfigDict, tmp_path: Path, root: Path
) -> None:
    pytest.importorskip("libtpu")
    values = workdir.flat(tiny_config.to_dict())
    command = [sys.executable, "-m", "date_jax.benchmark", "--mode=plan", "--topology=v5e:2x2"]
    command += [f"--config={root}/configs/pgda.py", f"--out={tmp_path / 'plan.json'}"]
    command += [f"--config.{key}={value}" for key, value in values.items()]
    environment = os.environ | {"XLA_FLAGS": ""}  # libtpu stops at those for a CPU
    subprocess.run(command, check=True, cwd=root, env=environment)
    report = json.loads((tmp_path / "plan.json").read_text())
    assert report["largest_batch_modelled"] > 16
    step_on_chips = report["v5e:2x2"]
    assert (step_on_chips["devices"], step_on_chips["batch_size"]) == (4, 16)
    assert step_on_chips["estimated_cycles"] > 0
    assert step_on_chips["collectives"]["all-reduce"] > 0, "gradients are added up"
    assert sum(step_on_chips["share_of_cycles"]["kind"].values()) == pytest.approx(1)
    assert report["scaling"][-1]["devices"] == 1024


@pytest.mark.slow
def test_a_plan_is_modelled_from_small_steps(tiny_config: ConfigDict) -> None:
    line = plan.line_through_small_steps(tiny_config)
    assert all(a_row > 0 for _, a_row in (line.temporary, line.traffic, line.flops))
    assert abs(line.flops[0]) < line.flops[1], "products are of rows alone"
    state = sharding.tree_bytes_per_device(line.state, devices=1, fsdp=1)
    assert state > 3 * line.gradients, "two moments and the average beside the parameters"
