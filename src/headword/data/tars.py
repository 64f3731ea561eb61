"""Tar files as shards of data sets: where their members lie. Nothing is ever unpacked, whatever its name."""

from __future__ import annotations

import glob
import itertools
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from headword.errors import HeadwordError
from headword.files import expand

MAX_HEADER = 1 << 20
"""Bytes that the header of a member may have."""

MAX_MEMBER = 1 << 30
"""Bytes of a member that are read into memory: no picture has more."""

_BLOCK = 512  # a tar file's unit


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
    found = sorted(path.glob("*.tar")) if path.is_dir() else sorted(map(Path, glob.glob(str(path)))) or [path]  # noqa: PTH207
    if not found:
        raise HeadwordError(f"there are no .tar shards in {path}")
    if not found[0].exists():
        raise HeadwordError(f"there is no shard {path}")
    return [str(shard.absolute()) for shard in found]


def members(file: BinaryIO, name: str) -> Iterator[tarfile.TarInfo]:
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
                    yield member
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


def read_member(file: BinaryIO, start: int, size: int, name: str) -> bytes:
    """The bytes of a member.

    Raises:
        HeadwordError: if there are more than `MAX_MEMBER`, or not as many as there were.
    """
    if size > MAX_MEMBER:
        raise HeadwordError(f"{name} has {size:,} bytes; at most {MAX_MEMBER:,} are read")
    file.seek(start)
    content = file.read(size)
    if len(content) != size:
        raise HeadwordError(f"{name} cannot be read: the shard became shorter since it was scanned")
    return content


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
