"""The measurements of a run so far: means of its losses, its evaluations, its time by kind."""

import time
from typing import Any

# What a run's time goes into; `train` has the waiting for input in it.
_KINDS = ("setup", "compile", "train", "save", "evaluate", "refresh")
_COUNTED = (*(f"{kind}_seconds" for kind in _KINDS), "wait_seconds", "lost_seconds")


class Record:
    """The measurements of a run so far; they live through a restart as plain JSON.

    A step's metrics are fetched when the next step is on its way, so the devices never wait.

    Args:
        saved: what `to_json` gave before a restart, or nothing.
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

    def to_json(self) -> dict[str, Any]:
        """The JSON values that hold the record, for a checkpoint."""
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
        """Seconds since the run began, without the time it was not running."""
        return self.seconds_before + time.perf_counter() - self._begun

    def add(self, metrics: dict[str, float]) -> bool:
        """Counts one step in, or as skipped if its update was; returns whether it was."""
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
        """Notes an evaluation, metrics by split; one that is repeated takes the first's place."""
        self.history = [*_without(self.history, step), {"step": step, "eval": metrics}]

    def take_means(self) -> dict[str, float]:
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

    def book_step(self, *, examples: int, wait: float) -> None:
        """Books the time since the last booking as a step's, `wait` of it as waiting for input."""
        self.book("train")
        for name, more in (("wait_seconds", wait), ("examples", examples), ("steps", 1)):
            self.totals[name] += more

    def book_lost_time(self, until: float) -> None:
        """Books what an earlier start did after its last checkpoint, when `seconds` was `until`."""
        lost = max(0.0, until - self.seconds_before)
        self.totals["lost_seconds"] += lost
        self.seconds_before += lost

    def seconds_by_kind(self) -> dict[str, float]:
        """Seconds by what they were spent on, those after the last booking left out."""
        seconds = {name.removesuffix("_seconds"): self.totals[name] for name in _COUNTED}
        wait = seconds.pop("wait")  # which is a part of train
        return seconds | {"train": seconds["train"] - wait, "input_wait": wait}

    def end_lap(self) -> dict[str, float]:
        """`examples_per_second`, `input_wait` (a share) and `step_seconds` since the last lap.

        Nothing where all of its steps were compiled, for their time tells no speed.
        """
        lap = {name: total - self._lap[name] for name, total in self.totals.items()}
        self._lap = dict(self.totals)
        if not lap["steps"]:
            return {}
        seconds = max(lap["train_seconds"], 1e-9)
        return {
            "examples_per_second": lap["examples"] / seconds,
            "input_wait": lap["wait_seconds"] / seconds,
            "step_seconds": seconds / lap["steps"],
        }


def _without(entries: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """The entries of all steps but one."""
    return [entry for entry in entries if entry["step"] != step]
