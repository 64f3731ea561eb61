"""What people give as images in Python: taken, or refused by name in one line. Decided here alone."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headword.data.folders import ImageList, list_images, warn
from headword.data.hub_sets import is_data_set
from headword.data.items import FileReader, Item, file_item
from headword.data.listing import Items, list_items, unique_items
from headword.data.safe_images import describe, is_image_tensor
from headword.errors import HeadwordError
from headword.extract.vectors import read_vectors
from headword.files import expand

_VECTORS = frozenset({".npz", ".npy", ".parquet", ".safetensors"})

HELD = 64
"""Pictures in memory at once, of a source that is read as it goes."""

ACCEPTED = (
    "accepted are a path, folder or glob, a PIL image, a uint8 tensor [3,H,W] or NumPy array [H,W,3], the "
    "bytes of an image file, a list or any iterable of these, a uint8 tensor [N,3,H,W] or array [N,H,W,3], "
    "a float tensor [N,3,H,W] that is already transformed, or float features [N,d]"
)


@dataclass(frozen=True, slots=True)
class Given:
    """Single images, of which none is opened yet."""

    stretches: Iterable[list[Item]]
    """Read once, one after the other; of an iterable's pictures a stretch has at most `HELD`."""
    total: int = 0
    """How many there are, as far as the source says."""

    def __iter__(self) -> Iterator[list[Item]]:
        return iter(self.stretches)


@dataclass(frozen=True, slots=True)
class Pool:
    """Unlabelled images to centre on."""

    images: object
    folder: str | None = None
    """The folder they are all the images of, or the file they are features in; absolute."""

    @classmethod
    def of(cls, source: object) -> Pool:
        """A pool from what `DualEncoder.centre_on` accepts; a folder is listed, no image is opened yet."""
        if isinstance(source, Pool):
            return source
        if not isinstance(source, str | os.PathLike):
            return cls(source)
        path = expand(source)
        if path.is_file():
            is_matrix = path.suffix.lower() in _VECTORS
            return cls(read_vectors(path).values.float(), str(path.resolve())) if is_matrix else cls(source)
        images = list_images(source)
        warn(images.notes, source)
        return cls(images, str(path.resolve()))


def given(images: Any) -> Tensor | Given:
    """What a user gave as images, in one of these forms:

    - one path, PIL image, uint8 tensor `[3, H, W]`, uint8 NumPy array `[H, W, 3]` (RGB), or the bytes of an
      image file;
    - a folder or a glob: its images, sorted by path as `headword.data.folders.list_images` does;
    - a list, tuple, generator, pandas Series, column of a `datasets` data set, or any other iterable of
      single ones; read once, and but for paths no more than 64 at a time;
    - a uint8 tensor `[N, 3, H, W]` or array `[N, H, W, 3]`;
    - a float tensor or array `[N, 3, H, W]`, transformed already (`vision.preprocess`), also as the batch
      (x, y) of a DataLoader, whose labels are left aside;
    - a float tensor or array `[N, d]`: the classifier's features.

    Comes back as a float tensor, `[N, d]` of features or `[N, 3, H, W]` of transformed images, or as single
    images. Anything else is refused, with what to do; what an iterable gives, when it is reached.
    """
    if _is_labelled_batch(images):
        images = images[0]
    if isinstance(images, np.ndarray):
        images = images.tolist() if images.dtype.kind in "OU" else _array(images)
    if isinstance(images, Tensor) and images.ndim == 4 and all(map(is_image_tensor, images[:1])):
        images = list(images)
    if isinstance(images, Tensor) and images.is_floating_point() and images.ndim in (2, 4):
        return images
    if isinstance(images, (str, os.PathLike)):
        named = named_images(images)
        warn(named.notes, images)
        return Given([list(map(file_item, named))], len(named))
    if isinstance(images, (list, tuple)):
        return Given([[_item(image, place) for place, image in enumerate(images)]], len(images))
    if _is_iterable(images):
        return Given(_stretches(images), len(images) if hasattr(images, "__len__") else 0)
    return Given([[_item(images)]], 1)


def named_images(source: str | os.PathLike[str]) -> ImageList:
    """The images that a path, a folder or a glob names, sorted; a path is taken at its word."""
    text = os.fspath(source)
    path = expand(text)
    if text and (path.is_dir() or (glob.has_magic(text) and not path.exists())):
        return list_images(source)
    if not text:
        raise HeadwordError("an empty path names no image")
    return ImageList([path])


def items_of(source: object) -> Items:
    """The items of a source by name (`headword.data.listing`), or of images as `given` takes them."""
    if isinstance(source, (str, os.PathLike)) or is_data_set(source):
        return list_items(source)
    images = given(source)
    if isinstance(images, Tensor):
        raise HeadwordError("these are no images but what was made of them; give image files or pictures")
    return unique_items([item for stretch in images for item in stretch], source)


