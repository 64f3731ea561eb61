"""Labelled images from where people keep them.

| `data` | what | splits |
|---|---|---|
| a folder | class folders, or `SPLIT/CLASS/…` with a split | its subfolders |
| `FILE.csv`, `.tsv` | columns `image`, `label`, perhaps `split` | column `split` |
| `wds:PATTERN` or `….tar` | WebDataset shards with a `.cls` or `.txt` beside each image | a subfolder |
| `hf:NAME` | a Hugging Face data set: a hub name, or a folder of `save_to_disk` | its own |
| `torchvision:NAME` | a set of `headword.evaluation.named_sets.SETS` | its own |

Where no split is named, it is the test split of data that have one, else their validation split, else all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headword.data.captions import IMAGE_KEYS
from headword.data.folders import class_folders
from headword.data.items import Item
from headword.data.splits import TESTED, TRAINED, chosen_split, parts, pooled
from headword.data.tables import beside, text_rows
from headword.errors import HeadwordError
from headword.files import expand
from headword.head.names import spoken

LABEL_KEYS = ("label", "class", "class_name", "category", "target")
_SPLITS = {*TRAINED, *TESTED}


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Images and their classes."""

    source: str
    images: tuple[Path | Item, ...]
    labels: tuple[int, ...]
    """For each image, the place of its class in `names`."""
    names: tuple[str, ...]
    """What the classes are called."""
    templates: tuple[str, ...] | None = None
    """The prompts that are usual for this set, where it has some."""
    split: str | None = None


def open_images(
    data: str,
    *,
    split: str | None = None,
    default: Sequence[str] = TESTED,
    class_names: Sequence[str] | None = None,
) -> LabelledImages:
    """Labelled images by name; nothing is decoded yet.

    Args:
        data: as in the table above.
        split: which part.
        default: which where none is named: the first of these that the data have, else all of them.
        class_names: other names for the classes, in the order of the set's own.

    Raises:
        HeadwordError: if the data or the split is not there, a class has no image, there are fewer than two
            classes, or the names do not fit the labels.
    """
    scheme, colon, rest = data.partition(":")
    path = expand(data)
    if colon and scheme == "hf":
        from headword.evaluation.named_sets import hugging_face

        found = hugging_face(rest, split, default)
    elif colon and scheme == "torchvision":
        from headword.evaluation.named_sets import torchvision_set

        found = torchvision_set(rest, split, default)
    elif (colon and scheme == "wds") or path.suffix == ".tar":
        from headword.evaluation.shard_sets import shards

        found = shards(rest if scheme == "wds" else data, split, default)
    elif path.suffix.lower() in {".csv", ".tsv"}:
        found = _table(path, split, default)
    elif path.is_file():
        raise HeadwordError(
            f"{path} is no labelled images: give class folders, a .csv with image and label, "
            "hf:NAME, torchvision:NAME or wds:SHARDS"
        )
    else:
        found = _folders(path, split, default)
    if class_names is not None:
        found = replace(found, names=_renamed(found, tuple(class_names)))
    if len(found.names) < 2:
        raise HeadwordError(
            f"{data} has one class only ({found.names[0]!r}); classification needs at least two"
        )
    return found


def _folders(root: Path, split: str | None, default: Sequence[str]) -> LabelledImages:
    folder = root
    if split is not None:
        folder = root / split
        if root.is_dir() and not folder.is_dir():
            there = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
            known = ", ".join(there[:10]) + (", …" if len(there) > 10 else "")
            raise HeadwordError(f"{root} has no split {split!r}; its subfolders are {known or 'none'}")
    found = class_folders(folder)
    if split is None and set(found.names) <= _SPLITS:
        if (split := chosen_split(found.names, default)) is None:
            raise HeadwordError(
                f"{root} has splits, not classes: {', '.join(found.names)}; say which with split"
            )
        return _folders(root, split, default)
    return LabelledImages(str(root), found.paths, found.labels, spoken(found.names), split=split)


def _table(path: Path, split: str | None, default: Sequence[str]) -> LabelledImages:
    images: list[Path] = []
    labels: list[str] = []
    splits: list[str | None] = []
    for where, row in text_rows(path):
        image_key = next((key for key in IMAGE_KEYS if key in row), None)
        label_key = next((key for key in LABEL_KEYS if key in row), None)
        if image_key is None or label_key is None:
            what, known = ("image", IMAGE_KEYS) if image_key is None else ("label", LABEL_KEYS)
            columns = ", ".join(row) or "none"
            raise HeadwordError(
                f"{path} has no {what} column: it has {columns}; known are {', '.join(known)}"
            )
        if not row[image_key] or not row[label_key]:
            raise HeadwordError(f"{where} needs an image and a label, one column each")
        splits.append(row.get("split") or None)
        images.append(beside(path, row[image_key]))
        labels.append(row[label_key].strip())
    known_splits = {name for name in splits if name is not None}
    split = split or chosen_split(known_splits, default)
    wanted = known_splits if split is None else parts(split)
    if unknown := sorted(wanted - known_splits):
        listed = f"its splits are {', '.join(sorted(known_splits))}" if known_splits else "it has no splits"
        raise HeadwordError(f"{path} has no split {unknown[0]!r}; {listed}")
    kept = [row for row, name in enumerate(splits) if split is None or name in wanted]
    if not kept:
        raise HeadwordError(f"{path} has no images in it")
    keys, numbers = indexed([labels[row] for row in kept])
    chosen = pooled([splits[row] for row in kept])
    return LabelledImages(str(path), tuple(images[row] for row in kept), numbers, spoken(keys), split=chosen)


def indexed(labels: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Labels as words or numbers → the different ones in order, and each label's place among them."""
    different = set(labels)
    numeric = all(re.fullmatch(r"\d{1,18}", label) for label in different)
    keys = sorted(different, key=int) if numeric else sorted(different)
    place = {label: number for number, label in enumerate(keys)}
    return tuple(keys), tuple(place[label] for label in labels)


def _renamed(found: LabelledImages, names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) != len(found.names):
        raise HeadwordError(
            f"{len(names)} class names for the {len(found.names)} classes of {found.source} "
            f"({', '.join(found.names[:3])}, …); give one for each, in that order"
        )
    return names
