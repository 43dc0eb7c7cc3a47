"""A training step compiled for accelerators that are not here: whether it fits, and how fast.

libtpu compiles for a named topology on any machine (`pip install libtpu`). Bytes, collectives and
cycles are the compiler's, of the program that would run; the cycles are its estimates. Exchanges
between chips are modelled, and so is every number they are part of. Without libtpu everything is
modelled, from small steps compiled for this machine. No number here is a timing.
"""

import importlib.util
import math
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.benchmarks import measure, program_text, step
from date_jax.config import validate
from date_jax.errors import UsageError

COUNTS = tuple(2**n for n in range(11))  # devices of the scaling table


class Chip(NamedTuple):
    """A chip as its maker's pages describe it.

    Attributes:
        flops: a second, in bfloat16.
        hertz: its clock, at which its matrix units reach `flops`.
        memory: bytes.
        bandwidth: bytes a second of it.
        exchange: bytes a second to its neighbours, one way, all links together.
    """

    flops: float
    hertz: float
    memory: float
    bandwidth: float
    exchange: float


CHIPS = {
    "v4": Chip(275e12, 1.05e9, 32 * 2**30, 1.2e12, 150e9),
    "v5e": Chip(197e12, 1.5e9, 16 * 2**30, 0.82e12, 100e9),
    "v5p": Chip(459e12, 1.75e9, 95 * 2**30, 2.765e12, 300e9),
    "v6e": Chip(918e12, 1.75e9, 32 * 2**30, 1.64e12, 224e9),
    # GPUs: everything is modelled for them.
    "a100": Chip(312e12, 1.41e9, 80 * 2**30, 2.0e12, 300e9),
    "h100": Chip(989e12, 1.755e9, 80 * 2**30, 3.35e12, 450e9),
}
GPUS = ("a100", "h100")
ROWS = 16  # of a domain that a chip gets where the config's batch has not one for each
SMALL = (2, 4)  # rows of a domain in the steps that are compiled here to model others by a line


def size(name: str) -> int:
    """The number of chips of a topology such as `v5e:16x16`.

    Raises:
        UsageError: it is no topology, or of a chip that this file does not know.
    """
    chip, _, sides = name.partition(":")
    if chip not in CHIPS:
        raise UsageError(f"--topology={name}: must begin with {', '.join(CHIPS)}, as v5e:4x4")
    if not re.fullmatch(r"\d+(x\d+)+", sides):
        raise UsageError(f"--topology={name}: after the chip come its sides, as v5e:4x4")
    return math.prod(map(int, sides.split("x")))


def topology_devices(name: str) -> Any:
    """The devices of a topology such as `v5e:16x16`; None where no compiler of its chip is here.

    Raises:
        UsageError: there is no such topology.
    """
    from jax.experimental import topologies

    size(name)
    if name.partition(":")[0] in GPUS or importlib.util.find_spec("libtpu") is None:
        return None
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # it would ask the cloud where it is
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no device here is to be guarded
    try:
        return topologies.get_topology_desc(name, platform="tpu").devices
    # What libtpu raises depends on what is wrong with the name.
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise UsageError(f"--topology={name}: {str(error).splitlines()[0][:200]}") from error


def planned_config(config: ConfigDict, names: Sequence[str]) -> tuple[ConfigDict, dict[str, Any]]:
    """The config and the devices of each topology, which `run` takes.

    Args:
        config: `batch_size` is of the first topology; where that has more chips, each gets ROWS.
        names: topologies.

    Raises:
        UsageError: no plan can be made of these.
    """
    # One chip: the numbers of a table are of one kind.
    topologies = {name: topology_devices(name) for name in names}
    if len({name.partition(":")[0] for name in names}) > 1:
        raise UsageError(f"--topology={','.join(names)}: must be of one kind of chip")
    # A batch for one machine may be too small for a pod.
    first = size(names[0])
    if config.batch_size < first:
        config = step.with_batch(config, ROWS * first)
        print(f"planned with batch_size={config.batch_size}: {ROWS} rows a chip", file=sys.stderr)
    for name in names:
        scaled = _config_for(config, names[0], name)
        scaled.eval.batch_size = scaled.batch_size  # a plan evaluates nothing
        validate(scaled, device_count=size(name), process_count=1)
    return config, topologies


