"""Folders of images: listing them, and folders whose subfolders are classes."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from headword.data.images import REFUSED_FORMATS
from headword.errors import HeadwordError


@dataclass(frozen=True, slots=True)
class ClassFolders:
    """The images of a folder of class folders."""

    paths: tuple[Path, ...]
    """Every image, class after class, sorted within each."""
    labels: tuple[int, ...]
    """For each image, the place of its class in `names`."""
    names: tuple[str, ...]
    """The folders' names, sorted: the order torchvision's `ImageFolder` has."""


@cache
def image_suffixes() -> frozenset[str]:
    """The file-name endings, in lower case with their dot, of the formats that can be read here."""
    return frozenset(
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in REFUSED_FORMATS
    )


def list_images(source: str | os.PathLike[str], *, recursive: bool = True) -> list[Path]:
    """The image files of a folder or a glob pattern, by their endings, sorted.

    Hidden files and folders are left out. Links are followed; each folder is read once however many links
    lead to it, so a loop of links ends. Nothing is opened: a damaged file is found when it is loaded.

    Args:
        source: a folder, or a pattern like "pictures/**/cat*.jpg".
        recursive: whether to go into the folder's subfolders.

    Raises:
        HeadwordError: if the folder is missing or cannot be read, or no image is found.
    """
    text = os.path.expanduser(os.fspath(source))  # noqa: PTH111  # a pattern is not a path
    folder = Path(text)
    if folder.is_dir():
        found = sorted(_walk(folder, recursive=recursive, seen=set()))
        if not found:
            within = "" if recursive else " itself (its subfolders were not searched)"
            raise HeadwordError(f"there are no images in {folder}{within}; known endings: {_endings()}")
        return found
    if folder.exists():
        raise HeadwordError(f"{folder} is a file; give a folder or a pattern like pictures/*.jpg")
    if not glob.has_magic(text):
        raise HeadwordError(f"there is no folder {folder}")
    found = sorted(path for path in map(Path, glob.glob(text, recursive=True)) if _is_image_name(path.name))  # noqa: PTH207
    if not found:
        raise HeadwordError(f"no image matches the pattern {text}; known endings: {_endings()}")
    return found


def class_folders(root: str | os.PathLike[str]) -> ClassFolders:
    """Images sorted into one folder a class: `root/CLASS/….jpg`, with subfolders if there are any.

    Names and labels are as torchvision's `ImageFolder` has them, save that hidden folders are left out.

    Raises:
        HeadwordError: if `root` is missing, has no class folders, or a class folder has no images.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise HeadwordError(f"there is no folder {root}")
    names = sorted(
        entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise HeadwordError(f"{root} has no class folders; expected {root}/CLASS/image.jpg")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        images = list_images(root / name)
        paths += images
        labels += [label] * len(images)
    return ClassFolders(tuple(paths), tuple(labels), tuple(names))


def _walk(folder: Path, *, recursive: bool, seen: set[tuple[int, int]]) -> list[Path]:
    found: list[Path] = []
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return found
        seen.add((status.st_dev, status.st_ino))
        entries = sorted(folder.iterdir())
    except PermissionError as error:
        raise HeadwordError(f"the folder {folder} may not be read: permission denied") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if recursive:
                found += _walk(entry, recursive=True, seen=seen)
        elif _is_image_name(entry.name):  # a broken link too: loading it says so
            found.append(entry)
    return found


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in image_suffixes()


def _endings() -> str:
    usual = [".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"]
    return ", ".join(suffix for suffix in usual if suffix in image_suffixes()) + ", …"
