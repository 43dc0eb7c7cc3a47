"""A training step compiled for accelerators that are not here: does it fit, how fast may it be?

libtpu compiles for a named topology on any machine (`pip install libtpu`). Bytes, collectives and
cycles are the compiler's, of the program that would run; the cycles are its estimates. What is
modelled from them says so in its name. Nothing here is a timing.
"""

import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.benchmarks import measure, step
from date_jax.errors import SetupError, UsageError

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
COUNTS = tuple(2**n for n in range(11))  # devices of the scaling table


class Chip(NamedTuple):
    """A chip as Google Cloud's pages describe it.

    Attributes:
        flops: a second, in bfloat16.
        hertz: its clock, at which its matrix units reach `flops`.
        memory: bytes.
        exchange: bytes a second to its neighbours, one way, all links together.
    """

    flops: float
    hertz: float
    memory: float
    exchange: float


CHIPS = {
    "v5e": Chip(197e12, 1.5e9, 16 * 2**30, 100e9),
    "v6e": Chip(918e12, 1.75e9, 32 * 2**30, 224e9),
}


def topology_devices(name: str) -> Any:
    """The devices of a topology such as `v5e:16x16`.

    Raises:
        SetupError: libtpu is not installed.
        UsageError: it knows no such topology, or this file no such chip.
    """
    from jax.experimental import topologies

    if name.partition(":")[0] not in CHIPS:
        raise UsageError(f"--topology={name}: must begin with {' or '.join(CHIPS)}, as v5e:4x4")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # it would ask the cloud where it is
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no device here is to be guarded
    try:
        return topologies.get_topology_desc(name, platform="tpu").devices
    # What libtpu raises depends on what is wrong: not there, no such platform, no such name.
    except (RuntimeError, ValueError, NotImplementedError) as error:
        if "libtpu" in str(error).lower() and "not" in str(error).lower():
            raise SetupError(
                "--mode=plan compiles with libtpu, which is not installed: pip install libtpu"
            ) from error
        raise UsageError(f"--topology={name}: {str(error).splitlines()[0][:200]}") from error


