"""A frozen image encoder: a classifier with the head that was trained on it, or a tower that has none."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import torch
from PIL import Image
from torch import Tensor, nn

from headword.errors import HeadwordError
from headword.files import expand
from headword.head.finding import Head, HeadReader, find_head
from headword.head.names import ClassName, class_names, duplicate_names, placeholders

Transform = Callable[[Image.Image], Tensor]
Vision: TypeAlias = (
    "str | os.PathLike[str] | nn.Module | VisionSource | VisionEncoder "
    "| Sequence[str | os.PathLike[str] | VisionSource | VisionEncoder]"
)
"""What `load_vision` takes."""

Reader = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Transformed images `[N, 3, H, W]` → features `[N, d]`, and what the model itself gives."""


@dataclass(frozen=True, slots=True)
class Labels:
    """A head's class names and where they were found."""

    classes: tuple[ClassName, ...]
    origin: str


@dataclass(slots=True, kw_only=True)
class VisionSource:
    """What a loader hands over: one encoder with all that its own configuration says of it."""

    kind: str
    """Which loader: "embedded", "timm", "torchvision", "transformers", "module" or "trained"."""
    id: str
    """The name to load it by again, in the loader's own words; a folder is absolute."""
    model: nn.Module
    transform: Transform
    """One RGB image → float `[3, H, W]`, as the model's own configuration says."""
    transform_settings: dict[str, Any]
    """The transform in JSON, for the record and for cache keys."""
    input_size: tuple[int, int]
    """(H, W) of a transformed image."""
    tower: bool = False
    """Whether the model is an image tower, whose output is the feature, and not a classifier."""
    head_hint: str | Sequence[str] | None = None
    labels: Labels | None = None
    revision: str | None = None
    licence: str | None = None
    save: Callable[[Path], str] | None = None
    """Writes the model into a folder and returns the file or folder name to load it from, where the
    source can.
    """


@dataclass(slots=True, repr=False)
class VisionEncoder:
    """Images → features, at the input of a classifier's head or out of a tower; see `load_vision`."""

    source: VisionSource
    head: Head | None
    """None for a tower, which has no classes."""
    labels: Labels | None
    """Names of the head's rows."""
    device: torch.device
    dtype: torch.dtype
    reader: Reader
    dim: int
    """Width d of the features."""
    auto_dtype: bool = False
    """Whether the precision was left to choose: then `dtype` holds for short calls only."""
    _fingerprint: str = ""

    def __repr__(self) -> str:
        classes = "" if self.head is None else f"{self.head.n_classes} classes, "
        return f"VisionEncoder({self.name}, {classes}dim {self.dim})"

    @property
    def read_at(self) -> tuple[str, ...]:
        """Dotted names of the layers whose inputs are the features; none for a tower."""
        return () if self.head is None else self.head.modules

    def named_head(self) -> tuple[Head, Labels]:
        """The head and the names of its rows.

        Raises:
            HeadwordError: for a tower, which has none.
        """
        if self.head is None or self.labels is None:
            raise HeadwordError(
                f"{self.name} is an image tower without a classifier's head: it has no classes to recycle"
            )
        return self.head, self.labels

    @property
    def name(self) -> str:
        """kind:id, the whole name of the encoder."""
        return f"{self.source.kind}:{self.source.id}"

    @property
    def fingerprint(self) -> str:
        """sha256 over the model's tensors."""
        if not self._fingerprint:
            self._fingerprint = fingerprint(self.source.model)
        return self._fingerprint

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
        return {
            "kind": self.source.kind,
            "id": self.source.id,
            "revision": self.source.revision,
            "licence": self.source.licence,
            "weights_sha256": self.fingerprint,
            "transform": self.source.transform_settings,
            "dtype": "auto" if self.auto_dtype else str(self.dtype).removeprefix("torch."),
            "head": None
            if self.head is None
            else {
                "modules": list(self.head.modules),
                "classes": self.head.n_classes,
                "dim": self.head.dim,
                "activation": self.head.activation,
                "self_check_error": self.head.error,
            },
            "labels": None
            if self.labels is None
            else {"origin": self.labels.origin, "duplicates": duplicate_names(self.labels.classes)},
        }


