"""What each device does in the sharded step, from one device to all: flops and bytes.

Not seconds, for virtual devices share a machine's cores; the program of a device says it.
"""

from typing import Any

import jax
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.benchmarks import measure, program_text, step


def run(config: ConfigDict) -> dict[str, Any]:
    """A row for 1, 2, 4, … devices with parameters whole, then one for each with them cut over all.

    The global batch stays: perfect sharding divides the work of one device by their number. Where
    no parameter is large enough to be cut there are no rows of the second kind.

    Args:
        config: validated for all devices.
    """
    most = jax.device_count()
    counts = [n for n in (2**k for k in range(most.bit_length())) if most % n == 0]
    whole = [row(config, count, fsdp=1) for count in counts]
    cut = []
    for count, same in zip(counts[1:], whole[1:], strict=True):
        each = row(config, count, fsdp=count)
        if each == same:
            break
        cut.append(each)
    first = whole[0]
    for each in (*whole, *cut):
        for name in ("flops", "bytes_accessed"):
            ideal = first[name] / each["devices"]
            each[f"{name.removesuffix('_accessed')}_efficiency"] = ideal / each[name]
    return {
        "batch_size": config.batch_size,
        "each_row": "one device's share; exchanged: results of its collectives",
        "whole_parameters": whole,
    } | ({"parameters_cut": cut} if cut else {})


def row(config: ConfigDict, count: int, *, fsdp: int) -> dict[str, Any]:
    """The step compiled for `count` devices, as its cost analysis describes one of them."""
    mesh = sharding.device_mesh(fsdp, jax.devices()[:count])
    # The analysis counts the inside of a loop once, so there must be none.
    program = step.compiled(step.without_loops(config), mesh, step.QUICK).program
    cost, text = program.cost_analysis(), program.as_text()
    memory = measure.bytes_per_device(program)
    return {
        "devices": count,
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "arguments": memory["arguments"],
        "temporary": memory["temporary"],
        "exchanges": sum(program_text.collectives(text).values()),
        "exchanged": sum(program_text.exchanged_bytes(text).values()),
    }
