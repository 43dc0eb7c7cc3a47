"""The output of a run: console, metrics.jsonl, TensorBoard. Host 0 writes it for all."""

import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from date_jax.run.countdown import duration

# Of compiling a step on a CPU: the 165 arrays of configs/pgda.py took 20 to 40 s on 2 cores.
SECONDS_PER_ARRAY = 0.2


class Progress:
    """Console, files and TensorBoard of one run.

    Args:
        directory: the run's.
        first_step: steps done before this start; later lines of an earlier start are dropped,
            for these steps will be done again.
    """

    def __init__(self, directory: Path, *, first_step: int):
        self._primary = jax.process_index() == 0
        self._lines = directory / "metrics.jsonl"
        self.dropped_until = 0.0  # seconds of the run at the last line that is dropped
        self._writer: Any = None
        if self._primary:
            # Steps that were done after the checkpoint will be done, and written, again.
            if self._lines.exists():
                self.dropped_until = _drop_lines_after(self._lines, first_step)
            from clu import metric_writers  # brings TensorFlow along

            self._writer = metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(directory)))

    def say(self, text: str) -> None:
        """Prints a line, now."""
        if self._primary:
            print(text, flush=True)

    def add_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl and points to TensorBoard; not a number becomes null."""
        if self._primary:
            finite = {name: v if math.isfinite(v) else None for name, v in scalars.items()}
            with self._lines.open("a") as lines:
                lines.write(json.dumps({"step": step, **finite}) + "\n")
            self._writer.write_scalars(step, scalars)

    def add_picture(self, step: int, name: str, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """Adds a picture to TensorBoard."""
        if self._primary:
            self._writer.write_images(step, {name: picture[None]})

    def close(self) -> None:
        """Waits until all is written."""
        if self._writer is not None:
            self._writer.flush()
            self._writer.close()


def _drop_lines_after(path: Path, step: int) -> float:
    """Removes the lines written after the checkpoint of `step`, which is saved before evaluating.

    Returns:
        Seconds of the run in the last line that is removed; 0 where none has them.
    """
    earlier_lines, until = [], 0.0
    for line in path.read_text().splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:  # cut off when the process was killed
            continue
        done_before_saving = any(name.startswith("train/") for name in entry)
        if entry["step"] < step or (entry["step"] == step and done_before_saving):
            earlier_lines.append(line)
        else:
            until = max(until, entry.get("time/run_seconds", 0.0))
    path.write_text("".join(earlier_lines))
    return until


def window_line(
    step: int,
    steps: int,
    label: str,
    means: dict[str, float],
    lap: dict[str, float],
    terms: Sequence[str],
) -> str:
    """The line of a window of steps.

        step 300/2000 | stage 2 | loss 1.830 box 0.412 | 170 examples/s | input 1% | 5m10s left

    Args:
        step: steps done.
        steps: of the whole run.
        label: the part of the training that the step belongs to; "" for none.
        means: of the losses, by name.
        lap: of `Record.end_lap`; where it has nothing, no speed is told.
        terms: the losses that the line has, of those that were measured.
    """
    names = (*terms, "gradient_norm")
    values = " ".join(f"{name} {means[name]:.3f}" for name in names if name in means)
    part = f"{label} | " if label else ""
    skipped = f" | {means['skipped_updates']:.0f} skipped" if means["skipped_updates"] else ""
    line = f"step {step:>{len(str(steps))}}/{steps} | {part}{values}{skipped}"
    if not lap:
        return line
    return (
        f"{line} | {lap['examples_per_second']:.0f} examples/s | input {lap['input_wait']:.0%} | "
        f"{duration((steps - step) * lap['step_seconds'])} left"
    )


def compiling_line(params: Any, *, previous: float | None) -> str:
    """The line before a step is compiled, which takes long and says nothing meanwhile.

    Args:
        params: of the network, whose arrays are as many as its operations, roughly.
        previous: seconds that an earlier compilation of this start took; None for none.
    """
    if previous is not None:
        return f"compiling the step of new batches (about {duration(previous)})"
    seconds = SECONDS_PER_ARRAY * len(jax.tree.leaves(params))
    return (
        f"compiling the training step (about {duration(5.0 * round(seconds / 5))}; less where an "
        "earlier start has done it)"
    )


def tensorboard_command(directory: Path) -> str:
    """The command that shows a run's curves and pictures in a browser."""
    program = Path(sys.executable).with_name("tensorboard")
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    return shlex.join([str(program), f"--logdir={directory}"])


