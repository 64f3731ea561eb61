"""m_NN, retrieval ranks and the permutation test at the sizes of real sets, beside plain loops.

The loops, which say what the metrics mean, would take hours at full size: each is timed on the first few
items of the same input and scaled to all of them (`loop_seconds_scaled`). Where a loop gives a number for
those items, it is compared. Seconds are medians; the peak of memory is of a process of its own that computes
one metric alone, inputs included.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.harness import apart, load, memory, seconds
from headword.metrics import centroid_test, retrieval_metrics, retrieval_places, shared_neighbours

SEED, REPEATS = 0, 3
SHUFFLES = 10_000


def run(share: float = 1.0) -> dict[str, Any]:
    """Time every metric, at a share of the size for a trial."""
    load_before, metrics = load(), {}
    for name, (metric, loop) in CASES.items():
        times = [seconds(lambda: metric(share)) for _ in range(REPEATS)]  # noqa: B023
        median, scaled = statistics.median(times), loop(share)
        metrics[name] = {
            "seconds_median": median,
            "seconds": times,
            "loop_seconds_scaled": scaled,
            "times_faster": scaled / median,
            "peak_memory_gb": apart(peak_of, name, share) / 1e9,
        }
    return {
        "metrics": metrics,
        "protocol": {
            "shared_neighbours": "m_NN, 21,841 × (1,024 against 384), k = 10",
            "retrieval": "25,000 captions × 5,000 images, 512 dimensions: places both ways, all metrics",
            "centroid_test": f"{SHUFFLES:,} permutations of 2 × 1,000 × 1,280",
            "share": share,
            "inputs": "made within the time",
            "repeats": REPEATS,
            "load_average_before": load_before,
        },
        "seed": SEED,
    }


def peak_of(name: str, share: float) -> int:
    """Bytes at this process's peak with one metric computed."""
    CASES[name][0](share)
    return memory()


def random(share: float, rows: int, width: int) -> Tensor:
    """`[share · rows, width]`."""
    return torch.randn(round(share * rows), width, generator=torch.Generator().manual_seed(SEED + width))


def neighbours(share: float) -> None:
    """m_NN."""
    shared_neighbours(random(share, 21_841, 1024), random(share, 21_841, 384), 10)


def neighbours_loop(share: float) -> float:
    """The same, item by item."""
    X, Y = (F.normalize(random(share, 21_841, width), dim=1) for width in (1024, 384))

    def of(i: int) -> float:
        near = []
        for side in (X, Y):
            cosines = [(float(side[i] @ side[j]), j) for j in range(len(side)) if j != i]
            near.append({j for _, j in sorted(cosines, reverse=True)[:10]})
        return len(near[0] & near[1]) / 10

    items = 20
    return seconds(lambda: [of(i) for i in range(items)]) / items * len(X)


def clip_like(share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Images, five captions of each, and whose they are."""
    image = F.normalize(random(share, 5_000, 512), dim=1)
    owner = torch.arange(5 * len(image)) // 5
    noise = torch.randn(len(owner), 512, generator=torch.Generator().manual_seed(SEED + 1))
    return image, F.normalize(image[owner] + 0.08 * noise, dim=1), owner


def retrieval(share: float) -> None:
    """Places both ways and all metrics."""
    image, text, owner = clip_like(share)
    retrieval_metrics(retrieval_places(image, text, owner))


def retrieval_loop(share: float) -> float:
    """The same, query by query."""
    image, text, owner = clip_like(share)
    places = retrieval_places(image, text, owner)
    queries = 10

    def images() -> None:
        for j in range(queries):
            order = sorted(range(len(image)), key=lambda i: -float(text[j] @ image[i]))
            if order.index(int(owner[j])) + 1 != int(places.image[j]):
                raise AssertionError("the loop ranks otherwise")

    def captions() -> None:
        order = sorted(range(len(text)), key=lambda j: -float(text[j] @ image[0]))
        if [order.index(j) + 1 for j in range(5)] != places.caption[:5].tolist():
            raise AssertionError("the loop ranks otherwise")

    return seconds(images) / queries * len(text) + seconds(captions) * len(image)


def centroids(share: float) -> None:
    """The permutation test."""
    centroid_test(random(share, 1_000, 1280), random(share, 1_000, 1280) + 0.01, permutations=SHUFFLES)


def centroids_loop(share: float) -> float:
    """The same, shuffle by shuffle."""
    A = random(share, 1_000, 1280)
    points = torch.cat([A, A + 0.01])

    def shuffle() -> float:
        order = torch.randperm(len(points))
        return float((points[order[: len(A)]].mean(dim=0) - points[order[len(A) :]].mean(dim=0)).norm())

    shuffles = 200
    return seconds(lambda: [shuffle() for _ in range(shuffles)]) / shuffles * SHUFFLES


CASES: dict[str, tuple[Callable[[float], None], Callable[[float], float]]] = {
    "shared_neighbours": (neighbours, neighbours_loop),
    "retrieval": (retrieval, retrieval_loop),
    "centroid_test": (centroids, centroids_loop),
}
