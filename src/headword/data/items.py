"""One image, wherever it is kept: a file, a URL, a member of a tar file, a row of a data set.

An item says what it is called and how it is read; nothing is decoded before that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from headword.data.safe_images import ImageSource, load_image, load_image_bytes
from headword.errors import HeadwordError, MissingExtraError
from headword.files import open_file, printable

MAX_MEMBER = 1 << 30
"""Bytes that are read into memory of one image: no picture has more."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source."""

    id: str
    """Unique in its source."""
    path: str
    """Where it is, for people and for the store."""
    read: Callable[[int | None], Image.Image]
    """Reads it; the argument is `load_image`'s `shrink_to`."""
    file: str | None = None
    """The file, if the item is one: what the cache is keyed by."""
    version: str = ""
    """Of what is no file: with the id it stands for the content; without one nothing is cached."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path or f"image {self.id}"


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Images and their classes."""

    source: str
    images: tuple[Item, ...]
    labels: tuple[int, ...]
    """For each image, the place of its class in `names`."""
    names: tuple[str, ...]
    """What the classes are called."""
    templates: tuple[str, ...] | None = None
    """The prompts that are usual for this set, where it has some."""
    split: str | None = None


@dataclass(frozen=True, slots=True)
class FileReader:
    """Reads what `load_image` takes: a file, or a picture that is in memory already."""

    source: ImageSource
    inside: Path | None = None

    def __call__(self, shrink_to: int | None) -> Image.Image:
        """See `load_image`."""
        return load_image(self.source, shrink_to=shrink_to, inside=self.inside)


@dataclass(frozen=True, slots=True)
class PlaceReader:
    """Reads an image at a path or a URL that fsspec knows, or a stretch of the file there."""

    place: str
    name: str
    start: int = 0
    size: int | None = None

    def __call__(self, shrink_to: int | None) -> Image.Image:
        """See `load_image`."""
        try:
            with open_place(self.place) as file:
                if self.size is None:
                    data = file.read(MAX_MEMBER)
                else:
                    data = read_member(file, self.start, self.size, self.name)
        except (OSError, ValueError) as error:
            raise HeadwordError(f"{self.name} cannot be read: {error}") from error
        return load_image_bytes(data, self.name, shrink_to=shrink_to)


def file_item(path: str | os.PathLike[str], name: str | None = None, *, inside: Path | None = None) -> Item:
    """The item of one image file; its id is the path as given, unless named otherwise."""
    text = os.fspath(path)
    full = os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111  # a Path costs ten times as much
    return Item(printable(name or text), printable(full), FileReader(full, inside), full)


def all_files(items: Iterable[Item]) -> bool:
    """Whether every item can be read in another process without sending it a picture or a data set."""
    return all(isinstance(item.read, PlaceReader) or item.file is not None for item in items)


def read_member(file: BinaryIO, start: int, size: int, name: str) -> bytes:
    """The bytes of a member of a tar file, refused if more than `MAX_MEMBER` or not as many as there were."""
    if size > MAX_MEMBER:
        raise HeadwordError(f"{name} has {size:,} bytes; at most {MAX_MEMBER:,} are read")
    file.seek(start)
    content = file.read(size)
    if len(content) != size:
        raise HeadwordError(f"{name} cannot be read: the shard became shorter since it was scanned")
    return content


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it."""
    try:
        import fsspec
    except ModuleNotFoundError:
        raise MissingExtraError("reading URLs", "scale") from None
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise HeadwordError(f"cannot open {url}: {error}") from error
    return fs, str(root)


def open_place(place: str) -> Any:
    """A path or URL, opened to read bytes."""
    if "://" not in place:
        return open_file(place)
    fs, root = file_system(place)
    if "file" in fs.protocol:
        return open_file(root)
    try:
        return fs.open(root, "rb")
    except (OSError, ValueError) as error:
        raise HeadwordError(f"{place} cannot be read: {error}") from error
