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
    "sky": {"BUCKET": "s3://runs"},
}
# Spaces, quotes and brackets have to arrive as they were given.
JOB = ["--config=configs/pgda.py:files,swin_b", "--workdir=/runs/a b"]
JOB += ["--config.model.image.depths=(1, 2)", '--config.data.path=it\'s "mine".jsonl']


def script(name: str, *arguments: str, **names: str) -> subprocess.CompletedProcess:
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ} | names
    command = ["bash", f"launch/{name}.sh", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def dry_run(name: str) -> str:
    done = script(name, "--dry-run", *JOB, **NAMES[name])
    assert done.returncode == 0, done.stderr
    return done.stdout


def job_in(line: str) -> list[str]:
    """The words behind the module's name, as a shell would pass them on."""
    return shlex.split(line.partition("date_jax.main ")[2])


def test_a_tpu_slice_runs_the_job_on_all_workers_and_again_after_75() -> None:
    command = shlex.split(dry_run("tpu_vm"))
    assert command[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "slice"]
    assert {"--zone=here", "--worker=all"} <= {*command}
    remote = command[-1].removeprefix("--command=")
    assert job_in(remote)[: len(JOB) + 1] == ["--distributed", *JOB]
    # An accelerator that does not start ends the job; without a platform named, a CPU would do it.
    assert (
        "JAX_PLATFORMS=tpu nohup setsid bash launch/again.sh .venv/bin/python -m date_jax.main"
        in remote
    )
    assert subprocess.run(["bash", "-n", "-c", remote]).returncode == 0


def test_slurm_gets_a_valid_script_that_queues_itself_again(tmp_path: Path) -> None:
    text = dry_run("slurm")
    wanted = ("nodes=4", "ntasks-per-node=1", "gpus-per-node=2", "requeue", "signal=TERM@300")
    wanted += ("exclusive", "mem=0")
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
        environment["SLURM_CPUS_ON_NODE"] = "48"
        done = subprocess.run(["bash", "-c", text], cwd=tmp_path, env=environment)
        assert (tmp_path / "scontrol.txt").exists() == queued
        assert done.returncode == (0 if queued else code)
        arguments = (tmp_path / "srun.txt").read_text().splitlines()
        assert arguments[-len(JOB) :] == JOB
        assert "--cpus-per-task=48" in arguments
    assert "export JAX_LOCAL_DEVICE_IDS=0,1\n" in text
    assert "export DATE_JAX_CACHE=${DATE_JAX_CACHE:-$HOME/.cache/date_jax}\n" in text


def test_a_slurm_script_that_is_terminated_waits_for_the_save_and_is_queued_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "bin").mkdir()
    saves = "trap 'sleep 0.3; touch saved; exit 75' TERM; touch ready; while :; do sleep 0.05; done"
    for tool, answer in (("srun", saves), ("scontrol", 'echo "$@" > scontrol.txt')):
        (tmp_path / "bin" / tool).write_text(f"#!/bin/bash\n{answer}\n")
        (tmp_path / "bin" / tool).chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": "/"}
    environment |= {"SLURM_JOB_ID": "7"}
    process = subprocess.Popen(
        ["bash", "-c", dry_run("slurm")], cwd=tmp_path, env=environment, start_new_session=True
    )
    wait_for(tmp_path / "ready")
    os.killpg(process.pid, signal.SIGTERM)  # the batch shell and its steps alike
    assert process.wait(20) == 0
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "scontrol.txt").read_text().split() == ["requeue", "7"]


def test_gke_gets_a_job_for_every_host_that_starts_again_after_75() -> None:
    manifest: Any = yaml.safe_load(dry_run("gke"))
    assert manifest["kind"] == "JobSet"
    assert manifest["spec"]["failurePolicy"] == {"maxRestarts": 10}  # of failures; 75 is none
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 8
    assert job["backoffLimit"] == 0  # a host that fails is not started again beside the others
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
    # What one start compiled the next one finds: the volume outlives the pod.
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment == {"DATE_JAX_CACHE": "/runs/cache", "JAX_PLATFORMS": "tpu"}
    assert container["volumeMounts"] == [{"name": "runs", "mountPath": "/runs"}]


def test_sky_gets_a_task_that_keeps_its_runs_in_the_bucket() -> None:
    task: Any = yaml.safe_load(dry_run("sky"))
    assert task["file_mounts"]["/runs"] == {"source": "s3://runs", "mode": "MOUNT_CACHED"}
    for part in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n", "-c", part]).returncode == 0
    # What one machine compiled the next one finds.
    assert "JAX_COMPILATION_CACHE_DIR=/runs/compiled " in task["run"]
    last = task["run"].splitlines()[-1]
    assert last.startswith("exec bash launch/again.sh .venv/bin/python -m date_jax.main")
    assert job_in(last) == JOB


@pytest.mark.parametrize("name", NAMES)
def test_a_script_says_what_it_needs(name: str) -> None:
    job = ["--config=configs/pgda.py", "--dry-run"]
    refused = [script(name, *job, **NAMES[name])]
    if name == "slurm":
        refused.append(script(name, *job, "--workdir=/runs/a", **NAMES[name] | {"NODES": "0"}))
    else:
        refused.append(script(name, *job, "--workdir=/runs/a"))
    for done, says in zip(refused, ("give a --workdir", *[""]), strict=True):
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {says}")
        assert len(done.stderr.splitlines()) == 1
    assert "NODES=0" in refused[1].stderr or name != "slurm"


def wait_for(path: Path) -> None:
    until = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.02)


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
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert (tmp_path / "saved").exists()
    assert len((tmp_path / "starts").read_text().splitlines()) == 1
