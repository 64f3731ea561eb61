"""Where images come from: every source becomes a list of items.

| source | id | place |
|---|---|---|
| a folder (also of a URL) | path in the folder, with "/" | full path |
| a glob | the path | full path |
| `.csv`, `.tsv`, `.jsonl`, `.parquet` | column `id`, else the path as written | full path |
| `.txt` | the path as written, one a line | full path |
| WebDataset `.tar`, `x-{000..009}.tar`, `wds:…` | shard name and the sample's key | `shard.tar::member` |
| `hf:FOLDER` (`save_to_disk`), `hf:NAME[:SPLIT]`, a `Dataset` | column `id`, else the row | `hf:…#row` |

An item that cannot be read is found out when it is read.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from headword.data.folders import image_suffixes, list_images
from headword.data.hub_sets import is_data_set, is_saved_set, open_hub_set, picture_items
from headword.data.items import Item, PlaceReader, file_item, file_system, open_place
from headword.data.tables import IMAGE_KEYS, TABLES, Row, beside, column, table_rows
from headword.data.tars import expand_shards, members
from headword.errors import HeadwordError
from headword.files import expand, printable, read_text


class Items(list[Item]):
    """The items of a source, and a line for people on what of it was left out."""

    notes: tuple[str, ...] = ()


def list_items(source: str | os.PathLike[str] | Any) -> Items:
    """The items of one of the sources above, in an order that is the same every time.

    Raises:
        HeadwordError: if the source is missing, empty, of no known kind, or names two images by one id.
    """
    if is_data_set(source):
        return unique_items(picture_items(source, "data set"), source)
    return unique_items(_named(os.fspath(source)), source)


def unique_items(items: Iterable[Item], source: object) -> Items:
    """Each id once; the same image named twice is one item, two images by one id are refused."""
    unique: dict[str, Item] = {}
    for item in items:
        first = unique.setdefault(item.id, item)
        if first is not item and first.path != item.path:
            raise HeadwordError(f"{source}: the id {item.id!r} names both {first.path} and {item.path}")
    if not unique:
        raise HeadwordError(f"there are no images in {source}")
    result = Items(unique.values())
    result.notes = getattr(items, "notes", ())
    return result


def _named(text: str) -> Iterable[Item]:
    scheme, colon, rest = text.partition(":")
    if colon and scheme in {"hf", "wds"}:
        return _hub_set(rest) if scheme == "hf" else _shards(rest)
    if "://" in text:
        return _shards(text) if ".tar" in text else _remote(text)
    path = expand(text)
    if path.is_dir():
        return _hub_set(text) if is_saved_set(path) else _listed(path, path)
    if text.endswith(".tar") or re.search(r"\{\d+\.\.\d+\}", text):
        return _shards(text)
    kind = path.suffix.lower()
    if glob.has_magic(text) or not (kind in TABLES or kind == ".txt"):
        return [file_item(path)] if path.is_file() else _listed(text)
    if kind == ".txt":
        lines = enumerate(read_text(path).splitlines(), start=1)
        return _table(path, ((f"{path}:{n}", {"path": line}) for n, line in lines if line.strip()))
    return _table(path, table_rows(path, ("id", *IMAGE_KEYS)))


def _listed(source: str | Path, root: Path | None = None) -> Items:
    images = list_images(source)
    items = Items(file_item(path, path.relative_to(root).as_posix() if root else None) for path in images)
    items.notes = images.notes
    return items


def _table(path: Path, rows: Iterable[tuple[str, Row]]) -> Iterator[Item]:
    seen = set[tuple[str, str]]()  # a file of few bytes can have the same row without end
    for where, row in rows:
        image = column(row, IMAGE_KEYS, "image", where)
        if not isinstance(image, str) or not image:
            raise HeadwordError(f"{where}: {image!r} is no image path")
        name = str(row.get("id") or image)
        if (name, image) not in seen:
            seen.add((name, image))
            remote = "://" in image
            yield _url_item(name, image) if remote else file_item(beside(path, image), name)


def _remote(url: str) -> Iterator[Item]:
    """The images of a file, a folder or a pattern at a URL."""
    fs, root = file_system(url)
    try:
        names = fs.glob(root) if glob.has_magic(root) else fs.find(root) if fs.isdir(root) else [root]
    except OSError as error:
        raise HeadwordError(f"cannot list {url}: {error}") from error
    for name in sorted(name for name in names if Path(name).suffix.lower() in image_suffixes()):
        yield _url_item(name.removeprefix(root.rstrip("/") + "/"), f"{url.partition('://')[0]}://{name}")


def _url_item(name: str, url: str) -> Item:
    return Item(printable(name), printable(url), PlaceReader(url, url))


def _shards(pattern: str) -> Iterator[Item]:
    """The images of shards: where each begins, so that workers read them in any order."""
    for shard in expand_shards(pattern):
        stem, last = shard.rpartition("/")[2].removesuffix(".tar"), ""
        with open_place(shard) as file:
            for member in members(file, shard):
                if member.is_image:
                    # A sample may have several pictures, told apart by their endings.
                    name = member.name if member.key == last else member.key
                    last = member.key
                    yield member.item(shard, f"{stem}/{name}")


def _hub_set(name: str) -> Iterable[Item]:
    base, _, split = (name, "", "") if expand(name).is_dir() else name.partition(":")
    data = open_hub_set(base, split or None)
    if not isinstance(data, dict):
        return picture_items(data, f"hf:{name}")
    parts = {part: picture_items(rows, f"hf:{name}/{part}") for part, rows in data.items()}
    return [replace(item, id=f"{part}/{item.id}") for part, items in parts.items() for item in items]
