"""WebDataset shards as a training set: local tar files, each scanned once, then read at any place.

A sample is an image (`.jpg`, `.jpeg`, `.png`, `.webp`) and its caption: the text of `.txt`, or in `.json` one
of `headword.data.captions.CAPTION_KEYS`; captions written anew stand in `.json` under `rewritten`. The
members of a sample share their name up to the first dot. What a scan found is kept in the cache by the
shard's path, size and time of last change.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headword.cache import once
from headword.data.captions import REWRITTEN_KEY
from headword.data.images import load_image_bytes
from headword.data.items import read_member
from headword.data.splits import TRAINED
from headword.data.tables import CAPTION_KEYS
from headword.data.tars import local_shards, members
from headword.errors import HeadwordError
from headword.files import open_file, open_regular, parse_json
from headword.training.data.sources import Sample

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_FORMAT = 1  # of a kept index
_log = logging.getLogger("headword")


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Where the samples of one shard lie in it."""

    places: Tensor
    """`[N, 3, 2]` int64: image, `.txt` and `.json`; of each the first byte and the length, -1 where there is
    none."""
    names: Tensor
    """uint8, the samples' names in UTF-8, each ended by a zero byte."""
    incomplete: int
    """Samples that lack an image or a caption, which were left out."""


class Shards:
    """The samples of local shards, in their order; see `open_training_set`.

    Args:
        files: the tar files.
        shrink_to: as in `load_image`.

    Raises:
        HeadwordError: if a shard is missing, cut short, compressed or no tar file, or there are no samples.
    """

    def __init__(self, files: Sequence[str | os.PathLike[str]], *, shrink_to: int | None = None) -> None:
        self._files = [os.path.abspath(file) for file in files]  # noqa: PTH100
        indices = [index_of(file) for file in self._files]
        self.blocks = [len(index.places) for index in indices]
        """Samples in each shard."""
        self.incomplete = sum(index.incomplete for index in indices)
        """Samples that lack an image or a caption, which were left out."""
        self._starts = np.cumsum([0, *self.blocks])
        self._places = torch.cat([index.places for index in indices]).numpy()
        self._names = b"".join(index.names.numpy().tobytes() for index in indices)
        self._name_ends = np.flatnonzero(np.frombuffer(self._names, dtype=np.uint8) == 0)
        self._shrink_to = shrink_to
        if not len(self):
            raise HeadwordError(
                f"there are no captioned images in {self._files[0]}; a sample is an image with .txt or .json"
            )

    @classmethod
    def open(cls, pattern: str, *, split: str | None = None, shrink_to: int | None = None) -> Shards:
        """The shards that a pattern means: a file, a folder, a glob, or a name with "{000..009}" in it.

        Args:
            pattern: of local files.
            split: a subfolder of the folder; "train" when not given and there.
            shrink_to: as in `load_image`.

        Raises:
            HeadwordError: as `Shards`; also for a URL or a split that is not there.
        """
        files, _ = local_shards(pattern, split, TRAINED)
        return cls(files, shrink_to=shrink_to)

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
                    _read(stream, start, size, name) for start, size in self._places[index].tolist()
                )
        except OSError as error:
            raise HeadwordError(f"{name} cannot be read: {error.strerror or error}") from error
        captions, rewritten = _captions(text, record, name)
        assert image is not None
        return Sample(load_image_bytes(image, name, shrink_to=self._shrink_to), captions, rewritten, name)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the shards' names and sizes, and all that their indices hold."""
        digest = hashlib.sha256()
        for file, samples in zip(self._files, self.blocks, strict=True):
            digest.update(f"{os.path.basename(file)} {os.path.getsize(file)} {samples}\n".encode())  # noqa: PTH119, PTH202
        digest.update(self._places.tobytes() + self._names)
        return digest.hexdigest()


def index_of(file: str) -> Index:
    """The index of a shard: kept from an earlier scan, or scanned now and kept.

    Raises:
        HeadwordError: if the shard is missing, cut short, compressed or no tar file.
    """
    try:
        status = os.stat(file)  # noqa: PTH116
    except OSError as error:
        raise HeadwordError(f"there is no shard {file}") from error
    version = f"{_FORMAT} {file} {status.st_size} {status.st_mtime_ns}".encode("utf-8", "surrogatepass")

    def tensors() -> dict[str, torch.Tensor]:
        index = scan(file)
        return {"places": index.places, "names": index.names, "incomplete": torch.tensor(index.incomplete)}

    kept = once("shards", hashlib.sha256(version).hexdigest()[:32], tensors)
    return Index(kept["places"], kept["names"], int(kept["incomplete"]))


def scan(file: str) -> Index:
    """Read a shard's headers, from its first to its last.

    Raises:
        HeadwordError: if it is cut short, damaged, compressed or no tar file.
    """
    samples: dict[str, list[tuple[int, int]]] = {}
    with open_file(file) as stream:
        for member in members(stream, file):
            kind = _kind(member.ending)
            if kind is None or member.key.endswith("/") or not member.key or member.size == 0:
                continue
            places = samples.setdefault(member.key, [(-1, -1)] * 3)
            if places[kind][0] < 0:
                places[kind] = (member.start, member.size)
    whole = {key: places for key, places in samples.items() if places[0][0] >= 0 and max(places[1:])[0] >= 0}
    names = "".join(f"{key}\0" for key in whole).encode("utf-8", "surrogateescape")
    return Index(
        torch.tensor(list(whole.values()), dtype=torch.int64).view(-1, 3, 2),
        torch.frombuffer(bytearray(names), dtype=torch.uint8) if names else torch.empty(0, dtype=torch.uint8),
        len(samples) - len(whole),
    )


def _kind(ending: str) -> int | None:
    return 0 if ending in IMAGES else {".txt": 1, ".json": 2}.get(ending)


def _read(stream: Any, start: int, size: int, name: str) -> bytes | None:
    return None if start < 0 else read_member(stream, start, size, name)


def _captions(text: bytes | None, record: bytes | None, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Original and re-written captions in a sample's `.txt` and `.json`."""
    try:
        said = parse_json(record, name) if record is not None else {}
        original = _strings(text.decode("utf-8")) if text is not None else ()
    except UnicodeDecodeError as error:
        raise HeadwordError(f"{name}: the caption cannot be read: {error}") from error
    if not isinstance(said, dict):
        raise HeadwordError(f"{name}: the .json is no object")
    key = next((key for key in CAPTION_KEYS if said.get(key)), None)
    original = original or (_strings(said[key]) if key is not None else ())
    if not original:
        raise HeadwordError(f"{name} has no caption")
    return original, _strings(said.get(REWRITTEN_KEY))


def _strings(value: Any) -> tuple[str, ...]:
    """The captions in a string, or in a list of strings; empty ones and what is none drop."""
    items = value if isinstance(value, list) else [value]
    return tuple(item.strip() for item in items if isinstance(item, str) and item.strip())
