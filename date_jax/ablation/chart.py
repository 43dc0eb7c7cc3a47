"""Several finished runs as a picture: scores as bars, training and pseudo boxes as lines."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from date_jax.ablation import comparison

_BAR = "#4c72b0"
_OTHER = "#c8c8c8"  # of what is compared with
_ENDS = ("source_only", "oracle")


def write(
    path: Path,
    runs: Sequence[comparison.Finished],
    see: Callable[[Any], object] | None = None,
    *,
    columns: comparison.Columns | None = None,
) -> None:
    """Draws for each direction Acc@0.5 on the target, a bar for each method and a dot for each
    seed; and over the steps the training losses and, where there is a target, how far the domains'
    pictures are apart and the share of right pseudo boxes.

    Args:
        path: of the PNG.
        runs: at least one.
        see: is given the figure before it is drawn.
        columns: a task's own; the bars then are of the first of them.
    """
    # Only here, for it is slow to import; a Figure of one's own leaves pyplot's global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    directions = comparison.by_direction(runs)
    adapts = any(comparison.domains(run.results, "target") for run in runs)
    draw = [_draw_losses, *([_draw_distances, _draw_boxes] if adapts else [])]
    size = 7.6 + 4.8 * len(draw), 3.4 * len(directions)
    figure = Figure(figsize=size, layout="constrained")
    ratios = (3, *[2] * len(draw))
    panels = figure.subplots(len(directions), len(ratios), squeeze=False, width_ratios=ratios)
    for (bars, *others), title in zip(panels, directions, strict=True):
        some = comparison.by_method(directions[title])
        _draw_bars(bars, some, title, columns)
        for draw_one, axes in zip(draw, others, strict=True):
            draw_one(axes, some, title)
    if see is not None:
        see(figure)
    FigureCanvasAgg(figure).print_png(str(path))


def _barred(
    methods: dict[str, list[comparison.Finished]], columns: comparison.Columns | None
) -> tuple[str, Callable[[dict[str, Any]], float | None]]:
    """What the bars show, and how it is read from results: the first of a task's own columns, or
    Acc@0.5 on the target or, where no run has one with boxes, on the source."""
    if columns:
        heading, column = next(iter(columns.items()))
        return heading, lambda results: comparison.named(results, *column)

    def accuracy(side: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda results: comparison.score(results, side, "acc_at_0.5")

    runs_of = [run.results for some in methods.values() for run in some]
    known = any(accuracy("target")(results) is not None for results in runs_of)
    side = "target" if known else "source"
    return f"Acc@0.5 ({side}, test)", accuracy(side)


def _draw_bars(
    axes: Any,
    methods: dict[str, list[comparison.Finished]],
    title: str,
    columns: comparison.Columns | None,
) -> None:
    what, score = _barred(methods, columns)
    for place, (method, runs) in enumerate(methods.items()):
        found = [score(run.results) for run in runs]
        values = [value for value in found if value is not None]
        if values:
            mean = statistics.fmean(values)
            axes.bar(place, mean, color=_OTHER if method in _ENDS else _BAR, width=0.7)
            axes.plot([place] * len(values), values, ".", color="black", markersize=5)
            axes.annotate(f"{mean:.3f}", (place, max(values)), (0, 4), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
    labels = [comparison.label(method) for method in methods]
    axes.set_xticks(range(len(labels)), labels, rotation=25, ha="right", fontsize=8)
    axes.set_ylim(0, 1.08)
    axes.set_ylabel(what)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_losses(axes: Any, methods: dict[str, list[comparison.Finished]], title: str) -> None:
    """Mean over the seeds, from the least to the most of them shaded. Methods have other terms."""
    for method, runs in methods.items():
        curves = [run.losses for run in runs if run.losses]
        steps = sorted(set.intersection(*map(set, curves))) if curves else []
        if steps:
            values = [[curve[step] for curve in curves] for step in steps]
            (line,) = axes.plot(
                steps, [statistics.fmean(v) for v in values], label=comparison.label(method)
            )
            least, most = [min(v) for v in values], [max(v) for v in values]
            axes.fill_between(steps, least, most, color=line.get_color(), alpha=0.2, linewidth=0)
    _named(axes, f"{title}: training", "training loss")


def _named(
    axes: Any, title: str, measured: str, *, ylim: tuple[float, float | None] | None = None
) -> None:
    """Says what the lines over the steps are, beside them, as there may be many; no lines, no
    panel."""
    if not axes.lines:
        axes.set_axis_off()
        return
    if ylim is not None:
        axes.set_ylim(*ylim)
    axes.set_xlabel("step")
    axes.set_ylabel(measured)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_distances(axes: Any, methods: dict[str, list[comparison.Finished]], title: str) -> None:
    """Of the pictures' embeddings, mean over the seeds."""
    for number, (method, runs) in enumerate(methods.items()):
        if found := comparison.distances(runs, "image"):
            axes.plot([*found], [*found.values()], marker=".", color=f"C{number}",
                      label=comparison.label(method))  # fmt: skip
    _named(axes, f"{title}: distance of the domains", "squared MMD of pictures", ylim=(0.0, None))


def _draw_boxes(axes: Any, methods: dict[str, list[comparison.Finished]], title: str) -> None:
    """Mean over the seeds: all of a teacher's boxes that are right dashed, of the selected ones
    solid, and of all targets those that are selected and right dotted."""
    kinds = {
        "precision_all": ("--", "all"),
        "precision_selected": ("-", "selected"),
        "recall_selected": (":", "found of all"),
    }
    for number, (method, runs) in enumerate(methods.items()):
        rows_of = comparison.refreshes(runs)
        for name in comparison.shares_of_right(runs):
            if name in kinds:
                style, kind = kinds[name]
                means = [statistics.fmean(row[name] for row in rows) for rows in rows_of.values()]
                label = f"{comparison.label(method)}, {kind}"
                axes.plot([*rows_of], means, style, marker=".", color=f"C{number}", label=label)
    _named(axes, f"{title}: pseudo boxes", "share of right pseudo boxes", ylim=(0.0, 1.05))
