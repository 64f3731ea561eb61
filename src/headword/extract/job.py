"""One encoder over many items: decoding, engine and their order put together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headword.data.items import Item, all_files
from headword.encoders import VisionEncoder
from headword.extract.decode import DecodedBatch, Decoding, decoded
from headword.extract.engines import LONG, Choice, Engine, choose, open_engine
from headword.extract.machine import available_cpus
from headword.extract.pixels import plan_of

PROCESSES_FROM = 4
"""Processors from which worker processes feed a GPU; with fewer, threads keep up."""


class Computed(NamedTuple):
    """What became of some of a job's images."""

    places: list[int]
    """Theirs in the list of images."""
    features: Tensor
    """`[M, d]` of those that could be read."""
    errors: dict[int, str]
    """For each that could not, by its place: why, in one line."""

    @property
    def read(self) -> list[int]:
        """The M places of the features."""
        return [place for place in self.places if place not in self.errors]


class Job:
    """How a number of images goes through an encoder; decided once, at the start.

    Short jobs (fewer than `LONG` images) are exact: the encoder's own transform, whole pictures, torch.
    Long ones use the fastest engine, the transform in two halves, and reduced decoding of large photos.

    Args:
        vision: the encoder.
        count: images in the whole job, done ones included.
        engine: "auto", "torch" or "openvino".
        dtype: "auto", "float32" or "bfloat16".
        batch_size: images that go through the model together.
        workers: how many decode at once; None for as many as there are processors.
        draft: whether a long job may decode large photos at a fraction of their size.
        like: what an earlier part of the job ran on, which then may not change.
        exact: whether the encoder's own transform is used, on whole pictures; None for short jobs only.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        count: int,
        *,
        engine: str = "auto",
        dtype: str = "auto",
        batch_size: int = 32,
        workers: int | None = None,
        draft: bool = True,
        like: Choice | None = None,
        exact: bool | None = None,
    ) -> None:
        self.vision, self.count, self.batch_size = vision, count, batch_size
        self.choice = like or choose(vision, count, engine=engine, dtype=dtype)
        if exact is None:
            exact = count < LONG and engine == "auto"
        self.plan = None if exact else plan_of(vision.source)
        self.draft = draft and self.plan is not None
        self.workers = workers or available_cpus()
        self.note: str | None = None
        """Why the engine is another than the one chosen, once that is known."""
        self._may_fall_back = like is None and engine == "auto"
        self._engine: Engine | None = None

    @property
    def key(self) -> dict[str, Any]:
        """All that features depend on besides the picture, as JSON: the key of a cache, a store and an index
        of them. A run may change the engine.
        """
        vision = self.vision
        return {
            "encoder": vision.name,
            "weights": vision.fingerprint,
            "head": list(vision.read_at),
            "transform": vision.source.transform_settings,
            "engine": self.choice.engine,
            "precision": self.choice.dtype,
            "exact": self.plan is None,
            "draft": self.draft,
        }

    def run(self, items: Sequence[Item], places: Sequence[int] | None = None) -> Iterator[Computed]:
        """The items at some places of a list (all, when not given), in batches in their order.

        Raises:
            HeadwordError: if the engine was asked for by name and does not do, or a worker process was
                killed.
        """
        places = range(len(items)) if places is None else places
        wanted = [items[place] for place in places]
        on_gpu = self.vision.device.type == "cuda" and self.workers >= PROCESSES_FROM
        batches = decoded(
            wanted,
            Decoding(self.plan, self.vision.source.transform, self.draft),
            batch_size=self.batch_size,
            workers=self.workers,
            processes=on_gpu and len(wanted) >= LONG and self.plan is not None and all_files(wanted),
        )
        left = iter(places)
        waiting: deque[DecodedBatch] = deque()  # those whose features have not come

        def pixels() -> Iterator[Tensor]:
            for batch in batches:
                waiting.append(batch)
                if len(batch.pixels):
                    yield batch.pixels

        def next_waiting(features: Tensor) -> Computed:
            batch = waiting.popleft()
            here = list(islice(left, len(batch.items)))
            return Computed(here, features, {here[place]: why for place, why in batch.errors.items()})

        nothing, stream = torch.empty(0, self.vision.dim), pixels()
        first = next(stream, None)  # which the engine proves itself on
        if first is not None:
            with _as_many_threads_as_processors():
                for features in self._opened(first)(chain([first], stream)):
                    while not len(waiting[0].pixels):
                        yield next_waiting(nothing)
                    yield next_waiting(features)
        while waiting:
            yield next_waiting(nothing)

    def _opened(self, first: Tensor) -> Engine:
        if self._engine is None:
            self._engine, self.choice, self.note = open_engine(
                self.vision, self.choice, self.plan, first, may_fall_back=self._may_fall_back
            )
        return self._engine


@contextmanager
def _as_many_threads_as_processors() -> Iterator[None]:
    """Torch counts the machine's cores, where a container may have been granted two of sixty-four."""
    before, granted = torch.get_num_threads(), available_cpus()
    if before <= granted:
        yield
        return
    torch.set_num_threads(granted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
