"""Trains and evaluates one run.

    python -m date_jax.main --config=configs/pgda.py

The same command with the same --workdir goes on where it was stopped.
"""

import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Before anything imports TensorFlow or XLA: their chatter would drown what the run says.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from date_jax.data.cache import cache_folder, compiled_folder
from date_jax.data.sources import check_early
from date_jax.errors import UsageError
from date_jax.run import commandline
from date_jax.run.rendezvous import is_cluster, meet

_CONFIG = config_flags.DEFINE_config_file("config", None, "file with get_config(), file:argument")
_WORKDIR = flags.DEFINE_string("workdir", None, "of the run; default runs/<config>-<time>")
_DEBUG = flags.DEFINE_bool("debug", False, "show tracebacks and the libraries' logs")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0; TPU, SLURM: found")
_COUNT = flags.DEFINE_integer("process_count", 1, "processes that train together")
_INDEX = flags.DEFINE_integer("process_index", 0, "number of this one")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "ask the platform for the other processes, as on TPU VM slices"
)
_CPU_DEVICES = flags.DEFINE_integer("cpu_devices", None, "virtual devices, to try a mesh on a CPU")
_PROFILE = flags.DEFINE_string("profile", "", "steps to trace, e.g. 20:23, into the run's profile/")
_PATIENCE = 300.0  # seconds that processes which are there wait for one that is not


def main(_: list[str]) -> None:
    """Sets up the process and the mesh's devices, then trains."""
    logging.set_verbosity(logging.INFO if _DEBUG.value else logging.ERROR)
    config = _CONFIG.value
    # One host alone must not stop here: the others would wait for it.
    if not (_COORDINATOR.value or _DISTRIBUTED.value or is_cluster(os.environ)):
        check_early(config.data)
    _start_jax(config)
    # Only now: a wrong command is refused before JAX is imported, in half a second.
    import jax

    from date_jax.config import validate
    from date_jax.job import read_on_all_hosts
    from date_jax.published_sizes import with_published_sizes
    from date_jax.run.workdir import code_version, flat, require_equal_hosts
    from date_jax.train import steps_to_trace, train

    # Hosts that differ would not fail, but wait for each other or train something else.
    require_equal_hosts({"its code": code_version()} | _versions())
    # Sizes of published weights, before the values are compared and checked.
    typed = config_flags.get_override_values(flags.FLAGS["config"])
    directory = Path(_WORKDIR.value) if _WORKDIR.value else None
    config, lines = read_on_all_hosts(
        lambda: with_published_sizes(config, typed, directory), "config.init"
    )
    require_equal_hosts(flat(config.to_dict()))
    _keep_programs(config)
    validate(config, device_count=jax.device_count(), process_count=jax.process_count())
    profile = steps_to_trace(_PROFILE.value)
    workdir = directory or _default_workdir()
    if jax.process_index() == 0 and lines:
        print("\n".join(lines), flush=True)
    # Of several processes each has another command, and what started them starts all again.
    command = ""
    if jax.process_count() == 1:
        command = commandline.resuming_command("date_jax.main", sys.argv[1:], workdir)
    train(config, workdir, profile=profile, command=command)


def _start_jax(config: ConfigDict) -> None:
    """Finds the devices of all processes.

    Raises:
        SetupError: JAX finds no devices, or not all processes.
        UsageError: the flags contradict each other, or the machine.
    """
    import jax

    compiled_folder(config.data)  # without it no run begins
    jax.config.update("jax_compilation_cache_dir", None)  # until all hosts are known to be alike
    # A CPU is made into several devices, as wanted or as is fastest; accelerators ignore it.
    if _CPU_DEVICES.value is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", _CPU_DEVICES.value)
    elif _COUNT.value == 1:
        jax.config.update("jax_num_cpu_devices", commandline.cores_worth_a_device(config))
    # How the processes find each other: by flags, or by the platform.
    options: dict[str, Any] = {
        # The defaults let survivors of a lost host wait for 100 s, and at the exit for 300 s.
        "heartbeat_timeout_seconds": 10,
        "shutdown_timeout_seconds": 60,
    }
    if _COORDINATOR.value:
        options |= {
            "coordinator_address": _COORDINATOR.value,
            "num_processes": _COUNT.value,
            "process_id": _INDEX.value,
        }
        if _COORDINATOR.value.startswith(("127.0.0.1:", "localhost:")):
            # Or it would listen to the whole network, for processes of this machine alone.
            options["coordinator_bind_address"] = _COORDINATOR.value
    elif _COUNT.value > 1:
        raise UsageError(f"--process_count={_COUNT.value} needs --coordinator=<host>:<port>")
    try:
        if _COORDINATOR.value:
            index, count = _INDEX.value, _COUNT.value
            meet(_COORDINATOR.value, index=index, count=count, timeout=_PATIENCE)
        if _COORDINATOR.value or _DISTRIBUTED.value or is_cluster(os.environ):
            jax.distributed.initialize(**options)
        jax.devices()
    except (AssertionError, RuntimeError, ValueError) as error:
        raise commandline.device_error(error, os.environ) from error
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise UsageError(
            f"this is one of {jax.process_count()} hosts of a TPU slice, which have to know each "
            "other: add --distributed on all of them"
        )


def _keep_programs(config: ConfigDict) -> None:
    """Lets a later start find what this one compiles, where all hosts have one disk for it.

    Only host 0 writes. Hosts with other disks would compile what host 0 reads, and on GPUs wait for
    its share of the work for ever.
    """
    import jax
    import numpy as np

    from date_jax.run.workdir import sees_host_0
    from date_jax.sharding import values_of_hosts

    folder = compiled_folder(config.data)
    is_url = "://" in folder  # of a bucket, which is one for all hosts
    is_shared = sees_host_0(cache_folder(config.data) if is_url else Path(folder)) or is_url
    if values_of_hosts(np.array(is_shared)).all():
        jax.config.update("jax_compilation_cache_dir", folder)
        if is_url:  # XLA keeps files too, and would make a local folder of that name for them
            jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _versions() -> dict[str, str]:
    """The versions of what computes: hosts that differ drift apart, or wait for each other."""
    python = ".".join(platform.python_version_tuple()[:2])
    names = ("jax", "jaxlib", "numpy")
    return {"its Python": python} | {f"its {name}": version(name) for name in names}


def _default_workdir() -> Path:
    """`runs/<config>-<time>`, the same on all hosts."""
    import numpy as np

    from date_jax.sharding import values_of_hosts

    path, _, words = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    seconds = int(values_of_hosts(np.array(time.time(), np.int32))[0])  # host 0's clock
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))
    return Path("runs") / "-".join(filter(None, [Path(path).stem, *words.split(","), stamp]))


if __name__ == "__main__":
    commandline.run(main)
