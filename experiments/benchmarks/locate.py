"""Where words are, on the pictures of coco128: what each refinement of a map is worth, and what it costs.

Settings were chosen on every other picture ("chosen_on"); the rest ("others") were not looked at for it. The
pointing game counts the labels of a picture whose map is highest inside one of their boxes. Segmentation
gives each pixel the best of the labels in its picture, and of all 133. Seconds are medians, beside
`classify`'s.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image, ImageOps
from torch import Tensor

import headword
from experiments.bench import data_root
from headword.data.boxes_and_masks import read_boxes, read_masks
from headword.data.items import Item
from headword.dense.regions import segment
from headword.metrics.localisation import confusion, points_at, segmentation_metrics

EMBEDDED = ["embedded"]
SIZES = (896, 640, 448, 224)
RIVALS = 20  # of the head's classes, those that say most of a place


def run(
    vision: Annotated[list[str], typer.Option(help="Classifiers; several are joined.")] = EMBEDDED,
    pictures: Annotated[int | None, typer.Option(help="The first so many of each half alone.")] = None,
    variants: Annotated[bool, typer.Option(help="Whether to measure each refinement.")] = True,
) -> dict[str, Any]:
    """Measure it on both halves."""
    folder = data_root() / "data" / "coco128"
    model = headword.recycle(vision if len(vision) > 1 else vision[0], device="cpu", dtype="float32")
    metrics = {
        name: pointing(model, folder, start, pictures, variants=variants)
        | {"segmentation": segmentation(model, folder, start, pictures)}
        for name, start in {"chosen_on": 0, "others": 1}.items()
    }
    protocol = {"vision": vision, "templates": list(model.templates), "size": model.locator.size(None)}
    file = "locate" if len(vision) == 1 else "locate_joint"
    return {"file": file, "metrics": metrics, "protocol": protocol, "seed": 0}


def half(folder: Path, images: Sequence[Item], start: int) -> list[int]:
    """Which images are those of every other file of the folder, sorted, from `start` on."""
    names = [file.stem for file in sorted((folder / "images").iterdir())][start::2]
    return [n for n, item in enumerate(images) if Path(item.path).stem in set(names)]


def maps(
    model: headword.DualEncoder, picture: Image.Image, words: Tensor, rivals: Tensor
) -> dict[str, Tensor]:
    """Maps of words by each way, from one pass a size."""
    asked, known = len(words), torch.cat([words, rivals])
    passes = {size: model.locator.map(picture, known, size, refine=False) for size in SIZES}
    other = ImageOps.mirror(picture)
    mirrored = [model.locator.map(other, words, size, refine=False).flip(2) for size in (896, 448)]
    own = {size: one[:asked] for size, one in passes.items()}
    default = [own[896], own[448]]

    by = partial(replace, model.locator)

    best = by(pull=0.0).refined([passes[896], passes[448]])[asked:].topk(RIVALS, dim=0).values.mean(dim=0)
    return {
        **{f"one_pass_{size}": one for size, one in own.items()},
        "one_size": by().refined([own[896]]),
        "three_sizes": by().refined([own[896], own[640], own[448]]),
        "mirrored_too": by().refined([default[0], mirrored[0], default[1], mirrored[1]]),
        "no_blur": by(blur=0.0).refined(default),
        "no_pull": by(pull=0.0).refined(default),
        "less_rivals": by().refined(default) - 0.25 * best,
    }


def pointing(
    model: headword.DualEncoder, folder: Path, start: int, pictures: int | None, *, variants: bool
) -> dict[str, Any]:
    """The pointing game by each way, and the seconds of the default and of `classify`."""
    data = read_boxes(str(folder / "boxes.json"))
    words, size = model.encode_text(data.names, templates=model.templates), model.locator.size(None)
    rivals = model.encode_text([entry.name for entry in model.classes], templates=model.templates)
    hits: dict[str, dict[str, list[bool]]] = {}
    seconds: dict[str, list[float]] = {"locate": [], "classify": []}
    middle = torch.zeros(3, 3)
    middle[1, 1] = 1.0
    for n in half(folder, data.images, start)[:pictures]:
        picture, boxes = data.images[n].read(None), data.boxes[n]
        asked = words[[data.names.index(label) for label in boxes]]
        begun = time.perf_counter()
        model.encode_image([picture])
        seconds["classify"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        ways = {"default": model.locator.map(picture, asked, size, refine=True)}
        seconds["locate"].append(time.perf_counter() - begun)
        ways["middle_of_the_picture"] = middle.expand(len(asked), 3, 3)
        if variants:
            ways |= maps(model, picture, asked, rivals)
        for name, shares in ways.items():
            for label, one in zip(boxes, shares, strict=True):
                hits.setdefault(name, {}).setdefault(label, []).append(points_at(one, boxes[label]))
    game = {}
    for name, by_label in hits.items():
        every = [hit for of in by_label.values() for hit in of]
        means = [100 * statistics.fmean(of) for of in by_label.values()]
        game[name] = {"pointing": 100 * statistics.fmean(every), "mean_per_label": statistics.fmean(means)}
    return {
        "pointing_game": game,
        "pairs": sum(map(len, hits["default"].values())),
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
    }


def segmentation(
    model: headword.DualEncoder, folder: Path, start: int, pictures: int | None
) -> dict[str, dict[str, float]]:
    """Every pixel to the best label, with the default maps; and drawn at random."""
    data = read_masks(str(folder))
    words, size = model.encode_text(data.names, templates=model.templates), model.locator.size(None)
    classes, generator = len(data.names), torch.Generator().manual_seed(0)
    counts = {name: torch.zeros(classes, classes) for name in ("present", "all", "random")}
    for n in half(folder, data.images, start)[:pictures]:
        truth = data.masks[n]()
        present = torch.unique(truth[truth >= 0])
        shares = model.locator.map(data.images[n].read(None), words, size, refine=True)
        labels = {
            "present": present[segment(shares[present], *truth.shape)],
            "all": segment(shares, *truth.shape),
            "random": present[segment(torch.rand(len(present), 8, 8, generator=generator), *truth.shape)],
        }
        for name, one in labels.items():
            counts[name] += confusion(truth, one, classes)
    return {name: segmentation_metrics(one) for name, one in counts.items()}
