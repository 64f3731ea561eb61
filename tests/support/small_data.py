"""A data folder like the experiments', with a few of the gallery's pictures in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from headword.data.gallery import gallery

SETS = {
    "cifar10": ("cat", "dog"),
    "caltech101": ("cup", "dog"),
    "tiny_imagenet": ("goldfish", "daisy"),
    "tf_flowers": ("tulips", "roses"),
    "imagenet_sample": ("brambling", "goldfinch", "tench"),
}


def small_data(root: Path) -> Path:
    """Two or three classes a set with two pictures each, and five captioned pictures a split."""
    pictures = [picture.path for picture in gallery()]
    for place, (name, classes) in enumerate(SETS.items()):
        for number, label in enumerate(classes):
            folder = root / "data" / name / label
            folder.mkdir(parents=True)
            for n in range(2):
                picture = pictures[(place + 2 * number + n) % len(pictures)]
                shutil.copy(picture, folder / f"{n}{picture.suffix}")
    images = root / "data" / "flickr8k" / "images"
    images.mkdir(parents=True)
    lines = []
    for number, split in enumerate(("train", "val", "test")):
        for n in range(5):
            picture = pictures[(5 * number + n) % len(pictures)]
            image = images / f"{split}-{n}{picture.suffix}"
            shutil.copy(picture, image)
            captions = [f"picture {n} of {split}", f"a thing {n}"]
            lines.append(json.dumps({"image": image.name, "captions": captions, "split": split}))
    (root / "data" / "flickr8k" / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return root
