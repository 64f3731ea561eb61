"""Hugging Face data sets: a name on the hub, or a folder of `save_to_disk`; their rows as items."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from headword.data.items import Item
from headword.data.safe_images import load_image, load_image_bytes
from headword.encoders.hub import data_sets
from headword.errors import HeadwordError, MissingExtraError
from headword.files import expand, printable


def is_data_set(source: object) -> bool:
    """Whether it is a data set that `datasets` opened."""
    return hasattr(source, "features") and hasattr(source, "column_names")


def is_saved_set(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def open_hub_set(name: str, split: str | None = None) -> Any:
    """A data set; a dictionary of them by split, where it has several and none is named."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtraError("reading Hugging Face data sets", "scale") from None
    folder = expand(name)
    try:
        with data_sets():
            if folder.is_dir():
                return datasets.load_from_disk(str(folder))
            return datasets.load_dataset(name, split=split)
    except (OSError, ValueError) as error:  # its own errors, ConnectionError among them, derive from these
        raise HeadwordError(f"cannot read the data set hf:{name}: {error}".splitlines()[0]) from error


def picture_items(data: Any, name: str) -> list[Item]:
    """The images of a data set's rows, by its column `id`, else by row."""
    import datasets

    column = next((key for key, kind in data.features.items() if isinstance(kind, datasets.Image)), None)
    if column is None:
        raise HeadwordError(f"{name} has no column of images; it has {', '.join(data.column_names)}")
    ids = data["id"] if "id" in data.column_names else range(len(data))
    # Bytes, not pictures: they are decoded in the workers, by the same rules as files.
    raw, version = data.cast_column(column, datasets.Image(decode=False)), f"hf {data._fingerprint}"
    places = [f"{name}#{row}" for row in range(len(data))]
    return [
        Item(printable(str(id)), place, partial(_read, raw, column, row, place), version=version)
        for row, (id, place) in enumerate(zip(ids, places, strict=True))
    ]


def _read(data: Any, column: str, row: int, name: str, shrink_to: int | None) -> Image.Image:
    cell = data[row][column] or {}
    if cell.get("bytes") is not None:
        return load_image_bytes(cell["bytes"], cell.get("path") or name, shrink_to=shrink_to)
    if cell.get("path"):
        return load_image(cell["path"], shrink_to=shrink_to)
    raise HeadwordError(f"{name} has no image")
