"""Several finished runs side by side, as Markdown: what adaptation brings, and its pseudo boxes."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

COLUMNS = {  # heading: whose test split, which metric
    "Acc@0.5 target": ("target", "acc_at_0.5"),
    "Acc@0.5 source": ("source", "acc_at_0.5"),
    "mIoU target": ("target", "mean_iou"),
    "R@1 target": ("target", "recall_at_1"),
    "R@10 target": ("target", "recall_at_10"),
}
LABELS = {"source_only": "source_only", "date": "DATE", "oracle": "oracle"}  # in this order
LEGEND = (
    "Test splits; mean ± sample standard deviation over the seeds; R@k: text to image. "
    "gap_closed = (DATE − source_only) / (oracle − source_only), of Acc@0.5 on the target."
)


class Finished(NamedTuple):
    """A run that is done; `results` is what its results.json holds."""

    direction: str
    method: str
    seed: int
    results: dict[str, Any]


def score(results: dict[str, Any], side: str, metric: str) -> float | None:
    """A metric on the test split of the run's source or target; of several domains the mean."""
    splits = [f"{domain}_test" for domain in results["config"]["data"][side].split("+")]
    found = [results["eval"].get(split, {}).get(metric) for split in splits]
    known = [value for value in found if value is not None]
    return statistics.fmean(known) if known else None


def scores(results: dict[str, Any]) -> str:
    """One run's in a line: `Acc@0.5 target 0.651, Acc@0.5 source 0.912, ...`."""
    found = {heading: score(results, *column) for heading, column in COLUMNS.items()}
    return ", ".join(f"{heading} {x:.3f}" for heading, x in found.items() if x is not None)


def report(runs: Sequence[Finished]) -> str:
    """Two tables for each direction: methods with gap_closed, and pseudo boxes over the stage."""
    directions = dict.fromkeys(run.direction for run in runs)
    parts = [LEGEND]
    for direction in directions:
        some = [run for run in runs if run.direction == direction]
        parts += [f"## {direction}", methods_table(some)]
        if boxes := pseudo_boxes_table([run for run in some if run.method == "date"]):
            parts.append("Pseudo boxes that are right (IoU ≥ 0.5), mean over the seeds:")
            parts.append(boxes)
    return "\n\n".join(parts)


def methods_table(runs: Sequence[Finished]) -> str:
    """A row for each method, and what DATE closes of the gap; the runs of one direction."""
    rows = []
    for method, label in LABELS.items():
        some = [run.results for run in runs if run.method == method]
        if some:
            cells = [spread(score(r, *column) for r in some) for column in COLUMNS.values()]
            minutes = spread((r["wall_seconds"] / 60 for r in some), "{:.1f}")
            rows.append([label, str(len(some)), *cells, minutes])
    return markdown(["", "seeds", *COLUMNS, "minutes"], [*rows, *gap_rows(runs)])


def gap_rows(runs: Sequence[Finished]) -> list[list[str]]:
    """Paired over the seeds that all compared methods have; other cells stay empty."""
    accuracy: dict[str, dict[int, float]] = {method: {} for method in LABELS}
    for run in runs:
        value = score(run.results, *COLUMNS["Acc@0.5 target"])
        if value is not None:
            accuracy[run.method][run.seed] = value
    base, date, oracle = accuracy.values()
    rows = []
    if paired := sorted(base.keys() & date.keys()):
        gains = spread((date[seed] - base[seed] for seed in paired), "{:+.3f}")
        rows.append(["DATE − source_only", str(len(paired)), gains])
    if seeds := sorted(base.keys() & date.keys() & oracle.keys()):
        each = [gap_closed(base[seed], date[seed], oracle[seed]) for seed in seeds]
        means = (statistics.fmean(by[seed] for seed in seeds) for by in (base, date, oracle))
        rows.append(["gap_closed, each seed", str(len(seeds)), spread(each)])
        rows.append(["gap_closed, of the means", str(len(seeds)), spread([gap_closed(*means)])])
    return [row + [""] * (len(COLUMNS) + 3 - len(row)) for row in rows]


def gap_closed(source_only: float, date: float, oracle: float) -> float | None:
    """The share of the way from source_only to oracle; None where the oracle is no better."""
    gap = oracle - source_only
    return (date - source_only) / gap if gap > 0 else None


def pseudo_boxes_table(runs: Sequence[Finished]) -> str:
    """A row for each refresh: how many were selected, shares of right ones; "" without any."""
    rows_of: dict[int, list[dict[str, Any]]] = {}
    for run in runs:
        for refresh in run.results.get("pseudo_boxes", []):
            rows_of.setdefault(refresh["step"], []).append(refresh)
    names = dict.fromkeys(name for rows in rows_of.values() for row in rows for name in row)
    precisions = [name for name in names if name.startswith("precision_")]
    forms: dict[str, str] = {"selected": "{:.0f}"} | dict.fromkeys(precisions, "{:.3f}")

    def cell(rows: list[dict[str, Any]], name: str) -> str:
        known = [row[name] for row in rows if name in row]
        return forms[name].format(statistics.fmean(known)) if known else "-"

    table = [
        [str(step), str(len(rows)), *(cell(rows, name) for name in forms)]
        for step, rows in sorted(rows_of.items())
    ]
    return markdown(["step", "seeds", *forms], table) if table else ""


def spread(values: Iterable[float | None], form: str = "{:.3f}") -> str:
    """`0.651 ± 0.012`: mean and sample standard deviation, which one value does not have."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = form.format(statistics.fmean(known))
    plain = form.replace("+", "")
    return f"{mean} ± {plain.format(statistics.stdev(known))}" if len(known) > 1 else mean


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
