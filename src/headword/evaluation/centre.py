"""What the image side is centred on while a protocol runs."""

from __future__ import annotations

from headword.data.folders import list_images
from headword.evaluation.features import Extracted, extract
from headword.evaluation.protocol import Protocol
from headword.evaluation.subjects import Subject
from headword.extract import Progress


def centred(
    subject: Subject, protocol: Protocol, found: Extracted, *, progress: Progress | None = None
) -> tuple[Subject, tuple[str, ...]]:
    """The model with the protocol's centre, and notes for the result.

    Args:
        subject: the model.
        protocol: its `calibrate` says which centre.
        found: the tested images, which are the pool of "pool".
        progress: called with (done, all) while a folder's images are embedded.

    Raises:
        HeadwordError: if the folder is not there or has no images.
    """
    if protocol.calibrate == "none":
        return subject, ()
    if protocol.calibrate == "pool":
        notes = ("centred on the mean of the tested images themselves, without their labels",)
        return subject.calibrated(found.features, "the tested images"), notes
    pool = extract(subject, list_images(protocol.calibrate), progress=progress)
    unread = (f"{len(pool.skipped)} images of the pool could not be read",) if pool.skipped else ()
    return subject.calibrated(pool.features, protocol.calibrate), unread
