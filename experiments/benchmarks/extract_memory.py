"""Memory of `extract_features` over 100,000 images: the process's peak, and how it grows with their number.

The images are flickr8k's, each under as many ids as it takes; every one is read, decoded and embedded again.
The model is one convolution with 1,280 outputs, as wide as the embedded default: a model's own memory does
not depend on the number of images. --model embedded takes that one, and long on two cores.

Run: python -m experiments extract-memory [--images 100000] [--model light]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path

from timm.data import create_transform
from torch import nn

from experiments.benchmarks.common import data_root, write
from headword.data.items import file_item
from headword.encoders import VisionEncoder, load_vision
from headword.extract import extract_features


def resident() -> float:
    """Megabytes this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak() -> float:
    """Megabytes this process ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def light_vision() -> VisionEncoder:
    """Features as wide as the embedded default's, at nearly no cost."""
    body = nn.Sequential(nn.Conv2d(3, 1280, 32, stride=32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(body, nn.Linear(1280, 10)).eval()
    transform = create_transform((3, 224, 224), interpolation="bicubic", crop_pct=0.875)
    return load_vision(model, names=[f"class {n}" for n in "abcdefghij"], transform=transform, device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--model", choices=("light", "embedded"), default="light")
    given = parser.parse_args()
    number = given.images
    paths = sorted((data_root() / "flickr8k" / "images").iterdir())
    vision = light_vision() if given.model == "light" else load_vision("embedded", device="cpu")
    loaded = resident()
    items = [
        dataclasses.replace(
            file_item(paths[n % len(paths)]), id=f"{n // len(paths)}/{paths[n % len(paths)].name}"
        )
        for n in range(number)
    ]
    listed = resident()
    at: dict[int, float] = {}

    def watch(done: int, _total: int) -> None:
        step = done // 5000 * 5000
        if step and step not in at:
            at[step] = resident()
            print(step, f"{at[step]:.0f} MB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADWORD_CACHE"] = f"{folder}/cache"
        done = extract_features(vision, items, f"{folder}/store", progress=watch)
    write(
        "extract_memory" if given.model == "light" else "extract_memory_embedded",
        {
            "model": given.model,
            "images": done.rows,
            "ok": done.ok,
            "engine": done.engine,
            "precision": done.precision,
            "model_loaded_mb": loaded,
            "list_of_images_mb": listed - loaded,
            "peak_mb": peak(),
            "peak_above_model_and_list_mb": peak() - listed,
            "resident_mb_by_images": at,
            "images_per_second": done.images_per_second,
        },
    )


if __name__ == "__main__":
    main()
