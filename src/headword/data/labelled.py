"""Labelled images from where people keep them.

| `data` | what | splits |
|---|---|---|
| a folder | class folders, or `SPLIT/CLASS/…` with a split | its subfolders |
| `.csv`, `.tsv`, `.jsonl`, `.parquet` | columns `image`, `label`, perhaps `split` | column `split` |
| `wds:PATTERN` or `….tar` | WebDataset shards with a `.cls` or `.txt` beside each image | a subfolder |
| `hf:NAME` | a Hugging Face data set: a hub name, or a folder of `save_to_disk` | its own |
| `torchvision:NAME` | a set of `headword.data.torchvision_sets.SETS` | its own |

Where no split is named, it is the test split of data that have one, else their validation split, else all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from headword.data.folders import class_folders
from headword.data.hub_sets import open_hub_set, picture_items
from headword.data.items import Item, LabelledImages, file_item
from headword.data.splits import TESTED, TRAINED, chosen_split, of_split, pooled
from headword.data.tables import IMAGE_KEYS, LABEL_KEYS, TABLES, beside, column, table_rows
from headword.data.tars import local_shards, members
from headword.data.torchvision_sets import open_torchvision_set, words_of
from headword.errors import HeadwordError
from headword.files import expand, open_file, read_text
from headword.head.names import spoken

_SPLITS = {*TRAINED, *TESTED}
_SHARD_LABELS = (".cls", ".cls.txt", ".txt", ".label")
_LONGEST_LABEL = 10_000  # bytes that are read of one


def open_images(
    data: str,
    *,
    split: str | None = None,
    default: Sequence[str] = TESTED,
    class_names: Sequence[str] | None = None,
    fewest: int = 2,
) -> LabelledImages:
    """Labelled images by name, as in the table above; nothing is decoded yet.

    Args:
        data: where they are.
        split: which part.
        default: which where none is named: the first of these that the data have, else all of them.
        class_names: other names for the classes, in the order of the set's own.
        fewest: classes that there must be.

    Raises:
        HeadwordError: if the data or the split is not there, a class has no image, there are too few
            classes, or the names do not fit the labels.
    """
    scheme, _, rest = data.partition(":")
    path = expand(data)
    if scheme == "hf":
        result = _hub_set(rest, split, default)
    elif scheme == "torchvision":
        result = open_torchvision_set(rest, split, default)
    elif scheme == "wds" or path.suffix == ".tar":
        result = _shards(rest if scheme == "wds" else data, split, default)
    elif path.suffix.lower() in TABLES:
        result = _table(path, split, default)
    elif path.is_file():
        raise HeadwordError(
            f"{path} is no labelled images: give class folders, a .csv with image and label, "
            "hf:NAME, torchvision:NAME or wds:SHARDS"
        )
    else:
        result = _folders(path, split, default)
    if class_names is not None:
        if len(class_names) != len(result.names):
            raise HeadwordError(
                f"{len(class_names)} class names for the {len(result.names)} classes of {result.source} "
                f"({', '.join(result.names[:3])}, …); give one for each, in that order"
            )
        result = replace(result, names=tuple(class_names))
    if len(result.names) < fewest:
        raise HeadwordError(
            f"{data} has one class only ({result.names[0]!r}); classification needs at least two"
        )
    return result


def _folders(root: Path, split: str | None, default: Sequence[str]) -> LabelledImages:
    folder = root / (split or "")
    if root.is_dir() and not folder.is_dir():
        subfolders = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        known = ", ".join(subfolders[:10]) + (", …" if len(subfolders) > 10 else "")
        raise HeadwordError(f"{root} has no split {split!r}; its subfolders are {known or 'none'}")
    classes = class_folders(folder)
    if split is None and set(classes.names) <= _SPLITS:
        if split := chosen_split(classes.names, default):
            return _folders(root, split, default)
        raise HeadwordError(
            f"{root} has splits, not classes: {', '.join(classes.names)}; say which with split"
        )
    images = tuple(map(file_item, classes.paths))
    return LabelledImages(str(root), images, classes.labels, spoken(classes.names), split=split)


def _table(path: Path, split: str | None, default: Sequence[str]) -> LabelledImages:
    rows: list[tuple[str, str, str | None]] = []
    for where, row in table_rows(path, (*IMAGE_KEYS, *LABEL_KEYS, "split")):
        image = column(row, IMAGE_KEYS, "image", where)
        label = column(row, LABEL_KEYS, "label", where)
        if not image or label in (None, ""):
            raise HeadwordError(f"{where} needs an image and a label, one column each")
        rows.append((str(image), str(label).strip(), row.get("split") or None))
    rows = of_split(rows, [row[2] for row in rows], split, default, path)
    if not rows:
        raise HeadwordError(f"{path} has no images in it")
    keys, labels = _numbered([label for _, label, _ in rows])
    images = tuple(file_item(beside(path, image)) for image, _, _ in rows)
    return LabelledImages(str(path), images, labels, spoken(keys), split=pooled([row[2] for row in rows]))


def _shards(pattern: str, split: str | None, default: Sequence[str]) -> LabelledImages:
    """The labelled images of local shards.

    Where labels are numbers, the names are the lines of `classnames.txt` beside the shards or above them;
    `zeroshot_classification_templates.txt` has the templates, with "{c}" for the name.
    """
    files, split = local_shards(pattern, split, default)
    source = f"wds:{expand(pattern)}" + (f"/{split}" if split else "")
    samples = [sample for file in files for sample in _samples(file)]
    if not samples:
        raise HeadwordError(f"there are no labelled images in {source.removeprefix('wds:')}")
    keys, labels = _numbered([label for _, label in samples])
    names = spoken(keys)
    listed = _lines_beside(files[0], "classnames.txt")
    if listed is not None and all(key.isdecimal() for key in keys):
        if int(keys[-1]) >= len(listed):
            raise HeadwordError(f"label {keys[-1]} has no line in classnames.txt, which has {len(listed)}")
        names, labels = listed, tuple(int(label) for _, label in samples)
    templates = _lines_beside(files[0], "zeroshot_classification_templates.txt")
    templates = tuple(template.replace("{c}", "{}") for template in templates) if templates else None
    images = tuple(image for image, _ in samples)
    return LabelledImages(source, images, labels, names, templates=templates, split=split)


def _samples(file: str) -> Iterator[tuple[Item, str]]:
    """The images of a shard and their labels."""
    status = os.stat(file)  # noqa: PTH116
    version = f"{status.st_size} {status.st_mtime_ns}"
    images, labels = dict[str, Item](), dict[str, str]()
    with open_file(file) as stream:
        for member in members(stream, file):
            if member.is_image:
                images[member.key] = member.item(file, f"{file}::{member.name}", version)
            elif member.ending in _SHARD_LABELS:
                stream.seek(member.start)
                label = stream.read(min(member.size, _LONGEST_LABEL)).decode("utf-8", "replace")
                labels.setdefault(member.key, label.strip())
    for key, image in images.items():
        if not labels.get(key):
            raise HeadwordError(f"{image.path} has no label beside it ({', '.join(_SHARD_LABELS)})")
        yield image, labels[key]


def _lines_beside(file: str, name: str) -> tuple[str, ...] | None:
    for folder in Path(file).parents[:2]:
        if (folder / name).is_file():
            return tuple(line.strip() for line in read_text(folder / name).splitlines() if line.strip())
    return None


def _hub_set(name: str, split: str | None, default: Sequence[str]) -> LabelledImages:
    """A data set with a column of images and one of labels."""
    data, source = open_hub_set(name), f"hf:{name}"
    if isinstance(data, dict):
        split = split or chosen_split(data, default) or (next(iter(data)) if len(data) == 1 else None)
        if split is None:
            raise HeadwordError(f"{source} has the splits {', '.join(data)}; say which with split")
        if split not in data:
            raise HeadwordError(f"{source} has no split {split!r}; its splits are {', '.join(data)}")
        data = data[split]
    elif split is not None:
        raise HeadwordError(f"{source} is one split, so it has no split {split!r}")
    images = tuple(picture_items(data, source))
    kinds = data.features
    keys = [key for key, kind in kinds.items() if type(kind).__name__ == "ClassLabel"]
    keys += [key for key in LABEL_KEYS if key in kinds]
    if not keys:
        raise HeadwordError(f"{source} has no column of labels; it has {', '.join(kinds)}")
    column, kind = data[keys[0]], kinds[keys[0]]
    if not hasattr(kind, "names"):
        names, labels = _numbered([str(value) for value in column])
        return LabelledImages(source, images, labels, spoken(names), split=split)
    labels = tuple(map(int, column))
    if labels and min(labels) < 0:
        raise HeadwordError(f"{source}: the split {split!r} has no labels; choose another")
    return LabelledImages(source, images, labels, tuple(map(words_of, kind.names)), split=split)


def _numbered(labels: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Labels as words or numbers → the different ones in order, and each label's place among them."""
    different = set(labels)
    numeric = all(re.fullmatch(r"\d{1,18}", label) for label in different)
    keys = sorted(different, key=int) if numeric else sorted(different)
    place = {label: number for number, label in enumerate(keys)}
    return tuple(keys), tuple(place[label] for label in labels)
