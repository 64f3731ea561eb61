"""Top-k and mean per-class accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headword.errors import HeadwordError
from headword.metrics._checks import check_k, check_matrix


def places_of_labels(scores: Tensor, labels: Tensor) -> Tensor:
    """`[N]` the place, from 1, of the right class: one more than the wrong ones that score as high.

    Scores `[N, C]`, higher being better, that are not finite are refused, as are labels `[N]` of no column.
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
    """Accuracies in percent: `top1`, `top5`, … over images; `mean_per_class`, the mean of `top1` over
    classes.

    Of scores `[N, C]`, higher being better (ties count against the model), and right classes `[N]`, of which
    one without images is no part of the mean.

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