def _config_for(config: ConfigDict, first: str, name: str) -> ConfigDict:
    """The config for topology `name`, with as many rows a chip as it has for `first`."""
    return step.with_batch(config, config.batch_size * size(name) // size(first))


def run(config: ConfigDict, topologies: dict[str, Any]) -> dict[str, Any]:
    """The config's step for each topology, with equally many rows a device.

    Args:
        config, topologies: from `planned_config`.
    """
    # The compiler's numbers where libtpu is installed; else a model, fitted on this machine.
    first = next(iter(topologies))
    chip = CHIPS[first.partition(":")[0]]
    compiles = topologies[first] is not None
    if compiles:
        source = "bytes, collectives, instructions; estimated: the compiler's cycles"
    else:
        is_gpu = first.partition(":")[0] in GPUS
        why = "GPUs are not compiled for" if is_gpu else "libtpu is not installed"
        print(f"{why}: all of this is modelled", file=sys.stderr)
        source = f"nothing for the chip: {why}" + ("" if is_gpu else " (pip install libtpu)")
    line = None if compiles else line_through_small_steps(config)

    def step_on(name: str) -> dict[str, Any]:
        """The step for one topology, from the compiler or from the model."""
        scaled = _config_for(config, first, name)
        if line is None:
            return compiled_step(scaled, name, topologies[name])
        return modelled_step(scaled, size(name), chip, line)

    steps = {name: step_on(name) for name in topologies}

    # The table: topologies as they are, then other numbers of chips after the last of them.
    rows = [_row(name, plan, chip, plan["devices"]) for name, plan in steps.items()]
    counts = {row["devices"] for row in rows}
    last = [*steps.values()][-1]
    if config.mesh.fsdp == 1:  # else exchanges in groups would grow like those among all
        rows += [_row("modelled", last, chip, count) for count in COUNTS if count not in counts]

    # A larger batch adds its own bytes and those of its activations, not the fixed ones.
    batch = sharding.tree_bytes_per_device(step.batch_shapes(config), devices=1, fsdp=1)
    fixed = line.temporary[0] if line else 0.0
    return {
        "compiled": source,
        "modelled": "exchanges as rings during no computation; counts without a topology"
        if compiles
        else "all: memory and its traffic by a line through two small steps compiled for this "
        "machine without remat, scan and rows_at_once, cycles as the slower of that traffic and "
        "the products at their peak",
        "rows_per_device": steps[first]["rows_per_device"],
        "memory": chip.memory,
        "largest_batch_modelled": _largest_batch(steps[first], chip, fixed=fixed, batch=batch),
        **steps,
        "scaling": sorted(rows, key=lambda row: row["devices"]),
    }


class Line(NamedTuple):
    """The needs of a step on one device, each as `fixed + per_row * rows of a domain`.

    Attributes:
        temporary: bytes of arrays that the step makes and drops.
        traffic: bytes read and written.
        flops: of the products.
        state: bytes of parameters, optimizer and so on, before any is cut.
        gradients: bytes that devices add up.
    """

    temporary: tuple[float, float]
    traffic: tuple[float, float]
    flops: tuple[float, float]
    state: Any
    gradients: int


def line_through_small_steps(config: ConfigDict) -> Line:
    """The line through two small steps, compiled for one device of this machine."""
    mesh = sharding.device_mesh(1, jax.devices()[:1])
    # The needs of both sizes, without loops, of which the analysis would count one turn.
    needs = []
    for rows in SMALL:
        small = step.with_batch(step.without_loops(config), rows)
        small.mesh.fsdp = 1
        _, small_step, batch, program, _ = step.compiled_step(small, mesh, step.QUICK)
        memory = measure.bytes_per_device(program)
        traffic = program.cost_analysis()["bytes accessed"]
        numbers = memory["temporary"], traffic, step.step_flops(small, small_step, batch)
        needs.append(tuple(map(float, numbers)))

    def line(low: float, high: float) -> tuple[float, float]:
        """The line through the needs of both sizes: its value at zero rows, and its slope."""
        per_row = (high - low) / (SMALL[1] - SMALL[0])
        return low - SMALL[0] * per_row, per_row

    # Gradients have the bytes of the parameters, whatever the rows.
    gradients = sharding.tree_bytes_per_device(small_step.shapes.params, devices=1, fsdp=1)
    temporary, traffic, flops = (line(*pair) for pair in zip(*needs, strict=True))
    return Line(temporary, traffic, flops, small_step.shapes, gradients)


def modelled_step(config: ConfigDict, devices: int, chip: Chip, line: Line) -> dict[str, Any]:
    """The step for a topology, from the line through small steps."""
    rows = config.batch_size // devices

    def at_rows(fixed: float, per_row: float) -> float:
        """A point of the line."""
        return fixed + per_row * rows

    # The products at their peak and the traffic overlap; the slower of the two is the time.
    seconds = max(at_rows(*line.flops) / chip.flops, at_rows(*line.traffic) / chip.bandwidth)
    arguments = sharding.tree_bytes_per_device(line.state, devices=devices, fsdp=config.mesh.fsdp)
    batch = step.batch_shapes(config)
    arguments += sharding.tree_bytes_per_device(batch, devices=1, fsdp=1) // devices
    exchanged = {"all-reduce": line.gradients}
    if config.mesh.fsdp > 1:  # parameters come again for the backward pass
        exchanged["all-gather"] = line.gradients
    return {
        "devices": devices,
        "batch_size": config.batch_size,
        "rows_per_device": rows * len(batch),
        "bytes_per_device": {"arguments": arguments, "temporary": int(at_rows(*line.temporary))},
        "flops_per_device": at_rows(*line.flops),
        "estimated_cycles": seconds * chip.hertz,
        "exchanged_bytes": exchanged,
    }


def compiled_step(config: ConfigDict, topology: str, devices: Any) -> dict[str, Any]:
    """The step for a topology, from the program that libtpu compiles for it."""
    # The chips need not be here: libtpu compiles for a description of them.
    mesh = sharding.device_mesh(config.mesh.fsdp, devices)
    print(f"compiling for {topology}; this takes minutes", file=sys.stderr, flush=True)
    _, train_step, batch, program, seconds = step.compiled_step(config, mesh)
    # All else is read off the program: its memory, and in its text cycles and exchanges.
    text = program.as_text()
    costs = program_text.costs(text)
    return {
        "devices": mesh.size,
        "batch_size": config.batch_size,
        "rows_per_device": config.batch_size * len(batch) / mesh.size,
        "compile_seconds": seconds,
        "bytes_per_device": measure.bytes_per_device(program),
        "flops_per_device": step.step_flops(config, train_step, batch) / mesh.size,
        "estimated_cycles": sum(cost.spent for cost in costs),
        "instructions_without_estimate": sum(cost.spent == 0 for cost in costs),
        "share_of_cycles": {field: program_text.shares(costs, field) for field in ("kind", "part")},
        "collectives": program_text.collectives(text),
        "exchanged_bytes": program_text.exchanged_bytes(text),
        "instructions": text.count("\n"),
    }


def _row(name: str, plan: dict[str, Any], chip: Chip, devices: int) -> dict[str, Any]:
    """A row of the table: the step of one topology on `devices`, with equally many rows each.

    Args:
        name: of the row.
        plan: the step, from `compiled_step` or `modelled_step`.
    """
    seconds = plan["estimated_cycles"] / chip.hertz
    exchange = _bytes_sent(plan["exchanged_bytes"], plan["devices"], devices) / chip.exchange
    return {
        "topology": name,
        "devices": devices,
        "estimated_ms": 1e3 * seconds,
        "exchange_ms_modelled": 1e3 * exchange,
        "mfu_estimated": plan["flops_per_device"] / (seconds + exchange) / chip.flops,
        "examples_per_second_modelled": plan["rows_per_device"] * devices / (seconds + exchange),
        "efficiency_modelled": seconds / (seconds + exchange),
    }


def _bytes_sent(results: dict[str, int], compiled: int, devices: int) -> float:
    """Bytes that a device sends if every exchange is one ring around all `devices`.

    Args:
        results: `exchanged_bytes` of a program for `compiled` devices. What is gathered grows with
            the devices, as each brings equally many rows.
    """
    turns = devices - 1
    factors = {
        "all-reduce": 2 * turns / devices,
        "all-gather": turns / compiled,
        "reduce-scatter": turns,
        "all-to-all": turns / devices,
        "collective-permute": min(turns, 1),
    }
    return sum(factors[kind] * size for kind, size in results.items())


def _largest_batch(plan: dict[str, Any], chip: Chip, *, fixed: float, batch: int) -> int:
    """The largest global batch of a topology that fits.

    Args:
        plan: the step at one size of batch.
        fixed: temporary bytes that do not grow with the rows; one compiled step does not tell, and
            0 takes all as growing.
        batch: bytes of the global batch.
    """
    memory = plan["bytes_per_device"]
    # What grows with the rows may have all the memory that the rest leaves.
    growing = memory["temporary"] - fixed + batch / plan["devices"]
    room = chip.memory - sum(memory.values()) + growing
    largest = plan["batch_size"] * room / growing
    return int(largest // plan["devices"] * plan["devices"])