def load_vision(
    vision: Vision = "embedded",
    *,
    names: str | Path | Sequence[str | ClassName] | None = None,
    head: str | Sequence[str] | None = None,
    transform: Transform | None = None,
    input_size: int | tuple[int, int] | None = None,
    device: str | torch.device = "auto",
    dtype: str = "auto",
) -> VisionEncoder:
    """Load a classifier, find and check its head, and name its rows.

    Args:
        vision: "embedded" (also "embedded:lite1", "embedded:lite2"); a timm id, "hf-hub:ID" or
            "local-dir:FOLDER"; "torchvision:NAME" or "torchvision:NAME/WEIGHTS"; "transformers:ID"; a folder
            with a timm or transformers model; or your own `nn.Module`, which also needs `transform` and of
            which a copy is taken. A loaded encoder comes back, under new `names` where they are given. A list
            of classifiers is joined into one (docs/joint.md).
        names: class names (a file or a list), in the order of the head's rows; else the model's own are used.
        head: dotted name(s) of the last linear layer, where it is not found by itself.
        transform: for a module: one RGB image → float `[3, H, W]`.
        input_size: for a module: side, or (H, W), of a transformed image; the transform is asked when not
            given.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "float32", "bfloat16" (autocast), or "auto": float32 in short calls, and in long ones what
            the device is fast in (see `headword.extract`).

    Raises:
        HeadwordError: if the model cannot be had, its head is not linear, zero or not finite, or the names
            do not fit.
    """
    if is_joint(vision):
        if transform is not None or input_size is not None:
            raise HeadwordError("transform and input_size go with one module; load it by itself, then join")
        from headword.encoders.joint_vision import load_joint

        return load_joint(vision, names=names, head=head, device=device, dtype=dtype)
    if isinstance(vision, VisionEncoder):
        if any(option is not None for option in (head, transform, input_size)):
            raise HeadwordError(
                "head, transform and input_size go with a classifier, not with a loaded encoder"
            )
        if names is None:
            return vision
        labels = Labels(class_names(names), "class_names")
        found, _ = vision.named_head()
        return dataclasses.replace(vision, labels=check_labels(labels, found, vision.source))
    where = resolve_device(device)
    source = vision if isinstance(vision, VisionSource) else _open(vision, transform, input_size)
    source.model.eval().requires_grad_(False)
    source.model.to(where, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if source.tower:
        return _open_tower(source, where, dtype, given=names is not None or head is not None)
    found = find_head(source.model, _example(source, where), head=head, hint=source.head_hint)
    said = Labels(class_names(names), "class_names") if names is not None else source.labels
    return VisionEncoder(
        source=source,
        head=found,
        labels=check_labels(said, found, source),
        device=where,
        dtype=resolve_dtype(dtype),
        auto_dtype=dtype == "auto",
        reader=HeadReader(source.model, found.modules),
        dim=found.dim,
    )


def _open_tower(source: VisionSource, device: torch.device, dtype: str, *, given: bool) -> VisionEncoder:
    if given:
        raise HeadwordError(
            f"{source.kind}:{source.id} is an image tower without a classifier's head: class names and head "
            "do not apply"
        )

    @torch.inference_mode()
    def read(batch: Tensor) -> tuple[Tensor, Tensor]:
        embedded: Tensor = source.model(batch)
        return embedded, embedded

    return VisionEncoder(
        source=source,
        head=None,
        labels=None,
        device=device,
        dtype=resolve_dtype(dtype),
        auto_dtype=dtype == "auto",
        reader=read,
        dim=read(_example(source, device))[0].shape[1],
    )


def is_joint(vision: object) -> TypeGuard[str | Sequence[Any]]:
    """Whether several classifiers are meant: a list, or a name "joint:A + B"."""
    return isinstance(vision, list | tuple) or (isinstance(vision, str) and vision.startswith("joint:"))


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that "auto", "cpu", "cuda", "cuda:1" or "mps" means here.

    Raises:
        HeadwordError: if it is unknown or not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise HeadwordError(f"unknown device {device!r}; choose auto, cpu, cuda or mps") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(chosen.type, False):
        raise HeadwordError(f"device {device!r} is not available on this machine; choose auto or cpu")
    return chosen


def resolve_dtype(dtype: str) -> torch.dtype:
    """The precision that "auto", "float32" or "bfloat16" means."""
    known = {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise HeadwordError(f"unknown dtype {dtype!r}; choose {', '.join(known)}")
    return known[dtype]


def fingerprint(model: nn.Module) -> str:
    """sha256 over names, shapes and bytes of a model's parameters and buffers, in their order."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _open(
    vision: object,
    transform: Transform | None,
    input_size: int | tuple[int, int] | None,
) -> VisionSource:
    from headword.encoders import vision_sources as sources

    if isinstance(vision, nn.Module):
        if transform is not None:
            check_transform(transform)
        return sources.from_module(_copied(vision), transform, input_size)
    if not isinstance(vision, str | os.PathLike):
        raise HeadwordError(
            f"not a classifier: {type(vision).__name__}; give a name, a folder or an nn.Module"
        )
    spec = os.fspath(vision)
    kind, colon, name = spec.partition(":")
    if colon and kind in sources.LOADERS:
        return sources.LOADERS[kind](name)
    if colon and kind == "module":
        raise HeadwordError(
            f"{spec} is imported only where you name it yourself: headword recycle, inspect and embed, the "
            "option --vision, headword.load(folder, vision=…); elsewhere pass the module"
        )
    if spec == "embedded":
        return sources.LOADERS["embedded"]("lite0")
    if spec and expand(spec).is_dir():
        return sources.from_folder(expand(spec))
    return sources.LOADERS["timm"](spec)


def _copied(model: nn.Module) -> nn.Module:
    """A copy, so that the user's own module keeps its mode, device and gradients."""
    try:
        return copy.deepcopy(model)
    except RuntimeError:  # torch cannot copy tensors that are computed from others, as by the old weight norm
        return model


def check_transform(transform: Transform) -> None:
    """Refuse a transform that does not make a float `[3, H, W]` of an RGB image.

    Raises:
        HeadwordError: with what it makes, or how it fails.
    """
    try:
        made = transform(Image.new("RGB", (64, 48)))
    except Exception as error:
        raise HeadwordError(
            f"transform fails on an RGB image of 64x48: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(made, Tensor) and made.is_floating_point() and made.ndim == 3 and len(made) == 3):
        what = f"{made.dtype} {list(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise HeadwordError(f"transform must make a float tensor [3, H, W] of an RGB image, not {what}")


def _example(source: VisionSource, device: torch.device) -> Tensor:
    """Four random images, the same on every machine."""
    noise = torch.randn(4, 3, *source.input_size, generator=torch.Generator().manual_seed(0))
    return noise.to(device, memory_format=torch.channels_last)


def check_labels(labels: Labels | None, head: Head, source: VisionSource) -> Labels:
    """The labels, if they name each of the head's rows.

    Raises:
        HeadwordError: if there are none, too few or many, or placeholders.
    """
    name = f"{source.kind}:{source.id}"
    if labels is None:
        raise HeadwordError(
            f"{name} does not say what its {head.n_classes} classes are called; give class_names "
            "(--class-names FILE, one name a line in the order of the head's rows)"
        )
    if len(labels.classes) != head.n_classes:
        raise HeadwordError(
            f"{len(labels.classes)} class names ({labels.origin}) for the {head.n_classes} rows of the "
            f"head of {name}; "
            "give exactly one name for each row, in order"
        )
    if placeholders([c.name for c in labels.classes]):
        raise HeadwordError(
            f"the class names of {name} are placeholders ({labels.classes[0].name!r}, …); give class_names "
            "(--class-names FILE)"
        )
    return labels
