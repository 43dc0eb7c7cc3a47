"""Many runs and their table: hand-made results, and children that only pretend to train."""

import copy
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags
from PIL import Image

from configs import capture, date, pgda, same_style
from date_jax import ablate, errors
from date_jax import config as rules
from date_jax.ablation import chart, comparison, records, study, tables
from date_jax.ablation.study import Run, Study
from date_jax.run import commandline, subprocesses

ROOT = Path(__file__).parents[2]
WRITES_RESULTS = (
    "import sys, pathlib; pathlib.Path(sys.argv[1], 'results.json').write_text(sys.argv[2])"
)
FAILS = "print(*range(9), sep='\\n'); raise SystemExit(3)"
SAVES = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def leave(*_):
    (folder / "saved").touch()
    raise SystemExit(75)
signal.signal(signal.SIGTERM, leave)
(folder / "ready").touch()
time.sleep(60)
"""


def results(
    direction: str, method: str, seed: int, accuracy: float, **changes: Any
) -> dict[str, Any]:
    """results.json of a run whose target accuracy is `accuracy`, all else derived from it."""
    config = pgda.get_config(direction).unlock()
    config.seed = seed
    config.update_from_flattened_dict({**pgda.METHODS[method], **changes})
    scores = {"acc_at_0.5": accuracy, "mean_iou": accuracy / 2}
    scores |= {"recall_at_1": accuracy / 4, "recall_at_10": accuracy / 2}
    content = {
        "eval": {
            f"{config.data.target}_test": scores,
            f"{config.data.source}_test": {"acc_at_0.5": 0.9},
            f"{config.data.target}_val": {"acc_at_0.5": 0.0},
        },
        "pseudo_boxes": [],
        "wall_seconds": 60.0 * (seed + 1),
        "config": config.to_dict(),
    }
    return json.loads(json.dumps(content))


def write_results(root: Path, **accuracy: float) -> None:
    """`written(root, date_1=0.5)` writes results of that method and seed, mall to live."""
    for name, value in accuracy.items():
        method, _, seed = name.rpartition("_")
        folder = root / "mall2live" / f"{method}-{seed}"
        folder.mkdir(parents=True)
        content = results("mall2live", method, int(seed), value)
        (folder / "results.json").write_text(json.dumps(content))
        os.utime(folder / "results.json", (0, 1_800_000_000))


def main(monkeypatch: pytest.MonkeyPatch, root: Path, *arguments: str) -> None:
    """The entry point for `configs/pgda.py`, mall to live."""
    config = f"--config={Path(pgda.__file__)}"
    start(monkeypatch, [config, f"--workdir={root}", "--directions=mall2live", *arguments])


def start(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """The entry point, with flags apart from those of this process."""
    definitions = flags.FlagValues()
    ablate.define_flags(definitions)
    argv = ["ablate", *arguments]
    monkeypatch.setattr(sys, "argv", argv)
    commandline.parse(argv, definitions)
    monkeypatch.setattr(flags, "FLAGS", definitions)
    ablate.main([])


def test_a_table_of_own_domains_names_them() -> None:
    content = results("mall2live", "date", 0, 0.5)
    content["config"]["data"] |= {"source": "shop+collage", "target": "street"}
    run = comparison.Finished("", "date", 0, content)
    assert "## shop+collage to street" in tables.report([run])
    assert "## mall2live" in tables.report([run._replace(direction="mall2live")])


def run_missing(plan: list[Run], commands: dict[Run, list[str]]) -> dict[Run, dict[str, Any]]:
    """The runs' results after `commands` have stood in for training."""
    whole_study = Study(Path(), plan, {}, {}, set(), {"": ""}, {"": {}}, {})
    by_run = study.finished_runs(whole_study, None)
    ablate.run_missing(whole_study, by_run, commands, 1, lambda: None)
    return by_run


