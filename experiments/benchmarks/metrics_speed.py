"""Metrics at the sizes of real sets, beside plain loops that say what they mean.

The loops would take hours at full size: each is timed on the first few items of the same input and scaled to
all of them (`loop_seconds_scaled`). Where a loop gives a number for those items, it is compared. Seconds are
medians; the peak of memory is of a process of its own that computes one metric alone, inputs included.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.benchmarks.common import write
from headword.metrics import centroid_test, retrieval_metrics, retrieval_places, shared_neighbours

SEED = 0
REPEATS = 3


def main() -> None:
    if len(sys.argv) > 1:
        CASES[sys.argv[1]][0]()
        print(peak_kilobytes())
        return
    load_before = os.getloadavg()[0]
    metrics: dict[str, Any] = {}
    for name, (run, loop) in CASES.items():
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        alone = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True)
        scaled = loop()
        median = statistics.median(seconds)
        metrics[name] = {
            "seconds_median": median,
            "seconds": seconds,
            "loop_seconds_scaled": scaled,
            "times_faster": scaled / median,
            "peak_memory_gb": int(alone.stdout) / 1e6,
        }
    write(
        "metrics_speed",
        {
            "metrics": metrics,
            "protocol": {
                "shared_neighbours": "m_NN, 21,841 × (1,024 against 384), k = 10",
                "retrieval": "25,000 captions × 5,000 images, 512 dimensions: places both ways, all metrics",
                "centroid_test": "10,000 permutations of 2 × 1,000 × 1,280",
                "inputs": "made within the time",
                "repeats": REPEATS,
                "load_average_before": load_before,
            },
            "seed": SEED,
        },
    )


def peak_kilobytes() -> int:
    """Of this process since it began; `getrusage` would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED + shape[1]))


def neighbours() -> None:
    shared_neighbours(random(21_841, 1024), random(21_841, 384), 10)


def neighbours_loop() -> float:
    X, Y = (F.normalize(random(21_841, width), dim=1) for width in (1024, 384))
    items = 20
    start = time.perf_counter()
    for i in range(items):
        near = []
        for side in (X, Y):
            cosines = sorted(
                ((float(side[i] @ side[j]), j) for j in range(len(side)) if j != i), reverse=True
            )
            near.append({j for _, j in cosines[:10]})
        _ = len(near[0] & near[1]) / 10
    return (time.perf_counter() - start) / items * len(X)


def clip_like() -> tuple[Tensor, Tensor, Tensor]:
    image = F.normalize(random(5_000, 512), dim=1)
    owner = torch.arange(25_000) // 5
    return image, F.normalize(image[owner] + 0.08 * random(25_000, 512), dim=1), owner


def retrieval() -> None:
    retrieval_metrics(retrieval_places(*clip_like()))


def retrieval_loop() -> float:
    image, text, owner = clip_like()
    places = retrieval_places(image, text, owner)
    queries = 10
    start = time.perf_counter()
    for j in range(queries):
        order = sorted(range(len(image)), key=lambda i, j=j: -float(text[j] @ image[i]))  # type: ignore[misc]
        if order.index(int(owner[j])) + 1 != int(places.image[j]):
            raise AssertionError("the loop ranks otherwise")
    to_image = (time.perf_counter() - start) / queries * len(text)
    start = time.perf_counter()
    order = sorted(range(len(text)), key=lambda j: -float(text[j] @ image[0]))
    if [order.index(j) + 1 for j in range(5)] != places.caption[:5].tolist():
        raise AssertionError("the loop ranks otherwise")
    return to_image + (time.perf_counter() - start) * len(image)


def centroids() -> None:
    centroid_test(random(1_000, 1280), random(1_000, 1280) + 0.01)


def centroids_loop() -> float:
    A, B = random(1_000, 1280), random(1_000, 1280) + 0.01
    points = torch.cat([A, B])
    shuffles = 200
    start = time.perf_counter()
    for _ in range(shuffles):
        order = torch.randperm(len(points))
        _ = float((points[order[: len(A)]].mean(dim=0) - points[order[len(A) :]].mean(dim=0)).norm())
    return (time.perf_counter() - start) / shuffles * 10_000


CASES: dict[str, tuple[Callable[[], None], Callable[[], float]]] = {
    "shared_neighbours": (neighbours, neighbours_loop),
    "retrieval": (retrieval, retrieval_loop),
    "centroid_test": (centroids, centroids_loop),
}

if __name__ == "__main__":
    main()
