"""What a run notes of itself, and how that lives through a restart."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from date_jax.run import progress
from date_jax.run import record as record_module
from date_jax.run.progress import Progress
from date_jax.run.record import Record


def test_a_refresh_that_a_restart_repeats_is_noted_once() -> None:
    record = Record(begun=0.0)
    for step, selected in ((6, 10.0), (9, 20.0), (9, 30.0)):
        record.add_change(step, {"selected": selected})
    assert record.to_json()["changes"] == [
        {"step": 6, "selected": 10},
        {"step": 9, "selected": 30},
    ]
    for accuracy in (0.5, 0.6):
        record.add_evaluation(9, {"live_val": {"acc_at_0.5": accuracy}})
    again = Record(record.to_json(), begun=0.0)
    assert again.history == [{"step": 9, "eval": {"live_val": {"acc_at_0.5": 0.6}}}]


def test_every_second_of_a_run_is_booked_once_also_what_a_crash_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = iter([3.0, 10.0, 11.0, 13.0])
    monkeypatch.setattr(record_module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    record = Record(begun=1.0)
    record.book("setup")
    record.book("compile")
    record.book_step(examples=64, wait=0.25)
    saved = record.to_json()  # at 13: 12 seconds
    entries = [{"step": 1, "train/loss": 1.0, "time/run_seconds": 11.0}]
    entries += [{"step": n, "train/loss": 1.0, "time/run_seconds": 10.0 + n} for n in (2, 5)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries) + '{"step": 6, "tra')
    console = Progress(tmp_path, first_step=2)
    console.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    later = Record(saved, begun=100.0)
    later.book_lost_time(console.dropped_until)
    kinds = {"setup": 2, "compile": 7, "train": 0.75, "input_wait": 0.25, "lost": 3}
    assert later.seconds_by_kind() == {"save": 0, "evaluate": 0, "refresh": 0, **kinds}
    assert later.seconds_before == 15
    assert progress.spent_line(later.seconds_by_kind()) == (
        "compile 54%, lost 23%, setup 15%, train 6%, input_wait 2%"
    )
