"""WebDataset shards: tar files in which the members of a sample (image, caption, class) share a name.

Members are found by their headers and read where they lie. Nothing is ever unpacked, whatever its name.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from headword.data.folders import image_suffixes
from headword.data.items import Item, PlaceReader
from headword.data.splits import chosen_split
from headword.errors import HeadwordError
from headword.files import expand, printable

MAX_HEADER = 1 << 20
"""Bytes that the header of a member may have."""

_BLOCK = 512  # a tar file's unit


class Member(NamedTuple):
    """A regular file in a tar file."""

    name: str
    start: int
    """Its first byte, in the tar file."""
    size: int

    @property
    def key(self) -> str:
        """What the members of a sample share: the name up to the first dot, folders left aside."""
        folder, slash, base = self.name.rpartition("/")
        return f"{folder}{slash}{base.partition('.')[0]}"

    @property
    def ending(self) -> str:
        """The rest of the name, from that dot on: ".jpg", ".cls.txt"."""
        return self.name.removeprefix(self.key).lower()

    @property
    def is_image(self) -> bool:
        """Whether it is an image, by the last of its endings."""
        return PurePosixPath(self.name).suffix.lower() in image_suffixes()

    def item(self, shard: str, name: str, version: str = "") -> Item:
        """The image as an item with the id `name`; `version` as `Item` has it."""
        place = f"{shard}::{self.name}"
        read = PlaceReader(shard, place, self.start, self.size)
        return Item(printable(name), printable(place), read, version=version)


def expand_shards(pattern: str) -> list[str]:
    """ "x-{000..002}.tar" → three names; a glob or a folder → its shards."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match:
        width = len(match[1])
        numbers = range(int(match[1]), int(match[2]) + 1)
        names = (f"{pattern[: match.start()]}{n:0{width}d}{pattern[match.end() :]}" for n in numbers)
        return list(itertools.chain.from_iterable(map(expand_shards, names)))
    if "://" in pattern:
        return [pattern]
    path = expand(pattern)
    if path.is_dir():
        shards = sorted(path.glob("*.tar"))
    else:
        shards = sorted(map(Path, glob.glob(str(path)))) or [path]  # noqa: PTH207
    if not shards:
        raise HeadwordError(f"there are no .tar shards in {path}")
    if not shards[0].exists():
        raise HeadwordError(f"there is no shard {path}")
    return [str(shard.absolute()) for shard in shards]


def local_shards(pattern: str, split: str | None, default: Sequence[str]) -> tuple[list[str], str | None]:
    """The files of local shards, and the split they are.

    Args:
        pattern: a tar file, a folder of them, a glob, or a name with "{000..009}" in it.
        split: a subfolder of the folder.
        default: where none is named, the first of these that the folder has.

    Raises:
        HeadwordError: for a URL, a split that is not there, or no shards.
    """
    if "://" in pattern or pattern.startswith("pipe:"):
        raise HeadwordError(f"shards are read from local files; download {pattern} first")
    root = expand(pattern)
    if split is None and root.is_dir():
        split = chosen_split({entry.name for entry in root.iterdir() if entry.is_dir()}, default)
    if split is not None:
        if not (root / split).is_dir():
            raise HeadwordError(f"{root} has no split {split!r}: there is no folder {root / split}")
        root = root / split
    return expand_shards(str(root)), split


def members(file: BinaryIO, name: str) -> Iterator[Member]:
    """The regular files of an uncompressed tar file, in their order.

    Args:
        file: the tar file, which may be read and moved in between.
        name: what to call it in errors.

    Raises:
        HeadwordError: if it is cut short, damaged, compressed or no tar file, or a member is stored sparsely.
    """
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        with tarfile.open(fileobj=_Headers(file, name), mode="r:") as tar:
            end = 0
            for member in tar:
                vars(tar)["members"] = []  # it would keep them all
                if not end < tar.offset or member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} has a size of {member.size:,} bytes")
                end = tar.offset
                if member.issparse():
                    raise tarfile.ReadError(f"{member.name} is stored sparsely; pack it again")
                if member.isfile():
                    yield Member(member.name, member.offset_data, member.size)
            # tarfile takes whatever it cannot read for the end; the end is a block of zeros.
            file.seek(tar.offset)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError(f"no member and no end at byte {tar.offset:,}")
    except HeadwordError:
        raise
    except Exception as error:  # tarfile raises what its parsing happens to: ValueError, RecursionError, …
        raise HeadwordError(
            f"the shard {name} is cut short, damaged, compressed, or no tar file: {error}; copy it again"
        ) from error


class _Headers:
    """A file as tarfile reads headers from: with bounds, since it takes their word for any length."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise HeadwordError(f"the shard {self._name} is damaged: a header of {size:,} bytes")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
