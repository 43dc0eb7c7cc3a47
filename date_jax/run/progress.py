"""What a run tells: a line a window, metrics.jsonl, TensorBoard, results.json. Host 0 speaks."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from date_jax.run.countdown import duration

# What a run's time goes into; `train` has the waiting for input in it.
_KINDS = ("setup", "compile", "train", "save", "evaluate", "refresh")
_COUNTED = (*(f"{kind}_seconds" for kind in _KINDS), "wait_seconds", "lost_seconds")


class Record:
    """What a run has measured so far; lives through a restart as plain JSON.

    A step's metrics are fetched when the next step is on its way, so the devices never wait.

    Args:
        saved: what `saved` returned before a restart, or nothing.
        begun: when this start began, by `time.perf_counter`.
    """

    def __init__(self, saved: dict[str, Any] | None = None, *, begun: float):
        saved = saved or {}
        self.sums: dict[str, list[float]] = saved.get("sums", {})  # since the last line
        self.skipped: int = saved.get("skipped", 0)
        self.changes: list[dict[str, float]] = saved.get("changes", [])  # between steps
        self.history: list[dict[str, Any]] = saved.get("history", [])  # of evaluations
        counted = dict.fromkeys((*_COUNTED, "examples", "steps"), 0.0)
        self.totals: dict[str, float] = counted | saved.get("totals", {})
        self.seconds_before: float = saved.get("seconds", 0.0)
        self._begun = self._since = begun
        self._lap = dict(self.totals)

    def saved(self) -> dict[str, Any]:
        """JSON values that hold it."""
        return {
            "sums": self.sums,
            "skipped": self.skipped,
            "changes": self.changes,
            "history": self.history,
            "totals": self.totals,
            "seconds": self.seconds,
        }

    @property
    def seconds(self) -> float:
        """Since the run began, without the time it was not running."""
        return self.seconds_before + time.perf_counter() - self._begun

    def add(self, metrics: dict[str, float]) -> bool:
        """Counts one step in, or as skipped if its update was; tells whether it was."""
        if metrics["skipped"]:
            self.skipped += 1
            return True
        for name, value in metrics.items():
            if name != "skipped":
                total, count = self.sums.get(name, (0.0, 0))
                self.sums[name] = [total + value, count + 1]
        return False

    def add_change(self, step: int, metrics: dict[str, float]) -> None:
        """Notes what a task did between steps; one that a restart repeats replaces the first."""
        self.changes = [*_without(self.changes, step), {"step": step, **metrics}]

    def add_evaluation(self, step: int, metrics: dict[str, dict[str, float]]) -> None:
        """Notes an evaluation, metrics by split; likewise."""
        self.history = [*_without(self.history, step), {"step": step, "eval": metrics}]

    def means(self) -> dict[str, float]:
        """The terms' means over the steps since the last line that had them; begins anew."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        means["skipped_updates"] = float(self.skipped)
        self.sums, self.skipped = {}, 0
        return means

    def book(self, kind: str) -> None:
        """Books the time since the last booking: setup, compile, save, evaluate, refresh."""
        now = time.perf_counter()
        self.totals[f"{kind}_seconds"] += now - self._since
        self._since = now

    def train(self, *, examples: int, wait: float) -> None:
        """Books the time since the last booking as a step's, `wait` of it as waiting for input."""
        self.book("train")
        for name, more in (("wait_seconds", wait), ("examples", examples), ("steps", 1)):
            self.totals[name] += more

    def lose(self, until: float) -> None:
        """Books what an earlier start did after its last checkpoint, when `seconds` was `until`."""
        lost = max(0.0, until - self.seconds_before)
        self.totals["lost_seconds"] += lost
        self.seconds_before += lost

    def spent(self) -> dict[str, float]:
        """Seconds by what they were spent on, those after the last booking left out."""
        found = {name.removesuffix("_seconds"): self.totals[name] for name in _COUNTED}
        waited = found.pop("wait")
        return found | {"train": found["train"] - waited, "input_wait": waited}

    def lap(self) -> dict[str, float]:
        """`examples_per_second`, `input_wait` (a share) and `step_seconds` since the last lap."""
        lap = {name: total - self._lap[name] for name, total in self.totals.items()}
        self._lap = dict(self.totals)
        seconds = max(lap["train_seconds"], 1e-9)
        return {
            "examples_per_second": lap["examples"] / seconds,
            "input_wait": lap["wait_seconds"] / seconds,
            "step_seconds": seconds / max(lap["steps"], 1),
        }


