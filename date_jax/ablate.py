"""Many runs of one config, side by side: what does each part bring, over several seeds?

    python -m date_jax.ablate --config=configs/pgda.py --workdir=runs/ablation --jobs=2 \
        --methods=source_only,date,oracle --directions=mall2live,live2mall --seeds=0,1,2 \
        [--config.steps=3000 or any other override]

The methods are those of the config file's METHODS, the directions those of its DIRECTIONS; without
the flags it takes all. With --config.data.source and target, your own domains, there is that one
direction. Where the file has COLUMNS, the table shows these metrics. Every combination
is a run of `date_jax.main` in <workdir>/<direction>/<method>-<seed>; what it says goes to
console.log there. Runs that have their results.json are left out and interrupted ones go on, so
the same command resumes. Seed 0 of
everything comes first; <workdir>/table.md, chart.png and runs.jsonl, a line a run, are written
anew after each run, and by `--table_only` without running anything. On a CPU `--jobs` runs with a
share of the cores each are faster than one after the other with all; one accelerator takes one job.

    python -m date_jax.ablate --config=configs/pgda.py --runs=docs/ablation/runs.jsonl --workdir=new

makes table and chart of a runs.jsonl, without the folders of its runs and without training.
"""

import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

import date_jax
from date_jax.ablation import chart, comparison, records
from date_jax.errors import DataError, UsageError, UserError, spelling_hint
from date_jax.run import commandline, config_file, subprocesses, workdir

_SIDES = ("data.source", "data.target")  # that a direction sets
Methods = dict[str, dict[str, Any]]  # what each method changes, by dotted config key


class Run(NamedTuple):
    """One cell of the plan."""

    direction: str
    method: str
    seed: int
    directory: Path

    @property
    def name(self) -> str:
        return "/".join(filter(None, [self.direction, f"{self.method}-{self.seed}"]))

    @property
    def log(self) -> Path:
        return self.directory / "console.log"


def define_flags(known: flags.FlagValues) -> None:
    """Not at import, so that a test can import this file beside another entry point."""
    config_flags.DEFINE_config_file("config", None, "file:argument", flag_values=known)
    for name, default, text in (
        ("directions", None, "of the config's DIRECTIONS; default: all"),
        ("methods", None, "of the config's METHODS; default: all"),
        ("seeds", "0,1,2", "values of config.seed"),
    ):
        flags.DEFINE_list(name, default, text, flag_values=known)
    flags.DEFINE_string("workdir", "runs/ablation", "of all, with table.md", flag_values=known)
    flags.DEFINE_integer("jobs", 1, "runs at a time, on a share of the cores", flag_values=known)
    flags.DEFINE_bool("table_only", False, "run nothing, make the table", flag_values=known)
    flags.DEFINE_string("runs", "", "a runs.jsonl, to make the table of it", flag_values=known)
    flags.DEFINE_bool("debug", False, "show tracebacks", flag_values=known)


def main(_: list[str]) -> None:
    """Runs what has no results yet, writes and prints the table."""
    given = flags.FLAGS
    file = config_flags.get_config_filename(given["config"])
    path, _, words = file.partition(":")
    known: Methods = config_file.constant(file, "METHODS", {})
    columns: comparison.Columns = config_file.constant(file, "COLUMNS", {})
    chosen = named(given.methods, [*known], "methods", path)
    ways = directions_to_run(given.directions, file)
    if not chosen:
        raise UsageError(f"--config={path}: it has no METHODS to compare")
    methods = {name: known[name] for name in chosen}
    varied = {key for changes in known.values() for key in changes}
    elsewhere = {"seed", *(_SIDES if ways else ())}
    flag_of = dict.fromkeys(elsewhere - {"seed"}, "directions") | {"seed": "seeds"}
    flag_of |= {key: "methods" for changes in methods.values() for key in changes}
    overrides = overrides_given(sys.argv, flag_of)
    require_sound(given.config, methods)
    files = {
        way: ":".join(filter(None, [path, ",".join(filter(None, [words, way]))]))
        for way in ways or [""]
    }
    root = Path(given.workdir)
    runs = planned(root, [*files], chosen, given.seeds)
    defaults = {way: config_file.config_from_file(files[way]).to_dict() for way in files}
    found = finished_runs(runs, Path(given.runs) if given.runs else None, defaults)
    only_shown = given.table_only or bool(given.runs)
    base = given.config.to_dict()

    def require_comparable() -> None:
        # What runs is compared with the command; what is only shown, with the first of it.
        first = varied if only_shown else None
        require_same_config(found, base, methods, elsewhere=elsewhere, varied=first)

    def command(run: Run) -> list[str]:
        changes = {**methods[run.method], "seed": run.seed}
        options = [f"--config.{key}={value}" for key, value in changes.items()]
        start = [sys.executable, "-m", "date_jax.main", f"--config={files[run.direction]}"]
        return [*start, *options, *overrides, f"--workdir={run.directory}"]

    def write_table() -> str:
        require_comparable()  # again: somebody may edit the file between two starts
        ordered = {run: found[run] for run in runs if run in found}
        default, leave_out = defaults[runs[0].direction], {*elsewhere, *flag_of}
        text = table(
            ordered,
            len(runs),
            command_shown(sys.argv),
            default,
            leave_out=leave_out,
            columns=columns,
        )
        root.mkdir(parents=True, exist_ok=True)
        (root / "table.md").write_text(text)
        chart.write(root / "chart.png", finished(ordered), columns=columns)
        if not given.runs:
            records.write(root / "runs.jsonl", finished(ordered), defaults)
        return text

    require_comparable()
    if not only_shown:
        run_missing(runs, found, command, given.jobs, write_table, columns)
    elif not found:
        if given.runs:
            raise DataError(f"{given.runs}: has none of the {len(runs)} runs")
        raise DataError(f"{root}: none of the {len(runs)} runs has its results.json")
    if found:
        beside = "chart.png" if given.runs else "chart.png and runs.jsonl"
        print(f"\n{write_table()}\nwritten to {root / 'table.md'}, with {beside}")
    missing = [run.name for run in runs if run not in found]
    if missing and not only_shown:
        raise UserError(
            f"{len(missing)} of {len(runs)} runs failed: {', '.join(missing[:5])}\n"
            "the same command starts them again"
        )


