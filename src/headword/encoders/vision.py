"""A frozen image encoder: a classifier with the head that was trained on it, or a tower that has none."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn

from headword.encoders.base import Encoder, Source, resolve_device, resolve_dtype
from headword.errors import HeadwordError
from headword.head.finding import Head, HeadReader
from headword.head.names import ClassName, duplicate_names

_Named: TypeAlias = "str | os.PathLike[str] | VisionSource | VisionEncoder"
Vision: TypeAlias = "_Named | nn.Module | Sequence[_Named]"
"""What `load_vision` takes."""

Transform = Callable[[Image.Image], Tensor]
"""One RGB image → float `[3, H, W]`."""

Reader = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Transformed images `[N, 3, H, W]` → features `[N, d]`, and what the model itself gives."""


@dataclass(frozen=True, slots=True)
class Labels:
    """A head's class names and where they were found."""

    classes: tuple[ClassName, ...]
    origin: str


def transformed_size(transform: Transform, side: int = 64) -> tuple[int, int]:
    """(H, W) of what a transform makes of a square image."""
    height, width = transform(Image.new("RGB", (side, side))).shape[-2:]
    return int(height), int(width)


@dataclass(slots=True, kw_only=True)
class VisionSource(Source):
    """One image encoder, with all that its own configuration says of it."""

    transform: Transform
    """One RGB image → float `[3, H, W]`, as the model's own configuration says."""
    transform_settings: dict[str, Any]
    """The transform in JSON, for the record and for cache keys."""
    input_size: tuple[int, int]
    """(H, W) of a transformed image."""
    parts: tuple[VisionSource, ...] = ()
    """Of several classifiers side by side: each one's own."""
    tower: bool = False
    """Whether the model is an image tower, whose output is the feature, and not a classifier."""
    head_hint: str | Sequence[str] | None = None
    labels: Labels | None = None


@dataclass(slots=True, repr=False, kw_only=True)
class VisionEncoder(Encoder):
    """Images → features, at the input of a classifier's head or out of a tower; see `load_vision`."""

    source: VisionSource
    head: Head | None
    """None for a tower, which has no classes."""
    labels: Labels | None
    """Names of the head's rows."""
    dtype: torch.dtype
    reader: Reader = field(init=False)
    auto_dtype: bool = False
    """Whether the precision was left to choose: then `dtype` holds for short calls only."""

    def __post_init__(self) -> None:
        model = self.source.model
        self.reader = HeadReader(model, self.head.modules) if self.head else partial(_embedding, model)

    def __repr__(self) -> str:
        classes = "" if self.head is None else f"{self.head.n_classes} classes, "
        return f"VisionEncoder({self.name}, {classes}dim {self.dim})"

    @property
    def read_at(self) -> tuple[str, ...]:
        """Dotted names of the layers whose inputs are the features; none for a tower."""
        return () if self.head is None else self.head.modules

    def named_head(self) -> tuple[Head, Labels]:
        """The head and the names of its rows; a tower has none and is refused."""
        if self.head is None or self.labels is None:
            raise HeadwordError(
                f"{self.name} is an image tower without a classifier's head: it has no classes to recycle"
            )
        return self.head, self.labels

    def preprocess(self, images: Iterable[Image.Image]) -> Tensor:
        """RGB images → float32 `[N, 3, H, W]`."""
        return torch.stack([self.source.transform(image) for image in images])

    def encode(self, batch: Tensor) -> Tensor:
        """Transformed images `[N, 3, H, W]` → float32 features `[N, d]`, on the CPU."""
        batch = batch.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            features, _ = self.reader(batch)
        return features.float().cpu()

    def provenance(self) -> dict[str, Any]:
        """All that is needed to name, find and verify the encoder again, as JSON."""
        head, labels = self.head, self.labels
        return {
            **Encoder.provenance(self),
            "transform": self.source.transform_settings,
            "dtype": "auto" if self.auto_dtype else str(self.dtype).removeprefix("torch."),
            "head": head
            and {
                "modules": list(head.modules),
                "classes": head.n_classes,
                "dim": head.dim,
                "activation": head.activation,
                "self_check_error": head.error,
            },
            "labels": labels and {"origin": labels.origin, "duplicates": duplicate_names(labels.classes)},
        }


@torch.inference_mode()
def _embedding(tower: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    embedded: Tensor = tower(batch)
    return embedded, embedded


class DeferredVision(VisionEncoder):
    """The vision encoder of a saved model, loaded when a picture is first asked about: words do without.

    `record` is the encoder's provenance, as the model was saved with it; `load` gives the encoder itself,
    checked against the record.
    """

    __slots__ = ("_load", "_record")

    def __init__(
        self,
        record: Mapping[str, Any],
        load: Callable[[], VisionEncoder],
        classes: tuple[ClassName, ...],
        device: str | torch.device,
        dtype: str | None,
    ) -> None:
        dtype = dtype or str(record["dtype"])
        # What the model's folder says besides is how it was saved, not what the encoder is.
        beside = ("input_size", "transform_sha256", "saved")
        self._record = {key: value for key, value in record.items() if key not in beside} | {"dtype": dtype}
        self._load = load
        self._fingerprint = record["weights_sha256"]
        self.labels = None if record["labels"] is None else Labels(classes, record["labels"]["origin"])
        self.device, self.dtype = resolve_device(device), resolve_dtype(dtype)
        self.auto_dtype = dtype == "auto"

    def __getattr__(self, name: str) -> Any:
        """A field that is not set yet: the encoder's model, head, reader and width come by loading it."""
        if name not in ("source", "head", "reader", "dim"):
            raise AttributeError(name)
        loaded = self._load()
        for one in dataclasses.fields(VisionEncoder):
            setattr(self, one.name, getattr(loaded, one.name))
        return getattr(self, name)

    def __repr__(self) -> str:
        return f"VisionEncoder({self.name})"

    @property
    def name(self) -> str:
        """kind:id, the whole name of the encoder."""
        return f"{self._record['kind']}:{self._record['id']}"

    def provenance(self) -> dict[str, Any]:
        """The record."""
        return dict(self._record)