def test_the_tables_are_as_computed_by_hand() -> None:
    refreshes = [{"step": 600, "selected": 50.0, "theta": 0.1, "precision_all": 0.4}]
    refreshes[0] |= {"precision_selected": 0.5, "recall_selected": 0.3}
    other = [refreshes[0] | {"selected": 70.0, "precision_all": 0.5}]
    accuracy = {
        ("source_only", 0): 0.4,
        ("source_only", 1): 0.5,
        ("date", 0): 0.6,  # half of the gap
        ("date", 1): 0.8,  # three quarters of it
        ("oracle", 0): 0.8,
        ("oracle", 1): 0.9,
        ("oracle", 2): 1.0,  # in its own row only: no other method has this seed
    }
    runs = [
        comparison.Finished("mall2live", method, seed, results("mall2live", method, seed, value))
        for (method, seed), value in accuracy.items()
    ]
    runs[2].results["pseudo_boxes"], runs[3].results["pseudo_boxes"] = refreshes, other
    expected = """\
## mall2live

|  | seeds | Acc@0.5 target | gain | gap_closed | Acc@0.5 source | mIoU target | R@1 target | \
R@10 target | minutes |
| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |
| source_only | 2 | 0.450 ± 0.071 | - | - | 0.900 ± 0.000 | 0.225 ± 0.035 | 0.113 ± 0.018 | \
0.225 ± 0.035 | 1.5 ± 0.7 |
| DATE | 2 | 0.700 ± 0.141 | +0.250 ± 0.071 | 0.625 ± 0.177 | 0.900 ± 0.000 | 0.350 ± 0.071 | \
0.175 ± 0.035 | 0.350 ± 0.071 | 1.5 ± 0.7 |
| oracle | 3 | 0.900 ± 0.100 | +0.400 ± 0.000 | - | 0.900 ± 0.000 | 0.450 ± 0.050 | \
0.225 ± 0.025 | 0.450 ± 0.050 | 2.0 ± 1.0 |

Pseudo boxes of DATE that are right (IoU ≥ 0.5), mean over the seeds:

| step | seeds | selected | precision_all | precision_selected | recall_selected |
| --- | --: | --: | --: | --: | --: |
| 600 | 2 | 60 | 0.450 | 0.500 | 0.300 |"""
    assert tables.report(runs) == f"{tables.LEGEND} {tables.GAIN}\n\n{expected}"


def test_a_share_that_a_run_did_not_measure_has_no_column() -> None:
    refresh = {"step": 600, "selected": 50.0, "precision_all": 0.4, "recall_selected": 0.3}
    older = {name: value for name, value in refresh.items() if name != "recall_selected"}
    runs = [
        comparison.Finished("", "date", seed, results("mall2live", "date", seed, 0.5))
        for seed in range(2)
    ]
    for run, measured in zip(runs, (refresh, older), strict=True):
        run.results["pseudo_boxes"] = [measured]
    assert tables.pseudo_boxes_table(runs[:1]).endswith("| 600 | 1 | 50 | 0.400 | 0.300 |")
    assert tables.pseudo_boxes_table(runs).endswith("| 600 | 2 | 50 | 0.400 |")


def test_retrieval_is_shown_for_each_test_split_that_has_it() -> None:
    runs = []
    for seed, recall in enumerate((0.25, 0.75)):
        one = results("mall2live", "date", seed, 0.5)
        one["eval"]["live_test"] |= {"mrr": recall, "recall_at_50": recall}
        runs.append(comparison.Finished("mall2live", "date", seed, one))
    text = tables.report(runs)
    assert "Retrieval on mall_test" not in text
    _, _, table = text.partition("Retrieval on live_test:\n\n")
    head, _, row = table.splitlines()[:3]
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert cells["MRR"] == cells["R@50"] == "0.500 ± 0.354"
    assert cells["R@10"] == "0.250 ± 0.000"
    assert cells["image to text MRR |"] == "- |"


def test_runs_without_a_target_are_compared_on_each_of_their_domains() -> None:
    one = results("mall2live", "source_only", 0, 0.5)
    one["config"]["data"] |= {"source": "mall+live", "target": ""}
    one["eval"]["live_test"]["acc_at_0.75"] = 0.25
    table = tables.report([comparison.Finished("", "both_seekers", 0, one)])
    head, _, row = table.partition("## all domains\n\n")[2].splitlines()[:3]
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert cells["Acc@0.5 live"] == "0.500"
    assert cells["Acc@0.5 mall"] == "0.900"
    assert cells["Acc@0.75 live"] == cells["mIoU live"] == "0.250"
    assert cells["mIoU mall"] == "-"
    assert "gap_closed" not in table


