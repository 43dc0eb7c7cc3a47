"""Several finished runs as a picture: scores as bars, training and pseudo boxes as lines."""

import statistics
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from date_jax.ablation import comparison
from date_jax.lettering import font_families

_BLUE = "#4c72b0"
_GREY = "#c8c8c8"  # of the two ends that the others are compared with
_ENDS = ("source_only", "oracle")
Methods = dict[str, list[comparison.Finished]]  # the runs of each method, in one direction


def write(
    path: Path,
    runs: Sequence[comparison.Finished],
    see: Callable[[Any], object] | None = None,
    *,
    columns: comparison.Columns | None = None,
) -> None:
    """Draws a row of panels for each direction.

    The first has Acc@0.5 on the target, a bar for each method and a dot for each seed. The next has
    the training losses over the steps. Where there is a target, two more have the distance of the
    domains' pictures and the share of right pseudo boxes.

    Args:
        path: of the PNG.
        runs: at least one.
        see: is given the figure before it is drawn.
        columns: a task's own; the bars then are of the first of them.
    """
    # Imported here, as it is slow; a Figure of one's own leaves pyplot's global state alone.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # Names of methods and columns are the user's, in any script.
    labels = [comparison.label(run.method) for run in runs]
    families = font_families([*comparison.by_direction(runs), *labels, *(columns or {})])
    with rc_context({"font.family": families}), warnings.catch_warnings():
        # Letters that no font has are named already.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        figure = _figure(runs, columns)
        if see is not None:
            see(figure)
        FigureCanvasAgg(figure).print_png(str(path))


def _figure(runs: Sequence[comparison.Finished], columns: comparison.Columns | None) -> Any:
    """The figure with as many panels as there is something to draw."""
    from matplotlib.figure import Figure

    directions = comparison.by_direction(runs)
    has_target = any(comparison.domains(run.results, "target") for run in runs)
    lines = [_draw_losses, *([_draw_distances, _draw_boxes] if has_target else [])]
    size = 7.6 + 4.8 * len(lines), 3.4 * len(directions)
    figure = Figure(figsize=size, layout="constrained")
    ratios = (3, *[2] * len(lines))
    panels = figure.subplots(len(directions), len(ratios), squeeze=False, width_ratios=ratios)

    for (bar_axes, *line_axes), title in zip(panels, directions, strict=True):
        methods = comparison.by_method(directions[title])
        _draw_bars(bar_axes, methods, title, columns)
        for draw, axes in zip(lines, line_axes, strict=True):
            draw(axes, methods, title)
    return figure


def _score_of_bars(
    methods: Methods, columns: comparison.Columns | None
) -> tuple[str, Callable[[dict[str, Any]], float | None]]:
    """The heading of the bars, and the function that reads their score from results.

    The bars show the first of a task's own columns, else Acc@0.5 on the target or, where no run has
    a target with boxes, on the source.
    """
    if columns:
        heading, column = next(iter(columns.items()))
        return heading, lambda results: comparison.split_score(results, *column)

    def accuracy(side: str) -> Callable[[dict[str, Any]], float | None]:
        """The function that reads Acc@0.5 on one side from results."""
        return lambda results: comparison.score(results, side, "acc_at_0.5")

    all_results = [run.results for runs in methods.values() for run in runs]
    has_target = any(accuracy("target")(results) is not None for results in all_results)
    side = "target" if has_target else "source"
    return f"Acc@0.5 ({side}, test)", accuracy(side)


def _draw_bars(axes: Any, methods: Methods, title: str, columns: comparison.Columns | None) -> None:
    """Draws the mean over the seeds of each method as a bar, and each seed as a dot."""
    heading, score = _score_of_bars(methods, columns)
    for place, (method, runs) in enumerate(methods.items()):
        scores = [score(run.results) for run in runs]
        values = [value for value in scores if value is not None]
        if values:
            mean = statistics.fmean(values)
            axes.bar(place, mean, color=_GREY if method in _ENDS else _BLUE, width=0.7)
            axes.plot([place] * len(values), values, ".", color="black", markersize=5)
            axes.annotate(f"{mean:.3f}", (place, max(values)), (0, 4), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
    labels = [comparison.label(method) for method in methods]
    axes.set_xticks(range(len(labels)), labels, rotation=25, ha="right", fontsize=8)
    axes.set_ylim(0, 1.08)
    axes.set_ylabel(heading)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_losses(axes: Any, methods: Methods, title: str) -> None:
    """Draws the mean over the seeds, shaded from the least to the most of them.

    Losses of two methods may have other terms: their heights are not to be compared.
    """
    for method, runs in methods.items():
        # Seeds may be at different steps: a mean is of all of them.
        curves = [run.losses for run in runs if run.losses]
        steps = sorted(set.intersection(*map(set, curves))) if curves else []
        if steps:
            values = [[curve[step] for curve in curves] for step in steps]
            (line,) = axes.plot(
                steps, [statistics.fmean(v) for v in values], label=comparison.label(method)
            )
            least, most = [min(v) for v in values], [max(v) for v in values]
            axes.fill_between(steps, least, most, color=line.get_color(), alpha=0.2, linewidth=0)
    _label(axes, f"{title}: training", "training loss")


def _label(
    axes: Any, title: str, measure: str, *, ylim: tuple[float, float | None] | None = None
) -> None:
    """Labels a panel of lines over the steps, and hides one without lines.

    The legend stands to the right of the panel, as there may be many lines.
    """
    if not axes.lines:
        axes.set_axis_off()
        return
    if ylim is not None:
        axes.set_ylim(*ylim)
    axes.set_xlabel("step")
    axes.set_ylabel(measure)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_distances(axes: Any, methods: Methods, title: str) -> None:
    """Draws the distance of the domains' picture embeddings, mean over the seeds."""
    for number, (method, runs) in enumerate(methods.items()):
        if by_step := comparison.distances(runs, "image"):
            axes.plot([*by_step], [*by_step.values()], marker=".", color=f"C{number}",
                      label=comparison.label(method))  # fmt: skip
    _label(axes, f"{title}: distance of the domains", "squared MMD of pictures", ylim=(0.0, None))


def _draw_boxes(axes: Any, methods: Methods, title: str) -> None:
    """Draws three shares of right pseudo boxes, mean over the seeds.

    Dashed: of all boxes of the teacher. Solid: of the selected boxes. Dotted: the targets whose box
    is selected and right, of all targets.
    """
    # A line style for each share, a colour for each method.
    kinds = {
        "precision_all": ("--", "all"),
        "precision_selected": ("-", "selected"),
        "recall_selected": (":", "found of all"),
    }
    for number, (method, runs) in enumerate(methods.items()):
        by_step = comparison.refreshes(runs)
        # A share that some run has not measured has no line.
        for name in comparison.shares_of_right(runs):
            if name in kinds:
                style, kind = kinds[name]
                means = [statistics.fmean(x[name] for x in entries) for entries in by_step.values()]
                label = f"{comparison.label(method)}, {kind}"
                axes.plot([*by_step], means, style, marker=".", color=f"C{number}", label=label)
    _label(axes, f"{title}: pseudo boxes", "share of right pseudo boxes", ylim=(0.0, 1.05))
