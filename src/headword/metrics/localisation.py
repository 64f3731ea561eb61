"""Where something is, against boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

OVERLAPS = (0.3, 0.5, 0.7)
"""Of boxes, at which MaxBoxAccV2 is averaged (Choe et al. 2020)."""

_THRESHOLDS = 100
_SIDE = 128  # pixels; the longer side that maps are brought to before boxes are drawn about their parts


def points_at(shares: Tensor, boxes: Sequence[Sequence[float]]) -> bool:
    """Whether the highest point of a map `[h, w]` lies in one of the boxes (the pointing game)."""
    height, width = shares.shape
    y, x = divmod(int(shares.argmax()), width)
    right, down = (x + 0.5) / width, (y + 0.5) / height
    return any(box[0] <= right <= box[2] and box[1] <= down <= box[3] for box in boxes)


def box_overlaps(shares: Tensor, boxes: Sequence[Sequence[float]]) -> Tensor:
    """The best IoU `[100]` of any of the boxes with any about a connected part of a map `[h, w]`, the part
    that is above each of 100 thresholds between the map's least and largest value.
    """
    from scipy import ndimage

    scale = _SIDE / max(shares.shape)
    size = [max(1, round(side * scale)) for side in shares.shape]
    fine = F.interpolate(shares[None, None], size=size, mode="bilinear")[0, 0]
    fine = (fine - fine.min()) / (fine.max() - fine.min()).clamp_min(1e-12)
    height, width = fine.shape
    best = torch.zeros(_THRESHOLDS)
    truth = np.array(boxes)
    for n in range(_THRESHOLDS):
        parts = ndimage.find_objects(ndimage.label(fine.numpy() >= n / _THRESHOLDS)[0])
        drawn = [(x.start / width, y.start / height, x.stop / width, y.stop / height) for y, x in parts]
        best[n] = float(_iou(np.array(drawn), truth).max())
    return best


def max_box_accuracy(overlaps: Tensor) -> dict[str, float]:
    """MaxBoxAccV2 in percent, of `box_overlaps` `[N, 100]`: at each overlap the share of N that reach it at
    the best threshold of all, and their mean.
    """
    each = {
        f"max_box_acc_{round(100 * least)}": 100 * float((overlaps >= least).float().mean(dim=0).max())
        for least in OVERLAPS
    }
    return {"max_box_acc": sum(each.values()) / len(each), **each}


def confusion(truth: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How many pixels of each true class got which label, `[C, C]`; a negative truth is not judged."""
    judged = truth >= 0
    pairs = truth[judged] * classes + labels[judged]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def segmentation_metrics(counts: Tensor) -> dict[str, float]:
    """Of `confusion`, in percent: the mean IoU of classes that are there, and the pixels that are right."""
    counts = counts.double()
    right = counts.diagonal()
    union = counts.sum(dim=0) + counts.sum(dim=1) - right
    present = counts.sum(dim=1) > 0
    return {
        "miou": 100 * float((right[present] / union[present]).mean()),
        "pixel_accuracy": 100 * float(right.sum() / counts.sum()),
    }


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of boxes `[N, 4]` with `[M, 4]`: `[N, M]`."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    overlaps: NDArray[np.float64] = shared / (areas[0][:, None] + areas[1] - shared)
    return overlaps
