"""Measures of several finished runs, method by method: scores, gains, distances, boxes."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

Columns = dict[str, tuple[str, str]]  # heading: which split, which metric
COLUMNS: Columns = {  # heading: whose test split, which metric
    "Acc@0.5 target": ("target", "acc_at_0.5"),
    "Acc@0.5 source": ("source", "acc_at_0.5"),
    "mIoU target": ("target", "mean_iou"),
    "R@1 target": ("target", "recall_at_1"),
    "R@10 target": ("target", "recall_at_10"),
}
LABELS = {"date": "DATE"}  # of methods that are not called by their name


class Finished(NamedTuple):
    """A run that is done.

    Attributes:
        direction: its name, or "".
        method: its name.
        seed: value of config.seed.
        results: what its results.json holds.
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
    values = [split_score(results, split, metric) for split in splits]
    measured = [value for value in values if value is not None]
    return statistics.fmean(measured) if measured else None


def domains(results: dict[str, Any], side: str) -> list[str]:
    """The domains of a run's source or target; none for a side that its task does not have."""
    return [name for name in results["config"]["data"].get(side, "").split("+") if name]


def split_score(results: dict[str, Any], split: str, metric: str) -> float | None:
    """A metric of a run on a split; None where it was not measured."""
    return results["eval"].get(split, {}).get(metric)


def by_direction(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """The runs of each direction, by its name or, where it has none, by its domains."""

    def title(run: Finished) -> str:
        """`mall2live`, `shop to street` or `all domains`."""
        if run.direction:
            return run.direction
        data = run.results["config"]["data"]
        return f"{data['source']} to {data['target']}" if data.get("target") else "all domains"

    # In the order in which the directions come first.
    titles = dict.fromkeys(map(title, runs))
    return {name: [run for run in runs if title(run) == name] for name in titles}


def by_method(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """The runs of each method, in the order in which the methods come first."""
    methods = dict.fromkeys(run.method for run in runs)
    return {method: [run for run in runs if run.method == method] for method in methods}


def gains(runs: Sequence[Finished]) -> dict[str, tuple[list[float], list[float | None]]]:
    """The gain over source_only and the gap_closed of each method, by the seeds that allow them."""
    # Accuracy by method and seed; a run without boxes on the target has none.
    accuracy: dict[str, dict[int, float]] = {}
    for run in runs:
        value = score(run.results, *COLUMNS["Acc@0.5 target"])
        if value is not None:
            accuracy.setdefault(run.method, {})[run.seed] = value

    # A seed of one method is compared with the same seed of the two ends.
    base, best = accuracy.get("source_only", {}), accuracy.get("oracle", {})
    by_name: dict[str, tuple[list[float], list[float | None]]] = {}
    for method in by_method(runs):
        scores = {} if method == "source_only" else accuracy.get(method, {})
        seeds = sorted(scores.keys() & base.keys())
        gain = [scores[seed] - base[seed] for seed in seeds]
        with_oracle = [seed for seed in seeds if seed in best and method != "oracle"]
        by_name[method] = gain, [gap_closed(base[s], scores[s], best[s]) for s in with_oracle]
    return by_name


def gap_closed(source_only: float, method: float, oracle: float) -> float | None:
    """The share of the way from source_only to oracle; None where the oracle is no better."""
    gap = oracle - source_only
    return (method - source_only) / gap if gap > 0 else None


def test_splits(runs: Sequence[Finished]) -> list[str]:
    """The test splits on which retrieval was measured, source before target."""
    # A split of several runs counts once; one run that has measured it is enough.
    splits = dict.fromkeys(
        f"{domain}_test"
        for run in runs
        for side in ("source", "target")
        for domain in domains(run.results, side)
    )
    has_retrieval = {
        split: any("mrr" in run.results["eval"].get(split, {}) for run in runs) for split in splits
    }
    return [split for split in splits if has_retrieval[split]]


def refreshes(runs: Sequence[Finished]) -> dict[int, list[dict[str, Any]]]:
    """The metrics of every refresh of pseudo boxes, of all runs together, by step."""
    by_step: dict[int, list[dict[str, Any]]] = {}
    for run in runs:
        for refresh in run.results.get("pseudo_boxes", []):
            by_step.setdefault(refresh["step"], []).append(refresh)
    return dict(sorted(by_step.items()))


def shares_of_right(runs: Sequence[Finished]) -> list[str]:
    """The names of the shares of right pseudo boxes that all of the runs have measured.

    The means of one column are then of the same runs as those of another.
    """
    entries = [refresh for by_run in refreshes(runs).values() for refresh in by_run]
    names = dict.fromkeys(name for refresh in entries for name in refresh)
    kinds = ("precision_", "recall_")
    return [n for n in names if n.startswith(kinds) and all(n in entry for entry in entries)]


def distances(runs: Sequence[Finished], kind: str) -> dict[int, float]:
    """The `distance_<kind>` of validation by step, mean over runs and the target's domains."""
    # An evaluation that did not measure it adds nothing to its step.
    by_step: dict[int, list[float]] = {}
    for run in runs:
        splits = [f"{domain}_val" for domain in domains(run.results, "target")]
        for entry in run.results.get("history", []):
            values = (entry["eval"].get(split, {}).get(f"distance_{kind}") for split in splits)
            by_step.setdefault(entry["step"], []).extend(x for x in values if x is not None)
    return {step: statistics.fmean(values) for step, values in sorted(by_step.items()) if values}


def label(method: str) -> str:
    """The name of a method in a table."""
    return LABELS.get(method, method)
