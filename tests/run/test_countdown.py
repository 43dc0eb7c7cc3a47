import io
import subprocess
import sys

import pytest

from date_jax.run import countdown
from date_jax.run.countdown import Countdown


def set_clock(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    clock = iter(seconds)
    monkeypatch.setattr(countdown.time, "monotonic", lambda: next(clock))


def test_a_long_loop_tells_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    set_clock(monkeypatch, 0.0, 1.0, 5.0, 12.0, 13.0, 31.0)
    rows = Countdown("rows", 10_000, lines.append)
    for done in (4000, 4400, 5100, 5200, 7000):  # goes on from where it was stopped
        rows.at(done)
    assert lines == [
        "rows: 5,100 of 10,000 | 100/s | 0m49s left",
        "rows: 7,000 of 10,000 | 100/s | 0m30s left",
    ]


def test_the_time_of_a_second_loop_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the counts of two modalities follow each other."""
    lines: list[str] = []
    set_clock(monkeypatch, 0.0, 20.0, 30.0, 60.0, 75.0)
    rows = Countdown("rows", 200, lines.append)
    for done in (100, 200, 100, 150):
        rows.at(done)
    assert lines == [
        "rows: 200 of 200 | 10/s | 0m00s left",
        "rows: 150 of 200 | 3.3/s | 0m15s left",
    ]


def test_batches_are_handed_on_and_counted_by_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    rows = Countdown("rows", 10, lambda _: None)
    monkeypatch.setattr(rows, "at", counts.append)
    assert list(rows.over("abc", rows=4)) == ["a", "b", "c"]
    assert counts == [0, 4, 8]


def test_a_log_gets_a_line_every_ten_seconds_and_a_last_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_clock(monkeypatch, 0.0, 1.0, 9.0, 11.0, 12.0)
    pictures = Countdown("preparing pictures", 4)
    for _ in range(4):
        pictures.advance()
    assert capsys.readouterr().err.splitlines() == [
        "preparing pictures: 3 of 4 | 0.2/s | 0m05s left",
        "preparing pictures: 4 of 4 | 0.3/s | 0m00s left",
    ]


def test_a_terminal_has_one_line_that_is_rewritten_twice_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    set_clock(monkeypatch, 0.0, 0.1, 0.4, 1.0, 1.1)
    pictures = Countdown("fetching", 4)
    for _ in range(4):
        pictures.advance()
    assert terminal.getvalue() == (
        "fetching: 3 of 4 | 2.2/s | 0m00s left   \rfetching: 4 of 4 | 3.0/s | 0m00s left   \n"
    )


def test_a_loop_of_one_ends_without_a_speed(capsys: pytest.CaptureFixture[str]) -> None:
    Countdown("reading regions", 1).advance()
    assert capsys.readouterr().err == "reading regions: 1 of 1\n"


def test_importing_it_imports_no_jax() -> None:
    """The processes that render pictures import it."""
    code = "import sys, date_jax.run.countdown; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
