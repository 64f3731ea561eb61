"""Folders of images: one way to walk them, listing them, and folders whose subfolders are classes.

Links are followed within a folder, each folder once; those that lead out of it, or nowhere, are not, and are
named. A file or folder that is given by its own name is followed wherever it leads.
"""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from headword.data.safe_images import PHONE_SUFFIXES, REFUSED_FORMATS, register_formats
from headword.errors import HeadwordError
from headword.files import expand

_NAMED = 3  # links that a note names
_log = logging.getLogger("headword")


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a scan; it need not be sound, or even a regular file."""

    path: str
    """Relative to the folder, with "/"; bytes that are no UTF-8 are surrogates, as Python has them."""
    bytes: int
    modified: int
    """Time of the last change, in nanoseconds."""


@dataclass(slots=True)
class Scan:
    """What a folder holds."""

    files: list[Found] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    """Links that lead out of the folder, or nowhere: they are not followed."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Photos that this installation cannot read, by their ending."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, for people: a line each; none where nothing was."""
        notes = [
            f"{count:,} {ending} {'picture was' if count == 1 else 'pictures were'} left out; to read them: "
            "pip install 'headword[photos]'"
            for ending, count in sorted(self.unknown.items())
        ]
        if self.outside:
            more = ", …" if len(self.outside) > _NAMED else ""
            links = "1 link was" if len(self.outside) == 1 else f"{len(self.outside):,} links were"
            notes.append(
                f"{links} not followed, leading out of the folder or nowhere: "
                f"{', '.join(self.outside[:_NAMED])}{more}"
            )
        return tuple(notes)


class ImageList(list[Path]):
    """Image files, and a line for people on what was left out."""

    notes: tuple[str, ...] = ()


class ClassFolders(NamedTuple):
    """The images of a folder of class folders, in torchvision's order: by class, sorted within each."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    """For each image, the place of its class in `names`."""
    names: tuple[str, ...]


@cache
def image_suffixes() -> frozenset[str]:
    """The file-name endings, in lower case with their dot, of the formats that can be read here."""
    register_formats()
    return frozenset(
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in REFUSED_FORMATS
    )


def list_images(source: str | os.PathLike[str], *, recursive: bool = True) -> ImageList:
    """The image files of a folder or a glob pattern, by their endings, sorted.

    Hidden files and folders are left out. Links are followed within a folder, each folder once, and not out
    of it; `notes` of the list says what was left out. A pattern's `**` follows no links to folders. Nothing
    is opened: a damaged file is found when it is loaded.

    Args:
        source: a folder, or a pattern like "pictures/**/cat*.jpg".
        recursive: whether to go into the folder's subfolders.

    Raises:
        HeadwordError: if the folder is missing or cannot be read, or no image is found.
    """
    folder = expand(source)
    if folder.is_dir():
        inside = scan(folder, recursive=recursive)
        images = ImageList(sorted(folder / file.path for file in inside.files))
        none = f"there are no images in {folder}"
        none += "" if recursive else " itself (its subfolders were not searched)"
    elif folder.exists():
        raise HeadwordError(f"{folder} is a file; give a folder or a pattern like pictures/*.jpg")
    elif not glob.has_magic(str(folder)):
        raise HeadwordError(f"there is no folder {folder}")
    else:
        named = sorted(_matches(folder))
        inside = Scan(unknown=_unknown(path.name for path in named))
        images = ImageList(path for path in named if _is_image(path.name))
        none = f"no image matches the pattern {folder}"
    if not images:
        raise _nothing(none, inside.notes)
    images.notes = inside.notes
    return images


