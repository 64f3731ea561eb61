"""Exact search of 1,000,000 × 384 vectors, beside faiss' flat index, in one run.

The vectors are sentence embeddings of flickr8k captions (MiniLM, 384-d) with noise around them; the queries
are 200 captions that are left out. Without HEADWORD_DATA both are made of 2,000 random clusters. The arms
take turns of five queries, each by itself, then all at once; medians.

Run: python -m experiments search-speed [--rows 1000000] [--threads 2] [--turns 8]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.benchmarks.common import data_root, write
from experiments.benchmarks.synthetic_index import NOISE, noisy
from headword.search.exact import ExactSearch
from headword.search.rows import Rows

DIM, HELD_OUT, K, SEED = 384, 200, 10, 0
TURN = 5
"""Queries of an arm in a row."""


def vectors(count: int) -> tuple[Tensor, Tensor, str]:
    """Vectors `[count, 384]`, queries `[200, 384]`, and what they are."""
    if os.environ.get("HEADWORD_DATA"):
        from headword.data.captions import read_captions
        from headword.encoders import load_text

        captions = [
            text
            for entry in read_captions(data_root() / "flickr8k" / "captions.jsonl")
            for text in entry.captions
        ]
        base = F.normalize(load_text("embedded", device="cpu").encode(captions), dim=1)
        what = f"{len(captions) - HELD_OUT} caption embeddings of flickr8k"
    else:
        generator = torch.Generator().manual_seed(SEED)
        centres = F.normalize(torch.randn(2000, DIM, generator=generator), dim=1)
        base = noisy(centres, 20_000, seed=SEED + 1, noise=1.0)
        what = "20,000 points of 2,000 random clusters"
    return (
        noisy(base[:-HELD_OUT], count, seed=SEED),
        base[-HELD_OUT:],
        f"{what}, with noise of length {NOISE}",
    )


def seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def one_by_one(arms: dict[str, Callable[[slice], Any]], turns: int) -> dict[str, float]:
    """Median milliseconds of one query; the arms take turns of some queries, the first of which warms up."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(turns):
        for name, search in arms.items():
            for n in range(TURN):
                place = (turn * TURN + n) % HELD_OUT
                took = seconds(partial(search, slice(place, place + 1)))
                times[name] += [took] if n else []
    return {name: 1000 * statistics.median(took) for name, took in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    faiss.omp_set_num_threads(given.threads)
    base, queries, what = vectors(given.rows)
    values, a, b = base.numpy(), queries.numpy(), np.zeros(HELD_OUT)
    ours = ExactSearch(Rows.of(values), np.ones(given.rows, np.float32))
    flat = faiss.IndexFlatIP(DIM)
    flat.add(values)
    arms: dict[str, Callable[[slice], Any]] = {
        "headword_exact": lambda part: ours.top(a[part], b[part], K),
        "faiss_flat": lambda part: flat.search(a[part], K),
    }
    result: dict[str, Any] = {
        "rows": given.rows, "dim": DIM, "k": K, "seed": SEED, "data": what, "threads": given.threads,
        "first_pass": "bfloat16" if ours.half else "float32",
    }  # fmt: skip
    result["one_query_ms"] = one = one_by_one(arms, given.turns)
    right = [set(rows.tolist()) for rows, _ in ours.top(a[:100], b[:100], K)]
    found = flat.search(a[:100], K)[1]
    agree = [len(set(rows.tolist()) & best) for rows, best in zip(found, right, strict=True)]
    result["agreement_with_faiss"] = sum(agree) / (100 * K)
    every = slice(0, HELD_OUT)
    batch = {
        name: statistics.median(seconds(lambda arm=arms[name]: arm(every)) for _ in range(times))  # type: ignore[misc]
        for name, times in (("headword_exact", 3), ("faiss_flat", 1))
    }
    result["batch_of_200_ms_a_query"] = {name: 1000 * took / HELD_OUT for name, took in batch.items()}
    result["one_query_over_faiss"] = one["faiss_flat"] / one["headword_exact"]
    result["batch_over_faiss"] = batch["faiss_flat"] / batch["headword_exact"]
    write("search_speed", result)


if __name__ == "__main__":
    main()