def test_distances_of_the_domains_are_means_over_seeds_and_target_domains() -> None:
    runs = []
    for seed, distance in enumerate((0.2, 0.4)):
        one = results("mall2live", "date", seed, 0.5)
        one["config"]["data"]["target"] = "live+street"
        at_500 = {"live_val": {"distance_image": distance}, "street_val": {"distance_image": 0.6}}
        final = {"live_val": {"distance_image": distance / 2}, "live_test": {"distance_image": 9.0}}
        one["history"] = [{"step": 900, "eval": final}, {"step": 500, "eval": at_500}]
        runs.append(comparison.Finished("", "date", seed, one))
    assert comparison.distances(runs, "image") == pytest.approx({500: 0.45, 900: 0.15})
    table = tables.distances_table([*runs, runs[0]._replace(method="none", results=plain())])
    assert table.splitlines()[0] == "|  | seeds | of | 500 | 900 |"
    assert table.splitlines()[2:] == ["| DATE | 2 | pictures | 0.450 | 0.150 |"]
    assert table in tables.report(runs)


def plain() -> dict[str, Any]:
    return results("mall2live", "source_only", 0, 0.5)


def test_a_task_s_own_columns_are_its_table_and_its_first_method_is_shown_by_category(
    tmp_path: Path,
) -> None:
    def one(method: str, seed: int, **metrics: float) -> comparison.Finished:
        entry = {"eval": {"offer_test": metrics}}
        results = {**entry, "history": [{"step": 5, **entry}], "wall_seconds": 90.0}
        results["config"] = {"data": {"name": "suppliers"}}
        return comparison.Finished("", method, seed, results)

    mugs = [{"category/home/mug|cup/i-i": 0.4}]
    mugs += [{"category/home/mug|cup/i-i": 0.6, "category/home/mug|cup/t-t": 0.25}]
    runs = [one("all", seed, mrr=0.5 + seed / 5, **metrics) for seed, metrics in enumerate(mugs)]
    other = one("image_only", 0, mrr=0.25, **{"category/home/mug|cup/i-i": 0.9})
    text = tables.report([*runs, other], {"MRR": ("offer_test", "mrr")})
    assert "| all | 2 | 0.600 ± 0.141 | 1.5 ± 0.0 |" in text
    assert "| image_only | 1 | 0.250 | 1.5 |" in text
    assert "all, by category of offer_test, R@1:" in text
    assert r"| home/mug\|cup | 0.500 ± 0.141 | 0.250 |" in text
    chart.write(tmp_path / "chart.png", runs, columns={"MRR": ("offer_test", "mrr")})
    assert (tmp_path / "chart.png").stat().st_size > 5_000
    assert "0.900" not in text


def test_the_chart_has_a_bar_for_each_method_and_a_panel_for_each_direction(
    tmp_path: Path,
) -> None:
    from matplotlib.figure import Figure

    refresh = {"step": 600, "precision_all": 0.4, "precision_selected": 0.5}
    refresh["recall_selected"] = 0.25
    apart = [{"step": 500, "eval": {"live_val": {"distance_image": 0.3}}}]
    runs = [
        comparison.Finished(direction, method, seed, results(direction, method, seed, 0.5))
        for direction in ("mall2live", "live2mall")
        for method in ("source_only", "date", "oracle")
        for seed in (0, 1)
    ]
    runs[2].results["pseudo_boxes"], runs[2].results["history"] = [refresh], apart
    curves = {50: 3.0, 100: 2.0}, {50: 4.0, 100: 2.5, 150: 9.0}  # one goes on longer
    runs[:2] = [run._replace(losses=curve) for run, curve in zip(runs[:2], curves, strict=True)]
    drawn: list[Figure] = []
    chart.write(tmp_path / "chart.png", runs, drawn.append)
    bars, curve, distance, boxes, _, no_curve, no_distance, nothing = drawn[0].axes
    assert [round(bar.get_height(), 3) for bar in bars.patches] == [0.5, 0.5, 0.5]
    assert [label.get_text() for label in bars.get_xticklabels()] == [
        "source_only",
        "DATE",
        "oracle",
    ]
    labels = ["DATE, all", "DATE, selected", "DATE, found of all"]
    assert [line.get_label() for line in boxes.lines] == labels
    assert [line.get_xydata().tolist() for line in distance.lines] == [[[500, 0.3]]]
    assert [line.get_label() for line in curve.lines] == ["source_only"]
    np.testing.assert_allclose(curve.lines[0].get_xydata(), [[50, 3.5], [100, 2.25]])
    assert not nothing.lines
    assert not no_distance.lines
    assert not no_curve.lines
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.size[0] > 600
    for run in runs:
        run.results["config"]["data"]["target"] = ""  # no domains to compare, no pseudo boxes
    chart.write(tmp_path / "chart.png", runs, drawn.append)
    assert len(drawn[1].axes) == 4


