"""Measures how fast date_jax is on this machine, or would be on another.

    python -m date_jax.benchmark --config=configs/pgda.py --mode=step

    step        the real training step on random batches: examples/s, MFU, memory, its parts
    input       the input pipeline by cores, as a share of the raw decoding of its pictures
    scaling     the work of each device in the step on 1, 2, 4, ... --cpu_devices, compiled alone
    loss        contrastive loss and MMD in tiles and whole, as the batch grows: bytes, seconds
    selection   counting over all pairs for pseudo boxes, against this machine's matmul peak
    search      exact search and ranks over a gallery, compared with faiss
    stores      exact search against faiss, LanceDB and Qdrant: build, bytes, queries/s, recall
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
OF_DOMAINS = ("step", "scaling", "input", "plan")  # modes that read batches of source and target
MODES = ("step", "scaling", "input", "loss", "selection", "search", "stores", "duplicates", "plan")


def define_flags(definitions: flags.FlagValues) -> None:
    """Defines the command's flags.

    They are not defined at import, so that a test can import two commands.
    """
    # What to measure, and where the report goes.
    config_flags.DEFINE_config_file("config", None, "file:argument", flag_values=definitions)
    for name, default, text in (
        ("mode", "step", f"one of {', '.join(MODES)}"),
        ("topology", "v5e:2x2", "plan: the accelerators to compile for, one or v5e:2x2,v5e:4x4"),
        ("compare", "", "step: torch | torch_compile, the same network there, in turns"),
        ("out", "", "a JSON file for the whole report"),
    ):
        flags.DEFINE_string(name, default, text, flag_values=definitions)
    # Numbers; several modes share a flag, so each text names the modes that read it.
    for name, number, text in (
        ("rounds", 20, "step, input, loss, search: calls that count"),
        ("cpu_devices", 0, "devices to make of a CPU; 0 = as training would"),
        ("batch", 65536, "loss: the largest batch"),
        ("sources", 40_000, "selection: rows of the source; search, stores, duplicates: gallery"),
        (
            "targets",
            10_000,
            "selection: rows of the target; search, stores: queries; duplicates: planted",
        ),
        ("width", 256, "selection, search, stores, duplicates: numbers a row"),
    ):
        flags.DEFINE_integer(name, number, text, flag_values=definitions)
    flags.DEFINE_bool("debug", False, "show tracebacks", flag_values=definitions)


def main(_: list[str]) -> None:
    """Runs one mode, prints its table and the machine."""
    logging.set_verbosity(logging.ERROR)
    values = flags.FLAGS
    require_sound_flags(values)
    if values.compare:  # three processes share an accelerator's memory
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    # Devices and cache are set before JAX looks for either.
    devices = values.cpu_devices or commandline.cores_worth_a_device(values.config)
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_compilation_cache", False)  # its seconds are measured too
    commandline.require_devices()
    from date_jax.benchmarks import measure

    report = {"mode": values.mode, "machine": measure.machine(), **measures(values, devices)}
    print("\n".join(report_lines(report)))
    if values.out:
        Path(values.out).write_text(json.dumps(report, indent=2) + "\n")


def require_sound_flags(values: flags.FlagValues) -> None:
    """Raises UsageError where flags contradict each other."""
    # The mode and what it compares with.
    if values.mode not in MODES:
        hint = spelling_hint(values.mode, MODES)
        raise UsageError(f"--mode={values.mode}: must be one of {', '.join(MODES)}{hint}")
    if values.compare and (values.mode != "step" or values.compare not in PEERS):
        raise UsageError(
            f"--compare={values.compare}: only --mode=step compares, with {' or '.join(PEERS)}"
        )
    # Numbers: each alone, then two that must fit each other.
    if values.rounds < 1 or values.batch < SMALLEST:
        raise UsageError(f"--rounds must be 1 or more, --batch {SMALLEST:,} or more")
    if values.mode in ("search", "stores") and values.targets > values.sources:
        raise UsageError("--targets must not be above --sources: each query's match is one of them")
    if values.mode == "duplicates" and not 1 <= values.targets <= values.sources // 2:
        raise UsageError("--targets must be from 1 to half of --sources: they copy other rows")
    if values.out and not Path(values.out).parent.is_dir():
        raise UsageError(f"--out={values.out}: there is no folder {Path(values.out).parent}")


def measures(values: flags.FlagValues, devices: int) -> dict[str, Any]:
    """The report of one mode.

    Args:
        values: of the flags.
        devices: that this process makes of a CPU.

    Raises:
        UsageError: the mode does not know the config's task, or the config is not sound.
    """
    # A wrong command need not wait for these imports.
    import jax

    from date_jax import sharding
    from date_jax.benchmarks import (
        compare,
        duplicates,
        input,
        loss,
        plan,
        scaling,
        search,
        selection,
        step,
        stores,
    )
    from date_jax.config import validate

    # A plan is for other devices than those here, so it validates the config itself.
    config, mode = values.config, values.mode
    if mode == "plan":
        config, topologies = plan.planned_config(config, values.topology.split(","))
    else:
        validate(config, device_count=jax.device_count(), process_count=jax.process_count())
    if mode in OF_DOMAINS and "source" not in step.batch_shapes(config):
        raise UsageError(f"--mode={mode}: knows the tasks pgda and date alone")
    if mode == "plan":
        return plan.run(config, topologies)

    # Modes that run the config's step or its pipeline.
    if mode == "step" and values.compare:
        return compare.run(config, peer=values.compare, rounds=values.rounds, devices=devices)
    if mode == "step":
        return step.run(config, rounds=values.rounds)
    if mode == "scaling":
        return scaling.run(config)
    if mode == "input":
        return input.run(config, rounds=values.rounds)

    # Modes that only ask for numbers of rows.
    mesh = sharding.device_mesh()
    sources, targets, width = values.sources, values.targets, values.width
    if mode == "loss":
        return loss.run(mesh, rounds=values.rounds, most=values.batch)
    if mode == "selection":
        return selection.run(mesh, sources=sources, targets=targets, width=width)
    if mode == "stores":
        return stores.run(mesh, rows=sources, queries=targets, width=width)
    if mode == "duplicates":
        return duplicates.run(mesh, rows=sources, planted=targets, width=width)
    return search.run(mesh, gallery=sources, queries=targets, width=width, rounds=values.rounds)


def report_lines(report: dict[str, Any], indent: str = "") -> list[str]:
    """A report for reading: a line for each number, a table for rows."""
    lines = []
    for name, value in report.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *report_lines(value, indent + "  ")]
        elif isinstance(value, list):
            lines += ["", f"{indent}{name}", *table(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name:<32} {readable(value)}")
    return lines


def table(rows: list[dict[str, Any]], indent: str = "") -> list[str]:
    """The lines of a table of rows with equal keys, numbers to the right."""
    # The heading is the first line: widths are of all.
    cells = [[*rows[0]], *([readable(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]
    return [
        indent + "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]


def readable(value: Any) -> str:
    """A value with as many digits as one reads."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main)
