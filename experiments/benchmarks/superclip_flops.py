"""FLOPs of CLIP and of SuperCLIP's token head, for each model."""

from __future__ import annotations

import logging
from typing import Any

from headword.training.flops import count_flops

MODELS = [
    "ViT-B-32",
    "ViT-B-16",
    "ViT-L-16",
    "ViT-L-14",
    "ViT-H-14",
    "RN50",
    "ViT-B-16-SigLIP",
    "convnext_base",
]


def run(models: list[str] = MODELS) -> dict[str, Any]:
    """Count each model's."""
    logging.disable(logging.WARNING)  # open_clip says of each model that it has no pretrained weights
    metrics = {}
    for name in models:
        flops = count_flops(name)
        metrics[name] = {
            "image_gflops": round(flops.image.total / 1e9, 3),
            "text_gflops": round(flops.text.total / 1e9, 3),
            "head_gflops": round(flops.head.total / 1e9, 4),
            "overhead_percent": {k: round(v, 4) for k, v in flops.overhead().items()},
        }
    logging.disable(logging.NOTSET)
    counting = "forward, one image and one caption, multiplication and addition are two"
    return {"protocol": {"counting": counting}, "metrics": metrics}
