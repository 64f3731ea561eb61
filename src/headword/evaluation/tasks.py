"""What tasks have in common; zero-shot classification and retrieval."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headword.classifier.folder import read_classifier
from headword.data.captions import CaptionList, read_captions
from headword.data.folders import list_images
from headword.data.items import LabelledImages
from headword.data.labelled import open_images
from headword.data.splits import TESTED
from headword.encoders.prompts import check_labels
from headword.errors import HeadwordError
from headword.evaluation.protocol import Protocol
from headword.evaluation.subjects import arrival, is_reference, recentred
from headword.extract import Extracted, Progress, extract
from headword.head.names import placeholders
from headword.metrics import check_k, classification_metrics, retrieval_metrics, retrieval_places
from headword.model import DualEncoder
from headword.scoring.centring import STRENGTH
from headword.scoring.examples import judgements
from headword.scoring.transductive import OFF, Hubs, label_shares, read_prior
from headword.teaching import around, load_classifier

MEAN_PER_CLASS = "mean_per_class"


class Outcome(NamedTuple):
    """What a task found of a model; see `headword.evaluation.Result`."""

    model: DualEncoder  # as it was measured: centred
    protocol: Protocol
    metrics: dict[str, float]
    data: dict[str, Any]
    notes: tuple[str, ...]


class Task(ABC):
    """A protocol whose data are open, not yet decoded; a split it does not name is the first of `default`."""

    def __init__(self, protocol: Protocol, *, default: Sequence[str] = TESTED, engine: str = "auto") -> None:
        self.protocol, self.default, self.engine = protocol, default, engine
        self.pool = None if protocol.pool_folder is None else list_images(protocol.pool_folder)

    @abstractmethod
    def measure(self, model: DualEncoder, progress: Progress | None = None) -> Outcome:
        """Measure a model, on what can be read."""

    def features(self, model: DualEncoder, images: object, progress: Progress | None) -> Extracted:
        """Features of images, of those that can be read."""
        return extract(model.vision, images, engine=self.engine, progress=progress)

    def centred(
        self,
        model: DualEncoder,
        tested: Tensor,
        *,
        reference: Tensor | None = None,
        progress: Progress | None = None,
    ) -> tuple[DualEncoder, tuple[str, ...]]:
        """A copy with the protocol's centre, from tested features `[N, d]` or those of `hubness`; notes."""
        centre_on, most = self.protocol.centre_on, self.protocol.first
        if self.pool is not None:
            pool = self.features(model, self.pool, progress)
            unread = (f"{len(pool.errors)} images of the pool could not be read",) if pool.errors else ()
            return recentred(model, pool.features, centre_on), (*self.pool.notes, *unread)
        if most is not None:
            first = arrival(len(tested), self.protocol.seed)[:most]
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
        """Tested features `[N, d]` → unit-norm `[N, D]`; "online", each is centred on those before it."""
        if self.protocol.centre_on != "online" or is_reference(model):
            return model.encode_image(features)
        order = arrival(len(features), self.protocol.seed)
        in_order = model.encode_image(features[order], centre=model.running_centre())
        return torch.empty_like(in_order).index_copy_(0, order, in_order)


