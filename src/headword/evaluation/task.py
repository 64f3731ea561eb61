"""What every task has in common: data that is opened once, for any number of models, and a centre."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headword.data.folders import list_images
from headword.data.labelled import LabelledImages, open_images
from headword.encoders.prompts import check_labels
from headword.errors import HeadwordError
from headword.evaluation.protocol import Protocol
from headword.evaluation.subjects import arrival, is_reference, recentred
from headword.extract import Extracted, Progress, extract
from headword.head.names import placeholders
from headword.model import DualEncoder
from headword.scoring.centring import STRENGTH


class Outcome(NamedTuple):
    """What a task found of a model; see `headword.evaluation.Result`."""

    model: DualEncoder
    """As it was measured: centred."""
    protocol: Protocol
    metrics: dict[str, float]
    data: dict[str, Any]
    notes: tuple[str, ...]


class Task(ABC):
    """A protocol whose data are open.

    Args:
        protocol: what to measure; nothing is decoded yet.

    Raises:
        HeadwordError: if the data, the split or a folder to centre on is not there or does not fit.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.pool = None if protocol.pool_folder is None else list_images(protocol.pool_folder)

    @abstractmethod
    def measure(self, model: DualEncoder, progress: Progress | None = None) -> Outcome:
        """Measure a model.

        Raises:
            HeadwordError: if no image can be read, or the model or what can be read does not do for the task.
        """

    def centred(
        self,
        model: DualEncoder,
        tested: Tensor,
        *,
        reference: Tensor | None = None,
        progress: Progress | None = None,
    ) -> tuple[DualEncoder, tuple[str, ...]]:
        """The model with the protocol's centre, and notes for the result.

        Args:
            model: stays as it is.
            tested: features `[N, d]` of the tested images, the pool of "collection".
            reference: features `[R, d]` of the images of `Protocol.hubness`.
            progress: called with (done, all) while a folder's images are embedded.
        """
        centre_on, seed = self.protocol.centre_on, self.protocol.seed
        if self.pool is not None:
            pool = extract(model.vision, self.pool, progress=progress)
            unread = (f"{len(pool.errors)} images of the pool could not be read",) if pool.errors else ()
            return recentred(model, pool.features, centre_on), (*self.pool.notes, *unread)
        if self.protocol.first is not None:
            first = arrival(len(tested), seed)[: self.protocol.first]
            note = f"centred on {len(first)} of the tested images, drawn with the seed, without their labels"
            return recentred(model, tested[first], "tested images", STRENGTH), (note,)
        if centre_on == "collection":
            note = "centred on the mean of the tested images themselves, without their labels"
            return recentred(model, tested, "the tested images"), (note,)
        if centre_on == "reference":
            assert reference is not None
            split = f"split {self.protocol.hubness}"
            return recentred(model, reference, split), (f"centred on the images of the {split}",)
        if centre_on == "online":
            note = "each image is centred on the ones before it, without their labels, in an order drawn"
            return model, (f"{note} with the seed",)
        return model, ()

    def encode_images(self, model: DualEncoder, features: Tensor) -> Tensor:
        """Features `[N, d]` of the tested images → unit-norm `[N, D]`, each centred on those before it where
        the protocol says so.
        """
        if self.protocol.centre_on != "online" or is_reference(model):
            return model.encode_image(features)
        order = arrival(len(features), self.protocol.seed)
        in_order = model.encode_image(features[order], centre=model.running_centre())
        return torch.empty_like(in_order).index_copy_(0, order, in_order)


class LabelledTask(Task):
    """A task on images with classes."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self.data = self.open(protocol.split)

    def open(self, split: str | None) -> LabelledImages:
        """A split of the protocol's data."""
        return open_images(self.protocol.data, split=split, class_names=self.protocol.class_names)

    def templates(self, model: DualEncoder) -> tuple[str, ...]:
        """The protocol's, else the data's, else the model's."""
        return self.protocol.templates or self.data.templates or model.templates

    def outcome(
        self,
        model: DualEncoder,
        tested: Extracted,
        metrics: dict[str, float],
        notes: Iterable[str] = (),
        **settled: object,
    ) -> Outcome:
        """The outcome, with counts of the data, and the protocol with what the data said put in."""
        data, present = self.data, {self.data.labels[place] for place in tested.kept}
        counts = {
            "source": data.source,
            "images": len(tested.kept),
            "classes": len(data.names),
            "classes_without_images": [name for n, name in enumerate(data.names) if n not in present],
            "skipped": list(tested.errors.values()),
        }
        protocol = self.protocol.replace(split=data.split, class_names=data.names, **settled)
        return Outcome(model, protocol, metrics, counts, tuple(notes))


def check_spoken(data: LabelledImages) -> None:
    """Refuse names that say nothing, or the same of two classes.

    Raises:
        HeadwordError: with the mend.
    """
    if placeholders(data.names) or all(name.isdecimal() for name in data.names):
        raise HeadwordError(
            f"the classes of {data.source} are called {', '.join(data.names[:3])}, …, which says nothing; "
            "give class names"
        )
    check_labels(data.names)


def kept_labels(data: LabelledImages, tested: Extracted) -> Tensor:
    """The labels `[N']` of the images that could be read.

    Raises:
        HeadwordError: if all of them are of one class.
    """
    labels = torch.tensor(data.labels)[list(tested.kept)]
    if len(set(labels.tolist())) < 2:
        raise HeadwordError(
            f"all {len(labels)} readable images of {data.source} are of one class, "
            f"{data.names[int(labels[0])]!r}; there is nothing to tell apart"
        )
    return labels
