"""Several finished runs side by side, as Markdown: what adaptation brings, and its pseudo boxes."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from date_jax.ablation.comparison import (
    COLUMNS,
    Columns,
    Finished,
    by_direction,
    by_method,
    distances,
    domains,
    gains,
    label,
    refreshes,
    score,
    shares_of_right,
    split_score,
    test_splits,
)

RETRIEVAL = {
    **{f"R@{k}": f"recall_at_{k}" for k in (1, 5, 10, 50)},
    "MRR": "mrr",
    **{f"image to text R@{k}": f"image_to_text_recall_at_{k}" for k in (1, 5, 10, 50)},
    "image to text MRR": "image_to_text_mrr",
}
LEGEND = "Test splits; mean ± sample standard deviation over the seeds; R@k: text to image."
GAIN = (
    "Gain: what Acc@0.5 on the target is above source_only's of the same seed; gap_closed: gain "
    "over oracle's."
)


def report(runs: Sequence[Finished], columns: Columns | None = None) -> str:
    """All tables of a study, in Markdown.

    Args:
        runs: at least one.
        columns: a task's own; its table is of these, and the first method is shown by category.
            Without them there is for each direction a table of grounding, of retrieval, of the
            distance of the domains, and of pseudo boxes by method.
    """
    if columns:
        return "\n\n".join(report_of_columns(runs, columns))
    # The gain is explained where a table has it.
    has_target = not domains_columns(runs)
    parts = [f"{LEGEND} {GAIN}" if has_target else LEGEND]
    for title, runs_of_direction in by_direction(runs).items():
        parts += [f"## {title}", *report_of_direction(runs_of_direction)]
    return "\n\n".join(parts)


def report_of_columns(runs: Sequence[Finished], columns: Columns) -> list[str]:
    """Paragraphs and tables for a task's own columns."""
    parts = ["Mean ± sample standard deviation over the seeds.", columns_table(runs, columns)]
    # Categories are many: they are shown of the whole system, which comes first, alone.
    method, runs_of_method = next(iter(by_method(runs).items()))
    for split in dict.fromkeys(split for split, _ in columns.values()):
        if categories := categories_table(runs_of_method, split):
            parts += [f"{label(method)}, by category of {split}, R@1:", categories]
    return parts


def report_of_direction(runs: Sequence[Finished]) -> list[str]:
    """Paragraphs and tables for the runs of one direction."""
    # Without a target there is no gain: each domain has its columns.
    columns = domains_columns(runs)
    parts = [columns_table(runs, columns) if columns else methods_table(runs)]
    for split in test_splits(runs):
        parts += [f"Retrieval on {split}:", retrieval_table(runs, split)]
    # What only an adapting method measures.
    if table := distances_table(runs):
        parts.append(
            "Distance of the target's validation split from the source's, by step; "
            "squared MMD of the embeddings, mean over the seeds:"
        )
        parts.append(table)
    for method, runs_of_method in by_method(runs).items():
        if table := pseudo_boxes_table(runs_of_method):
            parts.append(
                f"Pseudo boxes of {label(method)} that are right (IoU ≥ 0.5), mean over the seeds:"
            )
            parts.append(table)
    return parts


def methods_table(runs: Sequence[Finished]) -> str:
    """A table with a row for each method: scores, and what it gains.

    Args:
        runs: of one direction.
    """
    gain_of = gains(runs)
    rows = []
    for method, runs_of_method in by_method(runs).items():
        # The gain stands behind the score that it is of, the first.
        accuracy, *others = (
            mean_and_spread(score(run.results, *column) for run in runs_of_method)
            for column in COLUMNS.values()
        )
        gain, gap = gain_of[method]
        cells = [mean_and_spread(gain, "{:+.3f}"), mean_and_spread(gap), *others]
        count = str(len(runs_of_method))
        rows.append([label(method), count, accuracy, *cells, minutes(runs_of_method)])
    first, *others = COLUMNS
    return markdown(["", "seeds", first, "gain", "gap_closed", *others, "minutes"], rows)


def domains_columns(runs: Sequence[Finished]) -> Columns:
    """Columns for grounding on each domain's test split; {} where a run has a target."""
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
    """A table of these columns with a row for each method."""
    rows = []
    for method, runs_of_method in by_method(runs).items():
        cells = [
            mean_and_spread(split_score(run.results, *column) for run in runs_of_method)
            for column in columns.values()
        ]
        rows.append([label(method), str(len(runs_of_method)), *cells, minutes(runs_of_method)])
    return markdown(["", "seeds", *columns, "minutes"], rows)


