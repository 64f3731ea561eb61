"""WebDataset shards: tar files in which the members of a sample (image, caption, class) share a name.

Members are found by their headers and read where they lie. Nothing is ever unpacked, whatever its name.
"""

from __future__ import annotations

import glob
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

MAX_HEADER = 1 << 20  # bytes that the header of a member may have
_BLOCK = 512  # a tar file's unit


class Member(NamedTuple):
    """A regular file in a tar file: its name, first byte and length."""

    name: str
    start: int
    size: int

    @property
    def key(self) -> str:
        """What the members of a sample share: the name up to the first dot, folders left aside."""
        base = self.name.rpartition("/")[2]
        return self.name.removesuffix(base) + base.partition(".")[0]

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
    if match := re.search(r"\{(\d+)\.\.(\d+)\}", pattern):
        first, last = match.groups()
        numbers = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
        return [shard for number in numbers for shard in expand_shards(pattern.replace(match[0], number, 1))]
    if "://" in pattern:
        return [pattern]
    path = expand(pattern)
    if path.is_dir():
        shards = sorted(path.glob("*.tar"))
    else:
        shards = [path] if path.exists() else sorted(map(Path, glob.glob(str(path))))  # noqa: PTH207
    if not shards or not shards[0].exists():
        missing = "are no .tar shards in" if path.is_dir() else "is no shard"
        raise HeadwordError(f"there {missing} {path}")
    return [str(shard.absolute()) for shard in shards]


def local_shards(pattern: str, split: str | None, default: Sequence[str]) -> tuple[list[str], str | None]:
    """The files of local shards, and the split they are: a subfolder, else the first of `default` there."""
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
    """The regular files of an uncompressed tar file, in their order; it may be read and moved in between."""
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