def test_a_run_s_losses_are_those_of_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert records.training_history(path) == ({}, {})
    rows = [
        {"step": 5, "train/loss": 2.5, "train/box": 1.5},
        {"step": 5, "eval/x": 1.0},
        {"step": 9, "train/loss": None, "train/box": 1.25},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert records.training_history(path) == ({5: 2.5}, {"box": [1.5, 1.25]})


def test_an_oracle_below_source_only_leaves_no_gap_to_close() -> None:
    assert comparison.gap_closed(0.70, 0.60, 0.65) is None
    assert comparison.gap_closed(0.50, 0.60, 0.75) == pytest.approx(0.4)


def test_a_direction_without_oracle_or_gap_has_no_gap_closed() -> None:
    runs = [
        comparison.Finished("live2mall", method, 0, results("live2mall", method, 0, 0.5))
        for method in ("source_only", "date", "oracle")
    ]
    assert "| DATE | 1 | 0.500 | +0.000 | - |" in tables.report(runs)
    assert "| DATE | 1 | 0.500 | +0.000 | - |" in tables.report(runs[:2])
    assert "| DATE | 1 | 0.500 | - | - |" in tables.report(runs[1:])


def test_a_metric_of_joined_domains_is_their_mean() -> None:
    one = results("mall2live", "date", 0, 0.5)
    one["config"]["data"]["target"] = "live+street+unseen"
    one["eval"]["street_test"] = {"acc_at_0.5": 0.7}
    assert comparison.score(one, "target", "acc_at_0.5") == pytest.approx(0.6)
    assert comparison.score(one, "target", "acc_at_0.9") is None


def test_seed_0_of_everything_comes_first(tmp_path: Path) -> None:
    plan = study.planned_runs(tmp_path, ["a", "b"], ["date", "oracle"], ["0", "7", "0"])
    names = ["a/date-0", "a/oracle-0", "b/date-0", "b/oracle-0"]
    assert [run.name for run in plan] == names + [name.replace("-0", "-7") for name in names]
    assert plan[0].directory == tmp_path / "a" / "date-0"


def test_only_runs_without_results_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_results(tmp_path, date_0=0.5)
    plan = study.planned_runs(tmp_path, ["mall2live"], ["date"], ["0", "1"])
    content = json.dumps(results("mall2live", "date", 1, 0.7))
    command = [sys.executable, "-c", WRITES_RESULTS, str(plan[1].directory), content]
    assert [*run_missing(plan, {plan[1]: command})] == plan
    assert "1 of 2 runs have their results already" in (out := capsys.readouterr().out)
    assert re.search(r"\[1/1\] mall2live/date-1 \| took .*0m00s left \| Acc@0.5 target 0.700", out)
    assert not plan[0].log.exists()
    assert plan[1].log.read_text().startswith(records.MACHINE)


def test_a_failing_run_is_told_with_its_end_and_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    plan = study.planned_runs(tmp_path, ["mall2live"], ["date", "oracle"], ["0"])
    content = json.dumps(results("mall2live", "oracle", 0, 0.9))
    commands = {
        plan[0]: [sys.executable, "-c", FAILS],
        plan[1]: [
            *(sys.executable, "-c", WRITES_RESULTS),
            *(str(plan[1].directory), content),
        ],
    }
    assert [*run_missing(plan, commands)] == plan[1:]
    out = capsys.readouterr().out
    assert (
        f"failed, exit code 3; the end of {plan[0].log}:\n    4\n    5\n    6\n    7\n    8\n"
        in out
    )
    assert "\n    3\n" not in out


def test_runs_at_the_same_time_share_the_cores_between_them(tmp_path: Path) -> None:
    before = subprocesses.cores()
    if len(before) < 2 or not hasattr(os, "sched_getaffinity"):
        pytest.skip("needs two cores of Linux")
    code = "import os; print(*os.sched_getaffinity(0))"
    commands = [
        subprocesses.Command(name, [sys.executable, "-c", code], tmp_path / name)
        for name in ("a", "b")
    ]
    subprocesses.run_all(commands, jobs=2, title="#", outcome=lambda _: "")
    got = [[int(x) for x in c.log.read_text().splitlines()[-1].split()] for c in commands]
    assert sorted(got[0] + got[1]) == before
    assert subprocesses.cores() == before


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGTERM, errors.Preempted), (signal.SIGINT, KeyboardInterrupt)],
)
def test_a_signal_lets_the_children_save(
    tmp_path: Path, number: signal.Signals, error: type[BaseException]
) -> None:
    def interrupt() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    command = subprocesses.Command(
        "a", [sys.executable, "-c", SAVES, str(tmp_path)], tmp_path / "log"
    )
    threading.Thread(target=interrupt, daemon=True).start()
    handler = signal.getsignal(number)
    with pytest.raises(error, match="2 of 2 runs are not done; the same command goes on"):
        subprocesses.run_all([command, command], jobs=1, title="#", outcome=lambda _: "")
    assert (tmp_path / "saved").exists()
    assert signal.getsignal(number) is handler


