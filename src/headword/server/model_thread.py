"""All that the model computes for the server, on one thread.

Searches that wait are answered together: one batch through the text encoder and one product with the index,
which for many at once costs little more than one. Longer work (labelling pictures, encoding a label list)
comes in pieces, one after each batch of searches. So any number of requests use the processors as one does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Job = TypeVar("Job")
Answer = TypeVar("Answer")


class Overloaded(Exception):  # noqa: N818 - a state, not a mistake
    """More waits than will be answered soon."""

    def __init__(self) -> None:
        super().__init__("too many requests wait; try again in a moment")


class ModelThread(Generic[Job, Answer]):
    """One thread with two queues.

    Args:
        answer: gives each of a batch its answer, or the exception that became of it.
        batch: how many are answered together.
        most: how many may wait in each queue.
    """

    def __init__(
        self, answer: Callable[[list[Job]], list[Answer | Exception]], *, batch: int = 64, most: int = 2_000
    ) -> None:
        self._answer = answer
        self._batch = batch
        self._most = most
        self._searches: deque[tuple[Job, Future[Answer]]] = deque()
        self._work: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="headword-model", daemon=True)
        self._thread.start()

    def ask(self, search: Job) -> Future[Answer]:
        """Put a search into the next batch.

        Raises:
            Overloaded: if too many wait, or the thread was closed.
        """
        return self._put(self._searches, search)

    def run(self, work: Callable[..., T], *args: Any, **options: Any) -> Future[T]:
        """Do a piece of work between two batches; it should take well under a second.

        Raises:
            Overloaded: as `ask`.
        """
        return self._put(self._work, partial(work, *args, **options))

    def close(self) -> None:
        """End the thread after what it is at; what still waits is cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _put(self, queue: deque[tuple[Any, Future[Any]]], entry: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._changed:
            if self._closed or len(queue) >= self._most:
                raise Overloaded
            queue.append((entry, future))
            self._changed.notify()
        return future

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._searches or self._work or self._closed)
                if self._closed:
                    for _, future in (*self._searches, *self._work):
                        future.cancel()
                    return
                searches = [self._searches.popleft() for _ in range(min(len(self._searches), self._batch))]
                work = [self._work.popleft()] if self._work else []
            _settle(searches, self._answer)
            _settle(work, lambda pieces: [piece() for piece in pieces])


def _settle(entries: list[tuple[Job, Future[Any]]], answer: Callable[[list[Job]], list[Any]]) -> None:
    """Give each future its answer, or the exception that became of it; none where nobody waits any more."""
    waiting = [(entry, future) for entry, future in entries if future.set_running_or_notify_cancel()]
    if not waiting:
        return
    try:
        answers = answer([entry for entry, _ in waiting])
    except Exception as error:  # each of those who wait gets it
        answers = [error] * len(waiting)
    for (_, future), result in zip(waiting, answers, strict=True):
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
