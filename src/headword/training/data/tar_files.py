"""WebDataset shards as a training set: local tar files, each scanned once, then read at any place.

A sample is an image (`.jpg`, `.jpeg`, `.png`, `.webp`) and its caption: the text of `.txt`, or in `.json` one
of `headword.data.tables.CAPTION_KEYS`; captions written anew stand in `.json` under `rewritten`. The
members of a sample share their name up to the first dot. What a scan found is kept in the cache by the
shard's path, size and time of last change.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headword.cache import once
from headword.data.captions import REWRITTEN_KEY
from headword.data.images import load_image_bytes
from headword.data.items import read_member
from headword.data.tables import CAPTION_KEYS
from headword.data.tars import members
from headword.errors import HeadwordError
from headword.files import open_file, open_regular, parse_json
from headword.training.data.batches import Sample

_KINDS = {".jpg": 0, ".jpeg": 0, ".png": 0, ".webp": 0, ".txt": 1, ".json": 2}  # places in an index
_FORMAT = 1  # of a kept index


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
        self.blocks = [len(index["places"]) for index in indices]
        """Samples in each shard."""
        self.incomplete = sum(int(index["incomplete"]) for index in indices)
        """Samples that lack an image or a caption, which were left out."""
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
                    read_member(stream, first, size, name) if first >= 0 else None
                    for first, size in self._places[index].tolist()
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


def index_of(file: str) -> Mapping[str, Tensor]:
    """What `scan` gives for a shard: kept from an earlier scan, or scanned now and kept."""
    try:
        status = os.stat(file)  # noqa: PTH116
    except OSError as error:
        raise HeadwordError(f"there is no shard {file}") from error
    version = f"{_FORMAT} {file} {status.st_size} {status.st_mtime_ns}".encode("utf-8", "surrogatepass")
    return once("shards", hashlib.sha256(version).hexdigest()[:32], lambda: scan(file))


def scan(file: str) -> dict[str, Tensor]:
    """Where the samples of a shard lie in it, from its headers.

    Returns:
        `places`, `[N, 3, 2]` int64: of image, `.txt` and `.json` the first byte and the length, -1 where
        there is none. `names`, uint8: the samples' names in UTF-8, each ended by a zero byte. `incomplete`:
        how many samples lack an image or a caption, which are left out.

    Raises:
        HeadwordError: if it is cut short, damaged, compressed or no tar file.
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


def _captions(text: bytes | None, record: bytes | None, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Original and re-written captions in a sample's `.txt` and `.json`."""
    try:
        content = parse_json(record, name) if record is not None else {}
        original = _strings(text.decode("utf-8")) if text is not None else ()
    except UnicodeDecodeError as error:
        raise HeadwordError(f"{name}: the caption cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise HeadwordError(f"{name}: the .json is no object")
    key = next((key for key in CAPTION_KEYS if content.get(key)), None)
    original = original or (_strings(content[key]) if key is not None else ())
    if not original:
        raise HeadwordError(f"{name} has no caption")
    return original, _strings(content.get(REWRITTEN_KEY))


def _strings(value: Any) -> tuple[str, ...]:
    """The captions in a string, or in a list of strings; empty ones and what is none drop."""
    items = value if isinstance(value, list) else [value]
    return tuple(item.strip() for item in items if isinstance(item, str) and item.strip())
