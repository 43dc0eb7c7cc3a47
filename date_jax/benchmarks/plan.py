"""A training step compiled for accelerators that are not here: does it fit, what does it exchange?

libtpu compiles for a named topology on any machine (`pip install libtpu`). Bytes and collectives
are those of the compiled program; nothing here is a timing.
"""

import os
import re
import time
from collections import Counter
from typing import Any

import jax
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.benchmarks import measure, step
from date_jax.errors import SetupError, UsageError

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def topology_devices(name: str) -> Any:
    """The devices of a topology such as `v5e:16x16`.

    Raises:
        SetupError: libtpu is not installed.
        UsageError: it knows no such topology.
    """
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # it would ask the cloud where it is
    try:
        return topologies.get_topology_desc(name, platform="tpu").devices
    # What libtpu raises depends on what is wrong: not there, no such platform, no such name.
    except (RuntimeError, ValueError, NotImplementedError) as error:
        if "libtpu" in str(error).lower() and "not" in str(error).lower():
            raise SetupError(
                "--mode=plan compiles with libtpu, which is not installed: pip install libtpu"
            ) from error
        raise UsageError(f"--topology={name}: {str(error).splitlines()[0][:200]}") from error


def run(config: ConfigDict, *, topology: str, devices: Any) -> dict[str, Any]:
    """Compiles the config's step for a topology.

    Args:
        config: validated for that many devices.
        topology: its name, for the report.
        devices: its `topology_devices`.
    """
    mesh = sharding.device_mesh(config.mesh.fsdp, devices)
    _, made = step.made(config, mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.rows(mesh)),
        step.random_batch(config, 0, config.data.vocab_size),
    )
    begun = time.perf_counter()
    compiled = made.update.lower(made.shapes, batch).compile()
    seconds = time.perf_counter() - begun
    text = compiled.as_text()
    rows = config.batch_size * len(batch)
    return {
        "topology": topology,
        "devices": mesh.size,
        "rows_per_device": rows / mesh.size,
        "compile_seconds": seconds,
        "bytes_per_device": measure.bytes_per_device(compiled),
        "flops_per_device": step.step_flops(config, made, batch) / mesh.size,
        "collectives": collectives(text),
        "instructions": text.count("\n"),
    }


def collectives(text: str) -> dict[str, int]:
    """How many exchanges of each kind a compiled program has; those in a loop count once."""
    names = "|".join(COLLECTIVES)
    # The result may be a tuple: where several are joined, and of those that start and end apart.
    return dict(Counter(re.findall(rf"= (?:\S+|\(.*?\)) ({names})(?:-start)?\(", text)))