def _stretches(images: Iterable[object]) -> Iterator[list[Item]]:
    """Files are names, and go together; pictures come out of the iterable in memory."""
    part, held = list[Item](), 0
    for place, image in enumerate(images):
        item = _item(image, place)
        part.append(item)
        held += isinstance(item.read, FileReader) and item.file is None
        if held == HELD:
            yield part
            part, held = [], 0
    if part:
        yield part


def _item(image: Any, place: int | None = None) -> Item:
    """A single image, as the item at a place in a list, or by itself."""
    if isinstance(image, Item):
        return image
    if hasattr(image, "as_py"):  # of an Arrow array
        image = image.as_py()
    if isinstance(image, (str, os.PathLike)):
        return file_item(image)
    if isinstance(image, Mapping) and (cell := image.get("bytes") or image.get("path")):  # datasets' own form
        return _item(cell, place)
    held = _array(image) if isinstance(image, np.ndarray) and image.ndim == 3 else image
    if isinstance(held, (Image.Image, bytes, bytearray)) or is_image_tensor(held):
        return Item(str(place or 0), "", FileReader(bytes(held) if isinstance(held, bytearray) else held))
    what = "not images" if place is None else f"item {place} is not an image"
    raise HeadwordError(f"{what}: {describe(image)}; {_mend(image) or ACCEPTED}")


def _array(array: np.ndarray[Any, Any]) -> Tensor | np.ndarray[Any, Any]:
    """A NumPy array as the tensor that means the same, without a copy; itself if there is none."""
    kind, ndim = array.dtype.kind, array.ndim
    pixels = array.dtype == np.uint8 and ndim in (3, 4) and array.shape[-1] == 3
    if not pixels and not (kind == "f" and (ndim == 2 or (ndim == 4 and array.shape[1] == 3))):
        return array
    array = array if pixels else array.astype(np.float32, copy=False)
    if not array.flags.writeable or min(array.strides, default=0) < 0:  # which torch does not take
        array = array.copy()
    return torch.from_numpy(array).movedim(-1, -3) if pixels else torch.from_numpy(array)


def _is_labelled_batch(images: Any) -> bool:
    """Whether it is a DataLoader's batch (x, y): images, and a whole number for each."""
    if not isinstance(images, (list, tuple)) or len(images) != 2:
        return False
    x, y = images
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return False
    return x.ndim == 4 and y.shape == x.shape[:1] and not y.is_floating_point()


def _is_iterable(images: Any) -> bool:
    """Whether it gives one thing after the other, and these may be images."""
    if isinstance(images, (str, bytes, bytearray, Image.Image, Tensor, np.ndarray, Mapping, Set)):
        return False
    if hasattr(images, "read") or _columns(images):
        return False
    return hasattr(images, "__iter__") or hasattr(images, "__getitem__")


def _columns(images: Any) -> list[str]:
    """The names of a table's columns (pandas, Polars, Arrow, datasets)."""
    names = getattr(images, "column_names", None) or getattr(images, "columns", None)
    return [] if names is None or callable(names) else [str(name) for name in names]


def _mend(item: Any) -> str:
    """What to do about something that is nearly images."""
    if isinstance(item, Tensor):
        return _mend_tensor(item)
    if isinstance(item, np.ndarray):
        return _mend_array(item)
    if columns := _columns(item):
        return f"give its column of images or paths; it has {', '.join(columns)}"
    if isinstance(item, Mapping):
        return f"give the images in it; it has {', '.join(map(str, item)) or 'nothing'}"
    if isinstance(item, Set):
        return "a set has no order: give a list"
    if hasattr(item, "read"):
        return "give its path, or its bytes: file.read()"
    if isinstance(item, (list, tuple)) and len(item) == 2:
        if isinstance(item[0], Tensor) and item[0].ndim == 4:
            return "give one batch at a time: for x, y in loader: model.encode_image(x)"
        return "give the images without their labels: [image for image, label in …]"
    return ""


def _mend_array(item: np.ndarray[Any, Any]) -> str:
    if item.dtype.kind == "f" and item.ndim in (3, 4) and item.shape[-1] == 3:
        return "pixels are uint8: (255 * x).round().astype('uint8') where they are 0 to 1"
    if item.dtype != np.uint8 or not item.size or item.ndim not in (2, 3):
        return ""
    if item.ndim == 3 and item.shape[0] == 3:
        return "an array is [H,W,3]: x.transpose(1, 2, 0)"
    return "make it a picture: PIL.Image.fromarray(x)"


def _mend_tensor(item: Tensor) -> str:
    if item.dtype == torch.uint8 and item.ndim in (3, 4) and item.shape[-1] == 3:
        return "a tensor is [3,H,W]: x.movedim(-1, -3)"
    if item.is_floating_point() and item.ndim == 3 and item.shape[0] == 3:
        return "transformed images are one batch [N,3,H,W]: torch.stack(images), or x[None] for one"
    return "give one batch at a time" if item.ndim == 4 else ""
