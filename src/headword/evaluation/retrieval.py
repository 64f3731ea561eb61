"""Image-text retrieval: captions for each image, images for each caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headword.data.captions import CaptionList, read_captions
from headword.data.splits import TESTED
from headword.evaluation.protocol import Protocol
from headword.evaluation.task import Outcome, Task
from headword.extract import Progress, extract
from headword.metrics import retrieval_metrics, retrieval_places
from headword.model import DualEncoder
from headword.scoring.transductive import Hubs

TOP = (1, 5, 10)


class Retrieval(Task):
    """Recall@k both ways, P@k of captions, and mAP; see `headword.metrics.retrieval_metrics`.

    Captions are taken as they are, without a template. An unreadable image is left out with its captions.

    Raises:
        HeadwordError: as `Task`; also if an image is missing (unless the protocol says skip), or a k is
            larger than the set.
    """

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self.entries = self._captioned(protocol.split)
        self.reference = [] if protocol.hubness is None else self._captioned(protocol.hubness)

    def measure(self, model: DualEncoder, progress: Progress | None = None) -> Outcome:
        """See `Task`."""
        tested = extract(model.vision, [entry.image for entry in self.entries], progress=progress)
        kept = [self.entries[place] for place in tested.kept]
        captions = [caption for entry in kept for caption in entry.captions]
        owner = torch.tensor([row for row, entry in enumerate(kept) for _ in entry.captions])
        ks = self.protocol.k or tuple(k for k in TOP if k < len(kept) or k == 1)
        reference = None
        if self.reference:
            images = [entry.image for entry in self.reference]
            reference = extract(model.vision, images, progress=progress).features
        model, notes = self.centred(model, tested.features, reference=reference, progress=progress)
        embeds, words = self.encode_images(model, tested.features), _encode_captions(model, captions)
        if reference is not None:
            texts = [entry.captions[0] for entry in self.reference]
            hubs = Hubs.of(model.encode_image(reference), _encode_captions(model, texts))
            embeds, words = hubs.sides(embeds, words)
            notes = (
                *notes,
                f"less the hubness in {len(reference):,} images and {len(texts):,} texts of the split "
                f"{self.protocol.hubness}, unmatched; texts centred on theirs",
            )
        metric = self.protocol.metric or f"t2i_r{max(ks)}"
        counts = {
            "source": self.protocol.data,
            "images": len(kept),
            "captions": len(captions),
            "missing": self.entries.missing,
            "skipped": list(tested.errors.values()),
        }
        return Outcome(
            model,
            self.protocol.replace(split=self.entries.split, k=ks, metric=metric),
            retrieval_metrics(retrieval_places(embeds, words, owner), ks),
            counts,
            notes,
        )

    def _captioned(self, split: str | None) -> CaptionList:
        return read_captions(self.protocol.data, split=split, default=TESTED, missing=self.protocol.missing)


def _encode_captions(model: DualEncoder, captions: Sequence[str]) -> Tensor:
    """Captions `[M]` → unit-norm `[M, D]`; one that is a noun is not read with what it is a kind of."""
    return replace(model, hypernym_weight=0.0).encode_text(captions)
