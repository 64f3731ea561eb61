"""The training loader: batches that are a function of (seed, epoch, step), whatever reads them."""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from headword.cache import key_of
from headword.errors import HeadwordError

T = TypeVar("T")

Transform: TypeAlias = Callable[[Image.Image, torch.Generator], Tensor]  # → float `[3, H, W]`
Tokenize: TypeAlias = Callable[[Sequence[str]], Tensor]  # B captions → `[B, L]` token ids
PIECE = 256  # consecutive samples of a shard that stay together until the last shuffle
WINDOW = 8192  # samples, of pieces from all over the shards, that are shuffled among each other
_REPLACEMENTS = 100  # tried for one unreadable sample


@dataclass(frozen=True, slots=True)
class Sample:
    """One decoded training example."""

    image: Image.Image  # RGB
    captions: tuple[str, ...]  # the original captions, one or more
    rewritten: tuple[str, ...] = ()  # captions that a model wrote anew, usually longer; there may be none
    id: str = ""  # what messages call it


class TrainingSet(Protocol):
    """Captioned images with random access, for worker processes; perhaps with `blocks`: see `epoch_order`."""

    @property
    def fingerprint(self) -> str:
        """sha256 over what the set holds: names, sizes, captions. A checkpoint keeps it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Decode one sample, or refuse it with `HeadwordError` in one line with its name."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One process's share of a step."""

    images: Tensor  # `[B, 3, H, W]`
    texts: Tensor  # `[B, L]` token ids, a caption an image
    ids: tuple[str, ...]  # B names, for messages
    captions: tuple[str, ...]  # the B captions

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which an accelerator copies while it computes."""
        return Batch(self.images.pin_memory(), self.texts.pin_memory(), self.ids, self.captions)


class Batches:
    """The batches of a training set, epoch after epoch, the same however many workers read them.

    An unreadable sample is replaced by another one, always the same, and counted once, up to the share
    `max_corrupt` of the set. The last samples of an epoch that fill no global batch are left out; which
    these are differs from epoch to epoch. `batch_size` is this process's share of a global batch, which does
    not depend on how many processes share it; `workers` read ahead as long as this object lives, 0 in this
    process; `rewritten_share` is how often a re-written caption is taken where there is one.
    """

    def __init__(
        self,
        dataset: TrainingSet,
        *,
        batch_size: int,
        transform: Transform,
        tokenize: Tokenize,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        rewritten_share: float = 0.0,
        max_corrupt: float = 0.01,
        pin_memory: bool = False,
    ) -> None:
        if batch_size < 1 or workers < 0 or not 0 <= rank < world_size:
            raise HeadwordError(
                "batch_size must be positive, workers not negative and rank below world_size; got "
                f"{batch_size}, {workers}, {rank} of {world_size}"
            )
        if not (0 <= rewritten_share <= 1 and 0 <= max_corrupt <= 1):
            shares = f"{rewritten_share} and {max_corrupt}"
            raise HeadwordError(f"rewritten_share and max_corrupt are shares from 0 to 1, got {shares}")
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.steps_per_epoch = len(dataset) // (batch_size * world_size)  # global batches in an epoch
        if self.steps_per_epoch == 0:
            raise HeadwordError(
                f"the training set has {len(dataset)} samples, fewer than one batch of "
                f"{batch_size * world_size}; lower the batch size"
            )
        self._dataset, self._seed, self._max_corrupt = dataset, seed, max_corrupt
        self._corrupt: dict[int, str] = {}
        self._plan = _Plan()
        self._loader: DataLoader[_Loaded] = DataLoader(
            _Reading(dataset, transform, tokenize, seed, rewritten_share),
            batch_size=None,
            sampler=self._plan,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_the_group,
            pin_memory=pin_memory and torch.cuda.is_available(),
            generator=torch.Generator(),  # else each epoch draws from the global one, which training uses
        )

    @property
    def corrupt(self) -> int:
        """Unreadable samples met so far, each counted once."""
        return len(self._corrupt)

    @property
    def corrupt_names(self) -> tuple[str, ...]:
        """What was wrong with each, in the order of the set."""
        return tuple(message for _, message in sorted(self._corrupt.items()))

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """This process's batches of one epoch (from 0), from step `start` on; what comes before is not read.

        Take one iterator to its end, or leave it, before asking for the next: workers are shared.
        """
        if number < 0 or not 0 <= start <= self.steps_per_epoch:
            raise HeadwordError(
                f"there is no step {start} in epoch {number}; an epoch has {self.steps_per_epoch} steps"
            )
        order = epoch_order(self._dataset, seed=self._seed, epoch=number)
        steps = order[: self.steps_per_epoch * self.world_size * self.batch_size]
        own = steps.view(self.steps_per_epoch, self.world_size, self.batch_size)[start:, self.rank]
        self._plan.epoch, self._plan.batches = number, own
        for loaded in self._loader:
            self._corrupt.update(loaded.failed)
            if self.corrupt > self._max_corrupt * len(self._dataset):
                raise HeadwordError(
                    f"{self.corrupt} of {len(self._dataset)} training samples are unreadable, more than the "
                    f"{self._max_corrupt:.2%} that may be (max_corrupt); the last: "
                    f"{list(self._corrupt.values())[-1]}"
                )
            if loaded.batch is None:
                raise HeadwordError(
                    f"no readable sample was found in {_REPLACEMENTS} draws: {self.corrupt_names[-1]}"
                )
            yield loaded.batch

    def steps(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps `start` up to `stop`, counted over all epochs."""
        step = start
        while step < stop:
            number, first = divmod(step, self.steps_per_epoch)
            for batch in itertools.islice(self.epoch(number, first), stop - step):
                yield batch
                step += 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON; epoch and step are the trainer's to keep."""
        return {"corrupt": {str(index): message for index, message in sorted(self._corrupt.items())}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the count of unreadable samples of an earlier run."""
        self._corrupt = {int(index): str(message) for index, message in state["corrupt"].items()}


def ahead(make: Callable[[], Iterator[T]], depth: int = 2) -> Generator[T]:
    """What `make()` yields, computed in a thread up to `depth` items before it is asked for."""
    ready: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
    room, left = threading.Semaphore(depth - 1), threading.Event()

    def work() -> None:
        try:
            for item in make():
                ready.put((item, None))
                room.acquire()
                if left.is_set():
                    return
            ready.put((None, None))
        except BaseException as error:  # raised again where the items are taken
            ready.put((None, error))

    thread = threading.Thread(target=work, name="headword-batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            room.release()
            yield item
    finally:
        left.set()
        room.release()
        thread.join(timeout=1)


def epoch_order(dataset: Sized, *, seed: int, epoch: int) -> Tensor:
    """The order `[N]` of an epoch's samples.

    A set with `blocks` is cut into pieces of `PIECE` consecutive samples; the pieces are shuffled, and then
    the samples within each `WINDOW`: a disk reads whole stretches, and no batch comes from one shard alone.
    """
    generator = torch.Generator().manual_seed(_seed_of("order", seed, epoch))
    blocks: Sequence[int] | None = getattr(dataset, "blocks", None)
    if blocks is None or len(dataset) <= WINDOW:
        return torch.randperm(len(dataset), generator=generator)
    ends = torch.tensor(blocks).cumsum(0).tolist()
    pieces = [
        (first, min(first + PIECE, end))
        for start, end in zip([0, *ends], ends, strict=False)
        for first in range(start, end, PIECE)
    ]
    shuffled = torch.randperm(len(pieces), generator=generator).tolist()
    order = torch.cat([torch.arange(*pieces[piece]) for piece in shuffled])
    for start in range(0, len(order), WINDOW):
        window = order[start : start + WINDOW]
        window[:] = window[torch.randperm(len(window), generator=generator)]
    return order


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What a worker hands over: a batch, or none where no readable samples were found; and what failed."""

    batch: Batch | None
    failed: dict[int, str]

    def pin_memory(self) -> _Loaded:
        return _Loaded(self.batch and self.batch.pin_memory(), self.failed)


class _Plan(Sampler[tuple[int, list[int]]]):
    """(epoch, indices) of the batches to come; workers stay while it changes."""

    epoch = 0
    batches = torch.empty(0, 0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        epoch = self.epoch
        for batch in self.batches:
            yield epoch, batch.tolist()


@dataclass(frozen=True, slots=True)
class _Reading(Dataset["_Loaded"]):
    """Reads whole batches, in whichever process."""

    dataset: TrainingSet
    transform: Transform
    tokenize: Tokenize
    seed: int
    rewritten_share: float

    def __getitem__(self, step: tuple[int, list[int]]) -> _Loaded:
        epoch, indices = step
        failed: dict[int, str] = {}
        images, captions, ids = [], [], []
        for index in indices:
            sample = self._readable(epoch, index, failed)
            if sample is None:
                return _Loaded(None, failed)
            generator = torch.Generator().manual_seed(_seed_of("sample", self.seed, epoch, index))
            captions.append(self._caption(sample, generator))
            images.append(self.transform(sample.image, generator))
            ids.append(sample.id)
        batch = Batch(torch.stack(images), self.tokenize(captions), tuple(ids), tuple(captions))
        return _Loaded(batch, failed)

    def _readable(self, epoch: int, index: int, failed: dict[int, str]) -> Sample | None:
        """The sample, or the first readable one of those drawn to replace it."""
        generator = torch.Generator().manual_seed(_seed_of("replacement", self.seed, epoch, index))
        for _ in range(_REPLACEMENTS):
            try:
                return self.dataset[index]
            except HeadwordError as error:
                failed[index] = str(error)
            index = int(torch.randint(len(self.dataset), (), generator=generator))
        return None

    def _caption(self, sample: Sample, generator: torch.Generator) -> str:
        again, place = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        choices = sample.rewritten if sample.rewritten and again < self.rewritten_share else sample.captions
        return choices[int(place * len(choices))]


def _leave_the_group(_worker: int) -> None:
    """Ctrl-C goes to a whole group of processes; the training process alone ends its workers."""
    if hasattr(os, "setsid"):
        os.setsid()


def _seed_of(*parts: str | int) -> int:
    return int.from_bytes(key_of(*parts)[:8], "little") >> 1
