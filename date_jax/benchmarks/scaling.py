"""The flops and bytes of each device in the sharded step, from one device to all.

Not seconds, for virtual devices share a machine's cores; the program of a device says it.
"""

from typing import Any

import jax
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.benchmarks import measure, program_text, step


def run(config: ConfigDict) -> dict[str, Any]:
    """Rows for 1, 2, 4, … devices with parameters whole, then rows with them cut over all devices.

    The global batch stays: perfect sharding divides the work of one device by their number. Where
    no parameter is large enough to be cut there are no rows of the second kind.

    Args:
        config: validated for all devices.
    """
    most = jax.device_count()
    counts = [n for n in (2**k for k in range(most.bit_length())) if most % n == 0]
    rows_whole = [row(config, count, fsdp=1) for count in counts]

    # Where cutting changes nothing, no parameter is large enough.
    rows_cut = []
    for count, row_whole in zip(counts[1:], rows_whole[1:], strict=True):
        row_cut = row(config, count, fsdp=count)
        if row_cut == row_whole:
            break
        rows_cut.append(row_cut)

    # Efficiency: the share that perfect sharding would leave a device, over what it has.
    one_device = rows_whole[0]
    for numbers in (*rows_whole, *rows_cut):
        for name in ("flops", "bytes_accessed"):
            ideal = one_device[name] / numbers["devices"]
            numbers[f"{name.removesuffix('_accessed')}_efficiency"] = ideal / numbers[name]
    return {
        "batch_size": config.batch_size,
        "each_row": "one device's share; exchanged: results of its collectives",
        "whole_parameters": rows_whole,
    } | ({"parameters_cut": rows_cut} if rows_cut else {})


def row(config: ConfigDict, count: int, *, fsdp: int) -> dict[str, Any]:
    """The step compiled for `count` devices, as its cost analysis describes one of them."""
    mesh = sharding.device_mesh(fsdp, jax.devices()[:count])
    # The analysis counts the inside of a loop once, so there must be none.
    program = step.compiled_step(step.without_loops(config), mesh, step.QUICK).program
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
