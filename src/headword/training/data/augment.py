"""Augmentation as open_clip trains: a random crop of most of the picture, perhaps mirrored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf

from headword.errors import HeadwordError

_FILTERS = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}
_TRIES = 10  # torchvision's


@dataclass(frozen=True, kw_only=True)
class TrainTransform:
    """RGB image and generator → float `[3, H, W]`: RandomResizedCrop, drawn from the generator."""

    size: int | tuple[int, int]  # side, or (H, W), of the result in pixels
    mean: Sequence[float] = OPENAI_DATASET_MEAN
    std: Sequence[float] = OPENAI_DATASET_STD
    scale: tuple[float, float] = (0.9, 1.0)  # least and largest share of the picture's area that is kept
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # narrowest and widest crop, width over height
    flip: bool = False  # mirror half of the pictures. Captions that say "left" do not survive it
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise HeadwordError(f"scale must be two shares of the area, least first, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise HeadwordError(f"ratio must be two positive numbers, the narrower first, got {self.ratio}")
        if self.interpolation not in _FILTERS:
            raise HeadwordError(f"interpolation must be {' or '.join(_FILTERS)}, got {self.interpolation!r}")
        if min(self._shape) < 1:
            raise HeadwordError(f"size must be positive, got {self.size}")

    @property
    def _shape(self) -> tuple[int, int]:
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    def __call__(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        """Crop, scale, perhaps mirror, normalise."""
        left, top, right, bottom = self.crop(image.width, image.height, generator)
        box = (top, left, bottom - top, right - left)
        picture = tvf.resized_crop(image, *box, list(self._shape), _FILTERS[self.interpolation])
        if self.flip and torch.rand((), generator=generator) < 0.5:
            picture = tvf.hflip(picture)
        pixels: Tensor = tvf.normalize(tvf.to_tensor(picture), self.mean, self.std, inplace=True)
        return pixels

    def crop(self, width: int, height: int, generator: torch.Generator) -> tuple[int, int, int, int]:
        """The box (left, top, right, bottom) that is kept of a picture."""

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        narrow, wide = self.ratio
        for _ in range(_TRIES):
            area = width * height * uniform(*self.scale)
            aspect = math.exp(uniform(math.log(narrow), math.log(wide)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left = int(torch.randint(0, width - w + 1, (), generator=generator))
                top = int(torch.randint(0, height - h + 1, (), generator=generator))
                return left, top, left + w, top + h
        # As torchvision: the largest crop in the middle whose shape is allowed.
        w, h = width, height
        if width / height < narrow:
            h = round(width / narrow)
        elif width / height > wide:
            w = round(height * wide)
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h