def finished_runs(
    runs: list[Run], file: Path | None, defaults: dict[str, dict[str, Any]]
) -> dict[Run, records.Record]:
    """The records of those of `runs` that are done, from their folders or from a runs.jsonl.

    Args:
        runs: the plan.
        file: the runs.jsonl, or None.
        defaults: the config file's own config, by direction.
    """
    if file is None:
        by_run = {run: records.record(run.directory) for run in runs}
        return {run: record for run, record in by_run.items() if record is not None}
    planned_runs = {run[:3]: run for run in runs}
    rows = records.read(file, defaults)
    return {planned_runs[row[:3]]: row.results for row in rows if row[:3] in planned_runs}


def command_shown(argv: list[str]) -> str:
    """The command that starts the runs of a table, without the flags that only make the table."""
    words = argv[1:]
    if "--runs" in words:
        place = words.index("--runs")
        del words[place : place + 2]
    words = [word for word in words if word != "--table_only" and not word.startswith("--runs=")]
    return f"python -m date_jax.ablate {shlex.join(words)}"


def require_sound(config: ConfigDict, methods: Methods) -> None:
    """Raises UsageError where what a method makes of the config contradicts itself.

    The config alone need not be sound: it may set what only some method reads.
    """
    from date_jax.config import validate  # brings the networks along, which --help does not need

    def problem(changes: dict[str, Any]) -> UsageError | None:
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        try:
            validate(changed, device_count=1, process_count=1)
        except UsageError as error:
            return error
        return None

    found = {name: problem(changes) for name, changes in methods.items()}
    if all(found.values()) and (error := problem({})):
        raise error
    for name, error in found.items():
        if error:
            raise UsageError(f"--methods: {name} does not go with this config\n{error}") from error


def named(asked: list[str] | None, known: list[str], flag: str, path: str) -> list[str]:
    """The names that a flag asks for, all of `known` without it, each once.

    Raises:
        UsageError: one of them is unknown.
    """
    if asked is None:
        return known
    for name in filled(asked, flag):
        if name not in known:
            there = ", ".join(known) or f"none: {path} has no {flag.upper()}"
            raise UsageError(
                f"--{flag}: {name} is unknown{spelling_hint(name, known)}; there are: {there}"
            )
    return [*dict.fromkeys(asked)]


def directions_to_run(asked: list[str] | None, file: str) -> list[str]:
    """Names of DIRECTIONS in the config file; none where the command itself sets the domains."""
    own = {f"config.{side}" for side in _SIDES}
    if asked is None and own & dict(commandline.flags_in(sys.argv, flags.FLAGS)).keys():
        return []
    known = [*config_file.constant(file, "DIRECTIONS", [])]
    return named(asked, known, "directions", file.partition(":")[0])


def filled(values: list[str], flag: str) -> list[str]:
    """The values of a list flag; raises UsageError where there is none, or an empty one."""
    if not values or not all(values):
        raise UsageError(f"--{flag} has an empty place: name one or several, joined by commas")
    return values


def run_missing(
    runs: list[Run],
    found: dict[Run, records.Record],
    command: Callable[[Run], list[str]],
    jobs: int,
    write_table: Callable[[], object],
    columns: comparison.Columns | None = None,
) -> None:
    """Runs what `found` lacks, as `subprocesses.run_all`; `found` and the table grow with each."""
    cores = len(subprocesses.cores())
    if not 1 <= jobs <= cores:
        raise UsageError(f"--jobs={jobs}: must be from 1 to {cores}, the cores there are")
    missing = {run.name: run for run in runs if run not in found}
    if found:
        print(f"{len(found)} of {len(runs)} runs have their results already", flush=True)

    def outcome(done: subprocesses.Command) -> str:
        run = missing[done.name]
        if (result := records.record(run.directory)) is None:
            return f"left no results.json; see {done.log}"
        found[run] = result
        write_table()
        return comparison.scores(result, columns)

    commands = [subprocesses.Command(run.name, command(run), run.log) for run in missing.values()]
    title = f"{records.MACHINE}{machine(jobs)}"
    subprocesses.run_all(commands, jobs=jobs, title=title, outcome=outcome)


