"""Questions that come together are answered together, in their order, and harm no other."""

import threading
import time
from collections.abc import Sequence

import pytest

from date_jax.serving.batching import Batcher, BusyError


def test_questions_that_wait_are_answered_as_one_batch() -> None:
    sizes: list[int] = []
    go = threading.Event()

    def answers(questions: Sequence[int]) -> list[int]:
        go.wait(10)
        sizes.append(len(questions))
        return [2 * question for question in questions]

    batcher = Batcher(answers, most=8)
    futures = [batcher.submit(number) for number in range(20)]
    go.set()
    assert [future.result(10) for future in futures] == [2 * number for number in range(20)]
    assert max(sizes) == 8
    assert len(sizes) <= 4
    batcher.close()


def test_a_lone_question_waits_no_longer_than_the_patience() -> None:
    batcher = Batcher(lambda questions: list(questions), patience=0.05)
    start = time.monotonic()
    assert batcher.submit("mug").result(10) == "mug"
    assert time.monotonic() - start < 2
    batcher.close()


def test_more_questions_than_may_wait_are_refused() -> None:
    go = threading.Event()

    def answers(questions: Sequence[int]) -> Sequence[int]:
        go.wait(10)
        return questions

    batcher = Batcher(answers, most=1, waiting=2)
    first = batcher.submit(0)
    while batcher.waiting():
        time.sleep(0.01)  # until the thread has taken it
    waiting = [batcher.submit(1), batcher.submit(2)]
    with pytest.raises(BusyError, match="2 questions wait"):
        batcher.submit(3)
    go.set()
    assert [future.result(10) for future in (first, *waiting)] == [0, 1, 2]
    batcher.close()


def test_a_question_that_fails_does_not_harm_those_beside_it() -> None:
    go = threading.Event()

    def answers(questions: Sequence[int]) -> list[float]:
        go.wait(10)
        return [1 / question for question in questions]

    batcher = Batcher(answers)
    futures = [batcher.submit(number) for number in (1, 0, 2)]
    go.set()
    assert futures[0].result(10) == 1
    assert futures[2].result(10) == 0.5
    with pytest.raises(ZeroDivisionError):
        futures[1].result(10)
    batcher.close()


def test_closing_answers_what_waits() -> None:
    batcher = Batcher(lambda questions: list(questions), patience=0.2)
    futures = [batcher.submit(number) for number in range(3)]
    batcher.close()
    assert [future.result(0) for future in futures] == [0, 1, 2]
