"""Zero-shot classification: each image gets the class whose name is nearest."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from headword.encoders.prompts import check_labels, embed_names
from headword.errors import HeadwordError
from headword.evaluation.centre import centred
from headword.evaluation.data_sets import LabelledImages, open_images
from headword.evaluation.protocol import Protocol, Result
from headword.evaluation.subjects import Subject
from headword.extract import Extracted, Progress, extract
from headword.head.names import placeholders
from headword.metrics import classification_metrics
from headword.scoring.transductive import OFF, collective_scores, label_shares, read_prior

TOP = (1, 5)
METRIC = "mean_per_class"


def zero_shot(subject: Subject, protocol: Protocol, *, progress: Progress | None = None) -> Result:
    """Top-k and mean per-class accuracy with class names alone.

    Raises:
        HeadwordError: if the data cannot be had, a name is missing or given twice, or a k is too large.
    """
    data = open_images(protocol.data, split=protocol.split, class_names=protocol.class_names)
    check_spoken(data)
    ks = protocol.k or tuple(k for k in TOP if k < len(data.names) or k == 1)
    templates = protocol.templates or data.templates or subject.templates
    found = extract(subject.vision, data.images, progress=progress)
    subject, note = centred(subject, protocol, found, progress=progress)
    words = subject.text_embeds(
        embed_names(subject.text, data.names, templates, hypernym_weight=subject.hypernym_weight)
    )
    embeds = subject.image_embeds(found.features)
    shares = None if protocol.prior is None else label_shares(read_prior(protocol.prior), data.names)
    scores = collective_scores(embeds, words, method=protocol.collection, scale=subject.scale, shares=shares)
    metrics = classification_metrics(scores, kept_labels(data, found), ks)
    if protocol.collection != OFF:
        note = (*note, f"transductive: {protocol.collection} labels the whole collection at once")
    return Result(
        name=subject.name,
        model=subject.provenance(),
        protocol=settled(protocol, data, k=ks, templates=templates, metric=protocol.metric or METRIC),
        metrics=metrics,
        data=counts(data, found) | ({} if shares is None else {"prior": shares.tolist()}),
        notes=note,
    )


def settled(protocol: Protocol, data: LabelledImages, **values: object) -> Protocol:
    """The protocol with what the data said put in."""
    return replace(protocol, split=data.split, class_names=data.names, **values)  # type: ignore[arg-type]


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


def kept_labels(data: LabelledImages, found: Extracted) -> Tensor:
    """The labels `[N']` of the images that could be read.

    Raises:
        HeadwordError: if all of them are of one class.
    """
    labels = torch.tensor(data.labels)[list(found.kept)]
    if len(set(labels.tolist())) < 2:
        raise HeadwordError(
            f"all {len(labels)} readable images of {data.source} are of one class, "
            f"{data.names[int(labels[0])]!r}; there is nothing to tell apart"
        )
    return labels


def counts(data: LabelledImages, found: Extracted) -> dict[str, object]:
    """What a result says of its data."""
    there = {data.labels[place] for place in found.kept}
    return {
        "source": data.source,
        "images": len(found.kept),
        "classes": len(data.names),
        "classes_without_images": [name for n, name in enumerate(data.names) if n not in there],
        "skipped": list(found.errors.values()),
    }
