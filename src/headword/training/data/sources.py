"""What training reads: sets of captioned images, by name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from headword.cache import once
from headword.data.captions import REWRITTEN_KEY, Captioned, read_captions
from headword.data.folders import class_folders
from headword.data.items import read_member
from headword.data.safe_images import load_image, load_image_bytes
from headword.data.shapes import Shapes
from headword.data.splits import TRAINED, chosen_split
from headword.data.tables import CAPTION_KEYS
from headword.data.tars import local_shards, members
from headword.encoders.prompts import check_templates
from headword.errors import HeadwordError, near
from headword.files import expand, open_file, open_regular, parse_json
from headword.head.names import spoken
from headword.training.data.batches import Sample, TrainingSet

CLASS_TEMPLATES = ("a photo of a {}",)  # the captions of images that are sorted into classes, by default

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
    """A training set by name; no image is opened yet. Data are

    - `shapes`, perhaps with settings, `shapes:images=5000,size=96`: generated, with two captions each;
    - a caption file as of `headword.data.captions`, perhaps a second one, `rewritten`, of the same images;
    - `wds:PATTERN` or `….tar`: local WebDataset shards, `x-{000..009}.tar`, or a folder of them;
    - a folder of class folders, captioned by `templates` of the class's name.

    `split` is a part, "train+restval" two; when not given, "train" of data that have it, else all.
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
        self.fingerprint = shapes.fingerprint

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self._shapes.picture(index), *self.text(index))

    def text(self, index: int) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        """Captions, re-written captions and name of a sample, without its picture."""
        captions, rewritten = self._shapes.text(index)
        return captions, (rewritten,), f"shapes/{self._shapes.split}/{index}"


