"""Several frozen classifiers as one: a picture goes through each, and their features lie side by side.

A joint encoder is an ordinary `VisionEncoder`. Its transform puts the parts' transformed pictures end to end
in one tensor `[3, 1, ΣH·W]`, so that a picture is decoded once and all of extraction works as it is. Parts
with the same class names share the head's rows and their logits are averaged; others keep rows of their own,
zero in the other parts' columns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from headword.encoders.vision import (
    Labels,
    VisionEncoder,
    VisionSource,
    check_labels,
    is_joint,
    load_vision,
    resolve_device,
    resolve_dtype,
)
from headword.errors import HeadwordError
from headword.files import expand, read_json, write_text_atomic
from headword.head.finding import Head, HeadReader, logits_of
from headword.head.names import ClassName, class_names

KIND = "joint"
SEPARATOR = " + "
PARTS = "joint.json"
Part: TypeAlias = str | os.PathLike[str] | nn.Module | VisionSource | VisionEncoder


class JointClassifier(nn.Module):
    """Classifiers side by side: `[N, 3, 1, ΣH·W]` → logits `[N, C]`.

    Args:
        models: the classifiers.
        sizes: (H, W) of each one's transformed pictures.
        groups: which of them have the same classes; their logits are averaged.
    """

    def __init__(
        self, models: Sequence[nn.Module], sizes: Sequence[tuple[int, int]], groups: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(models)
        self.sizes = tuple(sizes)
        self.groups = tuple(tuple(group) for group in groups)

    def forward(self, batch: Tensor) -> Tensor:
        """The groups' mean logits, one after the other."""
        lengths = [height * width for height, width in self.sizes]
        pictures = [
            pixels.reshape(len(batch), 3, *size)
            for pixels, size in zip(torch.split(batch, lengths, dim=3), self.sizes, strict=True)
        ]
        logits = [logits_of(part(picture)) for part, picture in zip(self.parts, pictures, strict=True)]
        return torch.cat(
            [torch.stack([logits[i] for i in group]).mean(dim=0) for group in self.groups], dim=1
        )


def load_joint(
    vision: str | Sequence[Part],
    *,
    names: str | Path | Sequence[str | ClassName] | None = None,
    head: str | Sequence[str] | None = None,
    device: str | torch.device = "auto",
    dtype: str = "auto",
) -> VisionEncoder:
    """Load classifiers and join them; see `load_vision`, which takes the same.

    Args:
        vision: the classifiers, each as for `load_vision`, or "joint:A + B", or "joint:FOLDER", which a saved
            model holds. A module of your own goes through `load_vision` first.
        names: class names of all rows; the parts' own when not given.
        head: None, or the parts' layers as a joint encoder's own provenance names them.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto", "float32" or "bfloat16".

    Raises:
        HeadwordError: if there is no part or one twice, or a part cannot be had.
    """
    parts = _load_parts(vision, resolve_device(device), dtype)
    twice = [
        part.name for n, part in enumerate(parts) if part.fingerprint in {p.fingerprint for p in parts[:n]}
    ]
    if twice:
        raise HeadwordError(f"the classifier {twice[0]} is given twice; give each part once")
    groups = _groups(parts)
    joined = _joined_head(parts, groups)
    if head is not None and tuple(head) != joined.modules:
        raise HeadwordError("head goes with one classifier; load each part by itself where one needs it")
    source = _source(parts, groups)
    said = source.labels if names is None else Labels(class_names(names), "class_names")
    return VisionEncoder(
        source=source,
        head=joined,
        labels=check_labels(said, joined, source),
        device=parts[0].device,
        dtype=resolve_dtype(dtype),
        auto_dtype=dtype == "auto",
        dim=joined.dim,
        reader=HeadReader(source.model, joined.modules),
    )


