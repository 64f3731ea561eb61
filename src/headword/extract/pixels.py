"""An encoder's transform in two halves: picture → uint8 pixels (in workers), pixels → normalised floats
(with the model).

Between the halves a 224-pixel picture is 150 KB instead of 600 KB, and the second half runs on a whole
batch. The halves are taken from the transform's own settings and then *compared with the transform* on
generated pictures: where they differ by more than `TOLERANCE`, or the transform is of no known make, it is
used as it is, whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from headword.encoders import VisionSource

TOLERANCE = 2
"""Levels of 255 by which a pixel may differ from Pillow's, whose arithmetic torch's resize follows.

Measured: none in photographs that go from 224 to 256 pixels; at most 2, and on average less than a tenth,
in white noise of any size.
"""

_TORCH_MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


@dataclass(frozen=True)
class PixelPlan:
    """Resize, centre crop, normalise: what nearly every classifier's transform does."""

    resize: int | tuple[int, int]
    """The shorter side, or (H, W), after resizing."""
    crop: tuple[int, int]
    """(H, W) of the centre crop."""
    resample: Image.Resampling
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixels(self, image: Image.Image) -> Tensor:
        """One RGB image → uint8 `[H, W, 3]`."""
        width, height = self._resized(*image.size)
        # Round as torchvision does: half to even.
        top, left = round((height - self.crop[0]) / 2), round((width - self.crop[1]) / 2)
        bottom, right = top + self.crop[0], left + self.crop[1]
        if (width, height) != image.size and self._by_torch:
            # channels-last, as Pillow has it, is also the layout torch's vector code wants
            whole = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
            mode = _TORCH_MODES[self.resample]
            whole = F.interpolate(whole, size=(height, width), mode=mode, antialias=True)
            return whole[0, :, top:bottom, left:right].permute(1, 2, 0).contiguous()
        if (width, height) != image.size:
            image = image.resize((width, height), self.resample)
        return torch.from_numpy(np.array(image.crop((left, top, right, bottom))))

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 `[N, H, W, 3]` → float32 `[N, 3, H, W]`, as ToTensor and Normalize to the bit."""
        mean, std = (torch.tensor(values, device=pixels.device) for values in (self.mean, self.std))
        return pixels.float().div_(255).sub_(mean).div_(std).permute(0, 3, 1, 2)

    @property
    def shrink_to(self) -> int:
        """The shorter side, in pixels, that a reduced decoding must keep."""
        return max(_pair(self.resize))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """(W, H) after resizing, rounded as torchvision does: down."""
        if not isinstance(self.resize, int):
            return self.resize[1], self.resize[0]
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    @cached_property
    def _by_torch(self) -> bool:
        """Whether torch resizes: its vector code, where the processor has it, takes 0.4 of Pillow's time."""
        vectors = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}
        return vectors and self.resample in _TORCH_MODES


def plan_of(source: VisionSource) -> PixelPlan | None:
    """The halves of an encoder's transform, or None where it must be used whole."""
    plan = _read(source.transform)
    if plan is None:
        return None
    random = np.random.default_rng(0)
    limit = TOLERANCE / 255 / min(plan.std) + 1e-5
    for height, width in ((431, 577), (613, 359), (97, 140)):  # wider, taller and smaller than the crop
        coarse = Image.fromarray(random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        whole, halves = source.transform(image), plan.normalise(plan.pixels(image).unsqueeze(0))[0]
        if whole.shape != halves.shape or float((whole - halves).abs().max()) > limit:
            return None
    return plan


def _read(transform: Any) -> PixelPlan | None:
    """A torchvision preset, or a Compose (timm's) of Resize, CenterCrop, to tensor, Normalize."""
    from torchvision import transforms as tv
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    if isinstance(transform, ImageClassification):
        resize, crop = transform.resize_size, transform.crop_size
        interpolation, mean, std = transform.interpolation, transform.mean, transform.std
    elif isinstance(transform, tv.Compose):
        steps = {type(step).__name__.removeprefix("Maybe"): step for step in transform.transforms}
        order = [name for name in steps if name not in {"ToTensor", "PILToTensor"}]
        if len(steps) != len(transform.transforms) or order != ["Resize", "CenterCrop", "Normalize"]:
            return None
        resize, crop = steps["Resize"].size, steps["CenterCrop"].size
        interpolation = steps["Resize"].interpolation
        mean, std = steps["Normalize"].mean, steps["Normalize"].std
    else:
        return None
    known = (InterpolationMode[name] for name in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS"))
    if interpolation not in known:
        return None
    resample = Image.Resampling[interpolation.name]
    if min(_pair(resize)) < max(_pair(crop)):  # the crop would be padded
        return None
    shorter_side = isinstance(resize, int) or len(resize) == 1
    size = _pair(resize)[0] if shorter_side else _pair(resize)
    return PixelPlan(size, _pair(crop), resample, tuple(map(float, mean)), tuple(map(float, std)))


def _pair(size: Any) -> tuple[int, int]:
    """(H, W) of a side, or of a sequence of one or two."""
    sides = (size,) if isinstance(size, int) else size
    return int(sides[0]), int(sides[-1])
