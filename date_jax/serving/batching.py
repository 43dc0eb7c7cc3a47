"""Dynamic batching: questions that come at the same time are answered as one batch."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any


class BusyError(Exception):
    """So many questions wait that another one would wait too long."""


class Batcher:
    """Collects questions and answers them together, in a thread of its own.

        batcher = Batcher(lambda questions: [len(question) for question in questions])
        batcher.submit("red mug").result()  # 7
        batcher.close()

    A batch begins with the first question that waits, and goes when it has `most` of them or when
    `patience` is over; while one is answered the next one collects.

    Args:
        answers: of a list of questions, as many and in their order.
        most: questions of a batch.
        patience: seconds that the first question of a batch waits for others.
        waiting: questions that may wait; with more `submit` refuses. 0 for any number.
    """

    def __init__(
        self,
        answers: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        most: int = 64,
        patience: float = 0.005,
        waiting: int = 256,
    ):
        self._answers, self._most, self._patience = answers, most, patience
        self._queue: queue.Queue[tuple[Any, Future[Any]] | None] = queue.Queue(waiting)
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, question: Any) -> "Future[Any]":
        """The future answer of a question.

        Raises:
            BusyError: too many questions wait.
        """
        if self._is_closed:
            raise BusyError("the server ends; ask another one, or this one later")
        future: Future[Any] = Future()
        try:
            self._queue.put_nowait((question, future))
        except queue.Full:
            raise BusyError(
                f"{self._queue.maxsize} questions wait; ask again in a second"
            ) from None
        return future

    def waiting(self) -> int:
        """The number of questions that wait."""
        return self._queue.qsize()

    def close(self) -> None:
        """Answers what waits, and ends the thread."""
        self._is_closed = True
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        """Answers batch after batch until the end is in the queue."""
        is_open = True
        while is_open:
            # The first question, however long it takes to come; then others for a short time.
            first = self._queue.get()
            if first is None:
                return
            batch = [first]
            end = time.monotonic() + self._patience
            while len(batch) < self._most:
                try:
                    item = self._queue.get(timeout=max(0.0, end - time.monotonic()))
                except queue.Empty:
                    break
                if item is None:
                    is_open = False
                    break
                batch.append(item)
            self._answer(batch)

    def _answer(self, batch: list[tuple[Any, "Future[Any]"]]) -> None:
        """Answers a batch; where that fails, each question alone, so that one harms no other."""
        try:
            answers = self._answers([question for question, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for item in batch:
                self._answer([item])
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)
