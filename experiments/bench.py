"""What recipes measure on: heads, pictures and captions as tensors, each computed once and kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.aligners.pairs import Pairs
from headword.data.captions import read_captions
from headword.data.items import Item
from headword.data.labelled import open_images
from headword.encoders import TextEncoder, VisionEncoder, load_text, load_vision
from headword.encoders.prompts import embed_names
from headword.errors import HeadwordError
from headword.extract import Progress, image_features
from headword.files import expand
from headword.head.names import ClassName

T = TypeVar("T")

CLASSIFICATION = ("cifar10", "caltech101", "tiny_imagenet", "tf_flowers")
"""The sets that zero-shot figures are means of."""

EMBEDDED = "embedded"
"""The head that recipes use unless they say so: EfficientNet-Lite0, ImageNet-1k."""

HEADS = {
    EMBEDDED: "EfficientNet-Lite0",
    "embedded:lite1": "EfficientNet-Lite1",
    "embedded:lite2": "EfficientNet-Lite2",
    "mobilenetv2_100_in1k": "MobileNetV2",
    "mobilenetv2_100_inat_bird": "MobileNetV2, birds",
    "mobilenetv2_100_inat_insect": "MobileNetV2, insects",
}
"""Classifiers by the name they are opened by, and what tables call them; those without "embedded" are
folders of `weights/`.
"""

NOTES = {
    "flickr8k": "flickr8k's pictures are stored squashed to 224 × 224 pixels, not cropped.",
    "imagenet_sample": "imagenet_sample is one training image for each ImageNet-1k class, which the "
    "classifiers have seen in training.",
    "tiny_imagenet": "tiny_imagenet's pictures have 64 × 64 pixels and are enlarged.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A classifier's head, and the text embeddings of its class names."""

    name: str
    title: str
    rows: Tensor
    """`[C, d]`."""
    bias: Tensor
    """`[C]`."""
    classes: tuple[ClassName, ...]
    text: Tensor
    """`[C, k]` unit norm, of the bare names."""

    @property
    def names(self) -> list[str]:
        """The classes' names."""
        return [entry.name for entry in self.classes]

    @property
    def pairs(self) -> Pairs:
        """D_weights of the paper."""
        return Pairs(
            image=self.rows, text=self.text, names=tuple(self.names), source=("head",) * len(self.rows)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A classification set as one encoder sees it."""

    name: str
    features: Tensor
    """`[N, d]`."""
    labels: Tensor
    """`[N]`."""
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """Captioned pictures as a pair of encoders sees them."""

    features: Tensor
    """`[N, d]`."""
    text: Tensor
    """`[M, k]`."""
    owner: Tensor
    """`[M]` the image of each caption, ascending."""


@dataclass(kw_only=True)
class Bench:
    """Heads, sets and captions under one folder, read when first asked for.

    Features are computed in float32 and kept in the cache; class names and captions are embedded once.
    """

    root: Path
    """Has `data/` and `weights/`."""
    device: str = "auto"
    seed: int = 0
    draws: int = 5
    """How often images, shots and captions are drawn."""
    permutations: int = 10_000
    epochs: int | None = None
    """Of fits by gradient descent; the paper's when None."""
    classes: int | None = None
    """The first so many classes of each head alone, for a quick trial."""
    without: tuple[str, ...] = ()
    """Aligners that are left out, by name: those whose fit there is no time for."""
    say: Callable[[str], None] = field(default=lambda _line: None, repr=False)
    """Called with a line when something takes long."""
    progress: Progress | None = field(default=None, repr=False)
    """Called with (done, all) while images are embedded."""

    def __post_init__(self) -> None:
        self._kept: dict[tuple[Any, ...], Any] = {}

    def check(self, sets: Sequence[str], weights: Sequence[str] = ()) -> None:
        """Refuse a folder that lacks a set or a classifier, before a model is loaded.

        Raises:
            HeadwordError: with the first that is missing.
        """
        for place, needed in (("data", sets), ("weights", weights)):
            if needed and not (self.root / place).is_dir():
                raise HeadwordError(
                    f"{self.root} has no folder {place}/; give a folder with data/ and weights/ "
                    "(--data, or HEADWORD_DATA)"
                )
            for name in needed:
                if not (self.root / place / name).is_dir():
                    raise HeadwordError(f"{self.root / place} has no {name}, which this recipe needs")

    def head(self, name: str = EMBEDDED) -> Head:
        """A classifier's head."""
        return self._once(("head", name), lambda: self._head(name))

    def labelled(self, data: str, head: str = EMBEDDED) -> Labelled:
        """A set of class folders, as a classifier's encoder sees it."""
        return self._once(("labelled", data, head), lambda: self._labelled(data, head))

    def captions(self, split: str, head: str = EMBEDDED) -> Captions:
        """A split of flickr8k, as a classifier's encoder and the text encoder see it."""
        return self._once(("captions", split, head), lambda: self._captions(split, head))

    def words(self, texts: Sequence[str], template: str = "{}") -> Tensor:
        """Unit-norm text embeddings `[N, k]`."""
        prompts = tuple(template.replace("{}", text) for text in texts)
        return self._once(("words", prompts), lambda: F.normalize(self.text().encode(prompts), dim=1))

    def vision(self, name: str = EMBEDDED) -> VisionEncoder:
        """A classifier, in float32."""
        spec = name if name.startswith(EMBEDDED) else str(self.root / "weights" / name)
        return self._once(("vision", name), lambda: load_vision(spec, device=self.device, dtype="float32"))

    def text(self) -> TextEncoder:
        """The text encoder."""
        return self._once(("text",), lambda: load_text("embedded", device=self.device))

    def images(self, files: Sequence[Path | Item], what: str, head: str = EMBEDDED) -> Tensor:
        """A classifier's features of some pictures `[N, d]`."""
        self.say(f"{HEADS[head]}: {len(files):,} images of {what}")
        return image_features(self.vision(head), list(files), progress=self.progress)

    def provenance(self, *heads: str) -> dict[str, Any]:
        """Where the encoders came from, by name."""
        vision = {HEADS[name]: self.vision(name).provenance() for name in heads or (EMBEDDED,)}
        return {**vision, "text": self.text().provenance()}

    def generator(self, *parts: int) -> torch.Generator:
        """Random numbers that depend on the seed and on what they are for."""
        number = self.seed
        for part in parts:
            number = (number * 1_000_003 + part + 1) % 2**31
        return torch.Generator().manual_seed(number)

    def _once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        if key not in self._kept:
            self._kept[key] = make()
        kept: T = self._kept[key]
        return kept

    def pairs(self, head: str = EMBEDDED, templates: Sequence[str] = ("{}",)) -> Pairs:
        """A head's rows beside its class names, read in some templates."""
        one = self.head(head)
        words = embed_names(self.text(), one.names, templates)
        return Pairs(image=one.rows, text=words, names=tuple(one.names), source=("head",) * len(one.rows))

    def _head(self, name: str) -> Head:
        head, labels = self.vision(name).named_head()
        n = self.classes or len(labels.classes)
        classes = labels.classes[:n]
        return Head(
            name=name,
            title=HEADS[name],
            rows=head.weight[:n].float().cpu(),
            bias=torch.zeros(n) if head.bias is None else head.bias[:n].float().cpu(),
            classes=classes,
            text=self.words([entry.name for entry in classes]),
        )

    def _labelled(self, data: str, head: str) -> Labelled:
        listed = open_images(os.fspath(self.root / "data" / data))
        features = self.images(listed.images, data, head)
        return Labelled(name=data, features=features, labels=torch.tensor(listed.labels), names=listed.names)

    def _captions(self, split: str, head: str) -> Captions:
        entries = read_captions(self.root / "data" / "flickr8k" / "captions.jsonl", split=split)
        texts = [caption for entry in entries for caption in entry.captions]
        owner = torch.tensor([row for row, entry in enumerate(entries) for _ in entry.captions])
        features = self.images([entry.image for entry in entries], f"flickr8k {split}", head)
        return Captions(features=features, text=self.words(texts), owner=owner)


def data_root(data: Path | None = None) -> Path:
    """The folder with data/ and weights/: the given one, or `$HEADWORD_DATA`.

    Raises:
        HeadwordError: if there is neither, or no such folder.
    """
    named = data or os.environ.get("HEADWORD_DATA")
    if not named:
        raise HeadwordError(
            "there is no data to measure on; set HEADWORD_DATA to a folder with data/ and weights/, or give "
            "it as --data"
        )
    root = expand(named)
    if not root.is_dir():
        raise HeadwordError(f"there is no folder {root}")
    return root
