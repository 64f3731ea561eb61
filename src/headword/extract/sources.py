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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from headword.data.captions import IMAGE_KEYS
from headword.data.folders import ImageList, image_suffixes, list_images
from headword.data.items import Item, PlaceReader, RowReader, file_item, file_system, open_place
from headword.data.tables import beside, text_rows
from headword.data.tars import expand_shards, members
from headword.errors import HeadwordError, MissingExtraError
from headword.extract.given import given
from headword.files import expand, open_file, printable, read_text

MAX_ROWS = 100_000_000
"""Rows of a Parquet table of images; more are refused, since a few bytes can say any number."""

_TABLES = {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt"}


class Items(list[Item]):
    """The items of a source, and a line for people on what of it was left out."""

    notes: tuple[str, ...] = ()


def items_of(source: object) -> Items:
    """The items of a source, in an order that is the same every time.

    Args:
        source: one of the sources above, or images as for `DualEncoder.encode_image`.

    Raises:
        HeadwordError: if the source is missing, empty, of no known kind, or names two images by one id.
    """
    notes: tuple[str, ...] = ()
    if isinstance(source, (str, os.PathLike)):
        items = _named(os.fspath(source))
        notes = getattr(items, "notes", ())
    elif hasattr(source, "features") and hasattr(source, "column_names"):
        items = _data_set(source, "data set")
    else:
        images = given(source)
        if isinstance(images, Tensor):
            raise HeadwordError("these are no images but what was made of them; give image files or pictures")
        items = [item for stretch in images for item in stretch]
    if not items:
        raise HeadwordError(f"there are no images in {source}")
    once = Items(_once(items, source))
    once.notes = notes
    return once


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
            item = Item(printable(name), printable(image), PlaceReader(image, image))
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
    fs, root = file_system(url)
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
        items.append(Item(printable(short), printable(address), PlaceReader(address, address)))
    return items


def _shards(pattern: str) -> list[Item]:
    return [item for shard in expand_shards(pattern) for item in _members(shard)]


def _members(shard: str) -> list[Item]:
    """The images of a shard: where each begins, so that workers read them in any order."""
    items: list[Item] = []
    name = shard.rpartition("/")[2].removesuffix(".tar")
    with open_place(shard) as file:
        for member in members(file, shard):
            key, dot, kind = member.name.partition(".")
            if f".{kind.rpartition('.')[2].lower()}" not in image_suffixes():
                continue
            place = f"{shard}::{member.name}"
            read = PlaceReader(shard, place, member.offset_data, member.size)
            # A sample may have several pictures, told apart by their endings.
            again = bool(items) and items[-1].id == f"{name}/{key}"
            items.append(Item(printable(f"{name}/{key}" + (dot + kind) * again), printable(place), read))
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
        Item(printable(str(said)), f"{name}#{row}", RowReader(raw, column, row, f"{name}#{row}"))
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
