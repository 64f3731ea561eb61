"""A classifier made of words as one module: pictures in, probabilities and embeddings out."""

from __future__ import annotations

import json
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from headword import __version__
from headword.aligners import Aligner
from headword.encoders import TextEncoder, VisionEncoder
from headword.encoders.joint_vision import KIND as JOINT
from headword.errors import HeadwordError
from headword.extract.pixels import PixelPlan, plan_of

ONNX_LIMIT = 2**31
"""Bytes that one ONNX file, a protocol buffer, can hold."""


class ModelParts(Protocol):
    """What is exported of a `DualEncoder`."""

    vision: VisionEncoder
    text: TextEncoder
    aligner: Aligner

    def encode_image(self, images: object) -> Tensor:
        """Images → `[N, D]`."""

    def provenance(self) -> dict[str, Any]:
        """Where every part came from, as JSON."""


class LinearClassifier(Protocol):
    """What is exported of a `Classifier`: logits = embeddings · `coef_`ᵀ + `intercept_`."""

    model: Any
    multi_label: bool

    @property
    def classes_(self) -> Any:
        """Names of the labels `[L]`."""

    @property
    def coef_(self) -> Any:
        """`[L, D]`."""

    @property
    def intercept_(self) -> Any:
        """`[L]`."""

    def predict_proba(self, X: object) -> Any:
        """Probabilities `[N, L]` of images."""


def pixel_plan(vision: VisionEncoder) -> PixelPlan:
    """How pictures are made the pixels that an exported file takes.

    Raises:
        HeadwordError: for an encoder that cannot be exported, and why.
    """
    name = vision.name
    if vision.source.kind == JOINT:
        raise HeadwordError(
            f"{name} cannot be exported: a joint classifier reads each picture once for every part; export "
            "a model of one of its parts"
        )
    if vision.device.type != "cpu":
        raise HeadwordError(f"{name} is on {vision.device}; load the model with device='cpu' to export it")
    plan = plan_of(vision.source)
    if plan is None:
        raise HeadwordError(
            f"{name} cannot be exported: its transform is not one resize, centre crop and normalisation, "
            "which is all that an exported file can say of how pictures become pixels"
        )
    return plan


class PictureGraph(nn.Module):
    """Pixels `[N, 3, H, W]`, RGB in 0…1 → unit-norm embeddings `[N, D]`.

    Args:
        model: whose vision encoder and image side it is.
        plan: how pixels are normalised; larger pictures than its crop lose their margin.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: ModelParts, plan: PixelPlan) -> None:
        super().__init__()
        self.encoder, self.read = model.vision.source.model, model.vision.reader
        self.aligner = model.aligner
        self.crop = plan.crop
        self.register_buffer("mean", torch.tensor(plan.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(plan.std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise, encode, centre, map."""
        height, width = self.crop
        top, left = (pixels.shape[2] - height) // 2, (pixels.shape[3] - width) // 2
        pixels = pixels[:, :, top : top + height, left : left + width]
        features, _ = self.read((pixels - self.mean) / self.std)
        return self.aligner.image(features).float()


class LabelGraph(nn.Module):
    """Pixels `[N, 3, H, W]`, RGB in 0…1 → probabilities `[N, L]` and embeddings `[N, D]`."""

    weight: Tensor
    bias: Tensor

    def __init__(self, pictures: PictureGraph, classifier: LinearClassifier) -> None:
        super().__init__()
        self.pictures = pictures
        self.multi_label = classifier.multi_label
        self.register_buffer("weight", torch.tensor(classifier.coef_, dtype=torch.float32))
        self.register_buffer("bias", torch.tensor(classifier.intercept_, dtype=torch.float32))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Classifier` has it."""
        embeddings = self.pictures(pixels)
        logits = embeddings @ self.weight.T + self.bias
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=1), embeddings


def example_pixels(size: tuple[int, int], number: int = 4) -> Tensor:
    """Smooth pictures `[number, 3, H, W]` in 0…1, the same ones every time."""
    coarse = torch.rand(number, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp_(0, 1)


def check_size(graph: nn.Module, labels: int, dim: int) -> None:
    """Refuse labels with which a graph is larger than one ONNX file can be, before they are encoded."""
    tensors = [*graph.parameters(), *graph.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors) + 4 * labels * (dim + 1)
    if size >= ONNX_LIMIT:
        raise HeadwordError(
            f"one ONNX file holds 2 GB, this with {labels:,} labels is {size / 1e9:.1f}; give fewer labels"
        )


def about(classifier: LinearClassifier) -> dict[str, Any]:
    """What an exported file says of where it came from, as JSON."""
    return {
        "headword": __version__,
        "multi_label": classifier.multi_label,
        "templates": list(getattr(classifier, "templates", None) or ()),
        "model": classifier.model.provenance(),
    }


def metadata(classifier: LinearClassifier, plan: PixelPlan) -> dict[str, str]:
    """The entries of an exported file: `labels`, `preprocessing`, `headword`, each as JSON."""
    content = {
        "labels": [str(name) for name in classifier.classes_],
        "preprocessing": {
            "resize": plan.resize,
            "crop": plan.crop,
            "interpolation": plan.resample.name.lower(),
        },
        "headword": about(classifier),
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in content.items()}
