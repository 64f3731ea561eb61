"""Where images come from: every source becomes a list of items, each with an id, a place, and a way to read
it.

| source | id | place |
|---|---|---|
| a folder (also of a URL) | path in the folder, with "/" | full path |
| a glob | the path | full path |
| `.csv`, `.tsv`, `.jsonl`, `.parquet` | column `id`, else the path as written | full path |
| `.txt` | the path as written, one a line | full path |
| WebDataset `.tar`, `x-{000..009}.tar`, `wds:…` | shard name and the sample's key | `shard.tar::member` |
| `hf:FOLDER` (`save_to_disk`), `hf:NAME[:SPLIT]`, a `Dataset` | column `id`, else the row | `hf:…#row` |

Nothing is decoded while listing; an item that cannot be read is found out when it is read.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from headword.data.captions import IMAGE_KEYS
from headword.data.folders import ImageList, image_suffixes, list_images
from headword.data.images import ImageSource, load_image, load_image_bytes
from headword.data.tables import beside, text_rows
from headword.data.tars import MAX_MEMBER, expand_shards, members, read_member
from headword.errors import HeadwordError, MissingExtraError
from headword.extract.given import given
from headword.files import expand, open_file, read_text

MAX_ROWS = 100_000_000
"""Rows of a Parquet table of images; more are refused, since a few bytes can say any number."""

_TABLES = {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt"}


class Reader(Protocol):
    """Reads one image; see `headword.data.images.load_image`."""

    def __call__(self, shrink_to: int | None) -> Image.Image: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source."""

    id: str
    """Unique in its source."""
    path: str
    """Where it is, for people and for the store."""
    read: Reader
    file: str | None = None
    """The file, if the item is one: what the cache is keyed by."""


@dataclass(frozen=True, slots=True)
class FileReader:
    """An image that `load_image` reads: a file, or a picture that is in memory already."""

    source: ImageSource
    inside: Path | None = None

    def __call__(self, shrink_to: int | None) -> Image.Image:
        """See `load_image`."""
        return load_image(self.source, shrink_to=shrink_to, inside=self.inside)


@dataclass(frozen=True, slots=True)
class UrlReader:
    """An image at a URL that fsspec knows, or a stretch of a file there."""

    url: str
    name: str
    start: int = 0
    size: int | None = None

    def __call__(self, shrink_to: int | None) -> Image.Image:
        """See `load_image`."""
        try:
            with _open(self.url) as file:
                if self.size is None:
                    data = file.read(MAX_MEMBER)
                else:
                    data = read_member(file, self.start, self.size, self.name)
        except (OSError, ValueError) as error:
            raise HeadwordError(f"{self.name} cannot be read: {error}") from error
        return load_image_bytes(data, self.name, shrink_to=shrink_to)


@dataclass(frozen=True, slots=True)
class RowReader:
    """An image of a Hugging Face data set."""

    data: Any
    column: str
    row: int

    def __call__(self, shrink_to: int | None) -> Image.Image:
        """See `load_image`."""
        cell = self.data[self.row][self.column]
        name = f"row {self.row}"
        if isinstance(cell, dict) and cell.get("bytes") is not None:
            return load_image_bytes(cell["bytes"], cell.get("path") or name, shrink_to=shrink_to)
        if isinstance(cell, dict) and cell.get("path"):
            return load_image(cell["path"], shrink_to=shrink_to)
        raise HeadwordError(f"{name} has no image")


class Items(list[Item]):
    """The items of a source, and a line for people on what of it was left out."""

    notes: tuple[str, ...] = ()


def items_of(source: object) -> Items:
    """The items of a source, in an order that is the same every time.

    Args:
        source: one of the sources above; or images as `load_image` takes them, one or a list; or a list of
            items, which comes back.

    Raises:
        HeadwordError: if the source is missing, empty, of no known kind, or names two images by one id.
    """
    notes: tuple[str, ...] = ()
    if isinstance(source, (str, os.PathLike)):
        items = _named(os.fspath(source))
        notes = getattr(items, "notes", ())
    elif isinstance(source, (list, tuple)) and source and isinstance(source[0], Item):
        items = list(source)
    elif hasattr(source, "features") and hasattr(source, "column_names"):
        items = _data_set(source, "data set")
    else:
        images = given(source)
        if isinstance(images, Tensor):
            raise HeadwordError("these are no images but what was made of them; give image files or pictures")
        items = given_items(image for stretch in images for image in stretch)
    if not items:
        raise HeadwordError(f"there are no images in {source}")
    once = Items(_once(items, source))
    once.notes = notes
    return once


