"""The runs.jsonl of a study: a line a run, with what table, chart and text quote.

The table and the chart are made of these records alone, so that a runs.jsonl makes them again to
the byte when the folders of its runs are gone.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from date_jax.ablation.comparison import Finished
from date_jax.errors import DataError
from date_jax.run import workdir

MACHINE = "# machine: "  # begins that line of each log
DIGITS = 5  # of a measure, and the table prints three
MEASURES = ("wall_seconds", "examples_per_second", "seconds", "eval", "pseudo_boxes")
Record = dict[str, Any]  # results.json in short, with day, machines and losses of the run


def record(directory: Path) -> Record | None:
    """The record of the run in a directory; None before the run has its results.json.

    Returns:
        `config`, the run's whole config; `date`, the day in UTC on which the run ended;
        `machines`, a line for each start on another one; MEASURES of results.json; `history`, the
        distances of the domains by step; `losses`, the training loss by step; `terms`, what else
        was measured in training, in the first and in the last window; `data`, where results.json
        has it. What is empty is left out.

    Raises:
        DataError: results.json is cut off.
    """
    # A run without its results is not done; one whose results are cut off has to run again.
    path = directory / "results.json"
    if not path.exists():
        return None
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path}: cut off ({error}); delete it and run again") from error
    # The date is that of the file, for results.json is the last that a run writes.
    losses, terms = training_history(directory / "metrics.jsonl")
    fields = {
        "date": time.strftime("%Y-%m-%d", time.gmtime(path.stat().st_mtime)),
        "machines": machines(directory / "console.log"),
        "config": results["config"],
        "data": results.get("data"),
        **{name: with_few_digits(results.get(name)) for name in MEASURES},
        "history": with_few_digits(distances(results.get("history", []))),
        "losses": with_few_digits(losses),
        "terms": with_few_digits(terms),
    }
    # A runs.jsonl holds no empty fields, but for the measures, which every table asks for.
    return {
        name: value
        for name, value in fields.items()
        if name == "eval" or value not in (None, [], {})
    }


def machines(log: Path) -> list[str]:
    """The machines that a log describes, a line for each start of the run on another one."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [*dict.fromkeys(x.removeprefix(MACHINE) for x in lines if x.startswith(MACHINE))]


def distances(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The evaluations that measured the distance of the domains, without their other metrics."""
    entries = []
    for entry in history:
        splits = {
            split: {name: x for name, x in metrics.items() if name.startswith("distance_")}
            for split, metrics in entry["eval"].items()
        }
        if with_distance := {split: metrics for split, metrics in splits.items() if metrics}:
            entries.append({"step": entry["step"], "eval": with_distance})
    return entries


def training_history(path: Path) -> tuple[dict[int, float], dict[str, list[float]]]:
    """The training loss by step, and each other term of training in its first and last window.

    Args:
        path: of a run's metrics.jsonl, which may be absent.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    # The lines of evaluations have no loss.
    windows = [json.loads(line) for line in lines if '"train/loss"' in line]
    values: dict[str, dict[int, float]] = {}
    for window in windows:
        for name, value in window.items():
            if name.startswith("train/") and value is not None:
                values.setdefault(name.removeprefix("train/"), {})[window["step"]] = value
    losses = values.pop("loss", {})
    ends = {name: [*by_step.values()] for name, by_step in values.items()}
    return losses, {name: [column[0], column[-1]] for name, column in ends.items()}


def with_few_digits(value: Any) -> Any:
    """A copy of a JSON value with DIGITS digits of each fraction."""
    if isinstance(value, dict):
        return {name: with_few_digits(x) for name, x in value.items()}
    if isinstance(value, list):
        return [with_few_digits(x) for x in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def write(path: Path, runs: Sequence[Finished], defaults: Mapping[str, dict[str, Any]]) -> None:
    """Writes a line for each run: of its config what differs from the default.

    Args:
        path: of runs.jsonl.
        runs: whose `results` are records.
        defaults: the config file's own config, by direction.
    """
    lines = []
    for run in runs:
        changes = workdir.config_changes(run.results["config"], defaults[run.direction])
        config = {key: value for key, (value, _) in changes.items() if key != "seed"}
        head = {"direction": run.direction, "method": run.method, "seed": run.seed}
        lines.append(json.dumps({**head, **run.results, "config": config}, separators=(",", ":")))
    path.write_text("".join(f"{line}\n" for line in lines))


def read(path: Path, defaults: Mapping[str, dict[str, Any]]) -> list[Finished]:
    """The runs in a file of `write`, without those of other directions than `defaults` has.

    Raises:
        DataError: the file or a field is missing, or a line is no JSON.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    runs = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            direction, method, seed = (row.pop(name) for name in ("direction", "method", "seed"))
            # The line holds what differs from the default of its direction, if the study has that.
            if direction in defaults:
                row["config"] = with_changes(defaults[direction], row["config"] | {"seed": seed})
                row["losses"] = {int(step): x for step, x in row.get("losses", {}).items()}
                runs.append(Finished(direction, method, seed, row, row["losses"]))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(f"{path}:{number}: no line of a runs.jsonl ({error!r})") from error
    return runs


def with_changes(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of the nested `config`, through JSON, with values by dotted key set in it."""
    # Through JSON, as a saved config went: it knows no tuples.
    copy = json.loads(json.dumps(config))
    for key, value in changes.items():
        *parents, name = key.split(".")
        inner = copy
        for parent in parents:
            if not isinstance(inner.get(parent), dict):  # a key of an older config
                inner[parent] = {}
            inner = inner[parent]
        inner[name] = value
    return copy
