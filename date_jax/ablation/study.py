"""A study: which runs of one config are compared, whether they fit in one table, and the table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from date_jax.ablation import chart, comparison, records, tables
from date_jax.errors import UsageError
from date_jax.run import workdir

SIDES = ("data.source", "data.target")  # config keys that a direction sets
Methods = Mapping[str, dict[str, Any]]  # what each method changes, by dotted config key


class Run(NamedTuple):
    """One cell of the study: a method, in a direction, with a seed."""

    direction: str
    method: str
    seed: int
    directory: Path

    @property
    def name(self) -> str:
        """The name of the run in messages: `mall2live/date-0`."""
        return "/".join(filter(None, [self.direction, f"{self.method}-{self.seed}"]))

    @property
    def log(self) -> Path:
        """The file of what the run prints."""
        return self.directory / "console.log"


Records = dict[Run, records.Record]


class Study(NamedTuple):
    """The runs that one command compares.

    Attributes:
        folder: of all runs, and of the table.
        runs: in the order in which they start.
        config: that the methods change.
        methods: what each method of the study changes in it.
        varied: keys that any method of the config file changes.
        files: the `--config` argument of each direction.
        defaults: the config of each direction without overrides.
        columns: what a task's table shows, instead of grounding; {} for grounding.
    """

    folder: Path
    runs: list[Run]
    config: dict[str, Any]
    methods: Methods
    varied: set[str]
    files: dict[str, str]
    defaults: dict[str, dict[str, Any]]
    columns: comparison.Columns

    @property
    def keys_of_plan(self) -> set[str]:
        """The config keys that differ between the runs for another reason than their method."""
        has_directions = any(self.files)
        return {"seed", *(SIDES if has_directions else ())}

    @property
    def flag_of_key(self) -> dict[str, str]:
        """The config keys that differ between the runs, and the flag that chooses their values."""
        flags = dict.fromkeys(self.keys_of_plan, "directions") | {"seed": "seeds"}
        return flags | {key: "methods" for changes in self.methods.values() for key in changes}


def planned_runs(
    folder: Path, directions: Sequence[str], methods: Sequence[str], seeds: Sequence[str]
) -> list[Run]:
    """All combinations, seed by seed, so that a part of them already makes a table.

    Raises:
        UsageError: a seed is no whole number.
    """
    for seed in seeds:
        if not seed.isdecimal():
            raise UsageError(f"--seeds: {seed} must be a whole number, 0 or more")
    runs = [
        Run(direction, method, int(seed), folder / direction / f"{method}-{int(seed)}")
        for seed in seeds
        for direction in directions
        for method in methods
    ]
    return [*dict.fromkeys(runs)]


def finished_runs(study: Study, file: Path | None) -> Records:
    """The records of the runs that are done, from their folders or from a runs.jsonl.

    Args:
        file: the runs.jsonl, or None.
    """
    if file is None:
        by_run = {run: records.record(run.directory) for run in study.runs}
        return {run: record for run, record in by_run.items() if record is not None}
    # A line names direction, method and seed; lines of other runs than the study's are left out.
    plan = {run[:3]: run for run in study.runs}
    rows = records.read(file, study.defaults)
    return {plan[row[:3]]: row.results for row in rows if row[:3] in plan}


def require_sound(config: ConfigDict, methods: Methods) -> None:
    """Refuses a method that makes of the config one which contradicts itself.

    The config alone need not be sound: it may set what only some method reads.

    Raises:
        UsageError: names the method, unless the config is to blame for all of them.
    """
    from date_jax.config import validate  # brings the networks along, which --help does not need

    def problem(changes: dict[str, Any]) -> UsageError | None:
        """The error of the config after these changes; None where it is sound."""
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        try:
            validate(changed, device_count=1, process_count=1)
        except UsageError as error:
            return error
        return None

    # Where every method is refused and the config too, no method is to blame.
    problems = {name: problem(changes) for name, changes in methods.items()}
    if all(problems.values()) and (error := problem({})):
        raise error
    for name, error in problems.items():
        if error:
            raise UsageError(f"--methods: {name} does not go with this config\n{error}") from error


def require_same_config(study: Study, results: Records, *, only_with_each_other: bool) -> None:
    """Refuses results of unequal configs, or of unequal data, for one table.

    Args:
        results: by run.
        only_with_each_other: the first of the results stands for the study's config, but for the
            keys that methods change: runs are only shown, and need not be what the command makes.

    Raises:
        UsageError: names the run and the first keys.
    """
    # What all are compared with: the command, or the first of the results.
    expected, name_of_expected = workdir.flat(study.config), "this command"
    if only_with_each_other and results:
        first, record = next(iter(results.items()))
        varied = {key: expected[key] for key in study.varied if key in expected}
        expected, name_of_expected = workdir.flat(record["config"]) | varied, first.name
    for run, record in results.items():
        config = workdir.flat(record["config"])
        changes = workdir.config_changes(config, {**expected, **study.methods[run.method]})
        changes = {key: change for key, change in changes.items() if key not in study.keys_of_plan}
        # The same refusal as at a second start of one run, but less may differ.
        try:
            workdir.require_same_run(run.directory, changes, in_table=True)
        except UsageError as error:
            raise UsageError(
                f"{error}\n'now' is {name_of_expected}: one table has one config"
            ) from error
    _require_same_data(results)


def _require_same_data(results: Records) -> None:
    """Refuses results on files that changed between two runs."""
    # By what was asked for: direction and config of the data. Older results do not name their data.
    first_of: dict[str, tuple[str, str]] = {}
    for run, record in results.items():
        config = workdir.flat(record["config"])
        keys = {key: value for key, value in config.items() if key.startswith("data.")}
        request = json.dumps([run.direction, keys], sort_keys=True)
        if data := record.get("data"):
            first, data_of_first = first_of.setdefault(request, (run.name, data))
            if data != data_of_first:
                raise UsageError(
                    f"{run.directory}: was trained on other data than {first}, though both read "
                    "the same files; choose another --workdir, or delete the runs on the old data"
                )


def write(study: Study, results: Records, command: str, *, with_records: bool) -> str:
    """Writes table.md, chart.png and runs.jsonl into the study's folder; returns the table.

    Args:
        results: by run, at least one.
        command: that makes the runs, for the head of the table.
        with_records: whether runs.jsonl is written too.
    """
    # In the order of the plan, whichever run ended first.
    ordered = {run: results[run] for run in study.runs if run in results}
    runs = [
        comparison.Finished(*run[:3], record, record.get("losses", {}))
        for run, record in ordered.items()
    ]
    text = f"{head(study, ordered, command)}\n\n{tables.report(runs, study.columns)}\n"
    study.folder.mkdir(parents=True, exist_ok=True)
    (study.folder / "table.md").write_text(text)
    chart.write(study.folder / "chart.png", runs, columns=study.columns)
    if with_records:
        records.write(study.folder / "runs.jsonl", runs, study.defaults)
    return text


def head(study: Study, results: Records, command: str) -> str:
    """The head of table.md: where its numbers come from.

    Args:
        results: by run, at least one.
        command: that makes the runs.
    """
    # The day of the last run, and every machine that ran one.
    day = max(record["date"] for record in results.values())
    lines = [line for record in results.values() for line in record.get("machines", [])]
    machines = [*dict.fromkeys(lines)] or ["an unknown machine"]

    # What the command changed in the config, but for what differs between the runs.
    default = study.defaults[study.runs[0].direction]
    changes = workdir.config_changes(next(iter(results.values()))["config"], default)
    overrides = [f"{key}={x}" for key, (x, _) in changes.items() if key not in study.flag_of_key]
    return "\n\n".join(
        [
            f"# {len(results)} of {len(study.runs)} runs, {day}",
            f"    {command}",
            "On " + "; and on ".join(machines) + ".",
            f"Config: {', '.join(overrides) or 'all defaults'}.",
        ]
    )
