"""Data sets of the weight-recycling paper that torchvision has, by name."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from PIL import Image

from headword.cache import evict, place
from headword.data.images import load_image
from headword.data.items import Item
from headword.data.splits import chosen_split
from headword.errors import HeadwordError

PHOTO = "A photo of a {}"
"""The paper's prompt; what a set adds to it follows in `SETS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSet:
    """How torchvision has a set, and how its classes are spoken of."""

    dataset: str
    """The class in `torchvision.datasets`."""
    template: str = PHOTO
    splits: tuple[str, ...] = ("test", "train")
    by_train_flag: bool = False
    """Whether the split is torchvision's `train=`."""
    options: dict[str, Any] = field(default_factory=dict)


SETS: dict[str, NamedSet] = {
    "cifar10": NamedSet(dataset="CIFAR10", by_train_flag=True),
    "cifar100": NamedSet(dataset="CIFAR100", by_train_flag=True),
    "dtd": NamedSet(dataset="DTD", template=f"{PHOTO} texture", splits=("test", "train", "val")),
    "eurosat": NamedSet(dataset="EuroSAT", template=f"{PHOTO} (aerial photo)", splits=("all",)),
    "flowers102": NamedSet(
        dataset="Flowers102", template=f"{PHOTO}, a type of flower", splits=("test", "train", "val")
    ),
    "food101": NamedSet(dataset="Food101", template=f"{PHOTO}, a type of food"),
    "pets": NamedSet(
        dataset="OxfordIIITPet", template=f"{PHOTO}, a type of pet", splits=("test", "trainval")
    ),
    "places365": NamedSet(dataset="Places365", splits=("val", "train-standard"), options={"small": True}),
}


class TorchvisionSet(NamedTuple):
    """A set of torchvision's, opened."""

    images: tuple[Item, ...]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    split: str
    template: str


def open_torchvision_set(name: str, split: str | None, default: Sequence[str]) -> TorchvisionSet:
    """One of `SETS`, downloaded into the cache, `$HEADWORD_CACHE/datasets/NAME`, if need be.

    Raises:
        HeadwordError: for an unknown name or split, or if it is neither there nor to be downloaded.
    """
    if name not in SETS:
        more = (
            " (RESISC45 is not torchvision's: use hf: or class folders)" if "resisc" in name.lower() else ""
        )
        raise HeadwordError(f"no torchvision set {name!r} is known here{more}; there are {', '.join(SETS)}")
    known, source = SETS[name], f"torchvision:{name}"
    split = split or chosen_split(known.splits, default) or known.splits[0]
    if split not in known.splits:
        raise HeadwordError(f"{source} has no split {split!r}; it has {', '.join(known.splits)}")
    import torchvision.datasets

    options = dict(known.options)
    if known.by_train_flag:
        options["train"] = split == "train"
    elif known.splits != ("all",):
        options["split"] = split
    root = place("datasets", name)
    root.mkdir(parents=True, exist_ok=True)
    try:
        data = _open(partial(getattr(torchvision.datasets, known.dataset), str(root), **options))
        evict()
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise HeadwordError(f"{source} is not in {root} and cannot be downloaded: {reason}") from error
    version = f"{source} {split} {len(data)} {root}"
    return TorchvisionSet(
        tuple(
            Item(str(row), f"{source}#{row}", partial(_read, data, row), version=version)
            for row in range(len(data))
        ),
        _labels(data),
        tuple(map(words_of, data.classes)),
        split,
        known.template,
    )


def words_of(name: str) -> str:
    """ "AnnualCrop", "/a/airfield/indoor" and "apple_pie" as words."""
    name = re.sub(r"[/_-]", " ", re.sub(r"^/\w/", "", name))
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)


def _open(make: Callable[..., Any]) -> Any:
    with contextlib.redirect_stdout(sys.stderr):  # where it says what it downloads: results go to stdout
        try:
            return make(download=False)
        except RuntimeError:  # what torchvision says when the files are not there
            return make(download=True)


def _labels(data: Any) -> tuple[int, ...]:
    for attribute in ("targets", "_labels"):
        if hasattr(data, attribute):
            return tuple(map(int, getattr(data, attribute)))
    return tuple(int(label) for _, label in data.samples)


def _read(data: Any, row: int, shrink_to: int | None) -> Image.Image:
    try:
        return load_image(data[row][0], shrink_to=shrink_to)
    except (OSError, ValueError, SyntaxError) as error:
        raise HeadwordError(f"image {row} of {type(data).__name__} cannot be read: {error}") from error
