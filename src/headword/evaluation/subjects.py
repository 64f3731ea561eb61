"""What a protocol needs of a model, and how saved models and recycled heads give it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from headword.aligners import make_aligner
from headword.aligners.pairs import Pairs
from headword.encoders import TextEncoder, VisionEncoder
from headword.encoders.vision import Vision
from headword.errors import HeadwordError
from headword.files import expand
from headword.model import DualEncoder
from headword.scoring.centring import Centre


class Subject(Protocol):
    """A model under evaluation: its encoders make features, and it makes embeddings of these."""

    name: str
    """What tables call it."""

    @property
    def vision(self) -> VisionEncoder:
        """What makes image features."""

    @property
    def text(self) -> TextEncoder:
        """What makes text features."""

    @property
    def templates(self) -> tuple[str, ...]:
        """The model's own prompt templates."""

    @property
    def hypernym_weight(self) -> float:
        """How much of a label is what it is a kind of; see `headword.encoders.prompts.Prompts`."""

    def image_embeds(self, features: Tensor) -> Tensor:
        """Image features `[N, d]` → unit-norm `[N, D]`."""

    def text_embeds(self, features: Tensor) -> Tensor:
        """Text features `[M, k]` → unit-norm `[M, D]`."""

    @property
    def scale(self) -> float:
        """Of the softmax over labels: probabilities are softmax(scale · cosine)."""

    def centred_on(self, features: Tensor, source: str, strength: float = 0.0) -> Self:
        """A copy centred on a pool of features `[N, d]`, where the model has a centre; the one it has counts
        as `strength` images of the pool.
        """

    def online(self, seed: int) -> Self:
        """A copy whose `image_embeds` centres each image on the ones before it, in an order drawn with
        `seed`, where the model has a centre.
        """

    def with_pairs(self, pairs: Pairs) -> Self:
        """A copy fitted on its own pairs and these besides.

        Raises:
            HeadwordError: if the model is not made of pairs.
        """

    def provenance(self) -> dict[str, Any]:
        """Where every part came from, as JSON."""


@dataclass(slots=True)
class Recycled:
    """A dual encoder under evaluation."""

    model: DualEncoder
    name: str
    order_seed: int | None = None
    """Of the order that images arrive in, where each is centred on the ones before it."""

    @property
    def vision(self) -> VisionEncoder:
        """The model's."""
        return self.model.vision

    @property
    def text(self) -> TextEncoder:
        """The model's."""
        return self.model.text

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates of the fit."""
        return self.model.templates

    @property
    def hypernym_weight(self) -> float:
        """The model's own."""
        return self.model.hypernym_weight

    @torch.inference_mode()
    def image_embeds(self, features: Tensor) -> Tensor:
        """Through the aligner's image map."""
        aligner, centres = self.model.aligner, None
        if self.order_seed is not None:
            order = arrival(len(features), self.order_seed)
            centres = torch.empty_like(features)
            centres[order] = self.model.running_centre().centres(features[order])
            centres = centres.to(aligner.centre_)
        embeds: Tensor = aligner.image(features.to(aligner.centre_.device), centres)
        return embeds.float().cpu()

    @torch.inference_mode()
    def text_embeds(self, features: Tensor) -> Tensor:
        """Through the aligner's text map."""
        aligner = self.model.aligner
        embeds: Tensor = aligner.text(features.to(aligner.centre_.device))
        return embeds.float().cpu()

    @property
    def scale(self) -> float:
        """The one the model's probabilities have."""
        return self.model.scores.scale

    def centred_on(self, features: Tensor, source: str, strength: float = 0.0) -> Recycled:
        """A copy whose centre is the mean of the pool's unit-norm features, shrunk towards the one it has."""
        aligner = type(self.model.aligner).restore(self.model.aligner.settings, self.model.aligner.tensors)
        aligner.to(self.model.aligner.centre_.device)
        aligner.centre_on(features.to(aligner.centre_.device), strength)
        centre = Centre("pool", len(features), source)
        return Recycled(replace(self.model, aligner=aligner, centre=centre), self.name)

    def online(self, seed: int) -> Recycled:
        """A copy with a running centre, which starts from the one the model has."""
        return replace(self, order_seed=seed)

    def with_pairs(self, pairs: Pairs) -> Recycled:
        """A copy fitted anew, with the aligner's settings, on the model's pairs and these; its centre is the
        aligner's default.
        """
        return self._fitted(self.model.aligner.settings, self.model.aligner.name, pairs)

    def with_aligner(self, name: str) -> Recycled:
        """A copy whose mapping is another, in its default settings, fitted on the model's pairs.

        Raises:
            HeadwordError: if there is no such aligner.
        """
        return replace(self._fitted({}, name, None), name=name)

    def provenance(self) -> dict[str, Any]:
        """The model's, without the scale and threshold of its probabilities: evaluation is by cosines."""
        said = self.model.provenance()
        del said["scores"]
        return said

    def _fitted(self, settings: dict[str, Any], name: str, more: Pairs | None) -> Recycled:
        if self.model.pairs is None:
            raise HeadwordError(f"{self.name} was trained in one space: it has no mapping to fit on pairs")
        pairs = self.model.pairs.to(device=self.model.aligner.centre_.device)
        if more is not None:
            pairs = pairs + more.to(device=pairs.image.device)
        aligner = make_aligner(name, **settings).fit(pairs)
        return Recycled(
            replace(self.model, aligner=aligner, pairs=pairs, centre=Centre("default")), self.name
        )


def arrival(n: int, seed: int) -> Tensor:
    """`[n]` the order in which n images arrive: drawn, since sets list their images class by class."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def open_subject(
    model: str, *, vision: Vision | None = None, device: str = "auto", dtype: str = "auto"
) -> Subject:
    """A model to evaluate, by name.

    Args:
        model: a saved model's folder; "embedded", recycled on the spot; or a CLIP model as the reference:
            "open_clip:ARCHITECTURE/TAG", "open_clip:ARCHITECTURE/CHECKPOINT", "open_clip:hf-hub:ID" or
            "transformers:ID_OR_FOLDER".
        vision: the classifier of a saved model, as in `headword.load`.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto", "float32" or "bfloat16", of the vision encoder.

    Raises:
        HeadwordError: if it is none of these or cannot be loaded.
    """
    if vision is not None and not expand(model).is_dir():
        raise HeadwordError(f"{model} is no saved model's folder, which --vision goes with")
    if model.startswith(("open_clip:", "transformers:")):
        from headword.evaluation.clip import open_reference

        return open_reference(model, device=device)
    if model.partition(":")[0] == "embedded":
        from headword.recycling import recycle

        return Recycled(recycle(model, device=device, dtype=dtype), model)
    if not expand(model).is_dir():
        raise HeadwordError(
            f"there is no model {model!r}: give a saved model's folder, embedded, open_clip:ARCHITECTURE/TAG "
            "or transformers:ID"
        )
    from headword.model import load

    return Recycled(
        load(model, vision=vision, device=device, dtype=None if dtype == "auto" else dtype), model
    )
