"""What training reads: sets of captioned images, by name.

| `data` | what | captions |
|---|---|---|
| `shapes`, `shapes:images=5000,size=96` | generated: `headword.data.shapes` | its own, also re-written ones |
| a file: JSONL, CSV, Karpathy, COCO | `headword.data.captions` | its own; `rewritten`, or a second file |
| `wds:PATTERN`, `….tar` | local WebDataset shards, `x-{000..009}.tar`, a folder | `.txt` or `.json` |
| a folder of class folders | `FOLDER/CLASS/….jpg` | templates of the class's name |
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from headword.data.captions import Captioned, read_captions
from headword.data.folders import class_folders
from headword.data.images import load_image
from headword.data.shapes import Shapes
from headword.data.splits import TRAINED, chosen_split
from headword.data.tars import local_shards
from headword.encoders.prompts import check_templates
from headword.errors import HeadwordError, near
from headword.files import expand
from headword.head.names import spoken
from headword.training.data.batches import Sample, TrainingSet
from headword.training.data.tar_files import Shards

CLASS_TEMPLATES = ("a photo of a {}",)
"""The captions of images that are sorted into classes, when no templates are given."""

_SHAPES_SETTINGS = ("images", "size", "seed")


def open_training_set(
    data: str,
    *,
    split: str | None = None,
    seed: int = 0,
    rewritten: str | None = None,
    templates: Sequence[str] = CLASS_TEMPLATES,
    shrink_to: int | None = None,
) -> TrainingSet:
    """A training set by name; no image is opened yet.

    Args:
        data: as in the table above.
        split: which part; "train+restval" joins two. When not given, "train" of a set that has it, else
            all of it.
        seed: of sets that are generated.
        rewritten: a second caption file, of the same images, with captions that were written anew.
        templates: captions for a folder of class folders, with "{}" for the class's name.
        shrink_to: as in `headword.data.images.load_image`: large JPEG files may be decoded at a fraction of
            their size.

    Raises:
        HeadwordError: if the data or the split is not there, or damaged, or an option does not go with it.
    """
    scheme, colon, rest = data.partition(":")
    path = expand(data)
    if rewritten is not None and not path.is_file():
        raise HeadwordError("a file of re-written captions goes with a caption file as the data")
    if scheme == "shapes" and not path.exists():
        return ShapesSamples(_shapes(rest, split or "train", seed))
    if (colon and scheme == "wds") or path.suffix == ".tar":
        files, _ = local_shards(rest if scheme == "wds" else data, split, TRAINED)
        return Shards(files, shrink_to=shrink_to)
    if path.is_dir():
        return CaptionedFiles(_class_entries(path, split, templates), shrink_to=shrink_to)
    if path.is_file():
        entries: list[Captioned] = read_captions(path, split=split, default=TRAINED)
        if rewritten is not None:
            entries = _with_rewritten(entries, Path(rewritten))
        return CaptionedFiles(entries, shrink_to=shrink_to)
    raise HeadwordError(
        f"there is no training set {data!r}: give shapes, a caption file (.jsonl, .csv, .json), a folder of "
        "class folders, or wds:SHARDS"
    )


class ShapesSamples:
    """`headword.data.shapes.Shapes`, captioned in varied words; the longer caption is the re-written one."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes

    @property
    def fingerprint(self) -> str:
        """See `Shapes.fingerprint`."""
        return self._shapes.fingerprint

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> Sample:
        captions, rewritten, name = self.text(index)
        return Sample(self._shapes.picture(index), captions, rewritten, name)

    def text(self, index: int) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        """Captions, re-written captions and name of a sample, without its picture."""
        captions, rewritten = self._shapes.text(index)
        return captions, (rewritten,), f"shapes/{self._shapes.split}/{index}"


class CaptionedFiles:
    """Image files and their captions, one or more; `shrink_to` as in `load_image`."""

    def __init__(self, entries: Sequence[Captioned], *, shrink_to: int | None = None) -> None:
        if not entries:
            raise HeadwordError("a training set needs at least one captioned image")
        self._paths = Strings(os.path.abspath(entry.image) for entry in entries)  # noqa: PTH100
        self._captions = Groups([entry.captions for entry in entries])
        self._rewritten = Groups([entry.rewritten for entry in entries])
        self._shrink_to = shrink_to

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        image = load_image(self._paths[index], shrink_to=self._shrink_to)
        return Sample(image, *self.text(index))

    def text(self, index: int) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        """Captions, re-written captions and path of a sample, without reading its image."""
        return self._captions[index], self._rewritten[index], self._paths[index]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the images' paths below their common folder, their sizes in bytes, and the captions."""
        root = os.path.commonpath({os.path.dirname(path) for path in self._paths})  # noqa: PTH120
        digest = hashlib.sha256()
        for index, path in enumerate(self._paths):
            size = os.stat(path).st_size if os.path.exists(path) else -1  # noqa: PTH110, PTH116
            content = (path[len(root) :], size, self._captions[index], self._rewritten[index])
            digest.update(repr(content).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


class Strings(Sequence[str]):
    """Many strings in two arrays: a fraction of the memory of Python's own, and shared by forked workers."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogatepass")


class Groups:
    """For each of N samples some strings, packed likewise."""

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self._strings = Strings(text for group in groups for text in group)
        self._starts = np.cumsum([0, *map(len, groups)], dtype=np.int64)

    def __getitem__(self, index: int) -> tuple[str, ...]:
        return tuple(self._strings[i] for i in range(self._starts[index], self._starts[index + 1]))


def _shapes(settings: str, split: str, seed: int) -> Shapes:
    """The set that "images=5000,size=96" means; "seed=3" there goes before the argument."""
    values = {"seed": seed}
    for entry in filter(None, settings.split(",")):
        name, _, value = entry.partition("=")
        if name not in _SHAPES_SETTINGS:
            hint = near(name, _SHAPES_SETTINGS, n=1)
            raise HeadwordError(f"shapes has no setting {name!r}{hint} It has {', '.join(_SHAPES_SETTINGS)}")
        if not value.isdecimal():
            raise HeadwordError(f"shapes: {name} must be a whole number, got {value!r}")
        values[name] = int(value)
    return Shapes(split, **values)


def _class_entries(root: Path, split: str | None, templates: Sequence[str]) -> list[Captioned]:
    """Images sorted into class folders; each is captioned with its class's name in every template."""
    wording = check_templates(templates)
    folders = {entry.name for entry in root.iterdir() if entry.is_dir()}
    split = split or chosen_split(folders, TRAINED)
    if split is not None and split not in folders:
        raise HeadwordError(f"{root} has no split {split!r}: there is no folder {root / split}")
    classes = class_folders(root / split if split is not None else root)
    captions = [tuple(template.replace("{}", name) for template in wording) for name in spoken(classes.names)]
    return [
        Captioned(path, captions[label]) for path, label in zip(classes.paths, classes.labels, strict=True)
    ]


def _with_rewritten(entries: Iterable[Captioned], source: Path) -> list[Captioned]:
    """The entries and, of a second caption file, the captions of their images as re-written ones."""
    others = {entry.image.resolve(): entry.captions for entry in read_captions(source, missing="skip")}
    joined = [(entry, others.get(entry.image.resolve(), ())) for entry in entries]
    if not any(more for _, more in joined):
        raise HeadwordError(f"{source} has captions for none of the training images")
    return [replace(entry, rewritten=entry.rewritten + more) for entry, more in joined]
