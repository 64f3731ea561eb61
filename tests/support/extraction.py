"""What the tests of extraction share: a tiny classifier, and pictures that are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from headword.encoders import VisionEncoder, load_vision
from headword.encoders.vision import Transform

SIDE = 32


class TinyNet(nn.Module):
    """A classifier of 5 classes with 16 features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Images → scores."""
        return self.head(self.body(x))


def tiny_vision(transform: Transform | None = None, **options: object) -> VisionEncoder:
    """A tiny classifier with timm's usual transform, or another; the same one every time."""
    torch.manual_seed(0)
    if transform is None:
        from timm.data import create_transform  # which takes seconds to import

        transform = create_transform((3, SIDE, SIDE), interpolation="bicubic", crop_pct=0.875)
    names = ["ant", "bee", "cat", "dog", "elk"]
    return load_vision(TinyNet().eval(), names=names, transform=transform, device="cpu", **options)


def draw(path: Path, seed: int, size: tuple[int, int] = (48, 40)) -> Path:
    """A smooth picture of its own colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
    return path


def draw_many(folder: Path, count: int) -> Path:
    """`count` pictures in a folder."""
    for seed in range(count):
        draw(folder / f"{seed:04d}.jpg", seed)
    return folder
