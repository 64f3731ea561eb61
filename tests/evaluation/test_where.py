"""Localisation and segmentation on painted pictures, and their data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headword.data.boxes_and_masks import read_boxes, read_masks, spoken_class
from headword.errors import HeadwordError
from headword.evaluation.where import probe_places
from support.commands import run
from support.evaluation_helpers import COLOURS, colours_model, measured

SIDE = 64


def _painted(root: Path, number: int, left: str, right: str) -> None:
    picture = Image.new("RGB", (SIDE, SIDE), COLOURS[left])
    picture.paste(COLOURS[right], (SIDE // 2, 0, SIDE, SIDE))
    picture.save(root / "images" / f"{number}.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Four pictures whose halves are red and blue, or blue and green, with boxes and masks."""
    root = tmp_path_factory.mktemp("places")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    ids = {"red": 3, "blue": 5, "green": 9}
    boxes = {}
    for number in range(4):
        halves = ("red", "blue") if number % 2 else ("blue", "green")
        _painted(root, number, *halves)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[:, : SIDE // 2], mask[:, SIDE // 2 :] = ids[halves[0]], ids[halves[1]]
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
        boxes[f"{number}.png"] = [
            {"label": halves[0], "box": [0, 0, 0.5, 1]},
            {"label": halves[1], "box": [0.5, 0, 1, 1]},
        ]
    (root / "boxes.json").write_text(json.dumps(boxes))
    (root / "mask_classes.json").write_text(json.dumps({"0": "none"} | {str(n): c for c, n in ids.items()}))
    return root


def test_boxes_are_read_as_shares_and_as_coco(root, tmp_path):
    ours = read_boxes(str(root / "boxes.json"))
    coco = {
        "images": [{"id": 7, "file_name": "1.png", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "red"}],
        "annotations": [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 32, 64]}],
    }
    file = root / "coco.json"
    file.write_text(json.dumps(coco))
    theirs = read_boxes(str(file))
    assert theirs.boxes == ({"red": [(0.0, 0.0, 0.5, 1.0)]},)
    assert theirs.boxes[0]["red"] == ours.boxes[1]["red"]
    (root / "bad.json").write_text('{"1.png": [{"box": [0, 1]}]}')
    with pytest.raises(HeadwordError, match="has no boxes as COCO or headword write them"):
        read_boxes(str(root / "bad.json"))


def test_masks_are_read_from_class_ids_voc_and_panoptic(root, tmp_path):
    ours = read_masks(str(root))
    assert ours.names == ("red", "blue", "green")
    assert ours.masks[1]()[0, [0, -1]].tolist() == [0, 1]
    voc = tmp_path / "voc"
    (voc / "JPEGImages").mkdir(parents=True)
    (voc / "SegmentationClass").mkdir()
    Image.new("RGB", (2, 1)).save(voc / "JPEGImages" / "a.jpg")
    Image.fromarray(np.array([[15, 255]], np.uint8)).save(voc / "SegmentationClass" / "a.png")
    theirs = read_masks(str(voc))
    assert theirs.masks[0]().tolist() == [[theirs.names.index("person"), -1]]
    panoptic = tmp_path / "panoptic.json"
    (tmp_path / "panoptic").mkdir()
    Image.new("RGB", (2, 1)).save(tmp_path / "a.jpg")
    colours = np.array([[[1, 2, 0], [0, 0, 0]]], np.uint8)  # the id 1 + 2 · 256
    Image.fromarray(colours).save(tmp_path / "panoptic" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 4, "name": "wall-brick"}, {"id": 8, "name": "sky-other-merged"}],
        "annotations": [
            {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 513, "category_id": 8}]}
        ],
    }
    panoptic.write_text(json.dumps(content))
    segments = read_masks(str(panoptic))
    assert segments.names == ("brick wall", "sky")
    assert segments.masks[0]().tolist() == [[1, -1]]


def test_names_of_coco_as_one_says_them():
    assert [spoken_class(name) for name in ("floor-other-merged", "window-blind", "door-stuff")] == [
        "floor",
        "window blind",
        "door",
    ]


def test_colours_are_pointed_at(root):
    result = measured(colours_model(), task="localisation", data=str(root / "boxes.json"))
    assert result.metrics["pointing"] == 100.0
    assert result.data["labels_in_images"] == 8
    assert result.protocol.class_names == ("blue", "green", "red")


def test_pixels_get_their_colours(root):
    result = measured(colours_model(), task="segmentation", data=str(root))
    assert result.metrics["pixel_accuracy"] > 90


def test_a_probe_learns_what_places_show(root):
    result = measured(colours_model(), task="segmentation", data=str(root), probe=True)
    assert result.metrics["pixel_accuracy"] > 50


def test_a_probe_counts_and_names_what_cannot_be_read(root, tmp_path):
    damaged = shutil.copytree(root, tmp_path / "damaged")
    (damaged / "images" / "2.png").write_bytes(b"no picture")
    result = measured(colours_model(), task="segmentation", data=str(damaged), probe=True)
    assert result.data["images"] == 3
    assert "2.png" in result.data["skipped"][0]


def test_masks_of_too_many_pixels_and_none_at_all_are_refused(root, tmp_path, monkeypatch):
    damaged = shutil.copytree(root, tmp_path / "damaged")
    (damaged / "masks" / "0.png").write_bytes(b"no picture")
    first, second, *_ = read_masks(str(damaged)).masks
    with pytest.raises(HeadwordError, match=r"0\.png is not an image"):
        first()
    monkeypatch.setattr("headword.data.safe_images.MAX_PIXELS", SIDE * SIDE - 1)
    with pytest.raises(HeadwordError, match="more than the limit"):
        second()


@pytest.mark.parametrize("mode", ["P", "LA", "I;16"])
def test_masks_keep_their_numbers_in_every_mode(root, tmp_path, mode):
    other = shutil.copytree(root, tmp_path / "other")
    ids = np.full((SIDE, SIDE), 9, np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(ids)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    (image.convert("LA") if mode == "LA" else image).save(other / "masks" / "0.png")
    assert set(read_masks(str(other)).masks[0]().flatten().tolist()) == {2}


def test_a_linear_layer_tells_places_apart():
    cells = torch.zeros(2, 1, 2)
    cells[0, 0, 0] = cells[1, 0, 1] = 1.0
    mask = torch.tensor([[0, 0, 1, 1]])
    assert probe_places([(cells, mask)], [(cells, mask)], 2).tolist() == [[2, 0], [0, 2]]


def test_the_command_names_what_is_wrong(tmp_path):
    line = run("evaluate", "embedded", "--task", "segmentation", "--data", tmp_path, code=2)
    assert "has no masks" in line
