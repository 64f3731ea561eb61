"""WebDataset shards: tar files in which a sample's image, class and the like share a name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from headword.data.folders import image_suffixes
from headword.data.items import Item, PlaceReader
from headword.data.splits import chosen_split
from headword.data.tars import expand_shards, members
from headword.errors import HeadwordError
from headword.evaluation.data_sets import LabelledImages, indexed
from headword.files import expand, open_file, printable, read_text
from headword.head.names import spoken

_LABELS = (".cls", ".cls.txt", ".txt", ".label")
_LONGEST_LABEL = 10_000  # bytes that are read of one


def shards(pattern: str, split: str | None, default: Sequence[str]) -> LabelledImages:
    """The labelled images of local shards; members are found now and read when they are asked for.

    A label is a number or a word in `.cls` (or `.txt`, `.label`). Where labels are numbers, the names are the
    lines of `classnames.txt` beside the shards or above them, and `zeroshot_classification_templates.txt` has
    the templates, with "{c}" for the name.

    Args:
        pattern: a tar file, a folder of them, a glob, or a name with "{000..009}" in it.
        split: a subfolder of the folder.
        default: of a folder without shards of its own, the first of these subfolders that it has is the split
            where none is named.

    Raises:
        HeadwordError: if there are no shards, one is damaged, or an image has no label.
    """
    if "://" in pattern or pattern.startswith("pipe:"):
        raise HeadwordError(f"shards are read from local files; download {pattern} first")
    root = expand(pattern)
    if split is None and root.is_dir() and not any(root.glob("*.tar")):
        split = chosen_split({entry.name for entry in root.iterdir() if entry.is_dir()}, default)
    if split is not None:
        if not (root / split).is_dir():
            raise HeadwordError(f"{root} has no split {split!r}: there is no folder {root / split}")
        root = root / split
    files = list(map(Path, expand_shards(str(root))))
    images: list[Item] = []
    labels: list[str] = []
    for file in files:
        for image, label in _samples(file):
            images.append(image)
            labels.append(label)
    if not images:
        raise HeadwordError(f"there are no labelled images in {root}")
    keys, numbers = indexed(labels)
    names = spoken(keys)
    listed = _beside(files[0], "classnames.txt")
    if listed is not None and all(key.isdecimal() for key in keys):
        if int(keys[-1]) >= len(listed):
            raise HeadwordError(f"label {keys[-1]} has no line in classnames.txt, which has {len(listed)}")
        names = listed
        numbers = tuple(map(int, labels))
    templates = _beside(files[0], "zeroshot_classification_templates.txt")
    return LabelledImages(
        f"wds:{root}",
        tuple(images),
        numbers,
        names,
        templates=tuple(t.replace("{c}", "{}") for t in templates) if templates else None,
        split=split,
    )


def _samples(file: Path) -> Iterator[tuple[Item, str]]:
    """The images of a shard and their labels; the members of one sample follow each other."""
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    with open_file(file) as stream:
        status = os.fstat(stream.fileno())
        version = f"{status.st_size} {status.st_mtime_ns}"
        for member in members(stream, str(file)):
            folder, _, base = member.name.rpartition("/")
            stem, _, ending = base.partition(".")
            key, ending = f"{folder}/{stem}", f".{ending.lower()}"
            if Path(ending).suffix in image_suffixes() or ending in image_suffixes():
                pictures[key] = (member.name, member.offset_data, member.size)
            elif ending in _LABELS:
                stream.seek(member.offset_data)
                label = stream.read(min(member.size, _LONGEST_LABEL)).decode("utf-8", "replace")
                labels.setdefault(key, label.strip())
    for key, (name, start, size) in pictures.items():
        if not labels.get(key):
            raise HeadwordError(f"{file}: {name} has no label beside it ({', '.join(_LABELS)})")
        place = printable(f"{file}::{name}")
        reader = PlaceReader(str(file), place, start, size)
        yield Item(place, place, reader, version=f"{version} {start}"), labels[key]


def _beside(file: Path, name: str) -> tuple[str, ...] | None:
    for folder in (file.parent, file.parent.parent):
        if (folder / name).is_file():
            return tuple(line.strip() for line in read_text(folder / name).splitlines() if line.strip())
    return None