def overrides_given(argv: list[str], flag_of: dict[str, str]) -> list[str]:
    """The `--config.…` arguments, for every run.

    Args:
        argv: of the command.
        flag_of: config keys that differ between the runs, and the flag that chooses each.

    Raises:
        UsageError: one of them sets what differs between the runs.
    """
    found = []
    for name, value in commandline.flags_in(argv, flags.FLAGS):
        if not name.startswith(("config.", "noconfig.")):
            continue
        if plural := flag_of.get(name.partition("config.")[2]):
            raise UsageError(f"--{name}={value}: differs between the runs; choose with --{plural}")
        # A switch may stand without its value.
        bare = not value and f"--{name}=" not in argv
        found.append(f"--{name}" if bare else f"--{name}={value}")
    return found


def planned(root: Path, directions: list[str], methods: list[str], seeds: list[str]) -> list[Run]:
    """All combinations, seed by seed, so that a part of them already makes a table."""
    for seed in filled(seeds, "seeds"):
        if not seed.isdecimal():
            raise UsageError(f"--seeds: {seed} must be a whole number, 0 or more")
    runs = [
        Run(direction, method, int(seed), root / direction / f"{method}-{int(seed)}")
        for seed in seeds
        for direction in directions
        for method in methods
    ]
    return [*dict.fromkeys(runs)]


def require_same_config(
    found: dict[Run, records.Record],
    base: dict[str, Any],
    methods: Methods,
    *,
    elsewhere: set[str],
    varied: set[str] | None = None,
) -> None:
    """Raises UsageError where results in one table would come from unequal configs, or data.

    Args:
        found: results by run.
        base: the config that the methods change.
        methods: what they change in it.
        elsewhere: keys that differ between the runs for other reasons.
        varied: if given, the first of `found` stands for `base`, but for these keys.
    """
    flat, first = workdir.flat(base), "this command"
    for run, result in found.items():
        there = workdir.flat(result["config"])
        if varied is not None and first == "this command":
            first = run.name
            flat = {**there, **{key: flat[key] for key in varied if key in flat}}
        changes = workdir.config_changes(there, {**flat, **methods[run.method]})
        changes = {key: change for key, change in changes.items() if key not in elsewhere}
        try:
            workdir.require_same_run(run.directory, changes, free=workdir.FREE_IN_A_TABLE)
        except UsageError as error:
            raise UsageError(f"{error}\n'now' is {first}: one table has one config") from error
    known: dict[str, tuple[str, str]] = {}
    for run, result in found.items():
        config = workdir.flat(result["config"])
        asked = {key: value for key, value in config.items() if key.startswith("data.")}
        same = json.dumps([run.direction, asked], sort_keys=True)
        if data := result.get("data"):  # which older results do not tell
            other, others = known.setdefault(same, (run.name, data))
            if data != others:
                raise UsageError(
                    f"{run.directory}: was trained on other data than {other}, though both read "
                    "the same files; choose another --workdir, or delete the runs on the old data"
                )


def machine(jobs: int) -> str:
    """What runs here: processor, its cores, versions. It stands in each log, for the table."""
    versions = f"jax {importlib.metadata.version('jax')}, date_jax {date_jax.__version__}"
    host = f"{subprocesses.processor()}, {len(subprocesses.cores())} cores"
    return (
        f"{host}, {jobs} runs at a time; Python {platform.python_version()}, {versions} "
        f"(code {workdir.code_version()})"
    )


def finished(found: dict[Run, records.Record]) -> list[comparison.Finished]:
    return [
        comparison.Finished(*run[:3], result, result.get("losses", {}))
        for run, result in found.items()
    ]


def table(
    found: dict[Run, records.Record],
    count: int,
    command: str,
    default: dict[str, Any],
    *,
    leave_out: set[str],
    columns: comparison.Columns | None = None,
) -> str:
    """What table.md holds: where the numbers come from, and the comparison of the finished runs.

    Args:
        found: the results there are.
        count: of the runs that were asked for.
        command: that makes them.
        default: the config without overrides.
        leave_out: keys that differ between the runs.
        columns: what a task's table shows, instead of grounding.
    """
    last = max(record["date"] for record in found.values())
    lines = [line for record in found.values() for line in record.get("machines", [])]
    machines = [*dict.fromkeys(lines)] or ["an unknown machine"]
    changes = workdir.config_changes(next(iter(found.values()))["config"], default)
    overrides = [f"{key}={there}" for key, (there, _) in changes.items() if key not in leave_out]
    head = [
        f"# {len(found)} of {count} runs, {last}",
        f"    {command}",
        "On " + "; and on ".join(machines) + ".",
        f"Config: {', '.join(overrides) or 'all defaults'}.",
    ]
    return "\n\n".join([*head, comparison.report(finished(found), columns)]) + "\n"


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main)
