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
RETRIEVAL = {
    **{f"R@{k}": f"recall_at_{k}" for k in (1, 5, 10, 50)},
    "MRR": "mrr",
    **{f"image to text R@{k}": f"image_to_text_recall_at_{k}" for k in (1, 5, 10, 50)},
    "image to text MRR": "image_to_text_mrr",
}
LABELS = {"date": "DATE"}  # of methods that are not called by their name
LEGEND = "Test splits; mean ± sample standard deviation over the seeds; R@k: text to image."
GAIN = (
    "Gain: what Acc@0.5 on the target is above source_only's of the same seed; gap_closed: gain "
    "over oracle's."
)


Columns = dict[str, tuple[str, str]]  # heading: which split, which metric


class Finished(NamedTuple):
    """A run that is done; `results` is what its results.json holds.

    Attributes:
        losses: of training, by step; may be empty.
    """

    direction: str
    method: str
    seed: int
    results: dict[str, Any]
    losses: dict[int, float] = {}  # noqa: RUF012 - never written to


def score(results: dict[str, Any], side: str, metric: str) -> float | None:
    """A metric on the test split of the run's source or target; of several domains the mean."""
    splits = [f"{domain}_test" for domain in domains(results, side)]
    found = [results["eval"].get(split, {}).get(metric) for split in splits]
    known = [value for value in found if value is not None]
    return statistics.fmean(known) if known else None


def domains(results: dict[str, Any], side: str) -> list[str]:
    """Of a run's source or target; none for a side that its task does not have."""
    return [name for name in results["config"]["data"].get(side, "").split("+") if name]


def named(results: dict[str, Any], split: str, metric: str) -> float | None:
    """A metric of a run on a split."""
    return results["eval"].get(split, {}).get(metric)


def scores(results: dict[str, Any], columns: Columns | None = None) -> str:
    """One run's in a line: `Acc@0.5 target 0.651, Acc@0.5 source 0.912, ...`; of `columns` where a
    task has its own."""
    if columns:
        found = {heading: named(results, *column) for heading, column in columns.items()}
    else:
        found = {heading: score(results, *column) for heading, column in COLUMNS.items()}
    return ", ".join(f"{heading} {x:.3f}" for heading, x in found.items() if x is not None)


def report(runs: Sequence[Finished], columns: Columns | None = None) -> str:
    """For each direction a table of grounding, of retrieval, and of pseudo boxes by method; where a
    task has its own `columns` one of these, and the first method by category."""
    if columns:
        parts = ["Mean ± sample standard deviation over the seeds.", columns_table(runs, columns)]
        method, some = next(iter(by_method(runs).items()))
        for split in dict.fromkeys(split for split, _ in columns.values()):
            if categories := categories_table(some, split):
                parts += [f"{label(method)}, by category of {split}, R@1:", categories]
        return "\n\n".join(parts)
    adapts = not domains_columns(runs)
    parts = [f"{LEGEND} {GAIN}" if adapts else LEGEND]
    for title, some in by_direction(runs).items():
        of_domains = domains_columns(some)
        grounding = columns_table(some, of_domains) if of_domains else methods_table(some)
        parts += [f"## {title}", grounding]
        for split in test_splits(some):
            parts += [f"Retrieval on {split}:", retrieval_table(some, split)]
        if distances := distances_table(some):
            parts += ["Distance of the target's validation split from the source's, by step; "
                      "squared MMD of the embeddings, mean over the seeds:", distances]  # fmt: skip
        for method in dict.fromkeys(run.method for run in some):
            if boxes := pseudo_boxes_table([run for run in some if run.method == method]):
                parts.append(
                    f"Pseudo boxes of {label(method)} that are right (IoU ≥ 0.5), "
                    "mean over the seeds:"
                )
                parts.append(boxes)
    return "\n\n".join(parts)


