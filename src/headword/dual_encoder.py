"""Vision encoder, text encoder and aligner as one model: images and words in one space."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from headword.aligners import Aligner
from headword.data.folders import list_images
from headword.encoders import TextEncoder, VisionEncoder
from headword.encoders.prompts import check_labels, embed_names
from headword.extract import Progress, image_features
from headword.names import ClassName
from headword.pairs import Pairs
from headword.scoring import Scores


@dataclass(frozen=True, slots=True)
class Centre:
    """What the image side is centred on, and where that came from."""

    kind: str
    """"default" (the aligner's own: see its docs) or "pool" (the mean of unlabelled images)."""
    images: int = 0
    """How many images the pool had."""
    source: str | None = None
    """The pool's folder, where it was one."""

    def __str__(self) -> str:
        if self.kind == "default":
            return "not calibrated (the aligner's default centre)"
        return f"mean of {self.images:,} images" + (f" from {self.source}" if self.source else "")


@dataclass(frozen=True, slots=True)
class Pool:
    """Unlabelled images to centre on."""

    images: object
    folder: str | None = None
    """The folder they are all the images of, absolute."""

    @classmethod
    def of(cls, source: object) -> Pool:
        """A pool from what `DualEncoder.calibrate` accepts; a folder is listed, nothing is opened yet.

        Raises:
            HeadwordError: if the folder is missing or has no images.
        """
        if isinstance(source, Pool):
            return source
        if isinstance(source, str | os.PathLike) and not Path(source).expanduser().is_file():
            return cls(list_images(source), str(Path(source).expanduser().resolve()))
        return cls(source)


@dataclass(slots=True)
class DualEncoder:
    """Images and texts → unit-norm vectors `[N, D]` in one space; made by `headword.recycle` or
    `headword.load`.
    """

    vision: VisionEncoder
    text: TextEncoder
    aligner: Aligner
    pairs: Pairs
    """What the aligner was fitted on; the classifier's rows have the source "head"."""
    template: tuple[str, ...]
    """The templates of the fit, and the default of `classify`."""
    scores: Scores
    centre: Centre
    timings: dict[str, float]
    """Seconds each step of making the model took; empty for a loaded one."""

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """The classes of the recycled head."""
        return self.vision.labels.classes

    @property
    def dim(self) -> int:
        """Width D of the shared space."""
        return int(self.aligner.text(torch.zeros(1, self.text.dim, device=self._device)).shape[1])

    def image_features(
        self, images: object, *, batch_size: int = 32, progress: Progress | None = None
    ) -> Tensor:
        """Images → the classifier's own features `[N, d]`, before the aligner; see `encode_image` for
        the kinds.
        """
        return image_features(self.vision, images, batch_size=batch_size, progress=progress)

    def encode_image(
        self, images: object, *, batch_size: int = 32, progress: Progress | None = None
    ) -> Tensor:
        """Images → float32 `[N, D]`, unit norm.

        Args:
            images: paths, PIL images or uint8 tensors `[3, H, W]`, one or a list; uint8 `[N, 3, H, W]`; float
                `[N, 3, H, W]`, already transformed; or float `[N, d]`, the classifier's features.
            batch_size: images that go through the model together.
            progress: called with (done, all) after every batch.

        Raises:
            HeadwordError: if an image cannot be read, in one line with its name.
        """
        return self._image_side(self.image_features(images, batch_size=batch_size, progress=progress))

    def encode_text(self, texts: Sequence[str], *, template: str | Sequence[str] = "{}") -> Tensor:
        """Texts → float32 `[N, D]`, unit norm; with several templates, of their average."""
        return self._text_side(
            embed_names(self.text, list(texts), template) if len(texts) else torch.empty(0, self.text.dim)
        )

    def cosines(
        self,
        images: object,
        texts: Sequence[str],
        *,
        template: str | Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> Tensor:
        """Cosine `[N, L]` of each image with each text; `template` as in `classify`."""
        words = self.encode_text(texts, template=self.template if template is None else template)
        return self.encode_image(images, batch_size=batch_size) @ words.T

    def classify(
        self,
        images: object,
        labels: Sequence[str],
        *,
        template: str | Sequence[str] | None = None,
        multi_label: bool = False,
        none_of_these: bool = False,
        batch_size: int = 32,
    ) -> Tensor:
        """Probabilities `[N, L]` of labels, which may be any words.

        Args:
            images: as for `encode_image`.
            labels: what to choose from; need not be classes of the head.
            template: one or several with a "{}" for the label; the model's own (`self.template`) when not
                given.
            multi_label: an independent probability for each label.
            none_of_these: adds a last column for images that no label fits.
            batch_size: images that go through the model together.

        Raises:
            HeadwordError: for no labels, an empty or repeated one, a bad template or an unreadable image.
        """
        cosines = self.cosines(images, check_labels(labels), template=template, batch_size=batch_size)
        return self.scores.probabilities(cosines, multi_label=multi_label, none_of_these=none_of_these)

    def search(
        self, images: object, queries: Sequence[str], *, k: int = 10, template: str | Sequence[str] = "{}"
    ) -> tuple[Tensor, Tensor]:
        """The k best images for each query, best first: (places in `images` `[Q, k]`, cosines `[Q, k]`).

        For more images than fit in memory at once, or again and again, build an index.
        """
        cosines = self.cosines(images, queries, template=template).T
        best = cosines.topk(min(k, cosines.shape[1]), dim=1)
        return best.indices, best.values

    def calibrate(self, source: object, *, batch_size: int = 32, progress: Progress | None = None) -> Self:
        """Centre the image side on an unlabelled pool, in place; returns the model.

        Args:
            source: a folder, images as for `encode_image`, or features `[N, d]`. The collection that will be
                labelled or searched is the best pool.
            batch_size: images that go through the model together.
            progress: called with (done, all) after every batch.

        Raises:
            HeadwordError: if the pool has no readable image or a feature is not finite.
        """
        pool = Pool.of(source)
        features = self.image_features(pool.images, batch_size=batch_size, progress=progress)
        self.aligner.calibrate(features.to(self._device))
        self.centre = Centre("pool", len(features), pool.folder)
        return self

    def save(
        self, folder: str | os.PathLike[str], *, with_encoders: bool = False, overwrite: bool = False
    ) -> Path:
        """Save into a new folder of safetensors and JSON; see `headword.saved_model` for the format.

        Args:
            folder: must not hold anything yet, unless `overwrite` and it is a saved model.
            with_encoders: copy the encoders' weights along; else the folder names them and holds their hash.
            overwrite: replace a saved model that is there.

        Raises:
            HeadwordError: if the folder cannot be written; nothing is left half-written.
        """
        from headword.saved_model import save

        return save(self, Path(folder), with_encoders=with_encoders, overwrite=overwrite)

    def provenance(self) -> dict[str, Any]:
        """Where every part came from, as JSON: what results carry and `headword.json` holds."""
        return {
            "vision": self.vision.provenance(),
            "text": self.text.provenance(),
            "template": list(self.template),
            "aligner": {"name": self.aligner.name, "settings": self.aligner.settings},
            "pairs": {"number": len(self.pairs), "sources": self.pairs.sources},
            "centre": asdict(self.centre),
            "scores": self.scores.as_json(),
        }

    @property
    def _device(self) -> torch.device:
        return self.aligner.centre_.device

    @torch.inference_mode()
    def _image_side(self, features: Tensor) -> Tensor:
        return self.aligner.image(features.to(self._device)).float().cpu()

    @torch.inference_mode()
    def _text_side(self, embeddings: Tensor) -> Tensor:
        return self.aligner.text(embeddings.to(self._device)).float().cpu()
