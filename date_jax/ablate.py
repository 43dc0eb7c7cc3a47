"""Many runs of one config, side by side: what each part brings, over several seeds.

    python -m date_jax.ablate --config=configs/pgda.py --workdir=runs/ablation --jobs=2 \
        --methods=source_only,date,oracle --directions=mall2live,live2mall --seeds=0,1,2 \
        [--config.steps=3000 or any other override]

The methods are those of the config file's METHODS, the directions those of its DIRECTIONS; without
the flags all are run. With --config.data.source and target, your own domains, there is that one
direction. Where the file has COLUMNS, the table shows these metrics.

Every combination is a run of `date_jax.main` in <workdir>/<direction>/<method>-<seed>, and prints
to console.log there. Runs that have their results.json are left out and interrupted ones go on, so
the same command resumes. Seed 0 of everything comes first. <workdir>/table.md, chart.png and
runs.jsonl, a line a run, are written anew after each run, and by `--table_only` without running
anything. On a CPU `--jobs` runs with a share of the cores each are faster than one after the other
with all; one accelerator takes one job.

    python -m date_jax.ablate --config=configs/pgda.py --runs=docs/ablation/runs.jsonl --workdir=new

makes table and chart of a runs.jsonl, without the folders of its runs and without training.
"""

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

import date_jax
from date_jax.ablation import records, study, tables
from date_jax.ablation.study import Records, Run, Study
from date_jax.errors import DataError, UsageError, UserError, spelling_hint
from date_jax.published_sizes import with_published_sizes
from date_jax.run import commandline, config_file, subprocesses, workdir


def define_flags(definitions: flags.FlagValues) -> None:
    """Defines the flags, not at import: a test can import this file and another entry point."""
    config_flags.DEFINE_config_file("config", None, "file:argument", flag_values=definitions)
    # The runs to compare: a part of what the config file offers.
    for name, default, text in (
        ("directions", None, "of the config's DIRECTIONS; default: all"),
        ("methods", None, "of the config's METHODS; default: all"),
        ("seeds", "0,1,2", "values of config.seed"),
    ):
        flags.DEFINE_list(name, default, text, flag_values=definitions)
    # Where the runs are: in folders, or summed up in one file.
    for name, default, text in (
        ("workdir", "runs/ablation", "of all, with table.md"),
        ("runs", "", "a runs.jsonl, to make the table of it"),
    ):
        flags.DEFINE_string(name, default, text, flag_values=definitions)
    # How much of the command is run, and how much of it at once.
    for name, text in (("table_only", "run nothing, make the table"), ("debug", "show tracebacks")):
        flags.DEFINE_bool(name, False, text, flag_values=definitions)
    text = "runs at a time, on a share of the cores"
    flags.DEFINE_integer("jobs", 1, text, flag_values=definitions)


def main(_: list[str]) -> None:
    """Runs what has no results yet, writes and prints the table."""
    values = flags.FLAGS
    # What shall run, and what is there already.
    plan = study_of(values)
    overrides = config_overrides(sys.argv, plan.flag_of_key)
    study.require_sound(ConfigDict(plan.config), plan.methods)
    results = study.finished_runs(plan, Path(values.runs) if values.runs else None)
    runs_nothing = values.table_only or bool(values.runs)

    def write_table() -> str:
        """Writes table, chart and records of all results until now; returns the table."""
        # Checked again: somebody may edit the config file between two starts.
        study.require_same_config(plan, results, only_with_each_other=runs_nothing)
        command = command_of_table(sys.argv)
        return study.write(plan, results, command, with_records=not values.runs)

    # Results of other configs are refused before anything runs.
    study.require_same_config(plan, results, only_with_each_other=runs_nothing)
    if not runs_nothing:
        commands = {run: command_of(plan, run, overrides) for run in plan.runs}
        run_missing(plan, results, commands, values.jobs, write_table)
    elif not results:
        if values.runs:
            raise DataError(f"{values.runs}: has none of the {len(plan.runs)} runs")
        raise DataError(f"{plan.folder}: none of the {len(plan.runs)} runs has its results.json")

    # The table comes also where some runs have failed.
    if results:
        others = "chart.png" if values.runs else "chart.png and runs.jsonl"
        print(f"\n{write_table()}\nwritten to {plan.folder / 'table.md'}, with {others}")
    missing = [run.name for run in plan.runs if run not in results]
    if missing and not runs_nothing:
        raise UserError(
            f"{len(missing)} of {len(plan.runs)} runs failed: {', '.join(missing[:5])}\n"
            "the same command starts them again"
        )


def study_of(values: flags.FlagValues) -> Study:
    """The study that the flags name.

    Raises:
        UsageError: a flag names what the config file does not have.
    """
    argument = config_flags.get_config_filename(values["config"])
    # A run takes the sizes of its weights from their folder, and so has them in its results.
    typed = config_flags.get_override_values(values["config"])
    config, _ = with_published_sizes(values.config, typed, None)
    path, _, words = argument.partition(":")

    # What the config file has to choose from.
    all_methods: study.Methods = config_file.constant(argument, "METHODS", {})
    methods = chosen_names(values.methods, [*all_methods], "methods", path)
    if not methods:
        raise UsageError(f"--config={path}: it has no METHODS to compare")
    directions = chosen_directions(values.directions, argument) or [""]
    seeds = without_gaps(values.seeds, "seeds")

    # A direction is a word behind the config file, after those that the command has there.
    files = {
        direction: ":".join(filter(None, [path, ",".join(filter(None, [words, direction]))]))
        for direction in directions
    }
    folder = Path(values.workdir)
    return Study(
        folder=folder,
        runs=study.planned_runs(folder, directions, methods, seeds),
        config=config.to_dict(),
        methods={name: all_methods[name] for name in methods},
        varied={key for changes in all_methods.values() for key in changes},
        files=files,
        defaults={
            direction: config_file.config_from_file(file).to_dict()
            for direction, file in files.items()
        },
        columns=config_file.constant(argument, "COLUMNS", {}),
    )