def _load_parts(vision: str | Sequence[Part], device: torch.device, dtype: str) -> list[VisionEncoder]:
    if not isinstance(vision, str):
        specs: Sequence[Part] = vision
    elif expand(name := vision.removeprefix(f"{KIND}:")).is_dir():
        return _copied_parts(expand(name), device, dtype)
    else:
        specs = [spec for spec in name.split(SEPARATOR) if spec]
    if not specs:
        raise HeadwordError("the list of classifiers is empty; give at least one")
    if any(is_joint(spec) for spec in specs):
        raise HeadwordError("a joint classifier cannot be a part of another; list all its parts")
    return [load_vision(spec, device=device, dtype=dtype) for spec in specs]


def _groups(parts: Sequence[VisionEncoder]) -> list[list[int]]:
    """Parts of the same class names, in order."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, part in enumerate(parts):
        groups.setdefault(tuple(c.name for c in part.named_head()[1].classes), []).append(i)
    return list(groups.values())


def _joined_head(parts: Sequence[VisionEncoder], groups: Sequence[Sequence[int]]) -> Head:
    """The head of `JointClassifier`: rows by group, columns by part."""
    heads, rows = [part.named_head()[0] for part in parts], []
    for group in groups:
        count = heads[group[0]].n_classes
        blocks = [
            head.weight / len(group) if i in group else head.weight.new_zeros(count, head.dim)
            for i, head in enumerate(heads)
        ]
        rows.append(torch.cat(blocks, dim=1))
    bias = [torch.stack([heads[i].bias for i in group]).mean(dim=0) for group in groups]
    return Head(
        weight=torch.cat(rows),
        bias=torch.cat(bias),
        modules=tuple(f"parts.{i}.{name}" for i, head in enumerate(heads) for name in head.modules),
        activation="none",
        error=max(head.error for head in heads),
        widths=tuple(head.dim for head in heads),
    )


def _source(parts: Sequence[VisionEncoder], groups: Sequence[Sequence[int]]) -> VisionSource:
    sources, labels = [part.source for part in parts], [part.named_head()[1] for part in parts]
    sizes = [source.input_size for source in sources]
    # One description a class: the first part's of its group, which may have definitions or ids.
    classes = tuple(c for group in groups for c in labels[group[0]].classes)
    licences = list(dict.fromkeys(source.licence or "unknown" for source in sources))

    def transform(image: Any) -> Tensor:
        return torch.cat([source.transform(image).flatten(1) for source in sources], dim=1)[:, None]

    def save(folder: Path) -> str:
        return _save_parts(sources, folder)

    return VisionSource(
        kind=KIND,
        id=SEPARATOR.join(part.name for part in parts),
        model=JointClassifier([source.model for source in sources], sizes, groups).eval(),
        transform=transform,
        transform_settings={"library": KIND, "parts": [source.transform_settings for source in sources]},
        input_size=(1, sum(height * width for height, width in sizes)),
        labels=Labels(classes, "; ".join(dict.fromkeys(one.origin for one in labels))),
        licence=", ".join(licences),
        save=save if all(source.save is not None for source in sources) else None,
    )


def _save_parts(sources: Sequence[VisionSource], folder: Path) -> str:
    """Each part into `vision/part-N`, as its own source writes it, and what they are into `joint.json`."""
    said = []
    for n, source in enumerate(sources):
        assert source.save is not None
        target = folder / "vision" / f"part-{n}"
        target.mkdir(parents=True)
        source.save(target)
        said.append({"kind": source.kind, "id": source.id})
    write_text_atomic(folder / "vision" / PARTS, json.dumps({"parts": said}, indent=2) + "\n")
    return "vision"


def _copied_parts(folder: Path, device: torch.device, dtype: str) -> list[VisionEncoder]:
    if not (folder / PARTS).is_file():
        raise HeadwordError(f"{folder} holds no joint classifier: it has no {PARTS}")
    said = read_json(folder / PARTS)["parts"]
    parts = []
    for n, one in enumerate(said):
        part = load_vision(str(folder / f"part-{n}" / "vision"), device=device, dtype=dtype)
        part.source.kind, part.source.id = one["kind"], one["id"]
        parts.append(part)
    return parts