def run(config: ConfigDict, *, topologies: dict[str, Any]) -> dict[str, Any]:
    """Compiles the config's step for each topology, with equally many rows a device.

    Args:
        config: validated for the devices of the first; `batch_size` is of the first.
        topologies: `topology_devices` by name, all of one kind of chip.
    """
    first = next(iter(topologies))
    chip = CHIPS[first.partition(":")[0]]
    found = {}
    for name, devices in topologies.items():
        scaled = _with_batch(config, config.batch_size * len(devices) // len(topologies[first]))
        found[name] = compiled(scaled, name, devices)
    half = compiled(_with_batch(config, config.batch_size // 2), first, topologies[first])
    rows = [_row(name, each, chip, each["devices"]) for name, each in found.items()]
    taken = {row["devices"] for row in rows}
    last = [*found.values()][-1]
    rows += [_row("modelled", last, chip, count) for count in COUNTS if count not in taken]
    return {
        "compiled": "bytes, collectives, instructions; estimated: the compiler's cycles",
        "modelled": "exchanges as rings beside no computation; counts without a topology",
        "rows_per_device": found[first]["rows_per_device"],
        "memory": chip.memory,
        "largest_batch_modelled": _largest_batch(found[first], half, chip),
        **found,
        "scaling": sorted(rows, key=lambda row: row["devices"]),
    }


def _with_batch(config: ConfigDict, batch_size: int) -> ConfigDict:
    changed = config.copy_and_resolve_references()
    changed.batch_size = batch_size
    return changed


def compiled(config: ConfigDict, topology: str, devices: Any) -> dict[str, Any]:
    """The step for a topology, as the compiler describes it."""
    mesh = sharding.device_mesh(config.mesh.fsdp, devices)
    _, made = step.made(config, mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.rows(mesh)),
        step.random_batch(config, 0, config.data.vocab_size),
    )
    print(f"compiling for {topology}; this takes minutes", file=sys.stderr, flush=True)
    begun = time.perf_counter()
    program = made.update.lower(made.shapes, batch).compile()
    seconds = time.perf_counter() - begun
    text = program.as_text()
    found = costs(text)
    return {
        "devices": mesh.size,
        "batch_size": config.batch_size,
        "rows_per_device": config.batch_size * len(batch) / mesh.size,
        "compile_seconds": seconds,
        "bytes_per_device": measure.bytes_per_device(program),
        "flops_per_device": step.step_flops(config, made, batch) / mesh.size,
        "estimated_cycles": sum(cost.cycles for cost in found),
        "instructions_without_estimate": sum(cost.cycles == 0 for cost in found),
        "share_of_cycles": {of: shares(found, of) for of in ("kind", "part")},
        "collectives": collectives(text),
        "exchanged_bytes": exchanged_bytes(text),
        "instructions": text.count("\n"),
    }


def _row(name: str, found: dict[str, Any], chip: Chip, devices: int) -> dict[str, Any]:
    """What the estimates of one topology would mean on `devices`, with equally many rows each."""
    seconds = found["estimated_cycles"] / chip.hertz
    sent = _sent(found["exchanged_bytes"], found["devices"], devices)
    exchange = sent / chip.exchange
    return {
        "topology": name,
        "devices": devices,
        "estimated_ms": 1e3 * seconds,
        "exchange_ms_modelled": 1e3 * exchange,
        "mfu_estimated": found["flops_per_device"] / (seconds + exchange) / chip.flops,
        "examples_per_second_modelled": found["rows_per_device"] * devices / (seconds + exchange),
        "efficiency_modelled": seconds / (seconds + exchange),
    }


def _sent(results: dict[str, int], compiled: int, devices: int) -> float:
    """Bytes that each of `devices` sends if every exchange is one ring around all of them.

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


def _largest_batch(whole: dict[str, Any], half: dict[str, Any], chip: Chip) -> int:
    """The largest global batch of the first topology that fits, on a line through two sizes."""

    def needed(found: dict[str, Any]) -> int:
        return sum(found["bytes_per_device"].values())

    a_row = (needed(whole) - needed(half)) / (whole["batch_size"] - half["batch_size"])
    free = chip.memory - needed(whole)
    devices = whole["devices"]
    return int((whole["batch_size"] + free / max(a_row, 1e-9)) // devices * devices)


def collectives(text: str) -> dict[str, int]:
    """How many exchanges of each kind a compiled program has; those in a loop count once."""
    return dict(Counter(kind for kind, _ in _exchanges(text)))


def exchanged_bytes(text: str) -> dict[str, int]:
    """The results of each kind of exchange in a compiled program; those in a loop count once."""
    total: Counter[str] = Counter()
    for kind, size in _exchanges(text):
        total[kind] += size
    return dict(total)


_BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2}


def _exchanges(text: str) -> list[tuple[str, int]]:
    """Kind and bytes of the result of each exchange."""
    names = "|".join(COLLECTIVES)
    # The result may be a tuple: where several are joined, and of those that start and end apart.
    found = re.findall(rf"= (\S+|\(.*?\)) ({names})(-start)?\(", text)
    exchanges = []
    for result, kind, starts in found:
        sizes = []
        for dtype, shape in re.findall(r"([a-z]+\d+|pred)\[([\d,]*)\]", result):
            count = 1
            for side in filter(None, shape.split(",")):
                count *= int(side)
            sizes.append(_BYTES.get(dtype, 1) * count)
        # What starts apart has its operands in the tuple too.
        exchanges.append((kind, sum(sizes) // (2 if starts and len(sizes) > 1 else 1)))
    return exchanges


class Cost(NamedTuple):
    """What the compiler estimates for one instruction, as often as the loops around it run.

    Attributes:
        cycles: of all its runs; 0 where the compiler gives no estimate, as for a gather or for a
            copy that runs beside the computation.
        kind: `products`, `reductions`, `moves` (of memory, from layout to layout) or `elementwise`.
        part: of the network; `rest` is augmentation, losses and optimizer.
    """

    cycles: int
    kind: str
    part: str


_PARTS = ("image_extractor", "text_extractor", "object_seeker")
_KINDS = {  # by the first that an instruction, or what was fused into it, contains
    "products": r" (convolution|dot)\(",
    "reductions": r" (reduce|reduce-window|scatter)\(",
    "moves": r" (copy|copy-done|transpose|reshape|slice|concatenate|pad|gather|dynamic-slice)\(",
}


_WORKING = r" (fusion|custom-call|gather|scatter|sort|copy-start|slice-start)\("


def costs(text: str) -> list[Cost]:
    """The compiler's estimates of a whole program, instruction by instruction.

    Args:
        text: of the compiled program.
    """
    programs: dict[str, list[str]] = defaultdict(list)
    name = entry = ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = head[2]
            entry = name if head[1] else entry
        elif name:
            programs[name].append(line)

    def of(name: str) -> list[Cost]:
        return [cost for line in programs[name] for cost in of_line(line)]

    def of_line(line: str) -> list[Cost]:
        estimates = re.findall(r'"estimated_cycles":"(\d+)"', line)
        if not estimates and re.search(_WORKING, line):
            estimates = ["0"]
        own = [Cost(int(n), _kind(line, programs), _part(line)) for n in estimates]
        if loop := re.search(r" while\(.*condition=%([\w.-]+), body=%([\w.-]+)", line):
            turns = _turns(programs[loop[1]])
            return own + [cost._replace(cycles=turns * cost.cycles) for cost in of(loop[2])]
        if branches := re.search(r" conditional\(.*branch_computations=\{([^}]*)\}", line):
            each = [of(branch.strip(" %")) for branch in branches[1].split(",")]
            return own + max(each, key=lambda found: sum(cost.cycles for cost in found))
        if called := re.search(r" call\(.*to_apply=%([\w.-]+)", line):
            return own + of(called[1])
        return own

    return of(entry)


def _kind(line: str, programs: dict[str, list[str]]) -> str:
    fused = re.search(r" fusion\(.*calls=%([\w.-]+)", line)
    content = "\n".join(programs[fused[1]]) if fused else line
    found = (kind for kind, pattern in _KINDS.items() if re.search(pattern, content))
    return next(found, "elementwise")


def _part(line: str) -> str:
    source = re.search(r'op_name="([^"]*)"', line)
    return next((part for part in _PARTS if source and part in source[1]), "rest")


def shares(found: Sequence[Cost], of: str) -> dict[str, float]:
    """Shares of all cycles by `kind` or by `part`, the largest first."""
    total: Counter[str] = Counter()
    for cost in found:
        total[getattr(cost, of)] += cost.cycles
    return {name: cycles / total.total() for name, cycles in total.most_common()}


def _turns(condition: Sequence[str]) -> int:
    """How often a loop runs: the constant that its counter is compared with."""
    limits = [
        int(n) for line in condition for n in re.findall(r"= s32\[\]\S* constant\((\d+)\)", line)
    ]
    return max(limits, default=1)