class LabelledTask(Task):
    """A task on images with classes."""

    def __init__(self, protocol: Protocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        self.data = self.open(protocol.split)
        self.images = self.data.images

    def open(self, split: str | None) -> LabelledImages:
        """A split of the protocol's data."""
        names = self.protocol.class_names
        return open_images(self.protocol.data, split=split, class_names=names, default=self.default)

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


class ZeroShot(LabelledTask):
    """Each image gets the class whose name is nearest: top-k and mean per-class accuracy."""

    def __init__(self, protocol: Protocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        self.saved = None if protocol.classifier is None else read_classifier(Path(protocol.classifier))
        names = self.data.names
        if self.saved is None:
            check_spoken(self.data)
        else:
            names = self.saved.parameters["labels"]
            judgements(self.data.names, names, several=False)
        self.k = protocol.k or tuple(k for k in (1, 5) if k < len(names) or k == 1)
        check_k(self.k, len(names), "classes")
        self.prior = None if protocol.prior is None else read_prior(protocol.prior)
        self.shares = None if self.prior is None else label_shares(self.prior, names)

    def measure(self, model: DualEncoder, progress: Progress | None = None) -> Outcome:
        """See `Task`."""
        method = self.protocol.collection
        templates = None if self.saved is not None else self.templates(model)
        tested = self.features(model, self.images, progress)
        labels = kept_labels(self.data, tested)
        if self.saved is not None:
            model = around(model, self.saved.centre_vector, self.saved.centre)
        model, notes = self.centred(model, tested.features, progress=progress)
        if self.saved is None:
            classifier = model.classifier(self.data.names, templates=templates)
        else:
            classifier = load_classifier(self.saved, model=model).around(model)
            places = [classifier.labels.index(name) for name in self.data.names]
            labels = torch.tensor(places)[labels]
        embeddings = self.encode_images(model, tested.features)
        logits = classifier.logits(embeddings, collection=method, prior=self.prior)
        if method != OFF:
            notes = (*notes, f"transductive: {method} labels the whole collection at once")
        metrics = classification_metrics(logits, labels, self.k)
        metric = self.protocol.metric or MEAN_PER_CLASS
        outcome = self.outcome(model, tested, metrics, notes, k=self.k, templates=templates, metric=metric)
        if self.shares is not None:
            outcome.data["prior"] = self.shares.tolist()
        return outcome


class Retrieval(Task):
    """Captions for each image, images for each caption: see `headword.metrics.retrieval_metrics`.

    Captions are taken as they are, without a template. An unreadable image is left out with its captions.
    """

    def __init__(self, protocol: Protocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        self.entries = self._captioned(protocol.split)
        self.images = [entry.image for entry in self.entries]
        self.reference = None if protocol.hubness is None else self._captioned(protocol.hubness)

    def measure(self, model: DualEncoder, progress: Progress | None = None) -> Outcome:
        """See `Task`."""
        tested = self.features(model, self.images, progress)
        kept = [self.entries[place] for place in tested.kept]
        captions = [caption for entry in kept for caption in entry.captions]
        owner = torch.tensor([row for row, entry in enumerate(kept) for _ in entry.captions])
        ks = self.protocol.k or self.top(len(kept))
        reference = None
        if self.reference is not None:
            reference = self.features(model, [entry.image for entry in self.reference], progress).features
        model, notes = self.centred(model, tested.features, reference=reference, progress=progress)
        # A caption that is a noun is not read with what it is a kind of.
        plain = replace(model, hypernym_weight=0.0)
        embeds, words = self.encode_images(model, tested.features), plain.encode_text(captions)
        if self.reference is not None:
            texts = [entry.captions[0] for entry in self.reference]
            hubs = Hubs.of(model.encode_image(reference), plain.encode_text(texts))
            embeds, words = hubs.sides(embeds, words)
            note = f"less the hubness in {len(hubs.images):,} images and {len(texts):,} texts of the split"
            notes = (*notes, f"{note} {self.protocol.hubness}, unmatched; texts centred on theirs")
        metric = self.protocol.metric or f"t2i_r{max(ks)}"
        counts = {
            "source": self.protocol.data,
            "images": len(kept),
            "captions": len(captions),
            "missing": self.entries.missing,
            "skipped": list(tested.errors.values()),
        }
        settled = self.protocol.replace(split=self.entries.split, k=ks, metric=metric)
        metrics = retrieval_metrics(retrieval_places(embeds, words, owner), ks)
        return Outcome(model, settled, metrics, counts, notes)

    @staticmethod
    def top(images: int) -> tuple[int, ...]:
        """The k of a set of so many images, where the protocol names none."""
        return tuple(k for k in (1, 5, 10) if k < images or k == 1)

    def _captioned(self, split: str | None) -> CaptionList:
        protocol = self.protocol
        return read_captions(protocol.data, split=split, default=self.default, missing=protocol.missing)


def check_spoken(data: LabelledImages) -> None:
    """Refuse names that say nothing, or the same of two classes."""
    if placeholders(data.names) or all(name.isdecimal() for name in data.names):
        raise HeadwordError(
            f"the classes of {data.source} are called {', '.join(data.names[:3])}, …, which says nothing; "
            "give class names"
        )
    check_labels(data.names)


def kept_labels(data: LabelledImages, tested: Extracted) -> Tensor:
    """The labels `[N']` of the images that could be read, which must be of two classes at least."""
    labels = torch.tensor(data.labels)[list(tested.kept)]
    if len(set(labels.tolist())) < 2:
        raise HeadwordError(
            f"all {len(labels)} readable images of {data.source} are of one class, "
            f"{data.names[int(labels[0])]!r}; there is nothing to tell apart"
        )
    return labels
