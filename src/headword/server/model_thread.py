"""All that the model computes for the server, on one thread.

Searches that wait are answered together: one batch through the text encoder and one product with the index,
which for many at once costs little more than one. Longer work (labelling pictures, encoding a label list)
comes in pieces, one after each batch of searches. So any number of requests use the processors as one does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Job = TypeVar("Job")
Answer = TypeVar("Answer")


class Overloaded(Exception):  # noqa: N818 - a state, not a mistake
    """More waits than will be answered soon."""

    def __init__(self) -> None:
        super().__init__("too many requests wait; try again in a moment")


class ModelThread(Generic[Job, Answer]):
    """One thread: `answer` gives each of a `batch` of searches its answer, or the exception it became.

    Of searches, and of pieces of work, no more than `most` may wait.
    """

    def __init__(
        self, answer: Callable[[list[Job]], list[Answer | Exception]], *, batch: int = 64, most: int = 2_000
    ) -> None:
        self._answer, self._batch, self._most = answer, batch, most
        self._searches: deque[tuple[Job, Future[Answer]]] = deque()
        self._work_left = threading.Semaphore(most)
        self._thread = ThreadPoolExecutor(1, "headword-model")
        self._closed = False

    def ask(self, search: Job) -> Future[Answer]:
        """Put a search into the next batch."""
        if self._closed or len(self._searches) >= self._most:
            raise Overloaded
        future: Future[Answer] = Future()
        self._searches.append((search, future))
        if len(self._searches) == 1:
            self._thread.submit(self._answer_batch)
        return future

    def run(self, work: Callable[..., T], *args: Any, **options: Any) -> Future[T]:
        """Do a piece of work between two batches; it should take well under a second."""
        if self._closed or not self._work_left.acquire(blocking=False):
            raise Overloaded

        def between() -> T:
            self._answer_batch()
            return work(*args, **options)

        future = self._thread.submit(between)
        future.add_done_callback(lambda _: self._work_left.release())
        return future

    def close(self) -> None:
        """End the thread after what it is at; what still waits is cancelled."""
        self._closed = True
        self._thread.shutdown(cancel_futures=True)
        for _, future in self._searches:
            future.cancel()

    def _answer_batch(self) -> None:
        """Give each of those who wait longest its answer, or the exception that became of it."""
        batch = [self._searches.popleft() for _ in range(min(len(self._searches), self._batch))]
        batch = [(search, future) for search, future in batch if future.set_running_or_notify_cancel()]
        if batch:
            try:
                answers = self._answer([search for search, _ in batch])
            except Exception as error:  # each of them gets it
                answers = [error] * len(batch)
            for (_, future), result in zip(batch, answers, strict=True):
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        if self._searches and not self._closed:
            self._thread.submit(self._answer_batch)