class CaptionedFiles:
    """Image files and their captions, one or more; `shrink_to` as in `load_image`."""

    def __init__(self, entries: Sequence[Captioned], *, shrink_to: int | None = None) -> None:
        if not entries:
            raise HeadwordError("a training set needs at least one captioned image")
        self._paths = PackedStrings([os.path.abspath(entry.image)] for entry in entries)  # noqa: PTH100
        self._captions = PackedStrings(entry.captions for entry in entries)
        self._rewritten = PackedStrings(entry.rewritten for entry in entries)
        self._shrink_to = shrink_to

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        captions, rewritten, path = self.text(index)
        return Sample(load_image(path, shrink_to=self._shrink_to), captions, rewritten, path)

    def text(self, index: int) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        """Captions, re-written captions and path of a sample, without reading its image."""
        return self._captions[index], self._rewritten[index], self._paths[index][0]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the images' paths below their common folder, their sizes in bytes, and the captions."""
        texts = [self.text(index) for index in range(len(self))]
        root = os.path.commonpath({os.path.dirname(path) for _, _, path in texts})  # noqa: PTH120
        digest = hashlib.sha256()
        for captions, rewritten, path in texts:
            size = os.stat(path).st_size if os.path.exists(path) else -1  # noqa: PTH110, PTH116
            content = (path[len(root) :], size, captions, rewritten)
            digest.update(repr(content).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


class PackedStrings:
    """Some strings for each of N samples, in arrays: little memory, which forked workers share."""

    def __init__(self, groups: Iterable[Sequence[str]]) -> None:
        encoded = ([text.encode("utf-8", "surrogatepass") for text in group] for group in groups)
        self._groups = pa.array(encoded, pa.large_list(pa.large_binary()))

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> tuple[str, ...]:
        return tuple(text.decode("utf-8", "surrogatepass") for text in self._groups[index].as_py())


_KINDS = {".jpg": 0, ".jpeg": 0, ".png": 0, ".webp": 0, ".txt": 1, ".json": 2}  # places in an index
_FORMAT = 1  # of a kept index


class Shards:
    """The samples of local WebDataset shards: tar files, each scanned once, then read at any place.

    A sample is an image and its caption, members of one name up to the first dot: `.txt`, or in `.json` one
    of `CAPTION_KEYS` and, written anew, `rewritten`. The cache keeps a scan by path, size and time.
    """

    def __init__(self, files: Sequence[str | os.PathLike[str]], *, shrink_to: int | None = None) -> None:
        self._files = [os.path.abspath(file) for file in files]  # noqa: PTH100
        indices = [_index_of(file) for file in self._files]
        self.blocks = [len(index["places"]) for index in indices]  # samples in each shard
        self.incomplete = sum(int(index["incomplete"]) for index in indices)  # left out
        self._starts = np.cumsum([0, *self.blocks])
        self._places = torch.cat([index["places"] for index in indices]).numpy()
        self._names = b"".join(index["names"].numpy().tobytes() for index in indices)
        self._name_ends = np.flatnonzero(np.frombuffer(self._names, dtype=np.uint8) == 0)
        self._shrink_to = shrink_to
        if not len(self):
            raise HeadwordError(
                f"there are no captioned images in {self._files[0]}; a sample is an image with .txt or .json"
            )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = self._files[int(np.searchsorted(self._starts, index, side="right")) - 1]
        start = self._name_ends[index - 1] + 1 if index else 0
        name = f"{file}::{self._names[start : self._name_ends[index]].decode('utf-8', 'replace')}"
        try:
            with open_regular(file) as stream:
                image, text, record = (
                    read_member(stream, first, size, name) if first >= 0 else b""
                    for first, size in self._places[index].tolist()
                )
        except OSError as error:
            raise HeadwordError(f"{name} cannot be read: {error.strerror or error}") from error
        captions, rewritten = _captions(text, record, name)
        return Sample(load_image_bytes(image, name, shrink_to=self._shrink_to), captions, rewritten, name)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the shards' names and sizes, and all that their indices hold."""
        digest = hashlib.sha256()
        for file, samples in zip(self._files, self.blocks, strict=True):
            digest.update(f"{os.path.basename(file)} {os.path.getsize(file)} {samples}\n".encode())  # noqa: PTH119, PTH202
        digest.update(self._places.tobytes() + self._names)
        return digest.hexdigest()


def _index_of(file: str) -> Mapping[str, Tensor]:
    """What `scan` gives for a shard: kept from an earlier scan, or scanned now and kept."""
    try:
        status = os.stat(file)  # noqa: PTH116
    except OSError as error:
        raise HeadwordError(f"there is no shard {file}") from error
    version = f"{_FORMAT} {file} {status.st_size} {status.st_mtime_ns}".encode("utf-8", "surrogatepass")
    return once("shards", hashlib.sha256(version).hexdigest()[:32], lambda: scan(file))


def scan(file: str) -> dict[str, Tensor]:
    """Where the samples of a shard lie in it, from its headers.

    `places` `[N, 3, 2]` int64: first byte and length of image, `.txt` and `.json`, -1 where there is none;
    `names`, uint8: in UTF-8, each ended by a zero byte; `incomplete`: how many lack an image or a caption.
    """
    samples: dict[str, list[tuple[int, int]]] = {}
    with open_file(file) as stream:
        for member in members(stream, file):
            kind = _KINDS.get(member.ending)
            if kind is None or member.key.endswith("/") or not member.key or member.size == 0:
                continue
            places = samples.setdefault(member.key, [(-1, -1)] * 3)
            if places[kind][0] < 0:
                places[kind] = (member.start, member.size)
    whole = {key: places for key, places in samples.items() if places[0][0] >= 0 and max(places[1:])[0] >= 0}
    names = "".join(f"{key}\0" for key in whole).encode("utf-8", "surrogateescape")
    return {
        "places": torch.tensor(list(whole.values()), dtype=torch.int64).view(-1, 3, 2),
        "names": torch.from_numpy(np.frombuffer(names, dtype=np.uint8).copy()),
        "incomplete": torch.tensor(len(samples) - len(whole)),
    }


def _captions(text: bytes, record: bytes, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Original and re-written captions in a sample's `.txt` and `.json`, empty where there is none."""
    try:
        content = parse_json(record, name) if record else {}
        original = _strings(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise HeadwordError(f"{name}: the caption cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise HeadwordError(f"{name}: the .json is no object")
    key = next((key for key in CAPTION_KEYS if content.get(key)), "")
    original = original or _strings(content.get(key))
    if not original:
        raise HeadwordError(f"{name} has no caption")
    return original, _strings(content.get(REWRITTEN_KEY))


def _strings(value: Any) -> tuple[str, ...]:
    """The captions in a string, or in a list of strings; empty ones and what is none drop."""
    items = value if isinstance(value, list) else [value]
    return tuple(item.strip() for item in items if isinstance(item, str) and item.strip())


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
    images = zip(classes.paths, classes.labels, strict=True)
    return [Captioned(path, captions[label]) for path, label in images]


def _with_rewritten(entries: Iterable[Captioned], source: Path) -> list[Captioned]:
    """The entries and, of a second caption file, the captions of their images as re-written ones."""
    others = {entry.image.resolve(): entry.captions for entry in read_captions(source, missing="skip")}
    joined = [(entry, others.get(entry.image.resolve(), ())) for entry in entries]
    if not any(more for _, more in joined):
        raise HeadwordError(f"{source} has captions for none of the training images")
    return [replace(entry, rewritten=entry.rewritten + more) for entry, more in joined]
