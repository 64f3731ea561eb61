"""Batches on their way to the model: read ahead by a thread, from any step on, epoch after epoch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from headword.training.build import Blueprint
from headword.training.config import TrainConfig
from headword.training.data import Batch, Batches, TrainingSet, TrainTransform

T = TypeVar("T")
AHEAD = 2
"""Batches that wait ready."""


@dataclass(frozen=True, slots=True)
class Tokenize:
    """Captions → `[B, L]` ids, in any process."""

    tokenizer: Any

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Tokenize B captions."""
        ids: Tensor = self.tokenizer(list(captions))
        return ids


def make_batches(
    config: TrainConfig,
    dataset: TrainingSet,
    blueprint: Blueprint,
    tokenizer: Any,
    *,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Batches:
    """The loader that a configuration means.

    Raises:
        HeadwordError: as `Batches`.
    """
    preprocess = blueprint.preprocess_cfg
    transform = TrainTransform(
        size=blueprint.image_size,
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        scale=(config.crop, 1.0),
        flip=config.flip,
        interpolation=preprocess["interpolation"],
    )
    return Batches(
        dataset,
        batch_size=config.batch_size // world_size,
        transform=transform,
        tokenize=Tokenize(tokenizer),
        seed=config.seed,
        rank=rank,
        world_size=world_size,
        workers=config.workers,
        rewritten_share=config.rewritten_share,
        max_corrupt=config.max_corrupt,
        pin_memory=pin_memory,
    )


def batches_from(batches: Batches, start: int, stop: int) -> Iterator[Batch]:
    """The batches of steps `start` up to `stop`, counted over all epochs."""
    step = start
    while step < stop:
        epoch, first = divmod(step, batches.steps_per_epoch)
        for batch in batches.epoch(epoch, first):
            yield batch
            step += 1
            if step == stop:
                return


def ahead(make: Callable[[], Iterator[T]], depth: int = AHEAD) -> Generator[T]:
    """What `make()` yields, computed in a thread up to `depth` items before it is asked for.

    Errors of the thread are raised here, in their turn. Leaving the iterator ends the thread, which is waited
    for a second at most: it may be reading from a disk that does not answer.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
    left = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not left.is_set():
            with suppress(queue.Full):
                ready.put((item, error), timeout=0.1)
                break

    def work() -> None:
        try:
            for item in make():
                put(item, None)
                if left.is_set():
                    return
            put(None, None)
        except BaseException as error:  # raised again where the items are taken
            put(None, error)

    thread = threading.Thread(target=work, name="headword-batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        left.set()
        thread.join(timeout=1)
