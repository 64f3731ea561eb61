"""Seconds and memory to make and fit the default's pairs, of 1,000 and of 21,841 classes.

The 1,000 rows are the embedded head's. The 21,841 have real names (timm's imagenet-22k: names, synonyms,
definitions, kinds and hypernyms) and seeded synthetic rows, 1,024 wide. Texts go through the embedded text
encoder and, where it keeps them, come from the cache the next time; their seconds are given apart from the
fit's. Memory is the peak resident size of a process that has the pairs and fits them, torch included. Fits of
the small head are the median of five.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from experiments.harness import apart, memory, seconds
from headword.aligners import KernelRidge
from headword.encoders import load_text, load_vision
from headword.encoders.enrichment import enriched_pairs
from headword.head.names import imagenet_classes

LARGE, WIDTH, SEED = 21_841, 1024, 0


def run(first: int = LARGE) -> dict[str, Any]:
    """Measure each head, or its first classes, in a process of its own."""
    return {
        "metrics": {str(rows): apart(measure, rows, first) for rows in (1000, LARGE)},
        "protocol": {
            "small": "the embedded head, its own rows",
            "large": f"imagenet-22k's names, seeded synthetic rows {WIDTH} wide",
            "aligner": KernelRidge.name,
        },
        "seed": SEED,
    }


def measure(rows: int, first: int) -> dict[str, float]:
    """Seconds for texts and fit, and the peak memory."""
    text = load_text("embedded")
    if rows == LARGE:
        known = imagenet_classes(rows)
        assert known is not None
        classes, weight = known[1], torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(SEED))
    else:
        head, labels = load_vision("embedded").named_head()
        classes, weight = labels.classes, head.weight.float()
    made = []
    text_seconds = seconds(lambda: made.append(enriched_pairs(weight[:first], classes[:first], text)))
    fits = [seconds(lambda: KernelRidge().fit(made[0])) for _ in range(1 if rows == LARGE else 5)]
    return {
        "pairs": len(made[0]),
        "text_seconds": text_seconds,
        "fit_seconds": statistics.median(fits),
        "peak_gb": memory() / 1e9,
    }