def _without(entries: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["step"] != step]


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
        self.dropped_until = 0.0  # seconds of the run at which the last line that went was written
        self._writer: Any = None
        if self._primary:
            if self._lines.exists():
                self.dropped_until = _drop_lines_after(self._lines, first_step)
            from clu import metric_writers  # brings TensorFlow along

            self._writer = metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(directory)))

    def say(self, text: str) -> None:
        """Prints a line, now."""
        if self._primary:
            print(text, flush=True)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl and points to TensorBoard; not a number becomes null."""
        if self._primary:
            finite = {name: v if math.isfinite(v) else None for name, v in scalars.items()}
            with self._lines.open("a") as lines:
                lines.write(json.dumps({"step": step, **finite}) + "\n")
            self._writer.write_scalars(step, scalars)

    def picture(self, step: int, name: str, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """Shows a picture in TensorBoard."""
        if self._primary:
            self._writer.write_images(step, {name: picture[None]})

    def close(self) -> None:
        """Waits until all is written."""
        if self._writer is not None:
            self._writer.flush()
            self._writer.close()


def _drop_lines_after(path: Path, step: int) -> float:
    """Keeps what was written before the checkpoint of `step`, which is made before evaluating.

    Returns:
        Seconds of the run in the last line that went; 0 where none has them.
    """
    kept, until = [], 0.0
    for line in path.read_text().splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:  # cut off when the process was killed
            continue
        done_before_saving = any(name.startswith("train/") for name in entry)
        if entry["step"] < step or (entry["step"] == step and done_before_saving):
            kept.append(line)
        else:
            until = max(until, entry.get("time/run_seconds", 0.0))
    path.write_text("".join(kept))
    return until


def window_line(
    step: int,
    steps: int,
    label: str,
    means: dict[str, float],
    lap: dict[str, float],
    terms: Sequence[str],
) -> str:
    """`step 300/2000 | stage 2 | loss 1.830 box ... | 170 examples/s | input 1% | 5m10s left`."""
    named = (*terms, "gradient_norm")
    said = " ".join(f"{name} {means[name]:.3f}" for name in named if name in means)
    part = f"{label} | " if label else ""
    skipped = f" | {means['skipped_updates']:.0f} skipped" if means["skipped_updates"] else ""
    return (
        f"step {step:>{len(str(steps))}}/{steps} | {part}{said}{skipped} | "
        f"{lap['examples_per_second']:.0f} examples/s | input {lap['input_wait']:.0%} | "
        f"{duration((steps - step) * lap['step_seconds'])} left"
    )


def spent_line(spent: dict[str, float]) -> str:
    """`train 81%, compile 9%, ...`, the largest first, without what is below 1 %."""
    total = sum(spent.values()) or 1.0
    shares = sorted(((value / total, name) for name, value in spent.items()), reverse=True)
    return ", ".join(f"{name} {share:.0%}" for share, name in shares if share >= 0.005)


def parameter_lines(params: Any, path: Path) -> list[str]:
    """The parameters by module, in two lines; writes the full table to `path` on host 0."""
    from clu import parameter_overview

    if jax.process_index() == 0:
        path.write_text(parameter_overview.get_parameter_overview(params, include_stats=False))
    modules: dict[str, int] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = ".".join(str(key.key) for key in keys[:2])
        modules[name] = modules.get(name, 0) + math.prod(leaf.shape)
    parts = ", ".join(f"{name} {count:,}" for name, count in modules.items())
    return [f"{sum(modules.values()):,} parameters (all of them: {path.name})", f"  {parts}"]


def numbers(metrics: dict[str, float]) -> str:
    """`{"selected": 120.0, "theta": 0.5}` as `selected 120, theta 0.500`."""
    return ", ".join(
        f"{name} {value:.0f}" if float(value).is_integer() else f"{name} {value:.3f}"
        for name, value in metrics.items()
    )


def evaluation_line(metrics: dict[str, float], columns: Sequence[str]) -> str:
    """The metrics of one split that people look at first."""
    return ", ".join(f"{name} {metrics[name]:.3f}" for name in columns if name in metrics)


def evaluation_table(evaluations: dict[str, dict[str, float]], columns: Sequence[str]) -> str:
    """The same of several splits, a row for each."""
    width = max((len(name) for name in evaluations), default=0)
    rows = [f"{'':{width}}  " + "  ".join(f"{name:>12}" for name in columns)]
    for split, metrics in evaluations.items():
        values = {name: f"{metrics[name]:.3f}" if name in metrics else "-" for name in columns}
        cells = (f"{value:>{max(12, len(name))}}" for name, value in values.items())
        rows.append(f"{split:{width}}  " + "  ".join(cells))
    return "\n".join(rows)