def file_item(path: str | os.PathLike[str], name: str | None = None, *, inside: Path | None = None) -> Item:
    """The item of one image file; its id is the path as given, unless named otherwise."""
    text = os.fspath(path)
    full = os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111  # a Path costs ten times as much
    return Item(_storable(name or text), _storable(full), FileReader(full, inside), full)


def given_items(images: Iterable[ImageSource]) -> list[Item]:
    """The items of single images, in their order; one that is given twice is there twice."""
    return [
        file_item(image) if isinstance(image, (str, os.PathLike)) else Item(str(n), "", FileReader(image))
        for n, image in enumerate(images)
    ]


def _named(text: str) -> list[Item]:
    scheme, colon, rest = text.partition(":")
    if colon and scheme in {"hf", "wds"}:
        return _hugging_face(rest) if scheme == "hf" else _shards(rest)
    if "://" in text:
        return _shards(text) if ".tar" in text else _remote(text)
    path = expand(text)
    if path.is_dir():
        if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            return _hugging_face(text)
        inside = list_images(path)
        return _listed(inside, [file_item(found, found.relative_to(path).as_posix()) for found in inside])
    if text.endswith(".tar") or re.search(r"\{\d+\.\.\d+\}", text):
        return _shards(text)
    if path.suffix.lower() in _TABLES and not glob.has_magic(text):
        return _table(path)
    if path.is_file():
        return [file_item(path)]
    matching = list_images(text)
    return _listed(matching, [file_item(found) for found in matching])


def _listed(images: ImageList, items: list[Item]) -> Items:
    listed = Items(items)
    listed.notes = images.notes
    return listed


def _table(path: Path) -> list[Item]:
    items: dict[str, Item] = {}
    images: dict[str, str] = {}  # by name: a file of few bytes can have the same row without end
    for number, row in enumerate(_rows(path)):
        key = next((key for key in IMAGE_KEYS if key in row), None)
        if key is None:
            known = ", ".join(IMAGE_KEYS)
            raise HeadwordError(f"{path} has no image column: it has {', '.join(row)}; known are {known}")
        image = row[key]
        if not isinstance(image, str) or not image:
            raise HeadwordError(f"{path}, row {number + 1}: {image!r} is no image path")
        name = str(row.get("id") or image)
        if images.get(name) == image:
            continue
        images[name] = image
        if "://" in image:
            item = Item(_storable(name), _storable(image), UrlReader(image, image))
        else:
            item = file_item(beside(path, image), name)
        _once_more(items, item, path)
    return list(items.values())


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet_rows(path)
    elif kind == ".txt":
        yield from ({"path": line} for line in read_text(path).splitlines() if line.strip())
    else:
        for where, row in text_rows(path):
            if not isinstance(row, dict):
                raise HeadwordError(f"{where} is not an object with an image")
            yield row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    with open_file(path) as stream:
        try:
            file = parquet.ParquetFile(stream)
            names = file.schema_arrow.names
            wanted = [name for name in names if name == "id" or name in IMAGE_KEYS]
            if not wanted:
                yield dict.fromkeys(names)
            if file.metadata.num_rows > MAX_ROWS:
                raise HeadwordError(
                    f"{path} says it has {file.metadata.num_rows:,} rows; {MAX_ROWS:,} are read"
                )
            for batch in file.iter_batches(columns=wanted, batch_size=4096):
                yield from batch.to_pylist()
        except HeadwordError:
            raise
        except Exception as error:  # of a damaged file Arrow raises several kinds, of a bomb MemoryError
            raise HeadwordError(f"{path} is damaged or no Parquet file: {error}".splitlines()[0]) from error


