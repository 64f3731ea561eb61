"""The head's rows as prototypes: the nearest row by cosine, beside the classifier's own choice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.errors import HeadwordError
from headword.metrics import classification_metrics, places_of_labels


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineTest:
    """The outcome of `cosine_against_linear`; shares in percent."""

    linear: float
    """Top-1 of argmax(W f + b)."""
    cosine: float
    """Top-1 of argmax cos(w_c, f)."""
    linear_top5: float
    cosine_top5: float
    agreement: float
    """Images to which both give the same class."""
    lost: int
    """Images that only the linear classifier gets right."""
    won: int
    """Images that only the cosine classifier gets right."""
    images: int

    @property
    def loss(self) -> float:
        """Points of top-1 that the cosine classifier loses."""
        return self.linear - self.cosine

    @property
    def error(self) -> float:
        """Standard error of `loss`, from the images on which the two differ (McNemar 1947)."""
        n = self.images
        return float(100 * ((self.lost + self.won) - (self.lost - self.won) ** 2 / n) ** 0.5 / n)


@torch.inference_mode()
def cosine_against_linear(features: Tensor, labels: Tensor, rows: Tensor, bias: Tensor) -> CosineTest:
    """Classify features by argmax cos(w_c, f) and by argmax(w_c·f + b_c) (Méndez et al. 2026, analysis 1).

    Args:
        features: `[N, d]` inputs of the head.
        labels: `[N]` right classes.
        rows: `[C, d]` the head's rows.
        bias: `[C]`.

    Raises:
        HeadwordError: for widths that differ, values that are not finite, or labels that are no row.
    """
    if features.ndim != 2 or rows.ndim != 2 or features.shape[1] != rows.shape[1]:
        raise HeadwordError(f"features {list(features.shape)} do not fit a head of {list(rows.shape)}")
    linear = features @ rows.T + bias
    cosine = F.normalize(features, dim=1) @ F.normalize(rows, dim=1).T
    right = [places_of_labels(scores, labels) == 1 for scores in (linear, cosine)]
    ks = (1, 5) if len(rows) >= 5 else (1, 1)
    top = [classification_metrics(scores, labels, ks) for scores in (linear, cosine)]
    return CosineTest(
        linear=top[0]["top1"],
        cosine=top[1]["top1"],
        linear_top5=top[0][f"top{ks[1]}"],
        cosine_top5=top[1][f"top{ks[1]}"],
        agreement=100 * float((linear.argmax(dim=1) == cosine.argmax(dim=1)).double().mean()),
        lost=int((right[0] & ~right[1]).sum()),
        won=int((~right[0] & right[1]).sum()),
        images=len(labels),
    )
