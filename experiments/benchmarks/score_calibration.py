"""Are `classify`'s probabilities honest? Confidence against accuracy, with the scale learnt from the head.

Protocol: the embedded default, centred on each set's own images; the scale and threshold are those `recycle`
fits by leaving classes of the head out. Expected calibration error over ten bins of equal width; the best
scale of a grid is shown beside, chosen on the set itself, for comparison only.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

import headword
from experiments.bench import CLASSIFICATION, Bench, data_root

GRID = (5, 8, 10, 12, 15, 20, 25, 30, 40, 60)


def run() -> dict[str, Any]:
    """Measure the default on the four sets."""
    bench, model = Bench(root=data_root()), headword.recycle()
    metrics = {}
    for name in CLASSIFICATION:
        data = bench.labelled(name)
        classifier = model.centre_on(data.features).classifier(data.names)
        embeddings = model.encode_image(data.features)
        cosines = classifier.cosines(embeddings)
        confidence, label = classifier.probabilities(classifier.logits(embeddings)).max(dim=1)
        right = label == data.labels
        own = cosines.gather(1, data.labels[:, None])
        metrics[name] = {
            "top1": 100 * float(right.float().mean()),
            "mean_confidence": 100 * float(confidence.mean()),
            "calibration_error": 100 * calibration_error(confidence, right),
            "best_scale_of_grid": min(GRID, key=lambda k: float(F.cross_entropy(k * cosines, data.labels))),
            "own_label_over_threshold": 100 * float((own > model.scores.threshold).float().mean()),
        }
    protocol = {"sets": CLASSIFICATION, "centre": "each set's own images", "bins": 10}
    return {"metrics": metrics, "scores": model.scores.as_json(), "protocol": protocol, "seed": 0}


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 10) -> float:
    """Mean over images of |confidence - accuracy| of their bin (Guo et al., 2017)."""
    place = (confidence * bins).ceil().clamp(1, bins)
    error = 0.0
    for number in range(1, bins + 1):
        inside = place == number
        if inside.any():
            gap = confidence[inside].mean() - right[inside].float().mean()
            error += float(inside.float().mean() * gap.abs())
    return error
