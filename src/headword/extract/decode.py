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
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from headword.data.images import transformed
from headword.data.items import Item
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

    def __call__(self, item: Item) -> Tensor | str:
        """One item's pixels, or why there are none: one picture never stops the others."""
        try:
            image = item.read(self.plan.shrink_to if self.shrink and self.plan is not None else None)
            transform = self.plan.pixels if self.plan is not None else self.transform
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

    Args:
        items: may be endless; only `AHEAD` batches are taken before they are needed.
        decoding: how.
        batch_size: items in a batch.
        workers: threads or processes that decode.
        processes: worker processes instead of threads; needs a plan, and items that are files.

    Raises:
        HeadwordError: if a worker process is killed.
    """
    source = iter(items)
    waiting: deque[tuple[list[Item], list[Future[list[Any]]]]] = deque()
    decode = partial(_decode, decoding)
    if processes:  # the plan does without the transform, which may not go to another process
        decode = partial(_decode_to_arrays, replace(decoding, transform=None))
    with _pool(workers, processes) as pool:
        try:
            while True:
                while len(waiting) < AHEAD and (chunk := list(islice(source, batch_size))):
                    parts = [chunk[start : start + _TASK] for start in range(0, len(chunk), _TASK)]
                    waiting.append((chunk, [pool.submit(decode, part) for part in parts]))
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
    errors: dict[int, str] = {}
    read: list[Tensor] = []
    shapes = Counter(tuple(outcome.shape) for outcome in outcomes if not isinstance(outcome, str))
    usual = shapes.most_common(1)[0][0] if shapes else ()
    for place, (item, outcome) in enumerate(zip(items, outcomes, strict=True)):
        if isinstance(outcome, str):
            errors[place] = outcome
        elif tuple(outcome.shape) != usual:
            made = f"{list(outcome.shape)} of it, and {list(usual)} of others"
            errors[place] = f"{item.name}: the model's transform makes {made}"
        else:
            read.append(torch.as_tensor(outcome))
    return DecodedBatch(items, torch.stack(read) if read else torch.empty(0), errors)


def _decode(decoding: Decoding, items: list[Item]) -> list[Any]:
    return [decoding(item) for item in items]


def _decode_to_arrays(decoding: Decoding, items: list[Item]) -> list[Any]:
    """As another process gives them back: tensors would each take a file of shared memory."""
    outcomes = _decode(decoding, items)
    return [outcome if isinstance(outcome, str) else outcome.numpy() for outcome in outcomes]


def _pool(workers: int, processes: bool) -> Executor:
    if not processes:
        return ThreadPoolExecutor(workers, thread_name_prefix="headword-decode")
    # A forked copy of a process with CUDA or OpenMP threads may hang; a fresh one does not.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_process)


def _start_process() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers; they would wait for it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