def by_direction(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """The runs of each direction, which is named or, without a name, told by its domains."""

    def title(run: Finished) -> str:
        data = run.results["config"]["data"]
        domains = f"{data['source']} to {data['target']}" if data.get("target") else "all domains"
        return run.direction or domains

    titles = dict.fromkeys(map(title, runs))
    return {name: [run for run in runs if title(run) == name] for name in titles}


def by_method(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """The runs of each method, in the order in which the methods come first."""
    methods = dict.fromkeys(run.method for run in runs)
    return {method: [run for run in runs if run.method == method] for method in methods}


def methods_table(runs: Sequence[Finished]) -> str:
    """A row for each method: scores, and what it gains; the runs of one direction."""
    gained = gains(runs)
    rows = []
    for method, some in by_method(runs).items():
        first, *others = (
            spread(score(run.results, *column) for run in some) for column in COLUMNS.values()
        )
        gain, closed = gained[method]
        minutes = spread((run.results["wall_seconds"] / 60 for run in some), "{:.1f}")
        gap = [spread(gain, "{:+.3f}"), spread(closed)]
        rows.append([label(method), str(len(some)), first, *gap, *others, minutes])
    first, *others = COLUMNS
    return markdown(["", "seeds", first, "gain", "gap_closed", *others, "minutes"], rows)


def domains_columns(runs: Sequence[Finished]) -> Columns:
    """Grounding on each domain's test split, where no run has a target; else none."""
    if any(domains(run.results, "target") for run in runs):
        return {}
    sources = dict.fromkeys(name for run in runs for name in domains(run.results, "source"))
    measures = {"Acc@0.5": "acc_at_0.5", "Acc@0.75": "acc_at_0.75", "mIoU": "mean_iou"}
    return {
        f"{heading} {domain}": (f"{domain}_test", metric)
        for domain in sources
        for heading, metric in measures.items()
    }


def columns_table(runs: Sequence[Finished], columns: Columns) -> str:
    """A row for each method."""
    rows = []
    for method, some in by_method(runs).items():
        cells = [spread(named(run.results, *column) for run in some) for column in columns.values()]
        minutes = spread((run.results["wall_seconds"] / 60 for run in some), "{:.1f}")
        rows.append([label(method), str(len(some)), *cells, minutes])
    return markdown(["", "seeds", *columns, "minutes"], rows)


def categories_table(runs: Sequence[Finished], split: str) -> str:
    """A row for each category of a split's `category/<name>/<what>`; "" where there is none."""
    found = [run.results["eval"].get(split, {}) for run in runs]
    keys = [  # from the right: a name of the user's own may hold a stroke
        key.removeprefix("category/").rpartition("/")
        for metrics in found
        for key in metrics
        if key.startswith("category/")
    ]
    whats = [*dict.fromkeys(what for _, _, what in keys)]
    rows = [
        [name, *(spread(of.get(f"category/{name}/{what}") for of in found) for what in whats)]
        for name in sorted({name for name, _, _ in keys})
    ]
    return markdown(["category", *whats], rows) if rows else ""


def gains(runs: Sequence[Finished]) -> dict[str, tuple[list[float], list[float | None]]]:
    """By method, its gain over source_only and its gap_closed for each seed that allows them."""
    accuracy: dict[str, dict[int, float]] = {}
    for run in runs:
        value = score(run.results, *COLUMNS["Acc@0.5 target"])
        if value is not None:
            accuracy.setdefault(run.method, {})[run.seed] = value
    base, best = accuracy.get("source_only", {}), accuracy.get("oracle", {})
    found = {}
    for method in by_method(runs):
        own = {} if method == "source_only" else accuracy.get(method, {})
        paired = sorted(own.keys() & base.keys())
        gain = [own[seed] - base[seed] for seed in paired]
        compared = [seed for seed in paired if seed in best and method != "oracle"]
        found[method] = gain, [gap_closed(base[s], own[s], best[s]) for s in compared]
    return found


def test_splits(runs: Sequence[Finished]) -> list[str]:
    """The test splits on which retrieval was measured, source before target."""
    found: dict[str, None] = {}
    for run in runs:
        for side in ("source", "target"):
            found |= dict.fromkeys(f"{domain}_test" for domain in domains(run.results, side))
    return [
        split for split in found if any("mrr" in run.results["eval"].get(split, {}) for run in runs)
    ]


def retrieval_table(runs: Sequence[Finished], split: str) -> str:
    """A row for each method; the runs of one direction."""
    rows = []
    for method, some in by_method(runs).items():
        found = [run.results["eval"].get(split, {}) for run in some]
        cells = [spread(metrics.get(name) for metrics in found) for name in RETRIEVAL.values()]
        rows.append([label(method), str(len(some)), *cells])
    return markdown(["", "seeds", *RETRIEVAL], rows)


def gap_closed(source_only: float, method: float, oracle: float) -> float | None:
    """The share of the way from source_only to oracle; None where the oracle is no better."""
    gap = oracle - source_only
    return (method - source_only) / gap if gap > 0 else None


def refreshes(runs: Sequence[Finished]) -> dict[int, list[dict[str, Any]]]:
    """What is known of the pseudo boxes, of all runs together, by step."""
    rows_of: dict[int, list[dict[str, Any]]] = {}
    for run in runs:
        for refresh in run.results.get("pseudo_boxes", []):
            rows_of.setdefault(refresh["step"], []).append(refresh)
    return dict(sorted(rows_of.items()))


def shares_of_right(runs: Sequence[Finished]) -> list[str]:
    """The shares of right pseudo boxes that all of the runs have measured: means of one column are
    then of the same runs as those of another."""
    rows = [row for rows in refreshes(runs).values() for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    kinds = ("precision_", "recall_")
    return [n for n in names if n.startswith(kinds) and all(n in row for row in rows)]


def distances(runs: Sequence[Finished], what: str) -> dict[int, float]:
    """By step the `distance_<what>` of validation, mean over runs and the target's domains."""
    found: dict[int, list[float]] = {}
    for run in runs:
        splits = [f"{domain}_val" for domain in domains(run.results, "target")]
        for entry in run.results.get("history", []):
            known = (entry["eval"].get(split, {}).get(f"distance_{what}") for split in splits)
            found.setdefault(entry["step"], []).extend(x for x in known if x is not None)
    return {step: statistics.fmean(values) for step, values in sorted(found.items()) if values}


def distances_table(runs: Sequence[Finished]) -> str:
    """A row for each method and kind of embedding; "" where no run has measured them."""
    kinds = {"image": "pictures", "query": "queries"}
    found = {
        (method, name): distances(some, what)
        for method, some in by_method(runs).items()
        for what, name in kinds.items()
    }
    steps = sorted(set().union(*found.values()))
    measured = {
        method: str(sum(bool(distances([run], "image")) for run in some))
        for method, some in by_method(runs).items()
    }
    rows = [
        [
            *(label(method), measured[method], name),
            *(f"{by_step[step]:.3f}" if step in by_step else "-" for step in steps),
        ]
        for (method, name), by_step in found.items()
        if by_step
    ]
    return markdown(["", "seeds", "of", *map(str, steps)], rows) if rows else ""


def label(method: str) -> str:
    """What a method is called in a table."""
    return LABELS.get(method, method)


def pseudo_boxes_table(runs: Sequence[Finished]) -> str:
    """A row for each refresh: how many were selected, shares of right ones; "" without shares."""
    rows_of = refreshes(runs)
    shares = shares_of_right(runs)
    forms: dict[str, str] = {"selected": "{:.0f}"} | dict.fromkeys(shares, "{:.3f}")

    def cell(rows: list[dict[str, Any]], name: str) -> str:
        return forms[name].format(statistics.fmean(row[name] for row in rows))

    table = [
        [str(step), str(len(rows)), *(cell(rows, name) for name in forms)]
        for step, rows in rows_of.items()
    ]
    return markdown(["step", "seeds", *forms], table) if shares else ""


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
    # Names may be the user's own: they stay in one cell.
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
