"""Image-text retrieval: captions for each image, images for each caption."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor

from headword.data.captions import CaptionList, read_captions
from headword.data.splits import TESTED
from headword.errors import HeadwordError
from headword.evaluation.centre import centred
from headword.evaluation.protocol import Protocol, Result
from headword.evaluation.subjects import Subject
from headword.extract import Progress, extract
from headword.metrics import retrieval_metrics, retrieval_places
from headword.scoring.transductive import Hubs

TOP = (1, 5, 10)


def captioned(protocol: Protocol) -> CaptionList:
    """The protocol's captioned images.

    Raises:
        HeadwordError: if captions or split are not there, or an image is missing and not to be skipped.
    """
    if protocol.class_names is not None or protocol.templates is not None:
        raise HeadwordError("retrieval has captions, not classes: class names and templates do not apply")
    missing = cast("Literal['error', 'skip']", protocol.missing)
    return read_captions(protocol.data, split=protocol.split, default=TESTED, missing=missing)


def _reference(
    subject: Subject, protocol: Protocol, progress: Progress | None
) -> tuple[Tensor | None, list[str]]:
    """Features `[R, d]` of the images of the hubness split, and its texts: each image's first caption."""
    if protocol.hubness is None:
        return None, []
    entries = captioned(replace(protocol, split=protocol.hubness))
    found = extract(subject.vision, [entry.image for entry in entries], progress=progress)
    return found.features, [entry.captions[0] for entry in entries]


def retrieval(subject: Subject, protocol: Protocol, *, progress: Progress | None = None) -> Result:
    """Recall@k both ways, P@k of captions, and mAP; see `headword.metrics.retrieval_metrics`.

    Captions are taken as they are, without a template. An unreadable image is left out with its captions.

    Raises:
        HeadwordError: if captions or split are not there, an image is missing (unless the protocol says
            skip), or a k is larger than the set.
    """
    entries = captioned(protocol)
    found = extract(subject.vision, [entry.image for entry in entries], progress=progress)
    kept = [entries[place] for place in found.kept]
    captions = [caption for entry in kept for caption in entry.captions]
    owner = torch.tensor([row for row, entry in enumerate(kept) for _ in entry.captions])
    ks = protocol.k or tuple(k for k in TOP if k < len(kept) or k == 1)
    shown, said = _reference(subject, protocol, progress)
    subject, notes = centred(subject, protocol, found, reference=shown, progress=progress)
    embeds = subject.image_embeds(found.features)
    words = subject.text_embeds(subject.text.encode(captions))
    if shown is not None:
        hubs = Hubs.of(subject.image_embeds(shown), subject.text_embeds(subject.text.encode(said)))
        embeds, words = hubs.sides(embeds, words)
        notes = (
            *notes,
            f"less the hubness in {len(shown):,} images and {len(said):,} texts of the split "
            f"{protocol.hubness}, unmatched; texts centred on theirs",
        )
    places = retrieval_places(embeds, words, owner)
    return Result(
        name=subject.name,
        model=subject.provenance(),
        protocol=replace(protocol, split=entries.split, k=ks, metric=protocol.metric or f"t2i_r{max(ks)}"),
        metrics=retrieval_metrics(places, ks),
        data={
            "source": protocol.data,
            "images": len(kept),
            "captions": len(captions),
            "missing": entries.missing,
            "skipped": list(found.errors.values()),
        },
        notes=notes,
    )
