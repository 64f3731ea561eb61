"""Several frozen classifiers as one: a picture goes through each, and their features lie side by side.

A joint encoder is an ordinary `VisionEncoder`. Its transform puts the parts' transformed pictures end to end
in one tensor `[3, 1, ΣH·W]`, so that a picture is decoded once and all of extraction works as it is. Parts
with the same class names share the head's rows and their logits are averaged; others keep rows of their own,
zero in the other parts' columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from headword.encoders.vision import Labels, Vision, VisionEncoder, VisionSource
from headword.errors import HeadwordError
from headword.files import expand, read_json, write_text_atomic
from headword.head.finding import Head, logits_of

KIND = "joint"
SEPARATOR = " + "
PARTS = "joint.json"


class JointClassifier(nn.Module):
    """Classifiers side by side: `[N, 3, 1, ΣH·W]` → logits `[N, C]`.

    Sizes are (H, W) of each one's transformed pictures; those of a group have the same classes.
    """

    def __init__(
        self, models: Sequence[nn.Module], sizes: Sequence[tuple[int, int]], groups: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(models)
        self.sizes, self.groups = tuple(sizes), tuple(map(tuple, groups))

    def forward(self, batch: Tensor) -> Tensor:
        """The groups' mean logits, one after the other."""
        pictures = torch.split(batch, [height * width for height, width in self.sizes], dim=3)
        logits = [
            logits_of(part(picture.reshape(len(batch), 3, *size)))
            for part, picture, size in zip(self.parts, pictures, self.sizes, strict=True)
        ]
        return torch.cat(
            [torch.stack([logits[i] for i in group]).mean(dim=0) for group in self.groups], dim=1
        )


def is_joint(vision: object) -> TypeGuard[str | Sequence[Any]]:
    """Whether several classifiers are meant: a list, or a name "joint:A + B"."""
    return isinstance(vision, list | tuple) or (isinstance(vision, str) and vision.startswith(f"{KIND}:"))


def parts_of(vision: str | Sequence[Vision]) -> list[tuple[Vision, tuple[str, str] | None]]:
    """What to load each part by, and its kind and id where a saved model's folder says them: of a list of
    classifiers, "joint:A + B", or "joint:FOLDER", which a saved model holds. A part is not itself joint.
    """
    specs: Sequence[Vision] = vision
    if isinstance(vision, str):
        name = vision.removeprefix(f"{KIND}:")
        folder = expand(name)
        if folder.is_dir():
            if not (folder / PARTS).is_file():
                raise HeadwordError(f"{folder} holds no joint classifier: it has no {PARTS}")
            saved = enumerate(read_json(folder / PARTS)["parts"])
            return [(str(folder / f"part-{n}" / "vision"), (part["kind"], part["id"])) for n, part in saved]
        specs = [spec for spec in name.split(SEPARATOR) if spec]
    if not specs:
        raise HeadwordError("the list of classifiers is empty; give at least one")
    if any(is_joint(spec) for spec in specs):
        raise HeadwordError("a joint classifier cannot be a part of another; list all its parts")
    return [(spec, None) for spec in specs]


def join(parts: Sequence[VisionEncoder]) -> tuple[VisionSource, Head]:
    """Loaded classifiers as one source, and its head; refuses a part that is there twice or has no head."""
    known: set[str] = set()
    for part in parts:
        if part.fingerprint in known:
            raise HeadwordError(f"the classifier {part.name} is given twice; give each part once")
        known.add(part.fingerprint)
    sources = [part.source for part in parts]
    heads, labels = zip(*(part.named_head() for part in parts), strict=True)
    by_names: dict[tuple[str, ...], list[int]] = {}
    for i, one in enumerate(labels):
        by_names.setdefault(tuple(c.name for c in one.classes), []).append(i)
    groups = list(by_names.values())
    sizes = [source.input_size for source in sources]

    def transform(image: Any) -> Tensor:
        return torch.cat([source.transform(image).flatten(1) for source in sources], dim=1)[:, None]

    # One description a class: the first part's of its group, which may have definitions or ids.
    classes = tuple(c for group in groups for c in labels[group[0]].classes)
    source = VisionSource(
        KIND,
        SEPARATOR.join(part.name for part in parts),
        JointClassifier([source.model for source in sources], sizes, groups).eval(),
        transform=transform,
        transform_settings={"library": KIND, "parts": [source.transform_settings for source in sources]},
        input_size=(1, sum(height * width for height, width in sizes)),
        labels=Labels(classes, "; ".join(dict.fromkeys(one.origin for one in labels))),
        licence=", ".join(dict.fromkeys(source.licence or "unknown" for source in sources)),
        parts=tuple(sources),
        save=partial(_save_parts, sources) if all(source.save is not None for source in sources) else None,
    )
    return source, _joined_head(heads, groups)


def _joined_head(heads: Sequence[Head], groups: Sequence[Sequence[int]]) -> Head:
    """The head of `JointClassifier`: rows by group, columns by part."""

    def block(i: int, group: Sequence[int]) -> Tensor:
        if i in group:
            return heads[i].weight / len(group)
        return heads[i].weight.new_zeros(heads[group[0]].n_classes, heads[i].dim)

    rows = [torch.cat([block(i, group) for i in range(len(heads))], dim=1) for group in groups]
    bias = [torch.stack([heads[i].bias for i in group]).mean(dim=0) for group in groups]
    return Head(
        weight=torch.cat(rows),
        bias=torch.cat(bias),
        modules=tuple(f"parts.{i}.{name}" for i, head in enumerate(heads) for name in head.modules),
        activation="none",
        error=max(head.error for head in heads),
        widths=tuple(head.dim for head in heads),
    )


def _save_parts(sources: Sequence[VisionSource], folder: Path) -> str:
    """Each part into `vision/part-N`, as its own source writes it, and what they are into `joint.json`."""
    for n, source in enumerate(sources):
        assert source.save is not None
        target = folder / "vision" / f"part-{n}"
        target.mkdir(parents=True)
        source.save(target)
    parts = [{"kind": source.kind, "id": source.id} for source in sources]
    write_text_atomic(folder / "vision" / PARTS, json.dumps({"parts": parts}, indent=2) + "\n")
    return "vision"
