"""What the image side is centred on: where that came from, and a centre that moves as images arrive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.errors import HeadwordError

STRENGTH = 2.0
"""κ: the spread of images around their mean over the mean's squared distance from zero, (1 − ‖c‖²)/‖c‖², of
flickr8k's validation images with the embedded classifier."""


@dataclass(frozen=True, slots=True)
class Centre:
    """What the image side is centred on, and where that came from."""

    kind: str  # "default" (the aligner's own: see its docs) or "pool" (the mean of unlabelled images)
    images: int = 0  # how many images the pool had
    source: str | None = None  # the pool's folder, where it was one
    unreadable: int = 0  # how many further images of the pool could not be read

    def __str__(self) -> str:
        if self.kind == "default":
            return "not centred (the aligner's default centre)"
        where = f" from {self.source}" if self.source else ""
        left_out = f" ({self.unreadable:,} unreadable left out)" if self.unreadable else ""
        return f"mean of {self.images:,} images{where}{left_out}"


class RunningCentre:
    """A centre that moves as images arrive: the i-th is centred on (κ c₀ + Σ_{j≤i} x_j)/(κ + i).

    The `prior` c₀ `[d]` counts as `strength` κ > 0 images. How images are cut into batches changes nothing.
    """

    def __init__(
        self, prior: Tensor, strength: float, unit: Callable[[Tensor], Tensor] = F.normalize
    ) -> None:
        if not strength > 0:
            raise HeadwordError(f"the prior centre must count as more than 0 images, got {strength}")
        self.prior, self.strength, self._unit = prior.double(), strength, unit
        self.images, self._sum = 0, torch.zeros_like(self.prior)

    def centres(self, features: Tensor) -> Tensor:
        """`[n, d]` the centre of each of the next n images `[n, d]`, in their order; normalised here."""
        if features.ndim != 2 or features.shape[1:] != self.prior.shape or not len(features):
            raise HeadwordError(
                f"the centre of images {len(self.prior)} wide cannot take features {list(features.shape)}"
            )
        if not torch.isfinite(features).all():
            raise HeadwordError("the features to centre on have a NaN or infinite value")
        sums = self._sum + self._unit(features.double()).cumsum(dim=0)
        seen = self.images + torch.arange(1, len(features) + 1, device=sums.device)
        self._sum, self.images = sums[-1], self.images + len(features)
        return ((self.strength * self.prior + sums) / (self.strength + seen[:, None])).to(features)
