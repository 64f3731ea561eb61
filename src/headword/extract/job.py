"""One encoder over many items: decoding, engine and their order put together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headword.data.items import Item, all_files
from headword.encoders import VisionEncoder
from headword.extract.decode import DecodedBatch, Decoding, decoded
from headword.extract.engines import LONG, Engine, choose, open_engine
from headword.extract.machine import available_cpus
from headword.extract.pixels import PixelPlan, plan_of
from headword.extract.torch_engine import Choice

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


@dataclass(frozen=True, slots=True)
class FeatureKey:
    """All that features depend on besides the picture: the key of a cache, a store and an index of them."""

    encoder: str
    weights: str
    head: tuple[str, ...]
    """The layers that are read."""
    transform: dict[str, Any]
    engine: str
    precision: str
    exact: bool
    """Whether the transform is used as it is, on whole pictures."""
    draft: bool
    """Whether large photos may be decoded at a fraction of their size."""

    def as_json(self) -> dict[str, Any]:
        """All of it by name."""
        return {**asdict(self), "head": list(self.head)}


@dataclass(slots=True, kw_only=True)
class Job:
    """How a number of images goes through an encoder; decided once, at the start.

    Short jobs (fewer than `LONG` images) are exact: the encoder's own transform, whole pictures, torch.
    Long ones use the fastest engine, the transform in two halves, and reduced decoding of large photos.
    """

    vision: VisionEncoder
    count: int
    """Images in the whole job, done ones included."""
    choice: Choice
    plan: PixelPlan | None
    draft: bool
    batch_size: int
    workers: int
    may_fall_back: bool
    note: str | None = field(default=None, init=False)
    """Why the engine is another than the one chosen, once that is known."""
    _engine: Engine | None = field(default=None, init=False)

    @classmethod
    def of(
        cls,
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
    ) -> Job:
        """Decide.

        Args:
            vision: the encoder.
            count: images in the whole job.
            engine: "auto", "torch" or "openvino".
            dtype: "auto", "float32" or "bfloat16".
            batch_size: images that go through the model together.
            workers: how many decode at once; None for as many as there are processors.
            draft: whether a long job may decode large photos at a fraction of their size.
            like: what an earlier part of the job ran on, which then may not change.
            exact: whether the encoder's own transform is used, on whole pictures; None for short jobs only.
        """
        choice = like or choose(vision, count, engine=engine, dtype=dtype)
        if exact is None:
            exact = count < LONG and engine == "auto"
        plan = None if exact else plan_of(vision.source)
        return cls(
            vision=vision,
            count=count,
            choice=choice,
            plan=plan,
            draft=draft and plan is not None,
            batch_size=batch_size,
            workers=workers or available_cpus(),
            may_fall_back=like is None and engine == "auto",
        )

    @property
    def key(self) -> FeatureKey:
        """Of its features; a run may change the engine."""
        vision = self.vision
        return FeatureKey(
            encoder=vision.name,
            weights=vision.fingerprint,
            head=vision.read_at,
            transform=vision.source.transform_settings,
            engine=self.choice.engine,
            precision=self.choice.dtype,
            exact=self.plan is None,
            draft=self.draft,
        )

    def run(self, items: Sequence[Item], places: Sequence[int] | None = None) -> Iterator[Computed]:
        """The items at some places of a list, in batches in their order.

        Args:
            items: the list.
            places: those to compute; all of them when not given.

        Raises:
            HeadwordError: if the engine was asked for by name and does not do, or a worker process was
                killed.
        """
        left = iter(range(len(items)) if places is None else places)
        for batch, features in self._run(items if places is None else [items[place] for place in places]):
            here = list(islice(left, len(batch.items)))
            yield Computed(here, features, {here[n]: why for n, why in batch.errors.items()})

    def _run(self, items: Sequence[Item]) -> Iterator[tuple[DecodedBatch, Tensor]]:
        """Batches, each with the features `[N, d]` of those that could be read."""
        on_gpu = self.vision.device.type == "cuda"
        processes = on_gpu and self.workers >= PROCESSES_FROM and len(items) >= LONG
        batches = decoded(
            items,
            Decoding(self.plan, self.vision.source.transform, self.draft),
            batch_size=self.batch_size,
            workers=self.workers,
            processes=processes and self.plan is not None and all_files(items),
        )
        waiting: deque[DecodedBatch] = deque()
        nothing = torch.empty(0, self.vision.dim)
        for batch in batches:
            waiting.append(batch)
            if len(batch.pixels):
                break
        else:
            yield from ((batch, nothing) for batch in waiting)
            return
        engine = self._opened(waiting[-1].pixels)
        unread, first = list(waiting)[:-1], waiting.pop()
        waiting.clear()

        def pixels() -> Iterator[Tensor]:
            for batch in chain(unread, [first], batches):
                waiting.append(batch)
                if len(batch.pixels):
                    yield batch.pixels

        with _as_many_threads_as_processors():
            for features in engine.features(pixels()):
                while not len(waiting[0].pixels):
                    yield waiting.popleft(), nothing
                yield waiting.popleft(), features
        yield from ((batch, nothing) for batch in waiting)

    def _opened(self, first: Tensor) -> Engine:
        if self._engine is None:
            self._engine, self.note = open_engine(
                self.vision,
                self.choice,
                self.plan,
                first,
                may_fall_back=self.may_fall_back,
            )
            self.choice = self._engine.choice
        return self._engine


@contextmanager
def _as_many_threads_as_processors() -> Iterator[None]:
    """Torch counts the machine's cores, where a container may have been granted two of sixty-four."""
    before, granted = torch.get_num_threads(), available_cpus()
    if before > granted:
        torch.set_num_threads(granted)
    try:
        yield
    finally:
        if before > granted:
            torch.set_num_threads(before)
