"""How long, and in how much memory, the closed forms fit a 21,841-class head.

    python -m experiments fit-large

Seeded synthetic pairs of an ImageNet-21k head's size, in clusters as class names are: 1,024-d rows, 768-d
texts. Every fit runs in a process of its own; memory is the growth of its peak resident size over the size it
has with the inputs loaded and the linear algebra warmed up. Writes medians of the runs to
`experiments/benchmarks/results/fit_large.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from headword.aligners import ALIGNERS, KernelRidge, make_aligner
from headword.aligners.pairs import Pairs

N, IMAGE_DIM, TEXT_DIM, SEED = 21_841, 1024, 768, 0
CLUSTERS, CONCEPT_DIM = 500, 256
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {}) for name, aligner in ALIGNERS.items() if not aligner.iterative
} | {"kernel-ridge, farthest": ("kernel-ridge", {"landmarks": "farthest"})}
RESULTS = Path(__file__).parent / "results" / "fit_large.json"


def clustered(n: int) -> Pairs:
    """Concepts around cluster centres, seen by each side through a random map of its own and some noise."""
    drawn = torch.Generator().manual_seed(SEED)
    centres = torch.randn(CLUSTERS, CONCEPT_DIM, generator=drawn)
    member = torch.randint(CLUSTERS, (n,), generator=drawn)
    concept = centres[member] + torch.randn(n, CONCEPT_DIM, generator=drawn)
    sides = []
    for width in (IMAGE_DIM, TEXT_DIM):
        seen = concept @ torch.randn(CONCEPT_DIM, width, generator=drawn) / CONCEPT_DIM**0.5
        sides.append(F.normalize(seen + 0.5 * torch.randn(n, width, generator=drawn), dim=1))
    return Pairs(sides[0], sides[1])


def peak() -> int:
    """This process's peak resident size in bytes (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fit_once(case: str) -> dict[str, float]:
    """One fit in this process: seconds on the clock and of the processors, and bytes above the inputs."""
    name, settings = CASES[case]
    make_aligner(name, **settings).fit(clustered(300))  # threads and libraries up
    pairs = clustered(N)
    before, start, busy = peak(), time.perf_counter(), time.process_time()
    make_aligner(name, **settings).fit(pairs)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - busy,
        "bytes": peak() - before,
    }


def nystrom_agreement(n: int = 8192) -> dict[str, float]:
    """Mean cosine of Nyström's and the exact text map at `n` pairs, with the landmarks' share of a large fit.

    On the fit's own texts and on as many new ones of the same clusters.
    """
    both = clustered(2 * n)
    fitted, fresh = both[:n], both[n:]
    exact = KernelRidge(max_exact=n).fit(fitted)
    cosines: dict[str, float] = {}
    for landmarks in ("sampled", "farthest"):
        share = round(KernelRidge().n_landmarks * n / N)
        close = KernelRidge(max_exact=0, n_landmarks=share, landmarks=landmarks).fit(fitted)
        for which, text in (("fitted", fitted.text), ("new", fresh.text)):
            cosine = (exact.text(text) * close.text(text)).sum(dim=1).mean()
            cosines[f"{landmarks}, {which} texts"] = round(float(cosine), 4)
    return cosines


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--case", choices=CASES, help="fit this one here and print the figures as JSON")
    chosen = arguments.parse_args()
    if chosen.case:
        print(json.dumps(fit_once(chosen.case)))
        return
    metrics: dict[str, dict[str, float]] = {}
    print(f"{'mapping':26}{'seconds':>9}{'CPU seconds':>13}{'GB above inputs':>17}")
    for case in CASES:
        runs = []
        for _ in range(chosen.runs):
            command = [sys.executable, __file__, "--case", case]
            runs.append(
                json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            )
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        metrics[case] = {
            "fit_seconds": round(middle["seconds"], 2),
            "cpu_seconds": round(middle["cpu_seconds"], 2),
            "gb_above_inputs": round(middle["bytes"] / 1e9, 2),
        }
        print(f"{case:26}" + "{:9.2f}{:13.2f}{:17.2f}".format(*metrics[case].values()), flush=True)
    agreement = nystrom_agreement()
    for which, cosine in agreement.items():
        print(f"Nyström against exact at 8,192 pairs, {which}: mean cosine {cosine:.4f}")
    report = {
        "schema": 1,
        "benchmark": "fit_large",
        "protocol": {
            "pairs": N,
            "image_dim": IMAGE_DIM,
            "text_dim": TEXT_DIM,
            "runs": chosen.runs,
            "of": "medians",
        },
        "metrics": metrics,
        "nystrom_mean_cosine_to_exact": agreement,
        "landmarks": KernelRidge().n_landmarks,
        "seed": SEED,
        "environment": {
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        },
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
