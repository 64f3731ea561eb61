"""What the image side is centred on while a protocol runs."""

from __future__ import annotations

from torch import Tensor

from headword.centring import STRENGTH
from headword.data.folders import list_images
from headword.evaluation.features import Extracted, extract
from headword.evaluation.protocol import Protocol
from headword.evaluation.subjects import Subject, arrival
from headword.extract import Progress


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
        protocol: its `calibrate` says which centre.
        found: the tested images, which are the pool of "pool".
        reference: features `[R, d]` of the images of `Protocol.hubness`.
        progress: called with (done, all) while a folder's images are embedded.

    Raises:
        HeadwordError: if the folder is not there or has no images.
    """
    if protocol.calibrate == "none":
        return subject, ()
    if protocol.calibrate == "pool":
        notes = ("centred on the mean of the tested images themselves, without their labels",)
        return subject.calibrated(found.features, "the tested images"), notes
    if protocol.calibrate == "online":
        notes = (
            "each image is centred on the ones before it, without their labels, in an order drawn with the "
            "seed",
        )
        return subject.online(protocol.seed), notes
    if protocol.first is not None:
        first = arrival(len(found.features), protocol.seed)[: protocol.first]
        notes = (f"centred on {len(first)} of the tested images, drawn with the seed, without their labels",)
        return subject.calibrated(found.features[first], "tested images", STRENGTH), notes
    if protocol.calibrate == "reference":
        assert reference is not None
        notes = (f"centred on the images of the split {protocol.hubness}",)
        return subject.calibrated(reference, f"split {protocol.hubness}"), notes
    pool = extract(subject, list_images(protocol.calibrate), progress=progress)
    unread = (f"{len(pool.skipped)} images of the pool could not be read",) if pool.skipped else ()
    return subject.calibrated(pool.features, protocol.calibrate), unread
