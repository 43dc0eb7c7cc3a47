"""Real processes: the command, its signals and its exit codes, over loopback."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from date_jax import train
from date_jax.run import checkpoint, workdir
from tests.data.test_files import rows_of, write_jsonl
from tests.test_train import fingerprints, lines


def start(
    config: ConfigDict,
    directory: Path,
    start_in: Path | list[Path],
    *,
    processes: int,
    devices: int = 1,
    config_file: str = "configs/pgda.py",
    options: list[list[str]] | None = None,
    environments: list[dict[str, str]] | None = None,
) -> list[subprocess.Popen]:
    """A job as that many processes with `devices` each; their output goes to files.

    `options`, `environments` and, as a list, `start_in` are of each process.
    """
    command = [sys.executable, "-m", "date_jax.main", f"--config={config_file}"]
    values = workdir.flat(config.to_dict())
    command += [f"--config.{key}={value}" for key, value in values.items()]
    command += [f"--workdir={directory}", f"--cpu_devices={devices}"]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            command += [f"--coordinator=127.0.0.1:{free.getsockname()[1]}"]
    children = []
    for index in range(processes):
        process_flags = [f"--process_count={processes}", f"--process_index={index}"]
        process_flags += options[index] if options else []
        with (directory.parent / f"{processes}_{index}.txt").open("w") as output:
            children.append(
                subprocess.Popen(
                    command + process_flags,
                    cwd=start_in[index] if isinstance(start_in, list) else start_in,
                    env=environments[index] if environments else None,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    return children


def output(directory: Path, processes: int, index: int) -> str:
    return (directory.parent / f"{processes}_{index}.txt").read_text()


def wait_for(pattern: str, process: subprocess.Popen, directory: Path, processes: int) -> None:
    while not re.search(pattern, output(directory, processes, 0)):
        assert process.poll() is None, output(directory, processes, 0)
        time.sleep(0.05)


def test_two_preempted_processes_save_one_step_and_a_single_one_goes_on_alike(
    tiny_config: ConfigDict, tmp_path: Path, root: Path
) -> None:
    """Preemption, two processes = one, another topology: in four processes all told.

    Each of the two has prepared the data on a disk of its own.
    """
    config = tiny_config
    config.steps, config.log.every, config.checkpoint.every = 60, 5, 30
    config.eval.every = 60  # losses are compared; each would have to compile an evaluation
    config.pseudo_boxes.update(every=10, looks=1)
    config.model.rows_at_once = 8  # all of one of the two; the single one takes them in two chunks
    config.stages.update(align=0.0, pseudo=0.2)
    directory = tmp_path / "run"

    compiled = tmp_path / "compiled"
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(compiled)}
    other_disk = environment | {"DATE_JAX_CACHE": str(tmp_path / "other_disk")}
    both = start(config, directory, root, processes=2, environments=[environment, other_disk])
    try:
        wait_for(r"step +20/60", both[0], directory, 2)
        both[1].send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    assert codes == [75, 75], output(directory, 2, 0) + output(directory, 2, 1)
    assert [*compiled.glob("jit_update-*")], "the training step's program is kept"
    saved = checkpoint.steps_in(directory / "checkpoints")[-1]
    assert 20 <= saved < 60
    assert f"stopped: step {saved} is saved" in output(directory, 2, 0)
    assert "Traceback" not in output(directory, 2, 0) + output(directory, 2, 1)
    assert "step" not in output(directory, 2, 1), "only process 0 speaks"

    for folder in (directory, tmp_path / "same"):  # the second finds all compiled
        (one,) = start(config, folder, root, processes=1)
        try:
            assert one.wait(timeout=300) == 0, output(folder, 1, 0)
        finally:
            one.kill()
        again = f"going on at step {saved} of 60" in output(folder, 1, 0)
        assert again == (folder == directory)
    first_lines, other_lines = (lines(d, "train/") for d in (directory, tmp_path / "same"))
    assert len(first_lines) == 12
    for one_line, other_line in zip(first_lines, other_lines, strict=True):
        if one_line["step"] <= saved:
            assert one_line == pytest.approx(other_line, rel=3e-5, abs=3e-5)
        # Later a rounding has decided which box was chosen.
        assert one_line["train/loss"] == pytest.approx(other_line["train/loss"], rel=0.02)


COUNTS = """
import sys
import jax
import numpy as np
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
index, address = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(address, 2, index, coordinator_bind_address=address)
from date_jax import sharding
from date_jax.pairs import all_pairs
rng = np.random.default_rng(0)
source = [rng.normal(size=(70, 5)).astype(np.float32) for _ in range(2)]
target = [rng.normal(size=(45, 5)).astype(np.float32) for _ in range(2)]
mesh = sharding.device_mesh()
assert mesh.size == 4
options = {"mesh": mesh, "tile": 8, "block": 2}
found = all_pairs.counts(source, target, 0.3, **options)
above = [t @ s.T > 0.3 for s, t in zip(source, target)]
np.testing.assert_array_equal(found, (above[0] & above[1]).sum(axis=1))
"""


def test_two_processes_count_all_pairs_as_numpy_does(root: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-c", COUNTS]
    both = [subprocess.Popen([*command, str(index), address], cwd=root) for index in range(2)]
    try:
        assert [process.wait(timeout=120) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()


@pytest.mark.parametrize(
    ("unequal", "named"),
    [
        ("config", "seed"),
        ("code", "its code"),
        ("devices", r"the number of devices \(2 and 1\)"),
        ("data", "data"),
        ("workdir", "what it sees of --workdir"),
    ],
)
def test_a_host_that_differs_is_refused_before_the_first_step(
    unequal: str, named: str, tiny_config: ConfigDict, tmp_path: Path, root: Path
) -> None:
    """Each host has its own folder to start in, and may have its own copy of the code."""
    directory, own_code = tmp_path / "run", tmp_path / "code"
    folders = [tmp_path / "host0", tmp_path / "host1"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        count = 60 if unequal == "data" and number == 1 else 48
        write_jsonl(folder / "shop.jsonl", rows_of(folder, count))
    tiny_config.data.path, tiny_config.data.name = "shop.jsonl", "files"
    options: list[list[str]] = [[], []]
    environments = [os.environ | {"PYTHONPATH": str(root)} for _ in folders]
    if unequal == "config":
        options[1] = ["--config.seed=1"]
    elif unequal == "devices":
        options[1] = ["--cpu_devices=2"]
    elif unequal == "code":
        for part in ("date_jax", "configs"):
            shutil.copytree(root / part, own_code / part)
        edited_file = own_code / "date_jax" / "errors.py"
        edited_file.write_text(edited_file.read_text() + "# edited here alone\n")
        environments[1]["PYTHONPATH"] = str(own_code)
    elif unequal == "workdir":
        (directory / "checkpoints" / "4").mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / ".lock").touch()  # as a job that once ran here left it
        options[1] = [f"--workdir={tmp_path / 'elsewhere'}"]
    both = start(
        tiny_config,
        directory,
        folders,
        processes=2,
        config_file=f"{root}/configs/pgda.py:files",
        options=options,
        environments=environments,
    )
    try:
        codes = [process.wait(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    text = output(directory, 2, 0)
    assert codes == [2, 2], text + output(directory, 2, 1)
    assert re.search(f"error: host 1 differs from host 0 in {named}: start all alike", text)
    assert "compil" not in text


@pytest.mark.slow
def test_a_run_of_two_processes_one_of_which_is_killed_goes_on_to_the_bit(
    tiny_config: ConfigDict, tmp_path: Path, root: Path
) -> None:
    """Killed in training, in an evaluation, and while a checkpoint is being written.

    Whoever is left is out within the heartbeat's 10 s and what the machine takes on top, and the
    same command loses no more than what came after the last checkpoint.
    """
    config = tiny_config
    config.steps, config.log.every, config.checkpoint.every = 24, 1, 8
    config.eval.every = 12
    config.stages.update(align=0.0, pseudo=0.2)
    for pattern in (r"step +5/24", r"step 12 \| mall_val", r"step +16/24"):
        killed = start(config, tmp_path / "run", root, processes=2)
        try:
            wait_for(pattern, killed[0], tmp_path / "run", 2)
            killed[1].kill()
            assert killed[0].wait(timeout=40) not in (0, 75)
        finally:
            for process in killed:
                process.kill()
                process.wait()
    for folder in ("run", "whole"):
        both = start(config, tmp_path / folder, root, processes=2)
        try:
            assert [process.wait(timeout=600) for process in both] == [0, 0]
        finally:
            for process in both:
                process.kill()
    assert fingerprints(tmp_path / "run", 24) == fingerprints(tmp_path / "whole", 24)
    for kind in ("train/", "eval/", "pseudo_boxes/"):
        assert lines(tmp_path / "run", kind) == lines(tmp_path / "whole", kind)


@pytest.mark.slow
def test_a_run_through_four_two_one_and_three_processes_is_one_run(
    tiny_config: ConfigDict, tmp_path: Path, root: Path
) -> None:
    """Preempted on each topology but the last; two devices a process, parameters cut over two.

    Pseudo boxes are made anew, from counts of all pairs, at step 2, 4, 6 and 8, and each topology
    is stopped after the first time. Few steps, since each makes the roundings of the last larger.
    """
    config = tiny_config
    config.model.fusion.mlp_width = 2048  # 32 wide: as many numbers as are worth a cut
    config.pseudo_boxes.update(rank="count", every=2)
    config.batch_size = config.eval.batch_size = 24
    config.steps, config.log.every = 10, 1
    config.eval.every, config.checkpoint.every = 2, 5  # each topology evaluates
    config.stages.update(align=0.0, pseudo=0.2)
    config.mesh.fsdp = 2
    directory = tmp_path / "run"
    for processes, last in ((4, False), (2, False), (1, False), (3, True)):
        running = start(config, directory, root, processes=processes, devices=2)
        try:
            if not last:
                wait_for(r"step +\d+ \| pseudo boxes", running[0], directory, processes)
                running[-1].send_signal(signal.SIGTERM)
            codes = [process.wait(timeout=1200) for process in running]
        finally:
            for process in running:
                process.kill()
        text = "".join(output(directory, processes, index) for index in range(processes))
        assert codes == [0 if last else 75] * processes, text
    config.mesh.fsdp = 1
    expected = train.train(config, tmp_path / "same")  # in this process, on eight devices
    results = json.loads((directory / "results.json").read_text())
    for split, metrics in expected["eval"].items():
        assert results["eval"][split] == pytest.approx(metrics, abs=1e-5), split
    for one, other in zip(results["pseudo_boxes"], expected["pseudo_boxes"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    for kind, count in (("train/", 10), ("eval/", 5)):
        runs = [lines(d, kind) for d in (directory, tmp_path / "same")]
        assert [len(run) for run in runs] == [count, count]
        for one, other in zip(*runs, strict=True):
            assert one == pytest.approx(other, rel=1e-5, abs=1e-5)
    chosen = [
        checkpoint.latest_part(d, "pseudo_boxes").params for d in (directory, tmp_path / "same")
    ]
    assert [entry["step"] for entry in results["pseudo_boxes"]] == [2, 4, 6, 8]
    assert 0 < chosen[0]["weight"].sum() < len(chosen[0]["weight"])
    np.testing.assert_array_equal(chosen[0]["weight"], chosen[1]["weight"])
    np.testing.assert_allclose(chosen[0]["box_cxcywh"], chosen[1]["box_cxcywh"], atol=1e-5)
