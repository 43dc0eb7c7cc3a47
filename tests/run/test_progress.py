"""The lines and tables that a run prints."""

from date_jax.run import progress
from date_jax.run.record import Record


def test_the_line_of_a_window_says_how_long_the_input_was_waited_for() -> None:
    means = {"loss": 1.83, "gradient_norm": 0.5, "skipped_updates": 0.0}
    lap = {"examples_per_second": 170.4, "input_wait": 0.012, "step_seconds": 0.1}
    line = progress.window_line(300, 2000, "stage 2", means, lap, ("loss", "box"))
    assert line == (
        "step  300/2000 | stage 2 | loss 1.830 gradient_norm 0.500 | 170 examples/s | input 1% | "
        "2m50s left"
    )
    without_label = progress.window_line(300, 2000, "", means, lap, ("loss", "box"))
    assert without_label == line.replace("stage 2 | ", "")


def test_a_window_that_was_all_compilation_tells_no_speed() -> None:
    record = Record(begun=0.0)
    record.book("compile")
    means = {"loss": 1.83, "skipped_updates": 0.0}
    line = progress.window_line(1, 20, "stage 1", means, record.end_lap(), ("loss",))
    assert line == "step  1/20 | stage 1 | loss 1.830"
    record.book_step(examples=64, wait=0.0)
    assert record.end_lap()["examples_per_second"] > 0


def test_what_compiles_says_about_how_long() -> None:
    params = [0.0] * 165
    first = progress.compiling_line(params, previous=None)
    assert first.startswith("compiling the training step (about 0m35s; less where")
    assert progress.compiling_line(params, previous=71.6) == (
        "compiling the step of new batches (about 1m12s)"
    )


def test_numbers_stand_under_their_names_also_where_these_are_long() -> None:
    scores = {"acc": 0.5, "proposal_recall_at_10": 0.25, "mrr": 0.125}
    table = progress.evaluation_table({"a_test": scores, "b": {"mrr": 1.0}}, [*scores])
    head, *rows = table.splitlines()
    ends = [head.index(name) + len(name) for name in scores]
    assert [[row[:end].split()[-1] for end in ends] for row in rows] == [
        ["0.500", "0.250", "0.125"],
        ["-", "-", "1.000"],
    ]
    assert {len(row) for row in rows} == {len(head)}
