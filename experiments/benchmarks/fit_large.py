"""Seconds and memory to fit each closed form on the pairs of a 21,841-class head.

Seeded synthetic pairs of an ImageNet-21k head's size, in clusters as class names are: 1,024-d rows, 768-d
texts. Every fit runs in a process of its own; memory is the growth of its peak resident size over the size it
has with the inputs loaded and the linear algebra warmed up. Medians of the runs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from experiments.harness import apart, cost, medians, memory
from headword.aligners import ALIGNERS, KernelRidge, make_aligner
from headword.aligners.pairs import Pairs

N, IMAGE_DIM, TEXT_DIM, SEED = 21_841, 1024, 768, 0
CLUSTERS, CONCEPT_DIM = 500, 256
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {}) for name, aligner in ALIGNERS.items() if not aligner.iterative
} | {"kernel-ridge, farthest": ("kernel-ridge", {"landmarks": "farthest"})}


def run(pairs: int = N, agreement_pairs: int = 8192, runs: int = 3, only: str = "") -> dict[str, Any]:
    """Fit each case, or those whose names begin with `only`."""
    metrics = {}
    for case in CASES:
        if case.startswith(only):
            metrics[case] = medians([apart(fit, case, pairs) for _ in range(runs)], 2)
            print(case, metrics[case], flush=True)
    return {
        "protocol": {
            "pairs": pairs, "image_dim": IMAGE_DIM, "text_dim": TEXT_DIM, "runs": runs, "of": "medians",
        },
        "metrics": metrics,
        "nystrom_mean_cosine_to_exact": nystrom_agreement(agreement_pairs),
        "landmarks": KernelRidge().n_landmarks,
        "seed": SEED,
    }  # fmt: skip


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


def fit(case: str, n: int) -> dict[str, float]:
    """One fit in this process: seconds on the clock and of the processors, and memory above the inputs."""
    name, settings = CASES[case]
    make_aligner(name, **settings).fit(clustered(300))  # threads and libraries up
    pairs, before = clustered(n), memory()
    wall, busy = cost(lambda: make_aligner(name, **settings).fit(pairs))
    return {"fit_seconds": wall, "cpu_seconds": busy, "gb_above_inputs": (memory() - before) / 1e9}


def nystrom_agreement(n: int) -> dict[str, float]:
    """Mean cosine of Nyström's and the exact text map at `n` pairs, with the landmarks' share of a large fit.

    On the fit's own texts and on as many new ones of the same clusters.
    """
    both = clustered(2 * n)
    fitted, fresh = both[:n], both[n:]
    exact = KernelRidge(max_exact=n).fit(fitted)
    cosines: dict[str, float] = {}
    for landmarks in ("sampled", "farthest"):
        share = max(1, round(KernelRidge().n_landmarks * n / N))
        close = KernelRidge(max_exact=0, n_landmarks=share, landmarks=landmarks).fit(fitted)
        for which, text in (("fitted", fitted.text), ("new", fresh.text)):
            cosine = (exact.text(text) * close.text(text)).sum(dim=1).mean()
            cosines[f"{landmarks}, {which} texts"] = round(float(cosine), 4)
    return cosines
