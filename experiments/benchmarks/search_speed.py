"""Exact search of 1,000,000 × 384 vectors, beside faiss' flat index, in one run.

The vectors are sentence embeddings of flickr8k captions (MiniLM, 384-d) with noise around them; the queries
are 200 captions that are left out. Without HEADWORD_DATA both are made of 2,000 random clusters. The arms
take turns of five queries, each by itself, then all at once; medians.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench import data_root
from experiments.harness import seconds
from experiments.synthetic_index import NOISE, noisy
from headword.data.captions import read_captions
from headword.encoders import load_text
from headword.search.exact import ExactSearch
from headword.search.rows import Rows

DIM, HELD_OUT, K, SEED = 384, 200, 10, 0
TURN = 5
"""Queries of an arm in a row."""


def run(rows: int = 1_000_000, threads: int = 2, turns: int = 8) -> dict[str, Any]:
    """Both searches, one query at a time and all at once."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    base, queries, what = vectors(rows)
    values, a, b = base.numpy(), queries.numpy(), np.zeros(HELD_OUT)
    ours = ExactSearch(Rows.of(values), np.ones(rows, np.float32))
    flat = faiss.IndexFlatIP(DIM)
    flat.add(values)
    arms: dict[str, Callable[[slice], Any]] = {
        "headword_exact": lambda part: ours.top(a[part], b[part], K),
        "faiss_flat": lambda part: flat.search(a[part], K),
    }
    one = one_by_one(arms, turns)
    best = [set(top.tolist()) for top, _ in ours.top(a[:100], b[:100], K)]
    agree = [len(set(top.tolist()) & own) for top, own in zip(flat.search(a[:100], K)[1], best, strict=True)]
    batch = {
        name: statistics.median(seconds(partial(arms[name], slice(0, HELD_OUT))) for _ in range(times))
        for name, times in (("headword_exact", 3), ("faiss_flat", 1))
    }
    return {
        "rows": rows, "dim": DIM, "k": K, "seed": SEED, "data": what, "threads": threads,
        "first_pass": None if ours.few is not None else "int8" if find_spec("numkong") else "int8 in float32",
        "one_query_ms": one,
        "agreement_with_faiss": sum(agree) / (100 * K),
        "batch_of_200_ms_a_query": {name: 1000 * took / HELD_OUT for name, took in batch.items()},
        "one_query_over_faiss": one["faiss_flat"] / one["headword_exact"],
        "batch_over_faiss": batch["faiss_flat"] / batch["headword_exact"],
    }  # fmt: skip


def vectors(count: int) -> tuple[Tensor, Tensor, str]:
    """Vectors `[count, 384]`, queries `[200, 384]`, and what they are."""
    if os.environ.get("HEADWORD_DATA"):
        entries = read_captions(data_root() / "data" / "flickr8k" / "captions.jsonl")
        captions = [text for entry in entries for text in entry.captions]
        base = F.normalize(load_text("embedded", device="cpu").encode(captions), dim=1)
        what = f"{len(captions) - HELD_OUT} caption embeddings of flickr8k"
    else:
        centres = F.normalize(torch.randn(2000, DIM, generator=torch.Generator().manual_seed(SEED)), dim=1)
        base = noisy(centres, 20_000, seed=SEED + 1, noise=1.0)
        what = "20,000 points of 2,000 random clusters"
    queries = base[-HELD_OUT:]
    return noisy(base[:-HELD_OUT], count, seed=SEED), queries, f"{what}, with noise of length {NOISE}"


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
