"""The scripts for machines that are not here: what they would run, and the one that repeats."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
NAMES = {
    "tpu_vm": {"TPU": "slice", "ZONE": "here"},
    "slurm": {"NODES": "4", "GPUS": "2"},
    "gke": {"IMAGE": "shop:1", "HOSTS": "8"},
    "sky": {"BUCKET": "s3://runs", "NODES": "3"},
}
# Spaces, quotes and brackets have to arrive as they were given.
JOB = ["--config=configs/pgda.py:files,swin_b", "--workdir=/runs/a b"]
JOB += ["--config.model.image.depths=(1, 2)", '--config.data.path=it\'s "mine".jsonl']


def script(name: str, *arguments: str, **names: str) -> subprocess.CompletedProcess:
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ} | names
    command = ["bash", f"launch/{name}.sh", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def shown(name: str) -> str:
    done = script(name, "--dry-run", *JOB, **NAMES[name])
    assert done.returncode == 0, done.stderr
    return done.stdout


def job_in(line: str) -> list[str]:
    """The words behind the module's name, as a shell would pass them on."""
    return shlex.split(line.partition("date_jax.main ")[2])


def test_a_tpu_slice_runs_the_job_on_all_workers_and_again_after_75() -> None:
    command = shlex.split(shown("tpu_vm"))
    assert command[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "slice"]
    assert {"--zone=here", "--worker=all"} <= {*command}
    remote = command[-1].removeprefix("--command=")
    assert job_in(remote) == JOB
    assert "bash launch/again.sh .venv/bin/python -m date_jax.main" in remote


def test_slurm_gets_a_valid_script_that_queues_itself_again(tmp_path: Path) -> None:
    text = shown("slurm")
    wanted = ("nodes=4", "ntasks-per-node=1", "gpus-per-node=2", "requeue", "signal=TERM@300")
    for option in wanted:
        assert f"#SBATCH --{option}\n" in text
    (tmp_path / "bin").mkdir()
    for tool, answer in (("srun", 'printf "%s\\n" "$@" > srun.txt; exit ${CODE}'),
                         ("scontrol", 'echo "$@" > scontrol.txt')):  # fmt: skip
        (tmp_path / "bin" / tool).write_text(f"#!/bin/bash\n{answer}\n")
        (tmp_path / "bin" / tool).chmod(0o755)
    for code, queued in ((75, True), (3, False), (0, False)):
        (tmp_path / "scontrol.txt").unlink(missing_ok=True)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        environment = {"PATH": path, "HOME": "/", "CODE": str(code), "SLURM_JOB_ID": "7"}
        done = subprocess.run(["bash", "-c", text], cwd=tmp_path, env=environment)
        assert (tmp_path / "scontrol.txt").exists() == queued
        assert done.returncode == (0 if queued else code)
        given = (tmp_path / "srun.txt").read_text().splitlines()
        assert given[-len(JOB) :] == JOB
    # A submission's time limit or preemption reaches the job as SIGTERM, whose save is waited for.
    assert "trap 'wait \"$step\"' TERM" in text


def test_gke_gets_a_job_for_every_host_that_starts_again_after_75() -> None:
    manifest: Any = yaml.safe_load(shown("gke"))
    assert manifest["kind"] == "JobSet"
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 8
    ignored, evicted, fatal = job["podFailurePolicy"]["rules"]
    assert (ignored["action"], ignored["onExitCodes"]["values"]) == ("Ignore", [75])
    assert (evicted["action"], fatal["action"]) == ("Ignore", "FailJob")
    assert fatal["onExitCodes"]["operator"] == "NotIn"
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    container = pod["containers"][0]
    assert container["image"] == "shop:1"
    assert container["command"] == ["python", "-m", "date_jax.main", *JOB]
    assert container["name"] == fatal["onExitCodes"]["containerName"]


def test_sky_gets_a_task_whose_processes_find_each_other() -> None:
    task: Any = yaml.safe_load(shown("sky"))
    assert task["num_nodes"] == 3
    assert task["file_mounts"]["/runs"]["source"] == "s3://runs"
    lines = task["run"].splitlines()
    for part in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n", "-c", part]).returncode == 0
    code = task["run"].replace("exec bash launch/again.sh", "printf '%s\\n'")
    environment = {"PATH": os.environ["PATH"], "HOME": "/", "SKYPILOT_NODE_RANK": "1"}
    environment |= {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2"}
    ran = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=environment)
    place = ["--coordinator=10.0.0.1:8476", "--process_count=2", "--process_index=1"]
    assert ran.stdout.splitlines()[3:] == [*JOB, *place]
    assert lines[-1].startswith("exec bash launch/again.sh .venv/bin/python -m date_jax.main")


@pytest.mark.parametrize("name", NAMES)
def test_a_script_says_what_it_needs(name: str) -> None:
    missing = script(
        name, "--dry-run", "--config=configs/pgda.py", **({"NODES": "0"} if name == "slurm" else {})
    )
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: ")
    assert len(missing.stderr.splitlines()) == 1


def test_a_command_runs_again_as_long_as_it_ends_with_75(tmp_path: Path) -> None:
    count = "echo >> starts; [ $(wc -l < starts) -ge 3 ] && exit 4; exit 75"
    command = ["bash", str(ROOT / "launch/again.sh"), "bash", "-c", count]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 4
    assert len((tmp_path / "starts").read_text().splitlines()) == 3


def test_a_terminated_command_saves_and_is_not_started_again(tmp_path: Path) -> None:
    saves = "echo >> starts; trap 'sleep 0.2; touch saved; exit 75' TERM; touch ready; "
    saves += "while :; do sleep 0.05; done"
    command = ["bash", str(ROOT / "launch/again.sh"), "bash", "-c", saves]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert (tmp_path / "saved").exists()
    assert len((tmp_path / "starts").read_text().splitlines()) == 1
