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
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Overloaded(Exception):  # noqa: N818 - a state, not a mistake
    """More waits than will be answered soon."""


class ModelThread(Generic[Asked, Answer]):
    """One thread with two queues.

    Args:
        answer: gives each of a batch its answer, or the exception that became of it.
        batch: how many are answered together.
        most: how many may wait in each queue.
    """

    def __init__(
        self,
        answer: Callable[[list[Asked]], list[Answer | Exception]],
        *,
        batch: int = 64,
        most: int = 2_000,
    ) -> None:
        self._answer = answer
        self._batch = batch
        self._most = most
        self._asked: deque[tuple[Asked, Future[Answer]]] = deque()
        self._work: deque[tuple[Callable[[], None], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="headword-model", daemon=True)
        self._thread.start()

    def ask(self, asked: Asked) -> Future[Answer]:
        """Put a search into the next batch.

        Raises:
            Overloaded: if too many wait, or the thread was closed.
        """
        future: Future[Answer] = Future()
        with self._changed:
            if self._closed or len(self._asked) >= self._most:
                raise Overloaded
            self._asked.append((asked, future))
            self._changed.notify()
        return future

    def run(self, work: Callable[[], T]) -> Future[T]:
        """Do a piece of work between two batches; it should take well under a second.

        Raises:
            Overloaded: as `ask`.
        """
        future: Future[T] = Future()

        def do() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = work()
            except Exception as error:  # whoever waits for it gets it
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._changed:
            if self._closed or len(self._work) >= self._most:
                raise Overloaded
            self._work.append((do, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """End the thread after what it is at; what still waits is cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked or self._work or self._closed)
                if self._closed:
                    for _, future in (*self._asked, *self._work):
                        future.cancel()
                    return
                batch = [self._asked.popleft() for _ in range(min(len(self._asked), self._batch))]
                work, _ = self._work.popleft() if self._work else (None, None)
            wanted = [(asked, future) for asked, future in batch if future.set_running_or_notify_cancel()]
            if wanted:
                self._give(wanted)
            if work is not None:
                work()

    def _give(self, wanted: list[tuple[Asked, Future[Answer]]]) -> None:
        try:
            answers = self._answer([asked for asked, _ in wanted])
        except Exception as error:  # each of those who wait gets it
            answers = [error] * len(wanted)
        for (_, future), answer in zip(wanted, answers, strict=True):
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