def spent_line(spent: dict[str, float]) -> str:
    """The shares of time by kind, `train 81%, compile 9%`, the largest first, none below 1 %."""
    total = sum(spent.values()) or 1.0
    shares = sorted(((value / total, name) for name, value in spent.items()), reverse=True)
    return ", ".join(f"{name} {share:.0%}" for share, name in shares if share >= 0.005)


def parameter_lines(params: Any, frozen: Any, path: Path) -> list[str]:
    """The parameters by module, in two lines; writes the full table to `path` on host 0.

    Args:
        params: those that are trained.
        frozen: the others; an empty tree where there are none.
        path: of the table, which has a second one for what is frozen.
    """
    from clu import parameter_overview

    tables = {"": params, "\nFrozen:\n": frozen} if frozen else {"": params}
    if jax.process_index() == 0:
        overviews = [
            head + parameter_overview.get_parameter_overview(tree, include_stats=False)
            for head, tree in tables.items()
        ]
        path.write_text("\n".join(overviews))
    trained, left = _sizes_of_modules(params), _sizes_of_modules(frozen)
    parts = []
    for name in sorted(trained.keys() | left.keys()):
        count, frozen_count = trained.get(name, 0), left.get(name, 0)
        note = "" if not frozen_count else f" ({frozen_count:,} frozen)" if count else " (frozen)"
        parts.append(f"{name} {count + frozen_count:,}{note}")
    total, frozen_total = sum(trained.values()), sum(left.values())
    split = f": {total:,} trained, {frozen_total:,} frozen" if frozen_total else ""
    head = f"{total + frozen_total:,} parameters{split} (all of them: {path.name})"
    return [head, f"  {', '.join(parts)}"]


def _sizes_of_modules(params: Any) -> dict[str, int]:
    """Numbers in each module, by the first two keys of its paths, `model.image_extractor`."""
    modules: dict[str, int] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = ".".join(str(key.key) for key in keys[:2])
        modules[name] = modules.get(name, 0) + math.prod(leaf.shape)
    return modules


def numbers(metrics: dict[str, float]) -> str:
    """Metrics in a line, `selected 120, theta 0.500`: whole numbers without digits behind."""
    return ", ".join(
        f"{name} {value:.0f}" if float(value).is_integer() else f"{name} {value:.3f}"
        for name, value in metrics.items()
    )


def evaluation_line(metrics: dict[str, float], columns: Sequence[str]) -> str:
    """The line of one split, with the metrics that people look at first."""
    return ", ".join(f"{name} {metrics[name]:.3f}" for name in columns if name in metrics)


def evaluation_table(evaluations: dict[str, dict[str, float]], columns: Sequence[str]) -> str:
    """A table with a row for each split, of the metrics that people look at first."""
    # A column is as wide as its heading, and at least as twelve digits.
    width = max((len(name) for name in evaluations), default=0)
    rows = [f"{'':{width}}  " + "  ".join(f"{name:>12}" for name in columns)]
    for split, metrics in evaluations.items():
        values = {name: f"{metrics[name]:.3f}" if name in metrics else "-" for name in columns}
        cells = (f"{value:>{max(12, len(name))}}" for name, value in values.items())
        rows.append(f"{split:{width}}  " + "  ".join(cells))
    return "\n".join(rows)