def chosen_names(
    names: Sequence[str] | None, choices: Sequence[str], flag: str, path: str
) -> list[str]:
    """The names that a flag holds, all choices without it, each once.

    Args:
        names: value of the flag; None without it.
        choices: what the config file has.
        flag: its name.
        path: of the config file.

    Raises:
        UsageError: one of the names is unknown.
    """
    if names is None:
        return [*choices]
    for name in without_gaps(names, flag):
        if name not in choices:
            there_are = ", ".join(choices) or f"none: {path} has no {flag.upper()}"
            hint = spelling_hint(name, choices)
            raise UsageError(f"--{flag}: {name} is unknown{hint}; there are: {there_are}")
    return [*dict.fromkeys(names)]


def chosen_directions(names: Sequence[str] | None, argument: str) -> list[str]:
    """The directions that the flag holds; none where the command itself sets the domains.

    Args:
        names: value of --directions; None without it.
        argument: of --config.
    """
    sides = {f"config.{side}" for side in study.SIDES}
    if names is None and sides & dict(commandline.flags_in(sys.argv, flags.FLAGS)).keys():
        return []
    choices = [*config_file.constant(argument, "DIRECTIONS", [])]
    return chosen_names(names, choices, "directions", argument.partition(":")[0])


def without_gaps(values: Sequence[str], flag: str) -> Sequence[str]:
    """The values of a list flag; raises UsageError where there is no value, or an empty one."""
    if not values or not all(values):
        raise UsageError(f"--{flag} has an empty place: name one or several, joined by commas")
    return values


def config_overrides(argv: Sequence[str], flag_of_key: dict[str, str]) -> list[str]:
    """The `--config.…` arguments of the command, for every run.

    Args:
        argv: of the command.
        flag_of_key: config keys that differ between the runs, and the flag that chooses each.

    Raises:
        UsageError: one of them sets what differs between the runs.
    """
    overrides = []
    for name, value in commandline.flags_in(argv, flags.FLAGS):
        if not name.startswith(("config.", "noconfig.")):
            continue
        if flag := flag_of_key.get(name.partition("config.")[2]):
            raise UsageError(f"--{name}={value}: differs between the runs; choose with --{flag}")
        # A switch may stand without its value.
        is_bare = not value and f"--{name}=" not in argv
        overrides.append(f"--{name}" if is_bare else f"--{name}={value}")
    return overrides


def command_of(plan: Study, run: Run, overrides: Sequence[str]) -> list[str]:
    """The command that trains and evaluates one run."""
    changes = {**plan.methods[run.method], "seed": run.seed}
    return [
        *(sys.executable, "-m", "date_jax.main", f"--config={plan.files[run.direction]}"),
        *(f"--config.{key}={value}" for key, value in changes.items()),
        *overrides,
        f"--workdir={run.directory}",
    ]


def command_of_table(argv: Sequence[str]) -> str:
    """The command that starts the runs of a table, without the flags that only make the table."""
    words = [*argv[1:]]
    # A flag without "=" has its value in the next word.
    if "--runs" in words:
        place = words.index("--runs")
        del words[place : place + 2]
    words = [word for word in words if word != "--table_only" and not word.startswith("--runs=")]
    return f"python -m date_jax.ablate {shlex.join(words)}"


def run_missing(
    plan: Study,
    results: Records,
    commands: dict[Run, list[str]],
    jobs: int,
    write_table: Callable[[], object],
) -> None:
    """Runs what has no results, as `subprocesses.run_all`; results and table grow with each.

    Args:
        results: by run; those of the runs that end are added.
        commands: of the runs.
        jobs: runs at a time.
        write_table: is called when a run has ended.

    Raises:
        UsageError: there are fewer cores than jobs.
    """
    # More jobs than cores would leave some without one.
    cores = len(subprocesses.cores())
    if not 1 <= jobs <= cores:
        raise UsageError(f"--jobs={jobs}: must be from 1 to {cores}, the cores there are")
    # An earlier start of the same command may have finished some.
    missing = {run.name: run for run in plan.runs if run not in results}
    if results:
        count = f"{len(results)} of {len(plan.runs)}"
        print(f"{count} runs have their results already", flush=True)

    def outcome(command: subprocesses.Command) -> str:
        """Takes in the results of a run; its scores, for the line on the console."""
        run = missing[command.name]
        if (record := records.record(run.directory)) is None:
            return f"left no results.json; see {command.log}"
        results[run] = record
        write_table()
        return tables.scores(record, plan.columns)

    # The title of each log names the machine; `records.machines` reads it there.
    subprocesses.run_all(
        [subprocesses.Command(name, commands[run], run.log) for name, run in missing.items()],
        jobs=jobs,
        title=f"{records.MACHINE}{machine(jobs)}",
        outcome=outcome,
    )


def machine(jobs: int) -> str:
    """The machine in a line: processor, cores, versions. It stands in each log, for the table."""
    versions = f"jax {importlib.metadata.version('jax')}, date_jax {date_jax.__version__}"
    host = f"{subprocesses.processor()}, {len(subprocesses.cores())} cores"
    return (
        f"{host}, {jobs} runs at a time; Python {platform.python_version()}, {versions} "
        f"(code {workdir.code_version()})"
    )


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main)