def test_the_table_tells_where_its_numbers_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_results(tmp_path, source_only_0=0.4, date_0=0.5)
    path = tmp_path / "mall2live" / "date-0" / "results.json"
    for changed in tmp_path.rglob("results.json"):
        content = json.loads(changed.read_text())
        content["config"]["steps"] = 301
        changed.write_text(json.dumps(content))
        os.utime(changed, (0, 1_800_000_000))
    path.with_name("console.log").write_text(f"{records.MACHINE}two abacuses\nstep 1\n")
    main(monkeypatch, tmp_path, "--table_only", "--seeds=0")
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert text.startswith("# 2 of 9 runs, 2027-01-15\n\n    python -m date_jax.ablate --config=")
    assert "--table_only" not in text
    assert "\nOn two abacuses.\n\nConfig: steps=301.\n" in text
    assert "| DATE | 1 | 0.500 | +0.100 | - |" in text
    assert (tmp_path / "chart.png").stat().st_size > 1000


def test_unequal_configs_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path, date_0=0.5, date_1=0.6)
    path = tmp_path / "mall2live" / "date-1" / "results.json"
    content = json.loads(path.read_text())
    harmless, fatal = copy.deepcopy(content), copy.deepcopy(content)
    harmless["config"]["log"]["every"] = 7
    path.write_text(json.dumps(harmless))
    main(monkeypatch, tmp_path, "--table_only")
    fatal["config"]["optim"]["clip"] = 9.0
    path.write_text(json.dumps(fatal))
    with pytest.raises(errors.UsageError) as error_info:
        main(monkeypatch, tmp_path, "--table_only")
    assert f"{path.parent}: holds a run with another config" in str(error_info.value)
    assert f"optim.clip: 9.0 there, {pgda.get_config().optim.clip} now" in str(error_info.value)
    assert "'now' is mall2live/date-0" in str(error_info.value)
    assert len(str(error_info.value).splitlines()) <= 8


def test_results_on_files_that_changed_since_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path, date_0=0.5, date_1=0.6, date_2=0.6)
    for seed, data in ((0, "old"), (1, "old"), (2, "new")):
        path = tmp_path / "mall2live" / f"date-{seed}" / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": data}))
    main(monkeypatch, tmp_path, "--table_only", "--seeds=0,1")
    with pytest.raises(errors.UsageError, match=r"date-2: was trained on other data than .*date-0"):
        main(monkeypatch, tmp_path, "--table_only")


