"""Real processes: the command, its signals and its exit codes, over loopback."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from date_jax import checkpoint, train, workdir
from tests.test_train import lines


def started(
    config: ConfigDict,
    directory: Path,
    root: Path,
    *,
    processes: int,
    devices: int = 1,
    config_file: str = "configs/pgda.py",
) -> list[subprocess.Popen]:
    """A job as that many processes with `devices` each; their output goes to files."""
    command = [sys.executable, "-m", "date_jax.main", f"--config={config_file}"]
    values = workdir.flat(config.to_dict())
    command += [f"--config.{key}={value}" for key, value in values.items()]
    command += [f"--workdir={directory}", f"--cpu_devices={devices}"]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            command += [f"--coordinator=127.0.0.1:{free.getsockname()[1]}"]
    made = []
    for index in range(processes):
        place = [f"--process_count={processes}", f"--process_index={index}"]
        with (directory.parent / f"{processes}_{index}.txt").open("w") as output:
            made.append(
                subprocess.Popen(command + place, cwd=root, stdout=output, stderr=subprocess.STDOUT)
            )
    return made


def output(directory: Path, processes: int, index: int) -> str:
    return (directory.parent / f"{processes}_{index}.txt").read_text()


def wait_for(pattern: str, process: subprocess.Popen, directory: Path, processes: int) -> None:
    while not re.search(pattern, output(directory, processes, 0)):
        assert process.poll() is None, output(directory, processes, 0)
        time.sleep(0.05)


def test_two_preempted_processes_save_one_step_and_a_single_one_goes_on_alike(
    tiny_config: ConfigDict, tmp_path: Path, root: Path
) -> None:
    """Preemption, two processes = one, another topology: in three processes all told."""
    config = tiny_config
    config.steps, config.log.every, config.pseudo_boxes.every = 60, 5, 10
    config.eval.every = config.checkpoint.every = 30
    config.stages.update(align=0.0, pseudo=0.2)
    directory = tmp_path / "run"

    both = started(config, directory, root, processes=2)
    try:
        wait_for(r"step +20/60", both[0], directory, 2)
        both[1].send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    assert codes == [75, 75], output(directory, 2, 0) + output(directory, 2, 1)
    saved = checkpoint.steps_in(directory / "checkpoints")[-1]
    assert 20 <= saved < 60
    assert f"stopped: step {saved} is saved" in output(directory, 2, 0)
    assert "Traceback" not in output(directory, 2, 0) + output(directory, 2, 1)
    assert "step" not in output(directory, 2, 1), "only process 0 speaks"

    (one,) = started(config, directory, root, processes=1)
    try:
        assert one.wait(timeout=300) == 0, output(directory, 1, 0)
    finally:
        one.kill()
    assert f"going on at step {saved} of 60" in output(directory, 1, 0)

    train.train(config, tmp_path / "same")  # in this process, on eight devices
    found, same = (lines(d, "train/") for d in (directory, tmp_path / "same"))
    assert len(found) == 12
    for one_line, other_line in zip(found, same, strict=True):
        if one_line["step"] <= saved:
            assert one_line == pytest.approx(other_line, rel=3e-5, abs=3e-5)
        # Later a rounding has decided which box was chosen.
        assert one_line["train/loss"] == pytest.approx(other_line["train/loss"], rel=0.02)


@pytest.mark.slow
def test_a_run_through_four_two_one_and_three_processes_is_one_run(
    tiny_config: ConfigDict, tmp_path: Path, root: Path
) -> None:
    """Preempted on each topology but the last; two devices a process, parameters cut over two."""
    config = tiny_config
    config.batch_size = config.eval.batch_size = 24
    config.steps, config.log.every = 80, 5
    config.eval.every = config.checkpoint.every = 40
    config.stages.update(align=0.0, pseudo=0.9)
    config.mesh.fsdp = 2
    directory = tmp_path / "run"
    for processes, until in ((4, 15), (2, 35), (1, 55), (3, None)):
        running = started(config, directory, root, processes=processes, devices=2)
        try:
            if until is not None:
                wait_for(rf"step +{until}/80", running[0], directory, processes)
                running[-1].send_signal(signal.SIGTERM)
            codes = [process.wait(timeout=1200) for process in running]
        finally:
            for process in running:
                process.kill()
        told = "".join(output(directory, processes, index) for index in range(processes))
        assert codes == [0 if until is None else 75] * processes, told
    config.mesh.fsdp = 1
    expected = train.train(config, tmp_path / "same")  # in this process, on eight devices
    found = json.loads((directory / "results.json").read_text())
    for split, metrics in expected["eval"].items():
        assert found["eval"][split] == pytest.approx(metrics, abs=1e-5), split
    for one, other in zip(found["pseudo_boxes"], expected["pseudo_boxes"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    runs = [lines(d, "train/") for d in (directory, tmp_path / "same")]
    assert [len(run) for run in runs] == [16, 16]
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, rel=2e-5, abs=1e-5)
