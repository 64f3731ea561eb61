"""`load_vision` and `load_text`: an encoder by its name, its folder, or a module of one's own."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from headword.encoders import text_sources, vision_sources
from headword.encoders.base import Source, resolve_device, resolve_dtype
from headword.encoders.joint_vision import is_joint, join, parts_of
from headword.encoders.text import TextEncoder, TextSource
from headword.encoders.vision import Labels, Transform, Vision, VisionEncoder, VisionSource
from headword.errors import HeadwordError, near
from headword.files import expand
from headword.head.finding import Head, find_head
from headword.head.names import ClassName, class_names, placeholders

TOKENS = "tokens"  # as a head: what tells captions' words from patches, see `headword.encoders.token_head`
Names = str | Path | Sequence[str | ClassName]
_Source = TypeVar("_Source", bound=Source)


def load_vision(
    vision: Vision = "embedded",
    *,
    names: Names | None = None,
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
            of classifiers, or "joint:A + B", is joined into one (docs/joint.md).
        names: class names (a file or a list), in the order of the head's rows; else the model's own are used.
        head: dotted name(s) of the last linear layer, where it is not found by itself; or "tokens", for the
            token head that `headword train` kept beside a model, whose folder is `vision`.
        transform: for a module: one RGB image → float `[3, H, W]`.
        input_size: for a module: side, or (H, W), of a transformed image; the transform is asked when not
            given.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "float32", "bfloat16" (autocast), or "auto": float32 in short calls, and in long ones what
            the device is fast in (see `headword.extract`).

    Raises:
        HeadwordError: if the model cannot be had, its head is not linear, zero or not finite, or the names
            do not fit; for joined ones, if there is no part, or one twice.
    """
    own = transform is not None or input_size is not None
    if own and is_joint(vision):
        raise HeadwordError("transform and input_size go with one module; load it by itself, then join")
    if isinstance(vision, VisionEncoder):
        if own or head is not None:
            raise HeadwordError(
                "head, transform and input_size go with a classifier, not with a loaded encoder"
            )
        if names is None:
            return vision
        return dataclasses.replace(vision, labels=_labels(names, vision.source, vision.named_head()[0]))
    if head in (TOKENS, [TOKENS]) and isinstance(vision, str | os.PathLike):
        vision, head = f"{TOKENS}:{os.fspath(vision)}", None
    where = resolve_device(device)
    found: Head | None = None
    if is_joint(vision):
        source, found = _joined(vision, head, where, dtype)
        dim = found.dim
    else:
        source = vision if isinstance(vision, VisionSource) else _vision_source(vision, transform, input_size)
        source.model.eval().requires_grad_(False)
        source.model.to(where, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Four random images, the same on every machine.
        example = torch.randn(4, 3, *source.input_size, generator=torch.Generator().manual_seed(0))
        example = example.to(where, memory_format=torch.channels_last)
        if not source.tower:
            found = find_head(source.model, example, head=head, hint=source.head_hint)
            dim = found.dim
        elif names is not None or head is not None:
            raise HeadwordError(
                f"{source.name} is an image tower without a classifier's head: class names and head do not "
                "apply"
            )
        else:
            with torch.inference_mode():
                dim = source.model(example).shape[1]
    labels = None if found is None else _labels(names, source, found)
    return VisionEncoder(
        source=source,
        device=where,
        dim=dim,
        head=found,
        labels=labels,
        dtype=resolve_dtype(dtype),
        auto_dtype=dtype == "auto",
    )


def load_text(
    text: str | os.PathLike[str] | TextSource | TextEncoder = "embedded",
    *,
    device: str | torch.device = "auto",
) -> TextEncoder:
    """Load a text encoder.

    Args:
        text: "embedded" (all-MiniLM-L6-v2); a sentence-transformers id or folder;
            "open_clip:ARCHITECTURE/WEIGHTS" (WEIGHTS a tag or a file) or "open_clip:hf-hub:ID";
            "transformers:ID" (mean over the last layer's tokens).
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        HeadwordError: if the model cannot be had.
    """
    if isinstance(text, TextEncoder):
        return text
    where = resolve_device(device)
    source = text if isinstance(text, TextSource) else _text_source(os.fspath(text))
    source.model.eval().requires_grad_(False).to(where)
    with torch.inference_mode():
        probe = source.embed(["a photo"])
    if probe.ndim != 2 or not torch.isfinite(probe).all():
        raise HeadwordError(f"the text encoder {source.name} gives no finite vector for 'a photo'")
    return TextEncoder(source, where, int(probe.shape[1]))


def _labels(names: Names | None, source: VisionSource, head: Head) -> Labels:
    labels = source.labels if names is None else Labels(class_names(names), "class_names")
    if labels is None:
        raise HeadwordError(
            f"{source.name} does not say what its {head.n_classes} classes are called; give class_names "
            "(--class-names FILE, one name a line in the order of the head's rows)"
        )
    if len(labels.classes) != head.n_classes:
        raise HeadwordError(
            f"{len(labels.classes)} class names ({labels.origin}) for the {head.n_classes} rows of the head "
            f"of {source.name}; give exactly one name for each row, in order"
        )
    if placeholders([c.name for c in labels.classes]):
        raise HeadwordError(
            f"the class names of {source.name} are placeholders ({labels.classes[0].name!r}, …); give "
            "class_names (--class-names FILE)"
        )
    return labels


def _joined(
    vision: str | Sequence[Vision], head: str | Sequence[str] | None, device: torch.device, dtype: str
) -> tuple[VisionSource, Head]:
    parts = []
    for spec, known_as in parts_of(vision):
        part = load_vision(spec, device=device, dtype=dtype)
        if known_as is not None:
            part.source.kind, part.source.id = known_as
        parts.append(part)
    source, joined = join(parts)
    if head is not None and tuple(head) != joined.modules:
        raise HeadwordError("head goes with one classifier; load each part by itself where one needs it")
    return source, joined


def _vision_source(
    vision: object, transform: Transform | None, input_size: int | tuple[int, int] | None
) -> VisionSource:
    if isinstance(vision, nn.Module):
        return vision_sources.from_module(_copied(vision), transform, input_size)
    if not isinstance(vision, str | os.PathLike):
        raise HeadwordError(
            f"not a classifier: {type(vision).__name__}; give a name, a folder or an nn.Module"
        )
    spec = os.fspath(vision)
    source = _named(spec, vision_sources.SOURCES, embedded="lite0")
    if source is not None:
        return source
    if spec.startswith("module:"):
        raise HeadwordError(
            f"{spec} is imported only where you name it yourself: headword recycle, inspect and embed, the "
            "option --vision, headword.load(folder, vision=…); elsewhere pass the module"
        )
    if spec and expand(spec).is_dir():
        return vision_sources.from_folder(expand(spec))
    return vision_sources.from_timm(spec)


def _text_source(spec: str) -> TextSource:
    sources = text_sources.SOURCES
    source = _named(spec, sources, embedded="minilm")
    if source is not None:
        return source
    misspelt = "/" not in spec and near(spec.partition(":")[0], sources)
    if misspelt:
        raise HeadwordError(
            f"there is no text encoder {spec!r}{misspelt} Kinds: {', '.join(sources)}, a "
            "sentence-transformers id, a folder"
        )
    return text_sources.from_sentence_transformers(spec)


def _named(spec: str, sources: Mapping[str, Callable[[str], _Source]], *, embedded: str) -> _Source | None:
    """What "KIND:NAME" or "embedded" means; None for a name without a kind."""
    if spec == "embedded":
        return sources[spec](embedded)
    kind, colon, name = spec.partition(":")
    return sources[kind](name) if colon and kind in sources else None


def _copied(model: nn.Module) -> nn.Module:
    """A copy, so that the user's own module keeps its mode, device and gradients."""
    try:
        return copy.deepcopy(model)
    except RuntimeError:  # torch cannot copy tensors that are computed from others, as by the old weight norm
        return model