def test_results_of_another_command_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path, date_0=0.5)
    with pytest.raises(errors.UsageError, match=r"(?s)steps: \d+ there, 9 now.*this command"):
        main(monkeypatch, tmp_path, "--config.steps=9")
    # A run may go on with these changed, as it knows its data and has its weights.
    for key in ("data.path", "init.image"):
        with pytest.raises(errors.UsageError, match=rf"(?s){key}:  there, other now.*this command"):
            main(monkeypatch, tmp_path, f"--config.{key}=other")


def test_a_config_file_edited_between_two_starts_ends_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(
        plan: Study, by_run: dict[Run, Any], _: Any, __: int, write_table: Callable[[], object]
    ) -> None:
        for run, clip in zip(plan.runs, (pgda.get_config().optim.clip, 9.0), strict=True):
            changes = {"optim.clip": clip}
            content = results("mall2live", "date", run.seed, 0.5, **changes)
            run.directory.mkdir(parents=True)
            (run.directory / "results.json").write_text(json.dumps(content))
            by_run[run] = records.record(run.directory)
            write_table()

    monkeypatch.setattr(ablate, "run_missing", edit)
    with pytest.raises(errors.UsageError, match=r"(?s)date-1: .*optim.clip: 9.0 there"):
        main(monkeypatch, tmp_path, "--methods=date", "--seeds=0,1")


@pytest.mark.parametrize(
    ("argument", "gist"),
    [
        ("--config.seed=3", "differs between the runs; choose with --seeds"),
        ("--config.data.source=live", "choose with --directions"),
        ("--config.method=oracle", "choose with --methods"),
        ("--directions=mal2live", "did you mean 'mall2live'"),
        ("--methods=dat", "did you mean 'date'"),
        ("--seeds=0,-1", "-1 must be a whole number"),
        ("--seeds=", "--seeds has an empty place"),
        ("--jobs=1000", "--jobs=1000: must be from 1 to"),
        ("--config.steps=0", "config.steps=0: must be"),
        ("--config.aligner.queue=64", "--methods: pairs does not go with this config"),
    ],
)
def test_a_wrong_command_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, gist: str
) -> None:
    with pytest.raises(errors.UsageError, match=re.escape(gist)):
        main(monkeypatch, tmp_path, argument)


def test_no_results_make_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.DataError, match=r"none of the 27 runs has its results.json"):
        main(monkeypatch, tmp_path, "--table_only")
    write_results(tmp_path, date_0=0.5)
    (tmp_path / "mall2live" / "date-0" / "results.json").write_text('{"eval": ')
    with pytest.raises(errors.DataError, match="cut off"):
        main(monkeypatch, tmp_path, "--table_only")


def test_overrides_reach_every_run_as_they_were_given() -> None:
    argv = ["ablate", "--config=c.py", "--config.steps", "9", "--config.aligner.unbiased"]
    argv += ["--noconfig.aligner.unbiased", "--config.data.vocab=", "--jobs=2"]
    overrides = ["--config.steps=9", *argv[4:7]]
    assert ablate.config_overrides(argv, {"seed": "seeds"}) == overrides


def test_a_config_without_directions_or_methods_of_its_own_says_so(tmp_path: Path) -> None:
    assert ablate.chosen_names(None, ["a", "b"], "methods", "c.py") == ["a", "b"]
    with pytest.raises(errors.UsageError, match=r"there are: none: c.py has no DIRECTIONS"):
        ablate.chosen_names(["mall2live"], [], "directions", "c.py")
    with pytest.raises(errors.UsageError, match="--methods has an empty place"):
        ablate.chosen_names([], ["a"], "methods", "c.py")
    plan = study.planned_runs(tmp_path, [""], ["both_seekers"], ["0"])
    assert plan[0].name == "both_seekers-0"
    assert plan[0].directory == tmp_path / "both_seekers-0"


