"""The yardsticks of every benchmark: seconds of a call, bytes, this machine and its matmul peak."""

import importlib.metadata
import math
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from date_jax import sharding
from date_jax.run import subprocesses
from date_jax.run.workdir import code_version


class Seconds(NamedTuple):
    """Seconds of a call: median, least and most over the rounds."""

    median: float
    least: float
    most: float


def seconds(
    call: Callable[[], Any], *, rounds: int, warm_up: int = 3, at_most: float = math.inf
) -> Seconds:
    """Seconds of `call()`, until all that it returns has been computed.

    Args:
        call: gives device arrays.
        rounds: that count.
        warm_up: calls before them; the first compiles.
        at_most: seconds for all calls, after which no other one begins but the first that counts.
    """
    # The first call that counts is never left out, however long the others took.
    times: list[float] = []
    start = time.perf_counter()
    for turn in range(warm_up + rounds):
        begun = time.perf_counter()
        if times and begun - start > at_most:
            break
        jax.block_until_ready(call())
        if turn >= warm_up:
            times.append(time.perf_counter() - begun)
    return Seconds(statistics.median(times), min(times), max(times))


def matmul_peak(dtype: Any, mesh: jax.sharding.Mesh, *, precision: str = "default") -> float:
    """Flop/s of the best of several square matmuls on all devices of the mesh together.

    It is the ceiling that shares are taken of, so it is measured in the same process, on random
    numbers: zeros are faster than any data. On a CPU in float32 NumPy's product counts too.

    Args:
        dtype: of the factors and of the product.
        precision: of the products, as JAX names it.
    """
    # A product for each device, large enough to reach its peak.
    on_cpu = jax.default_backend() == "cpu"
    side = 1536 if on_cpu else 8192
    rng = np.random.default_rng(0)
    shape = (mesh.size, side, side)
    host = {name: rng.standard_normal(shape, np.float32) for name in ("a", "b")}
    pairs = sharding.global_batch(mesh, host)

    @jax.jit
    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b, precision=precision, preferred_element_type=dtype)

    # The best of ten, since nothing can be faster than the machine is.
    cast = {name: jax.jit(lambda x: x.astype(dtype))(value) for name, value in pairs.items()}
    best = seconds(lambda: product(cast["a"], cast["b"]), rounds=10).least
    if on_cpu and jnp.dtype(dtype) == jnp.float32:
        best = min(best, seconds(lambda: np.matmul(host["a"], host["b"]), rounds=10).least)
    return 2 * mesh.size * side**3 / best


def bytes_per_device(compiled: Any) -> dict[str, int]:
    """Bytes of a compiled program on a device: arguments, temporary arrays, and its own code."""
    memory = compiled.memory_analysis()
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }


def peak_bytes() -> int:
    """Peak bytes of memory in use: those of a device, or on a CPU those of the whole process."""
    of_device = jax.local_devices()[0].memory_stats() or {}
    of_process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # it counts in KiB
    return of_device.get("peak_bytes_in_use", of_process)


def machine() -> dict[str, Any]:
    """A description of this machine for a report: devices, host, load, date, versions, code."""
    devices = jax.devices()
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "host": f"{subprocesses.processor()}, {len(subprocesses.cores())} cores",
        "load": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("jax", "flax")},
        },
        "code": code_version(),
    }
