"""Pictures → batches of pixels, in workers, a few batches ahead of the model.

Threads share one interpreter, but decoding and resizing leave it free, so on few processors they keep up
with the model and start at once. Where a GPU waits for many processors, worker processes decode.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from headword.data.items import Item
from headword.data.safe_images import transformed
from headword.encoders.vision import Transform
from headword.errors import HeadwordError
from headword.extract.pixels import PixelPlan

AHEAD = 3
"""Batches that are decoded, or being decoded, before the model asks for them: what bounds the memory."""

_TASK = 8  # images a worker takes at a time


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """Consecutive items of a source, decoded."""

    items: Sequence[Item]
    pixels: Tensor
    """uint8 `[N, H, W, 3]` by a plan, else float `[N, 3, H, W]`, of the items that could be read."""
    errors: dict[int, str]
    """For each item that could not, by its place in `items`: why, in one line."""


@dataclass(frozen=True)
class Decoding:
    """How pictures become pixels."""

    plan: PixelPlan | None
    """The uint8 half of the transform; without one the whole transform is used."""
    transform: Transform | None
    """Not needed with a plan."""
    shrink: bool
    """Whether large JPEG files may be decoded at a fraction of their size."""
    as_arrays: bool = False
    """As another process gives pixels back: tensors would each take a file of shared memory."""

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        """Each item's pixels, or in one line why there are none: one picture never stops the others."""
        outcomes = map(self._one, items)
        if self.as_arrays:
            return [outcome if isinstance(outcome, str) else outcome.numpy() for outcome in outcomes]
        return list(outcomes)

    def _one(self, item: Item) -> Tensor | str:
        try:
            image = item.read(self.plan.shrink_to if self.shrink and self.plan is not None else None)
            transform = self.transform if self.plan is None else self.plan.pixels
            assert transform is not None
            return transformed(transform, image, item.name)
        except HeadwordError as error:
            return " ".join(str(error).split())
        except MemoryError:
            return f"{item.name} does not fit in the memory that is left"


def decoded(
    items: Iterable[Item], decoding: Decoding, *, batch_size: int, workers: int, processes: bool = False
) -> Iterator[DecodedBatch]:
    """Batches in the order of the items; every batch but the last is of `batch_size` items.

    The items may be endless: only `AHEAD` batches are taken before they are needed. Worker processes instead
    of threads need a plan, and items that are files.
    """
    source = iter(items)
    waiting: deque[tuple[list[Item], list[Future[list[Any]]]]] = deque()
    if processes:  # the plan does without the transform, which may not go to another process
        decoding = replace(decoding, transform=None, as_arrays=True)
    with _pool(workers, processes) as pool:
        try:
            while True:
                while len(waiting) < AHEAD and (chunk := list(islice(source, batch_size))):
                    parts = [chunk[start : start + _TASK] for start in range(0, len(chunk), _TASK)]
                    waiting.append((chunk, [pool.submit(decoding, part) for part in parts]))
                if not waiting:
                    return
                chunk, futures = waiting.popleft()
                yield _batch(chunk, [outcome for future in futures for outcome in future.result()])
        except BrokenProcessPool:
            raise HeadwordError(
                "a decoding process was killed, perhaps because memory ran out; give fewer --workers"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _batch(items: list[Item], outcomes: list[Any]) -> DecodedBatch:
    shapes = Counter(tuple(outcome.shape) for outcome in outcomes if not isinstance(outcome, str))
    usual = shapes.most_common(1)[0][0] if shapes else ()
    errors: dict[int, str] = {}
    read: list[Tensor] = []
    for place, (item, outcome) in enumerate(zip(items, outcomes, strict=True)):
        if isinstance(outcome, str):
            errors[place] = outcome
        elif tuple(outcome.shape) != usual:
            made = f"{list(outcome.shape)} of it, and {list(usual)} of others"
            errors[place] = f"{item.name}: the model's transform makes {made}"
        else:
            read.append(torch.as_tensor(outcome))
    return DecodedBatch(items, torch.stack(read) if read else torch.empty(0), errors)


def _pool(workers: int, processes: bool) -> Executor:
    if not processes:
        return ThreadPoolExecutor(workers, thread_name_prefix="headword-decode")
    # A forked copy of a process with CUDA or OpenMP threads may hang; a fresh one does not.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_process)


def _start_process() -> None:
    """One thread a process, and none that outlives its parent: one that is killed cannot end its workers."""

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    torch.set_num_threads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()
