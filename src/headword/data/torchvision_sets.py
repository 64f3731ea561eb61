"""Data sets of the weight-recycling paper that torchvision has, by name."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from PIL import Image

from headword.cache import evict, place
from headword.data.items import Item, LabelledImages
from headword.data.safe_images import load_image
from headword.data.splits import chosen_split
from headword.errors import HeadwordError


class NamedSet(NamedTuple):
    """How torchvision has a set, and how its classes are spoken of."""

    dataset: str
    """The class in `torchvision.datasets`."""
    kind: str = ""
    """What the set adds to the paper's prompt, "A photo of a {}"."""
    splits: tuple[str, ...] = ("test", "train")
    split_option: str | None = "split"
    """The argument that says the split; `train` is a flag; None where there is but one."""
    options: Mapping[str, Any] = {}


SETS: dict[str, NamedSet] = {
    "cifar10": NamedSet("CIFAR10", split_option="train"),
    "cifar100": NamedSet("CIFAR100", split_option="train"),
    "dtd": NamedSet("DTD", " texture", ("test", "train", "val")),
    "eurosat": NamedSet("EuroSAT", " (aerial photo)", ("all",), split_option=None),
    "flowers102": NamedSet("Flowers102", ", a type of flower", ("test", "train", "val")),
    "food101": NamedSet("Food101", ", a type of food"),
    "pets": NamedSet("OxfordIIITPet", ", a type of pet", ("test", "trainval")),
    "places365": NamedSet("Places365", splits=("val", "train-standard"), options={"small": True}),
}


def open_torchvision_set(name: str, split: str | None, default: Sequence[str]) -> LabelledImages:
    """One of `SETS`, downloaded into the cache, `$HEADWORD_CACHE/datasets/NAME`, if need be."""
    if name not in SETS:
        hint = (
            " (RESISC45 is not torchvision's: use hf: or class folders)" if "resisc" in name.lower() else ""
        )
        raise HeadwordError(f"no torchvision set {name!r} is known here{hint}; there are {', '.join(SETS)}")
    known, source = SETS[name], f"torchvision:{name}"
    split = split or chosen_split(known.splits, default) or known.splits[0]
    if split not in known.splits:
        raise HeadwordError(f"{source} has no split {split!r}; it has {', '.join(known.splits)}")
    import torchvision.datasets

    options = dict(known.options)
    if known.split_option is not None:
        options[known.split_option] = split == "train" if known.split_option == "train" else split
    root = place("datasets", name)
    root.mkdir(parents=True, exist_ok=True)
    make = partial(getattr(torchvision.datasets, known.dataset), str(root), **options)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where it says what it downloads: results go to stdout
            try:
                data = make(download=False)
            except RuntimeError:  # what torchvision says when the files are not there
                data = make(download=True)
        evict()
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise HeadwordError(f"{source} is not in {root} and cannot be downloaded: {reason}") from error
    version = f"{source} {split} {len(data)} {root}"
    rows = range(len(data))
    labels = data.targets if hasattr(data, "targets") else data._labels
    return LabelledImages(
        source,
        tuple(Item(str(row), f"{source}#{row}", partial(_read, data, row), version=version) for row in rows),
        tuple(map(int, labels)),
        tuple(map(words_of, data.classes)),
        templates=(f"A photo of a {{}}{known.kind}",),
        split=split,
    )


def words_of(name: str) -> str:
    """ "AnnualCrop", "/a/airfield/indoor" and "apple_pie" as words."""
    name = re.sub(r"[/_-]", " ", re.sub(r"^/\w/", "", name))
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)


def _read(data: Any, row: int, shrink_to: int | None) -> Image.Image:
    try:
        return load_image(data[row][0], shrink_to=shrink_to)
    except (OSError, ValueError, SyntaxError) as error:
        raise HeadwordError(f"image {row} of {type(data).__name__} cannot be read: {error}") from error
