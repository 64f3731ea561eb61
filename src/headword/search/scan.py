"""The image files of a folder, with what tells a changed one from an unchanged one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from headword.data.folders import image_suffixes
from headword.errors import HeadwordError


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a scan."""

    path: str
    """Relative to the folder, with "/"; bytes that are no UTF-8 are surrogates, as Python has them."""
    bytes: int
    modified: int
    """Time of the last change, in nanoseconds."""


@dataclass(slots=True)
class Scan:
    """What a folder holds."""

    files: list[Found] = field(default_factory=list)
    """By path."""
    outside: list[str] = field(default_factory=list)
    """Links that lead out of the folder, which are not followed."""


def scan(root: Path, *, leave_out: Path | None = None) -> Scan:
    """List the images of a folder and its subfolders by their endings; nothing is opened.

    Hidden files and folders are left out, as in `headword.data.list_images`. Links are followed within the
    folder, each folder once; those that lead out of it are not followed, so that an index never names what
    lies elsewhere.

    Args:
        root: the folder, resolved.
        leave_out: a folder below it that is none of the images' (the index itself).

    Raises:
        HeadwordError: if the folder, or one in it, is missing or may not be read.
    """
    if not root.is_dir():
        raise HeadwordError(f"there is no folder {root}")
    found = Scan()
    inside = os.fspath(root).rstrip(os.sep) + os.sep
    skip = None if leave_out is None else os.fspath(leave_out)
    seen: set[tuple[int, int]] = set()
    waiting = [(os.fspath(root), "")]
    while waiting:
        folder, prefix = waiting.pop()
        status = os.stat(folder)  # noqa: PTH116  # a Path costs ten times as much
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in _entries(folder):
            if entry.name.startswith(".") or entry.path == skip:
                continue
            path = f"{prefix}{entry.name}"
            if entry.is_symlink() and not (os.path.realpath(entry.path) + os.sep).startswith(inside):
                if entry.is_dir() or _is_image(entry.name):
                    found.outside.append(path)
            elif entry.is_dir():
                waiting.append((entry.path, f"{path}/"))
            elif _is_image(entry.name):
                file = _found(entry, path)
                found.files += [file] if file is not None else []
    found.files.sort(key=lambda file: file.path)
    found.outside.sort()
    return found


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            # The shortest way to a folder is the one it is listed by, where links lead to it too.
            yield from sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name))
    except PermissionError:
        raise HeadwordError(f"the folder {folder} may not be read: permission denied") from None


def _found(entry: os.DirEntry[str], path: str) -> Found | None:
    try:
        status = entry.stat()
    except FileNotFoundError:  # removed a moment ago, or a link to nothing
        return None
    return Found(path, status.st_size, status.st_mtime_ns)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in image_suffixes()  # noqa: PTH122
