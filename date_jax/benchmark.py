"""How fast is it here: python -m date_jax.benchmark --config=configs/pgda.py --mode=step

    step        the real training step on random batches: examples/s, MFU, memory, its parts
    input       the input pipeline by cores, as a share of the raw decoding of its pictures
    scaling     the work of each device in the step on 1, 2, 4, ... --cpu_devices, compiled alone
    loss        contrastive loss and MMD in tiles beside whole, as the batch grows: bytes, seconds
    selection   counting over all pairs for pseudo boxes, against this machine's matmul peak
    search      exact search and ranks over a gallery, faiss beside it
    duplicates  near-duplicates among --sources rows, --targets of them planted: seconds, recall
    plan        the step compiled for --topology=v5e:4x4, which need not be here: bytes, cycles

Step, scaling, input and plan know the tasks of configs/pgda.py and configs/date.py. All but `input`
make their data and need no TensorFlow. Prints a table; --out=report.json keeps all numbers.
"""

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags, logging
from ml_collections import config_flags

from date_jax.errors import UsageError, spelling_hint
from date_jax.run import commandline

PEERS = ("torch", "torch_compile")
SMALLEST = 1024  # batch of the loss
OF_A_TASK = ("step", "scaling", "input", "plan")
MODES = ("step", "scaling", "input", "loss", "selection", "search", "duplicates", "plan")


def define_flags(known: flags.FlagValues) -> None:
    """Not at import, so that a test can import this file beside another entry point."""
    config_flags.DEFINE_config_file("config", None, "file:argument", flag_values=known)
    for name, default, text in (
        ("mode", "step", f"one of {', '.join(MODES)}"),
        ("topology", "v5e:2x2", "plan: the accelerators to compile for, one or v5e:2x2,v5e:4x4"),
        ("compare", "", "step: torch | torch_compile, the same network there, in turns"),
        ("out", "", "a JSON file for the whole report"),
    ):
        flags.DEFINE_string(name, default, text, flag_values=known)
    for name, number, text in (
        ("rounds", 20, "step, input, loss, search: calls that count"),
        ("cpu_devices", 0, "devices to make of a CPU; 0 = as training would"),
        ("batch", 65536, "loss: the largest batch"),
        ("sources", 40_000, "selection: rows of the source; search, duplicates: of the gallery"),
        ("targets", 10_000, "selection: rows of the target; search: queries; duplicates: planted"),
        ("width", 256, "selection, search, duplicates: numbers a row"),
    ):
        flags.DEFINE_integer(name, number, text, flag_values=known)
    flags.DEFINE_bool("debug", False, "show tracebacks", flag_values=known)


def main(_: list[str]) -> None:
    """Runs one mode, prints its table and the machine."""
    logging.set_verbosity(logging.ERROR)
    given = flags.FLAGS
    if given.mode not in MODES:
        raise UsageError(
            f"--mode={given.mode}: must be one of {', '.join(MODES)}"
            f"{spelling_hint(given.mode, MODES)}"
        )
    if given.compare and (given.mode != "step" or given.compare not in PEERS):
        raise UsageError(
            f"--compare={given.compare}: only --mode=step compares, with {' or '.join(PEERS)}"
        )
    if given.rounds < 1 or given.batch < SMALLEST:
        raise UsageError(f"--rounds must be 1 or more, --batch {SMALLEST:,} or more")
    if given.mode == "search" and given.targets > given.sources:
        raise UsageError("--targets must not be above --sources: each query's match is one of them")
    if given.mode == "duplicates" and not 1 <= given.targets <= given.sources // 2:
        raise UsageError("--targets must be from 1 to half of --sources: they copy other rows")
    if given.out and not Path(given.out).parent.is_dir():
        raise UsageError(f"--out={given.out}: there is no folder {Path(given.out).parent}")
    if given.compare:  # three processes share an accelerator's memory
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    devices = given.cpu_devices or commandline.cores_worth_a_device(given.config)
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_compilation_cache", False)  # its seconds are measured too
    from date_jax import sharding
    from date_jax.benchmarks import (
        compare,
        duplicates,
        input,
        loss,
        measure,
        plan,
        scaling,
        search,
        selection,
        step,
    )
    from date_jax.config import validate
    from date_jax.tasks import TASKS

    if given.mode in OF_A_TASK and "source" not in TASKS[given.config.task].example(given.config):
        raise UsageError(f"--mode={given.mode}: knows the tasks pgda and date alone")
    config = given.config
    planned: dict[str, Any] = {}
    if given.mode == "plan":
        config, planned = plan.prepared(config, given.topology.split(","))
    else:
        validate(config, device_count=jax.device_count(), process_count=jax.process_count())
    mesh = sharding.device_mesh()

    def timed() -> dict[str, Any]:
        if not given.compare:
            return step.run(config, rounds=given.rounds)
        peer = {"peer": given.compare, "rounds": given.rounds, "devices": devices}
        return compare.run(config, **peer)

    modes = {
        "step": timed,
        "scaling": lambda: scaling.run(config),
        "input": lambda: input.run(config, rounds=given.rounds),
        "loss": lambda: loss.run(mesh, rounds=given.rounds, most=given.batch),
        "plan": lambda: plan.run(config, topologies=planned),
        "search": lambda: search.run(
            mesh,
            gallery=given.sources,
            queries=given.targets,
            width=given.width,
            rounds=given.rounds,
        ),
        "duplicates": lambda: duplicates.run(
            mesh, rows=given.sources, planted=given.targets, width=given.width
        ),
        "selection": lambda: selection.run(
            mesh, sources=given.sources, targets=given.targets, width=given.width
        ),
    }
    report = {"mode": given.mode, "machine": measure.machine(), **modes[given.mode]()}
    print("\n".join(lines(report)))
    if given.out:
        Path(given.out).write_text(json.dumps(report, indent=2) + "\n")


def lines(report: dict[str, Any], indent: str = "") -> list[str]:
    """A report for reading: a line for each number, a table for rows."""
    found = []
    for name, value in report.items():
        if isinstance(value, dict):
            found += [f"{indent}{name}", *lines(value, indent + "  ")]
        elif isinstance(value, list):
            found += ["", f"{indent}{name}", *table(value, indent + "  ")]
        else:
            found.append(f"{indent}{name:<32} {shown(value)}")
    return found


def table(rows: list[dict[str, Any]], indent: str = "") -> list[str]:
    """Rows with equal keys, numbers to the right."""
    cells = [[*rows[0]], *([shown(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]
    return [
        indent + "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]


def shown(value: Any) -> str:
    """A value with as many digits as one reads."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main)
