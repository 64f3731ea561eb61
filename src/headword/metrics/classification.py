"""Top-k and mean per-class accuracy; the head's rows as prototypes beside the classifier's own choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.errors import HeadwordError
from headword.metrics._checks import check_k, check_matrix


def places_of_labels(scores: Tensor, labels: Tensor) -> Tensor:
    """The place, from 1, that the right class has among all: one more than the wrong ones that score as high.

    Args:
        scores: `[N, C]`, higher is better.
        labels: `[N]` right classes.

    Returns:
        `[N]` integers.

    Raises:
        HeadwordError: for scores that are not finite, or labels that are no column of them.
    """
    scores = check_matrix(scores, "the scores")
    if labels.shape != scores.shape[:1] or labels.is_floating_point():
        raise HeadwordError(f"{len(scores)} images need as many labels, got shape {list(labels.shape)}")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise HeadwordError(
            f"the labels go from {int(labels.min())} to {int(labels.max())}, but there are "
            f"{scores.shape[1]} classes"
        )
    right = scores.gather(1, labels.long()[:, None])
    return (scores >= right).sum(dim=1)  # the right class itself is the one that makes places start at 1


def classification_metrics(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Accuracies in percent: `top1`, `top5`, … over images, and `mean_per_class`, the mean over the classes
    that have images of their share of images whose first class is the right one.

    Args:
        scores: `[N, C]`, higher is better; ties count against the model.
        labels: `[N]` right classes.
        ks: the k of top-k.

    Raises:
        HeadwordError: as `places_of_labels`, and for fewer than two classes or a k larger than their number.
    """
    places = places_of_labels(scores, labels)
    if scores.shape[1] < 2:
        raise HeadwordError("classification needs at least two classes to choose from; there is one")
    check_k(ks, scores.shape[1], "classes")
    result = {f"top{k}": 100 * float((places <= k).double().mean()) for k in ks}
    images = torch.bincount(labels.long(), minlength=scores.shape[1])
    right = torch.bincount(labels.long(), weights=(places == 1).double(), minlength=scores.shape[1])
    present = images > 0
    result["mean_per_class"] = 100 * float((right[present] / images[present]).mean())
    return result


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
    places = [places_of_labels(scores, labels) for scores in (linear, cosine)]
    five, right = 5 if len(rows) >= 5 else 1, [place == 1 for place in places]

    def percent(of: Tensor) -> float:
        return 100 * float(of.double().mean())

    return CosineTest(
        linear=percent(right[0]),
        cosine=percent(right[1]),
        linear_top5=percent(places[0] <= five),
        cosine_top5=percent(places[1] <= five),
        agreement=percent(linear.argmax(dim=1) == cosine.argmax(dim=1)),
        lost=int((right[0] & ~right[1]).sum()),
        won=int((~right[0] & right[1]).sum()),
        images=len(labels),
    )