@pytest.mark.parametrize("sides", [{"source": "shop+collage", "target": "street"}, {"source": "b"}])
def test_own_domains_are_one_direction_in_place_of_those_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sides: dict[str, str]
) -> None:
    commands = []

    def pretend(plan: Study, _: Any, by_run: dict[Run, list[str]], *__: Any) -> None:
        commands.extend((run.name, by_run[run]) for run in plan.runs)

    monkeypatch.setattr(ablate, "run_missing", pretend)
    flags_of_sides = [f"--config.data.{side}={domains}" for side, domains in sides.items()]
    argv = [f"--config={Path(pgda.__file__)}:files", f"--workdir={tmp_path}", *flags_of_sides]
    argv += ["--config.data.path=own.jsonl", "--methods=source_only,date", "--seeds=0"]
    with pytest.raises(errors.UserError, match="2 of 2 runs failed"):  # none of them was run
        start(monkeypatch, argv)
    assert [name for name, _ in commands] == ["source_only-0", "date-0"]
    assert all({*flags_of_sides} <= {*command} for _, command in commands)
    assert all(command[3] == argv[0] for _, command in commands)


def test_own_domains_are_compared_where_the_config_has_no_directions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(
        plan: Study, by_run: dict[Run, Any], commands: dict[Run, list[str]], *_: Any
    ) -> None:
        (run,) = plan.runs
        assert run.name == "both_seekers-0"
        assert "--config.data.source=mall" in commands[run]
        config = date.get_config().unlock()
        config.data.source = "mall"
        content = {"config": config.to_dict(), "wall_seconds": 60.0}
        content["eval"] = {"mall_test": {"acc_at_0.5": 0.5, "mrr": 0.25}}
        run.directory.mkdir(parents=True)
        (run.directory / "results.json").write_text(json.dumps(content))
        by_run[run] = records.record(run.directory)

    monkeypatch.setattr(ablate, "run_missing", pretend)
    argv = [f"--config={Path(date.__file__)}", f"--workdir={tmp_path}", "--seeds=0"]
    argv += ["--methods=both_seekers", "--config.data.source=mall"]
    start(monkeypatch, argv)
    text = (tmp_path / "table.md").read_text()
    assert "## all domains" in text
    assert "Config: data.source=mall." in text
    assert "| both_seekers | 1 | 0.500 | - | - | 1.0 |" in text
    with pytest.raises(errors.UsageError, match=r"data.source: mall there, mall\+live now"):
        start(monkeypatch, argv[:-1])


def test_what_only_a_method_reads_may_be_set_for_it() -> None:
    config = pgda.get_config()
    config.pseudo_boxes.combine = "min"
    study.require_sound(config, {"recalled": pgda.METHODS["recalled"]})
    with pytest.raises(errors.UsageError, match="--methods: date does not go with this config"):
        study.require_sound(config, {m: pgda.METHODS[m] for m in ("recalled", "date")})
    with pytest.raises(errors.UsageError, match=r"\Aconfig.pseudo_boxes.combine=min: makes the"):
        study.require_sound(config, {"date": {}})


@pytest.mark.parametrize("module", [pgda, date, capture, same_style])
def test_every_method_is_a_sound_config_and_changes_something(module: Any) -> None:
    configs = []
    for changes in module.METHODS.values():
        config = module.get_config()
        config.update_from_flattened_dict(changes)
        rules.validate(config, device_count=1, process_count=1)
        configs.append(config.to_dict())
    assert all(a != b for a, b in itertools.combinations(configs, 2))


def test_results_of_another_method_are_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path, oracle_0=0.5)
    (tmp_path / "mall2live" / "oracle-0").rename(tmp_path / "mall2live" / "date-0")
    with pytest.raises(errors.UsageError, match=r"method: oracle there, date now"):
        main(monkeypatch, tmp_path, "--methods=date", "--table_only")


