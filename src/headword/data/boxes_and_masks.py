"""Pictures with boxes or masks of what is in them, read where people keep them.

- boxes: COCO's instances JSON, or a JSON from each picture's file to `[{"label", "box": [left, top, right,
  bottom]}]` in shares of its width and height; the pictures lie beside the JSON or in `images/` there
- masks: COCO's panoptic JSON with its PNGs in the folder of the same name; a VOC folder (`JPEGImages/`,
  `SegmentationClass/`); or a folder with `images/`, `masks/` (PNGs of class ids) and `mask_classes.json`,
  from id to name. What has no name there (0, 255) is not judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headword.data.items import Item, file_item
from headword.data.safe_images import load_numbers
from headword.errors import HeadwordError
from headword.files import expand, read_json

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in shares of the picture's width and height."""

_VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table",
    "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
_IGNORED = -1


@dataclass(frozen=True, slots=True)
class BoxedImages:
    """Pictures, and for each the boxes of the labels that are in it."""

    images: tuple[Item, ...]
    boxes: tuple[dict[str, list[Box]], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All labels, sorted."""
        return tuple(sorted({label for boxes in self.boxes for label in boxes}))


@dataclass(frozen=True, slots=True)
class MaskedImages:
    """Pictures, and for each how its mask is read."""

    images: tuple[Item, ...]
    masks: tuple[Callable[[], Tensor], ...]
    """Each gives `[H, W]` places in `names`, -1 where nothing is judged."""
    names: tuple[str, ...]


def read_boxes(data: str) -> BoxedImages:
    """Pictures with boxes, whose labels are in their order of names.

    Raises:
        HeadwordError: if the file has another form, a picture is missing, or there is no box.
    """
    path = expand(data)
    content = read_json(path)
    try:
        boxes = _coco_boxes(content) if "annotations" in content else _own_boxes(content)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise HeadwordError(f"{path} has no boxes as COCO or headword write them: {error!r}") from error
    boxes = {name: of for name, of in boxes.items() if of}
    if not boxes:
        raise HeadwordError(f"{path} has no boxes in it")
    images = tuple(file_item(_picture(path.parent, name)) for name in boxes)
    return BoxedImages(images, tuple(boxes.values()))


def read_masks(data: str) -> MaskedImages:
    """Pictures with masks.

    Raises:
        HeadwordError: if the folder or file has another form, or a picture or mask is missing.
    """
    path = expand(data)
    if path.suffix == ".json":
        return _panoptic(path)
    if (path / "SegmentationClass").is_dir():
        return _folder(path / "SegmentationClass", path / "JPEGImages", dict(enumerate(_VOC, start=1)))
    if (path / "masks").is_dir():
        names = read_json(path / "mask_classes.json")
        return _folder(
            path / "masks", path / "images", {int(number): str(name) for number, name in names.items()}
        )
    raise HeadwordError(
        f"{path} has no masks: give COCO's panoptic JSON, a VOC folder, or one with images/, masks/ and "
        "mask_classes.json"
    )


def spoken_class(name: str) -> str:
    """A class of COCO's as one says it: "wall-brick" is a brick wall, "sky-other-merged" the sky."""
    for suffix in ("-merged", "-other", "-stuff"):
        name = name.replace(suffix, "")
    first, dash, second = name.partition("-")
    return f"{second} {first}" if dash and first in ("wall", "floor") else name.replace("-", " ")


def _own_boxes(content: dict[str, Any]) -> dict[str, dict[str, list[Box]]]:
    boxes: dict[str, dict[str, list[Box]]] = {}
    for name, entries in content.items():
        of = boxes.setdefault(name, {})
        for entry in entries:
            left, top, right, bottom = map(float, entry["box"])
            of.setdefault(str(entry["label"]), []).append((left, top, right, bottom))
    return boxes


def _coco_boxes(content: dict[str, Any]) -> dict[str, dict[str, list[Box]]]:
    images = {image["id"]: image for image in content["images"]}
    labels = {one["id"]: str(one["name"]) for one in content["categories"]}
    boxes: dict[str, dict[str, list[Box]]] = {str(image["file_name"]): {} for image in images.values()}
    for entry in content["annotations"]:
        image = images[entry["image_id"]]
        left, top, width, height = entry["bbox"]
        box = (left / image["width"], top / image["height"],
               (left + width) / image["width"], (top + height) / image["height"])  # fmt: skip
        boxes[str(image["file_name"])].setdefault(labels[entry["category_id"]], []).append(box)
    return boxes


def _picture(folder: Path, name: str) -> Path:
    for file in (folder / "images" / name, folder / name):
        if file.is_file():
            return file
    raise HeadwordError(f"there is no picture {name} in {folder} or its images/")


def _folder(masks: Path, images: Path, ids: dict[int, str]) -> MaskedImages:
    files = sorted(masks.glob("*.png"))
    if not files:
        raise HeadwordError(f"{masks} has no PNG files")
    pictures = {file.stem: file for file in sorted(images.glob("*")) if file.is_file()}
    lost = next((file for file in files if file.stem not in pictures), None)
    if lost is not None:
        raise HeadwordError(f"the mask {lost} has no picture {lost.stem} in {images}")
    kept = [number for number in sorted(ids) if number]
    places = {number: place for place, number in enumerate(kept)}
    items = tuple(file_item(pictures[file.stem]) for file in files)
    readers = tuple(partial(_class_ids, file, places) for file in files)
    return MaskedImages(items, readers, tuple(spoken_class(ids[number]) for number in kept))


def _panoptic(path: Path) -> MaskedImages:
    content = read_json(path)
    try:
        kept = [one["id"] for one in content["categories"]]
        names = tuple(spoken_class(str(one["name"])) for one in content["categories"])
        images = {image["id"]: str(image["file_name"]) for image in content["images"]}
        items, readers = [], []
        for entry in content["annotations"]:
            places = {one["id"]: kept.index(one["category_id"]) for one in entry["segments_info"]}
            items.append(file_item(_picture(path.parent, images[entry["image_id"]])))
            readers.append(partial(_class_ids, path.with_suffix("") / entry["file_name"], places))
    except (KeyError, TypeError, ValueError) as error:
        raise HeadwordError(f"{path} is no panoptic JSON of COCO's: {error!r}") from error
    return MaskedImages(tuple(items), tuple(readers), names)


def _class_ids(file: Path, places: dict[int, int]) -> Tensor:
    """A mask `[H, W]` as places of classes; an RGB one has R + 256 G + 256² B for ids, as COCO's has."""
    array = load_numbers(file).astype(np.int64)
    if array.ndim == 3:
        array = array[..., 0] if array.shape[2] < 3 else array[..., :3] @ np.array([1, 256, 256**2])
    known, inverse = np.unique(array, return_inverse=True)
    of = np.array([places.get(int(number), _IGNORED) for number in known])
    return torch.from_numpy(of[inverse].reshape(array.shape))