def _remote(url: str) -> list[Item]:
    """A file, a folder or a pattern at a URL."""
    fs, root = _file_system(url)
    scheme = url.partition("://")[0]
    try:
        pattern = glob.has_magic(root)
        found = fs.glob(root) if pattern else fs.find(root) if fs.isdir(root) else [root]
    except OSError as error:
        raise HeadwordError(f"cannot list {url}: {error}") from error
    images = sorted(name for name in found if Path(name).suffix.lower() in image_suffixes())
    items = []
    for name in images:
        address = f"{scheme}://{name}" if scheme != "file" else f"file://{name}"
        short = name.removeprefix(root.rstrip("/") + "/")
        items.append(Item(_storable(short), _storable(address), UrlReader(address, address)))
    return items


def _shards(pattern: str) -> list[Item]:
    return [item for shard in expand_shards(pattern) for item in _members(shard)]


def _members(shard: str) -> list[Item]:
    """The images of a shard: where each begins, so that workers read them in any order."""
    items: list[Item] = []
    name = shard.rpartition("/")[2].removesuffix(".tar")
    with _open(shard) as file:
        for member in members(file, shard):
            key, dot, kind = member.name.partition(".")
            if f".{kind.rpartition('.')[2].lower()}" not in image_suffixes():
                continue
            place = f"{shard}::{member.name}"
            read = UrlReader(shard, place, member.offset_data, member.size)
            # A sample may have several pictures, told apart by their endings.
            again = bool(items) and items[-1].id == f"{name}/{key}"
            items.append(Item(_storable(f"{name}/{key}" + (dot + kind) * again), _storable(place), read))
    return items


def _hugging_face(name: str) -> list[Item]:
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtraError("reading Hugging Face data sets", "scale") from None
    from headword.encoders.hub import data_sets

    folder = expand(name)
    base, _, split = name.partition(":")
    try:
        with data_sets():
            if folder.is_dir():
                data = datasets.load_from_disk(str(folder))
            else:
                data = datasets.load_dataset(base, split=split or None)
    except (OSError, ValueError) as error:
        raise HeadwordError(f"cannot read the data set {name}: {error}".splitlines()[0]) from error
    if isinstance(data, dict):
        return [
            Item(f"{part}/{item.id}", item.path, item.read)
            for part in data
            for item in _data_set(data[part], f"hf:{name}/{part}")
        ]
    return _data_set(data, f"hf:{name}")


def _data_set(data: Any, name: str) -> list[Item]:
    import datasets

    column = next((key for key, kind in data.features.items() if isinstance(kind, datasets.Image)), None)
    if column is None:
        raise HeadwordError(f"{name} has no column of images; it has {', '.join(data.column_names)}")
    ids = data["id"] if "id" in data.column_names else range(len(data))
    # Bytes, not pictures: they are decoded in the workers, by the same rules as files.
    raw = data.cast_column(column, datasets.Image(decode=False))
    return [
        Item(_storable(str(said)), f"{name}#{row}", RowReader(raw, column, row))
        for row, said in enumerate(ids)
    ]


def _once(items: list[Item], source: object) -> list[Item]:
    """Each id once; the same file named twice is one item."""
    seen: dict[str, Item] = {}
    for item in items:
        _once_more(seen, item, source)
    return list(seen.values())


def _once_more(seen: dict[str, Item], item: Item, source: object) -> None:
    first = seen.setdefault(item.id, item)
    if first is not item and first.path != item.path:
        raise HeadwordError(f"{source}: the id {item.id!r} names both {first.path} and {item.path}")


def _file_system(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ModuleNotFoundError:
        raise MissingExtraError("reading URLs", "scale") from None
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise HeadwordError(f"cannot open {url}: {error}") from error
    return fs, str(root)


def _open(place: str) -> Any:
    if "://" not in place:
        return open_file(place)
    fs, root = _file_system(place)
    if "file" in fs.protocol:
        return open_file(root)
    try:
        return fs.open(root, "rb")
    except (OSError, ValueError) as error:
        raise HeadwordError(f"{place} cannot be read: {error}") from error


def _storable(text: str) -> str:
    r"""File names that are no Unicode, as Parquet can hold them: odd bytes written as \xff."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, which JSON can say and no file is called
        return text.encode("utf-8", "backslashreplace").decode()


def all_files(items: Iterable[Item]) -> bool:
    """Whether every item can be read in another process without sending it a picture or a data set."""
    return all(isinstance(item.read, UrlReader) or item.file is not None for item in items)