def test_a_runs_jsonl_makes_table_and_chart_again_without_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    write_results(first, source_only_0=0.4, date_0=1 / 3, date_1=0.6, oracle_0=0.9)
    folder = first / "mall2live" / "date-0"
    content = json.loads((folder / "results.json").read_text())
    content["config"]["steps"] = 301
    apart = {"live_val": {"distance_image": 0.123456789, "acc_at_0.5": 0.5}}
    content["history"] = [{"step": 500, "eval": apart}]
    content["pseudo_boxes"] = [{"step": 600, "selected": 50.0, "precision_all": 2 / 3}]
    for changed in first.rglob("results.json"):
        changes = content if changed.parent == folder else {}
        one = json.loads(changed.read_text()) | changes
        one["config"]["steps"] = 301
        changed.write_text(json.dumps(one))
    (folder / "console.log").write_text(f"{records.MACHINE}two abacuses\nstep 1\n")
    windows = [{"step": step, "train/loss": 1 / step, "train/box": 2 / step} for step in (3, 6, 9)]
    lines = "".join(f"{json.dumps(window)}\n" for window in windows)
    (folder / "metrics.jsonl").write_text(lines)
    main(monkeypatch, first, "--table_only", "--seeds=0,1")
    shutil.rmtree(first / "mall2live")
    main(monkeypatch, again, f"--runs={first / 'runs.jsonl'}", "--seeds=0,1")
    table = (first / "table.md").read_text()
    assert "Config: steps=301." in table
    assert "On two abacuses." in table
    assert "| 600 | 1 | 50 | 0.667 |" in table
    assert "| DATE | 1 | pictures | 0.123 |" in table
    assert (again / "table.md").read_text() == table.replace(str(first), str(again))
    assert (again / "chart.png").read_bytes() == (first / "chart.png").read_bytes()
    assert not (again / "runs.jsonl").exists()
    rows = [json.loads(line) for line in (first / "runs.jsonl").read_text().splitlines()]
    by_run = {(row["method"], row["seed"]): row for row in rows}
    assert by_run["source_only", 0]["config"] == {"method": "source_only", "steps": 301}
    row = by_run["date", 0]
    assert row["config"] == {"steps": 301}
    assert row["eval"]["live_test"]["acc_at_0.5"] == 0.33333
    assert row["history"] == [{"step": 500, "eval": {"live_val": {"distance_image": 0.12346}}}]
    assert row["losses"] == {"3": 0.33333, "6": 0.16667, "9": 0.11111}
    assert row["terms"] == {"box": [0.66667, 0.22222]}


def test_a_run_without_measures_has_a_row_without_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path, source_only_0=0.4, date_0=0.5, oracle_0=0.9)
    results = tmp_path / "mall2live" / "date-0" / "results.json"
    results.write_text(json.dumps(json.loads(results.read_text()) | {"eval": {}}))
    main(monkeypatch, tmp_path, "--table_only", "--seeds=0")
    assert "| DATE | 1 | - | - |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("text", "gist"),
    [
        (None, "there is no such file"),
        ("", "has none of the 27 runs"),
        ('{"direction":"mall2live","method":"other","seed":0,"config":{}}\n', "has none of the 27"),
        ('\n{"direction": ', ":1: no line of a runs.jsonl"),
        ('{"direction":"mall2live","method":"date"}', ":1: no line of a runs.jsonl (KeyError"),
    ],
)
def test_a_runs_jsonl_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, gist: str
) -> None:
    path = tmp_path / "runs.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(errors.DataError, match=re.escape(f"{path}") + ".*" + re.escape(gist)):
        main(monkeypatch, tmp_path, f"--runs={path}")


STUDIES = sorted(path.parent for path in (ROOT / "docs").glob("[a-z]*/**/runs.jsonl"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: str(path.relative_to(ROOT / "docs")))
def test_a_table_in_the_documents_is_what_its_runs_jsonl_gives(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = (study / "table.md").read_text()
    _, _, command, *words = shlex.split(expected.splitlines()[2])
    assert command == "date_jax.ablate"
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chart, "write", lambda *_, **__: None)
    start(monkeypatch, [*words, f"--runs={study / 'runs.jsonl'}"])
    (table,) = tmp_path.glob("runs/*/table.md")
    assert table.read_text() == expected


def test_every_study_in_the_documents_has_its_runs() -> None:
    assert sorted(path.parent for path in (ROOT / "docs").glob("[a-z]*/**/table.md")) == STUDIES
    assert len(STUDIES) == 6
