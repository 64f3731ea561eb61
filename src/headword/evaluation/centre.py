"""What the image side is centred on while a protocol runs."""

from __future__ import annotations

from torch import Tensor

from headword.data.folders import list_images
from headword.evaluation.protocol import Protocol
from headword.evaluation.subjects import Subject, arrival
from headword.extract import Extracted, Progress, extract
from headword.scoring.centring import STRENGTH


def centred(
    subject: Subject,
    protocol: Protocol,
    found: Extracted,
    *,
    reference: Tensor | None = None,
    progress: Progress | None = None,
) -> tuple[Subject, tuple[str, ...]]:
    """The model with the protocol's centre, and notes for the result.

    Args:
        subject: the model.
        protocol: its `centre_on` says which centre.
        found: the tested images, which are the pool of "collection".
        reference: features `[R, d]` of the images of `Protocol.hubness`.
        progress: called with (done, all) while a folder's images are embedded.

    Raises:
        HeadwordError: if the folder is not there or has no images.
    """
    if protocol.centre_on == "none":
        return subject, ()
    if protocol.centre_on == "collection":
        notes = ("centred on the mean of the tested images themselves, without their labels",)
        return subject.centred_on(found.features, "the tested images"), notes
    if protocol.centre_on == "online":
        notes = (
            "each image is centred on the ones before it, without their labels, in an order drawn with the "
            "seed",
        )
        return subject.online(protocol.seed), notes
    if protocol.first is not None:
        first = arrival(len(found.features), protocol.seed)[: protocol.first]
        notes = (f"centred on {len(first)} of the tested images, drawn with the seed, without their labels",)
        return subject.centred_on(found.features[first], "tested images", STRENGTH), notes
    if protocol.centre_on == "reference":
        assert reference is not None
        notes = (f"centred on the images of the split {protocol.hubness}",)
        return subject.centred_on(reference, f"split {protocol.hubness}"), notes
    images = list_images(protocol.centre_on)
    pool = extract(subject.vision, images, progress=progress)
    unread = (f"{len(pool.errors)} images of the pool could not be read",) if pool.errors else ()
    return subject.centred_on(pool.features, protocol.centre_on), (*images.notes, *unread)
