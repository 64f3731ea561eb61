"""Memory of `extract_features` over 100,000 images: the process's peak, and how it grows with their number.

The images are flickr8k's, each under as many ids as it takes; every one is read, decoded and embedded again.
The model is one convolution with 1,280 outputs, as wide as the embedded default: a model's own memory does
not depend on the number of images. `--model embedded` takes that one, and long on two cores.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from timm.data import create_transform
from torch import nn

from experiments.bench import data_root
from experiments.harness import memory, own_cache
from headword.data.items import file_item
from headword.encoders import VisionEncoder, load_vision
from headword.extract import extract_features


def run(images: int = 100_000, model: str = "light") -> dict[str, Any]:
    """Extract them in this process."""
    paths = sorted((data_root() / "data" / "flickr8k" / "images").iterdir())
    vision = light_vision() if model == "light" else load_vision(model, device="cpu")
    loaded = memory("VmRSS")
    items = [
        dataclasses.replace(file_item(path), id=f"{n // len(paths)}/{path.name}")
        for n, path in ((n, paths[n % len(paths)]) for n in range(images))
    ]
    listed = memory("VmRSS")
    at: dict[int, float] = {}

    def watch(done: int, _total: int) -> None:
        step = done // 5000 * 5000
        if step and step not in at:
            at[step] = memory("VmRSS") / 1e6
            print(step, f"{at[step]:.0f} MB", flush=True)

    with own_cache() as folder:
        done = extract_features(vision, items, f"{folder}/store", progress=watch)
    return {
        "file": "extract_memory" if model == "light" else f"extract_memory_{model}",
        "model": model,
        "images": done.rows,
        "ok": done.ok,
        "engine": done.engine,
        "precision": done.precision,
        "model_loaded_mb": loaded / 1e6,
        "list_of_images_mb": (listed - loaded) / 1e6,
        "peak_mb": memory() / 1e6,
        "peak_above_model_and_list_mb": (memory() - listed) / 1e6,
        "resident_mb_by_images": at,
        "images_per_second": done.images_per_second,
    }


def light_vision() -> VisionEncoder:
    """Features as wide as the embedded default's, at nearly no cost."""
    body = nn.Sequential(nn.Conv2d(3, 1280, 32, stride=32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(body, nn.Linear(1280, 10)).eval()
    transform = create_transform((3, 224, 224), interpolation="bicubic", crop_pct=0.875)
    return load_vision(model, names=[f"class {n}" for n in "abcdefghij"], transform=transform, device="cpu")
