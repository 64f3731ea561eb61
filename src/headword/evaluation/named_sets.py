"""Data sets by name: Hugging Face's, and those of the weight-recycling paper that torchvision has."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from headword.cache import evict, place
from headword.data.images import load_image
from headword.data.items import Item, RowReader
from headword.data.splits import chosen_split
from headword.encoders.hub import data_sets
from headword.errors import HeadwordError, MissingExtraError
from headword.evaluation.data_sets import LABEL_KEYS, LabelledImages, indexed
from headword.files import expand
from headword.head.names import spoken

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
    options: tuple[tuple[str, Any], ...] = ()


SETS: dict[str, NamedSet] = {
    "cifar10": NamedSet(dataset="CIFAR10", by_train_flag=True),
    "cifar100": NamedSet(dataset="CIFAR100", by_train_flag=True),
    "dtd": NamedSet(dataset="DTD", template="A photo of a {} texture", splits=("test", "train", "val")),
    "eurosat": NamedSet(dataset="EuroSAT", template="A photo of a {} (aerial photo)", splits=("all",)),
    "flowers102": NamedSet(
        dataset="Flowers102", template="A photo of a {}, a type of flower", splits=("test", "train", "val")
    ),
    "food101": NamedSet(dataset="Food101", template="A photo of a {}, a type of food"),
    "pets": NamedSet(
        dataset="OxfordIIITPet", template="A photo of a {}, a type of pet", splits=("test", "trainval")
    ),
    "places365": NamedSet(dataset="Places365", splits=("val", "train-standard"), options=(("small", True),)),
}


def torchvision_set(name: str, split: str | None, default: Sequence[str]) -> LabelledImages:
    """One of `SETS`, downloaded into the cache, `$HEADWORD_CACHE/datasets/NAME`, if need be.

    Raises:
        HeadwordError: for an unknown name or split, or if it is neither there nor to be downloaded.
    """
    if name not in SETS:
        more = (
            " (RESISC45 is not torchvision's: use hf: or class folders)" if "resisc" in name.lower() else ""
        )
        raise HeadwordError(f"no torchvision set {name!r} is known here{more}; there are {', '.join(SETS)}")
    known = SETS[name]
    split = split or chosen_split(known.splits, default) or known.splits[0]
    if split not in known.splits:
        raise HeadwordError(f"torchvision:{name} has no split {split!r}; it has {', '.join(known.splits)}")
    import torchvision.datasets

    options = dict(known.options)
    if known.by_train_flag:
        options["train"] = split == "train"
    elif known.splits != ("all",):
        options["split"] = split
    root = place("datasets", name)
    make = partial(getattr(torchvision.datasets, known.dataset), str(root), **options)
    root.mkdir(parents=True, exist_ok=True)
    try:
        data = _made(make)
        evict()
    except (OSError, RuntimeError) as error:
        raise HeadwordError(
            f"torchvision:{name} is not in {root} and cannot be downloaded: {str(error).splitlines()[0]}"
        ) from error
    labels = _labels(data)
    source = f"torchvision:{name}"
    version = f"{source} {split} {len(data)} {root}"
    return LabelledImages(
        source,
        tuple(
            Item(str(row), f"{source}#{row}", partial(_read, data, row), version=version)
            for row in range(len(data))
        ),
        tuple(labels),
        tuple(map(_spoken, data.classes)),
        templates=(known.template,),
        split=split,
    )


def hugging_face(name: str, split: str | None, default: Sequence[str]) -> LabelledImages:
    """A Hugging Face data set with a column of images and one of labels: a folder that `save_to_disk` wrote,
    or a name on the hub. Where no split is named, it is the first of `default` there, else its only one.

    Raises:
        HeadwordError: if it cannot be had, has no such split, no image or no label column.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtraError("reading Hugging Face data sets", "eval") from None
    folder = expand(name)
    try:
        with data_sets():
            found = datasets.load_from_disk(str(folder)) if folder.is_dir() else datasets.load_dataset(name)
    except (OSError, ValueError) as error:  # its own errors, ConnectionError among them, derive from these
        raise HeadwordError(f"cannot read the data set hf:{name}: {str(error).splitlines()[0]}") from error
    if isinstance(found, dict):
        there = list(found)
        split = split or chosen_split(there, default) or (there[0] if len(there) == 1 else None)
        if split is None:
            raise HeadwordError(f"hf:{name} has the splits {', '.join(there)}; say which with split")
        if split not in there:
            raise HeadwordError(f"hf:{name} has no split {split!r}; its splits are {', '.join(there)}")
        found = found[split]
    elif split is not None:
        raise HeadwordError(f"hf:{name} is one split, so it has no split {split!r}")
    kinds = found.features
    image = next((key for key, kind in kinds.items() if isinstance(kind, datasets.Image)), None)
    label = next((key for key, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)), None)
    label = label or next((key for key in LABEL_KEYS if key in kinds), None)
    if image is None or label is None:
        what = "images" if image is None else "labels"
        raise HeadwordError(f"hf:{name} has no column of {what}; it has {', '.join(kinds)}")
    said = found[label]
    if isinstance(kinds[label], datasets.ClassLabel):
        names, labels = tuple(map(_spoken, kinds[label].names)), tuple(map(int, said))
        if labels and min(labels) < 0:
            raise HeadwordError(f"hf:{name}: the split {split!r} has no labels; choose another")
    else:
        keys, labels = indexed([str(value) for value in said])
        names = spoken(keys)
    raw = found.cast_column(image, datasets.Image(decode=False))
    version = f"hf {found._fingerprint}"
    return LabelledImages(
        f"hf:{name}",
        tuple(
            Item(str(row), where := f"hf:{name}#{row}", RowReader(raw, image, row, where), version=version)
            for row in range(len(raw))
        ),
        labels,
        names,
        split=split,
    )


def _made(make: Callable[..., Any]) -> Any:
    with contextlib.redirect_stdout(sys.stderr):  # where it says what it downloads: results go to stdout
        try:
            return make(download=False)
        except RuntimeError:  # what torchvision says when the files are not there
            return make(download=True)


def _labels(data: Any) -> list[int]:
    for attribute in ("targets", "_labels"):
        if hasattr(data, attribute):
            return [int(label) for label in getattr(data, attribute)]
    return [int(label) for _, label in data.samples]


def _read(data: Any, row: int, shrink_to: int | None) -> Image.Image:
    try:
        return load_image(data[row][0], shrink_to=shrink_to)
    except (OSError, ValueError, SyntaxError) as error:
        raise HeadwordError(f"image {row} of {type(data).__name__} cannot be read: {error}") from error


def _spoken(name: str) -> str:
    """ "AnnualCrop", "/a/airfield/indoor" and "apple_pie" as words."""
    name = re.sub(r"^/\w/", "", name).replace("/", " ").replace("_", " ").replace("-", " ")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
