"""FLOPs of CLIP and of the token head, for each model: `python -m experiments superclip-flops`."""

from __future__ import annotations

import argparse
import logging

from experiments.benchmarks.common import write
from headword.training.flops import count_flops

MODELS = (
    "ViT-B-32",
    "ViT-B-16",
    "ViT-L-16",
    "ViT-L-14",
    "ViT-H-14",
    "RN50",
    "ViT-B-16-SigLIP",
    "convnext_base",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # open_clip says of each model that it has no pretrained weights
    metrics = {}
    for name in args.models:
        flops = count_flops(name)
        metrics[name] = {
            "image_gflops": round(flops.image.total / 1e9, 3),
            "text_gflops": round(flops.text.total / 1e9, 3),
            "head_gflops": round(flops.head.total / 1e9, 4),
            "overhead_percent": {k: round(v, 4) for k, v in flops.overhead().items()},
        }
    counting = "forward, one image and one caption, multiplication and addition are two"
    write("superclip_flops", {"protocol": {"counting": counting}, "metrics": metrics})


if __name__ == "__main__":
    main()
