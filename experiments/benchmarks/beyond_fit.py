"""How long, and in how much memory, the default is fitted: a 1,000-row head and a 21,841-row one.

    python -m experiments beyond-fit

The 1,000 rows are the embedded head's. The 21,841 have real names (timm's imagenet-22k: names, synonyms,
definitions, kinds and hypernyms) and seeded synthetic rows, 1,024 wide. Texts go through the embedded text
encoder and, where it keeps them, come from the cache the next time; their seconds are given apart from the
fit's. Memory is the peak resident size of a process that has the pairs and fits them, torch included. Fits of
the small head are the median of five.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import torch

from experiments.benchmarks.common import write
from headword.aligners import KernelRidge
from headword.encoders import load_text, load_vision
from headword.encoders.enrichment import enriched_pairs
from headword.head.names import imagenet_classes

LARGE, WIDTH, SEED = 21_841, 1024, 0


def main() -> None:
    if one_case() is not None:
        return
    found = {case: run_apart(case) for case in ("1000", str(LARGE))}
    write(
        "beyond_fit",
        {
            "metrics": found,
            "protocol": {
                "small": "the embedded head, its own rows",
                "large": f"imagenet-22k's names, seeded synthetic rows {WIDTH} wide",
                "aligner": "kernel-ridge",
            },
            "seed": SEED,
        },
    )


def one_case() -> str | None:
    """Measure one head in this process, where it was started for that."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case")
    case: str | None = parser.parse_args().case
    if case is not None:
        print(json.dumps(measure(int(case))))
    return case


def run_apart(case: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--case", case], capture_output=True, text=True, check=True, env=os.environ
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(rows: int) -> dict[str, float]:
    """Seconds for texts and fit, and the peak memory."""
    text = load_text("embedded")
    if rows == LARGE:
        known = imagenet_classes(rows)
        assert known is not None
        classes = known[1]
        weight = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(SEED))
    else:
        head, labels = load_vision("embedded").named_head()
        classes, weight = labels.classes, head.weight.float()
    start = time.perf_counter()
    pairs = enriched_pairs(weight, classes, text)
    texts, seconds = time.perf_counter() - start, []
    for _ in range(1 if rows == LARGE else 5):
        start = time.perf_counter()
        KernelRidge().fit(pairs)
        seconds.append(time.perf_counter() - start)
    return {
        "pairs": len(pairs),
        "text_seconds": texts,
        "fit_seconds": statistics.median(seconds),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


if __name__ == "__main__":
    main()