def categories_table(runs: Sequence[Finished], split: str) -> str:
    """A table with a row for each category of a split; "" where there is none.

    Its metrics are called `category/<category>/<kind>`.
    """
    by_run = [run.results["eval"].get(split, {}) for run in runs]
    keys = [  # from the right: a name of the user's own may hold a stroke
        key.removeprefix("category/").rpartition("/")
        for metrics in by_run
        for key in metrics
        if key.startswith("category/")
    ]
    kinds = [*dict.fromkeys(kind for _, _, kind in keys)]

    def cell(category: str, kind: str) -> str:
        """One kind of recall in one category, over the seeds."""
        return mean_and_spread(metrics.get(f"category/{category}/{kind}") for metrics in by_run)

    categories = sorted({category for category, _, _ in keys})
    rows = [[category, *(cell(category, kind) for kind in kinds)] for category in categories]
    return markdown(["category", *kinds], rows) if rows else ""


def retrieval_table(runs: Sequence[Finished], split: str) -> str:
    """A table of retrieval on a split, with a row for each method.

    Args:
        runs: of one direction.
    """
    rows = []
    for method, runs_of_method in by_method(runs).items():
        cells = [
            mean_and_spread(split_score(run.results, split, metric) for run in runs_of_method)
            for metric in RETRIEVAL.values()
        ]
        rows.append([label(method), str(len(runs_of_method)), *cells])
    return markdown(["", "seeds", *RETRIEVAL], rows)


def distances_table(runs: Sequence[Finished]) -> str:
    """A table of the distances of the domains, a row for each method and kind of embedding.

    It is "" where no run has measured them.
    """
    kinds = {"image": "pictures", "query": "queries"}
    by_row = {
        (method, name): distances(runs_of_method, kind)
        for method, runs_of_method in by_method(runs).items()
        for kind, name in kinds.items()
    }
    # Runs may be evaluated at other steps: all of them have a column.
    steps = sorted(set().union(*by_row.values()))
    seeds = {
        method: str(sum(bool(distances([run], "image")) for run in runs_of_method))
        for method, runs_of_method in by_method(runs).items()
    }
    rows = []
    for (method, name), by_step in by_row.items():
        if by_step:
            cells = (f"{by_step[step]:.3f}" if step in by_step else "-" for step in steps)
            rows.append([label(method), seeds[method], name, *cells])
    return markdown(["", "seeds", "of", *map(str, steps)], rows) if rows else ""


def pseudo_boxes_table(runs: Sequence[Finished]) -> str:
    """A table of pseudo boxes: how many were selected, and how many were right, by refresh.

    It is "" where no share of right ones was measured.
    """
    shares = shares_of_right(runs)
    forms: dict[str, str] = {"selected": "{:.0f}"} | dict.fromkeys(shares, "{:.3f}")

    def cell(entries: list[dict[str, Any]], name: str) -> str:
        """The mean over the runs."""
        return forms[name].format(statistics.fmean(entry[name] for entry in entries))

    rows = [
        [str(step), str(len(entries)), *(cell(entries, name) for name in forms)]
        for step, entries in refreshes(runs).items()
    ]
    return markdown(["step", "seeds", *forms], rows) if shares else ""


def minutes(runs: Sequence[Finished]) -> str:
    """The time that the runs took, in minutes."""
    return mean_and_spread((run.results["wall_seconds"] / 60 for run in runs), "{:.1f}")


def scores(results: dict[str, Any], columns: Columns | None = None) -> str:
    """The scores of one run in a line: `Acc@0.5 target 0.651, Acc@0.5 source 0.912, ...`.

    Args:
        columns: a task's own, in place of those of grounding.
    """
    if columns:
        values = {heading: split_score(results, *column) for heading, column in columns.items()}
    else:
        values = {heading: score(results, *column) for heading, column in COLUMNS.items()}
    return ", ".join(f"{heading} {x:.3f}" for heading, x in values.items() if x is not None)


def mean_and_spread(values: Iterable[float | None], form: str = "{:.3f}") -> str:
    """Mean and sample standard deviation, as `0.651 ± 0.012`; one value has no deviation."""
    measured = [value for value in values if value is not None]
    if not measured:
        return "-"
    mean = form.format(statistics.fmean(measured))
    unsigned = form.replace("+", "")
    return f"{mean} ± {unsigned.format(statistics.stdev(measured))}" if len(measured) > 1 else mean


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    # Names may be the user's own: they stay in one cell.
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