def scan(root: Path, *, recursive: bool = True, leave_out: Path | None = None) -> Scan:
    """Walk a folder for images, by their endings; nothing is opened.

    Hidden files and folders are left out, and `leave_out`, a resolved folder below it (the index itself).
    Links are followed within the folder, each folder once; those that lead out of it are not followed, so
    that an index never names what lies elsewhere.
    """
    if not root.is_dir():
        raise HeadwordError(f"there is no folder {root}")
    result = Scan()
    real = os.path.realpath(root)
    inside = real.rstrip(os.sep) + os.sep
    skip = None if leave_out is None else os.fspath(leave_out)
    seen: set[tuple[int, int]] = set()
    # A folder is listed by its own name, and by a link's only where it has no other here.
    waiting, linked = [(real, "")], deque[tuple[str, str]]()
    while waiting or linked:
        folder, prefix = waiting.pop() if waiting else linked.popleft()
        status = os.stat(folder)  # noqa: PTH116  # a Path costs ten times as much
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in _entries(folder):
            if entry.name.startswith(".") or entry.path == skip:
                continue
            path = f"{prefix}{entry.name}"
            if entry.is_symlink() and not _leads_inside(entry.path, inside):
                if _is_image(entry.name) or _is_folder(entry):
                    result.outside.append(path)
            elif _is_folder(entry):
                if recursive:
                    (linked if entry.is_symlink() else waiting).append((entry.path, f"{path}/"))
            elif _is_image(entry.name):
                with suppress(OSError):  # removed a moment ago
                    status = entry.stat()
                    result.files.append(Found(path, status.st_size, status.st_mtime_ns))
            else:
                result.unknown += _unknown([entry.name])
    result.files.sort(key=lambda file: file.path)
    result.outside.sort()
    return result


def class_folders(root: str | os.PathLike[str]) -> ClassFolders:
    """Images sorted into one folder a class: `root/CLASS/….jpg`, with subfolders if there are any.

    Names and labels are as torchvision's `ImageFolder` has them, save that hidden folders are left out; a
    class folder without images is refused.
    """
    root = expand(root)
    inside = scan(root)
    names = sorted(
        entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise HeadwordError(f"{root} has no class folders; expected {root}/CLASS/image.jpg")
    by_class: dict[str, list[Path]] = {name: [] for name in names}
    for file in inside.files:
        name, below, _ = file.path.partition("/")
        if below:
            by_class[name].append(root / file.path)
    empty = next((name for name, images in by_class.items() if not images), None)
    if empty is not None:
        raise _nothing(f"there are no images in {root / empty}", inside.notes)
    warn(inside.notes, root)
    labels = [label for label, images in enumerate(by_class.values()) for _ in images]
    paths = [path for images in by_class.values() for path in sorted(images)]
    return ClassFolders(tuple(paths), tuple(labels), tuple(names))


def warn(notes: Iterable[str], source: object) -> None:
    """Log what was left out, where there is no result to say it in."""
    for note in notes:
        _log.warning("%s: %s", source, note)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        raise HeadwordError(f"the folder {folder} may not be read: permission denied") from None


def _leads_inside(link: str, inside: str) -> bool:
    """Whether a link leads to something in a folder, and not out of it, to itself, or nowhere."""
    try:
        return (os.path.realpath(link, strict=True) + os.sep).startswith(inside)
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _matches(pattern: Path) -> Iterator[Path]:
    """What a pattern names. Unlike `glob.glob`, which goes round loops of links for years."""
    parts = pattern.parts
    fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    wanted = (*parts[fixed:], "*") if parts[-1] == "**" else parts[fixed:]
    base = Path(*parts[:fixed])
    hidden_too = any(part.startswith(".") for part in wanted)
    for path in base.glob(os.path.join(*wanted)):  # noqa: PTH118
        hidden = any(part.startswith(".") for part in path.relative_to(base).parts)
        if (hidden_too or not hidden) and not path.is_dir():
            yield path


def _is_image(name: str) -> bool:
    return not name.startswith(".") and _ending(name) in image_suffixes()


def _unknown(names: Iterable[str]) -> Counter[str]:
    """Photos among names that could be read with the extra, by their endings."""
    return Counter(end for end in map(_ending, names) if end in PHONE_SUFFIXES - image_suffixes())


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def _nothing(what: str, notes: Iterable[str]) -> HeadwordError:
    usual = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".avif", ".gif", ".bmp", ".tif", ".tiff")
    known = ", ".join(suffix for suffix in usual if suffix in image_suffixes())
    return HeadwordError("; ".join([what, *notes, f"known endings: {known}, …"]))
