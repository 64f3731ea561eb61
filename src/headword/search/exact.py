"""The exact nearest rows: a first pass over rows of 8 bits rules out most, and the others are scored exactly.

A row's score is r · (a·u − b), of the float32 numbers r, a, u and the float64 number b, summed up in float64.
That is the definition of exact: it does not depend on batches, threads or what the first pass ran on.

Rows u and queries a are rounded to s·i and t·j with integers i and j (`headword.search.rows`). The first pass
computes i·j, exactly, in 32 bits, and p = r · (s·t·(i·j) − b) in float32. With ρ ≥ ‖u − s·i‖,
τ ≥ ‖a − t·j‖ and ‖s·i‖ ≤ 1 + ρ,

    |p − score| ≤ r · (‖a‖·ρ + τ·(1 + ρ)) + 2⁻²⁰ · r · ((‖a‖ + τ)·(1 + ρ) + |b|)

by Cauchy and Schwarz; the last term is more than what float32 leaves. Of each block of 128 rows only the
greatest p is kept. The k-th greatest lower bound of the blocks bounds the k-th best score from below; blocks
whose upper bound is less hold none of the best. Of the others, rows are ruled out in the same way, and scored
exactly from the highest upper bound downwards until the next bound is less than the k-th score.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headword.extract.machine import available_cpus
from headword.search.rows import BLOCK, Rows, rounded
from headword.search.space import Doubles, Floats, Indices

numkong: Any = None  # the same numbers without it, more slowly
with suppress(ImportError):
    numkong = import_module("numkong")

Mask = NDArray[np.bool_]
Integers = NDArray[np.int8]
Products = NDArray[np.int32] | NDArray[np.float64]

DIRECT = 2048
"""Rows from which a first pass is worth it."""

_SCORES = 1 << 18  # scores at a time in the first pass: what stays in the processor's cache
_ROWS = 64 * BLOCK  # rows at a time, however few the queries
_RESCORED = 512  # rows at a time that are scored exactly


class ExactSearch:
    """The k rows of highest score r · (a·u − b), best first; equal scores by row.

    Of rows u `[N, d]` and numbers r `[N]`, which are not negative; `keep` `[N]` says which rows count.
    """

    def __init__(self, rows: Rows, inverse_norms: Floats, keep: Mask | None = None) -> None:
        self.rows, self.r, self.keep = rows, inverse_norms, keep
        self.few: Indices | None = None
        count = len(rows) if keep is None else int(np.count_nonzero(keep))
        if count <= DIRECT:
            self.few = np.arange(count) if keep is None else np.flatnonzero(keep)
            return
        self.scales, self.distances = inverse_norms * rows.scales, inverse_norms * rows.distances
        starts = np.arange(0, len(rows), BLOCK)
        self.most_r = np.maximum.reduceat(inverse_norms, starts)  # of the blocks, as is the next
        self.most_distance = np.maximum.reduceat(self.distances, starts)

    def top(self, a: Floats, b: Doubles, k: int) -> list[tuple[Indices, Doubles]]:
        """For each query, of a `[Q, d]` and b `[Q]`, up to k rows and their scores."""
        if self.few is not None:
            return [_best(self.few, self._exact(self.few, q, c), k) for q, c in zip(a, b, strict=True)]
        integers, scales, apart = rounded(a)
        norms, length = np.linalg.norm(a.astype(np.float64), axis=1), 1 + float(self.rows.distances.max())
        slack = apart * length + 2.0**-20 * ((norms + apart) * length + np.abs(b))
        offsets = b / scales  # p is computed without t, which changes no order
        greatest = self._greatest(_times(integers), offsets) * scales  # [blocks, Q]
        results = []
        for n, (query, offset) in enumerate(zip(a, b, strict=True)):
            margin = norms[n] * self.most_distance + slack[n] * self.most_r
            low = _kth(greatest[:, n] - margin, k)
            blocks = np.flatnonzero(greatest[:, n] + margin >= low)
            # Of these blocks, which hold all of the best, the rows that may be among them:
            places = (blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()
            places = places[places < len(self.rows)]
            parts = [self.rows.integers(start, start + BLOCK) for start in (blocks * BLOCK).tolist()]
            dots = _times(integers[n : n + 1])(np.concatenate(parts))
            scores = self._scores(dots, places, offsets[n : n + 1])[:, 0] * scales[n].astype(np.float64)
            if self.keep is not None:
                places, scores = places[self.keep[places]], scores[self.keep[places]]
            margin = norms[n] * self.distances[places] + slack[n] * self.r[places]
            low = max(low, _kth(scores - margin, k))
            results.append(self._among(places, scores + margin, low, query, float(offset), k))
        return results

    def _exact(self, places: Indices, query: Floats, offset: float) -> Doubles:
        scores = np.empty(len(places))
        for start in range(0, len(places), _RESCORED):
            part = places[start : start + _RESCORED]
            # einsum adds up each row by itself, in one order; a matrix product's order depends on its size.
            dots = np.einsum("nd,d->n", self.rows[part].astype(np.float64), query.astype(np.float64))
            scores[start : start + _RESCORED] = self.r[part].astype(np.float64) * (dots - offset)
        return scores

    def _greatest(self, times: Callable[[Integers], Products], offsets: Doubles) -> Doubles:
        """The greatest p/t of each block, for each query `[blocks, Q]`."""
        step = min(max(1, _SCORES // (len(offsets) * BLOCK)) * BLOCK, _ROWS)

        def of(start: int) -> Floats:
            part = slice(start, min(start + step, len(self.rows)))
            scores = self._scores(times(self.rows.integers(part.start, part.stop)), part, offsets)
            if self.keep is not None:
                scores[~self.keep[part]] = -np.inf
            whole = len(scores) // BLOCK * BLOCK
            most = scores[:whole].reshape(-1, BLOCK, len(offsets)).max(axis=1)
            return most if whole == len(scores) else np.vstack([most, scores[whole:].max(axis=0)])

        with ThreadPoolExecutor(available_cpus()) as threads:
            return np.vstack(list(threads.map(of, range(0, len(self.rows), step)))).astype(np.float64)

    def _scores(self, dots: Products, places: slice | Indices, offsets: Doubles) -> Floats:
        """p/t `[N, Q]` of i·j."""
        scores: Floats = np.multiply(dots, self.scales[places, None], dtype=np.float32)
        if offsets.any():
            scores -= self.r[places, None] * offsets.astype(np.float32)
        return scores

    def _among(
        self, places: Indices, high: Doubles, low: float, query: Floats, offset: float, k: int
    ) -> tuple[Indices, Doubles]:
        """The best of some rows with these upper bounds, where the k-th best score is at least `low`."""
        kept = np.flatnonzero(high >= low)
        kept = kept[np.argsort(-high[kept], kind="stable")]
        places, high = places[kept], high[kept]
        best = np.empty(0)
        exact: list[Doubles] = []
        done = 0
        while done < len(places) and not (len(best) == k and high[done] < best[-1]):
            part = places[done : done + _RESCORED]
            exact.append(self._exact(part, query, offset))
            best = -np.sort(-np.concatenate([best, exact[-1]]))[:k]
            done += len(part)
        return _best(places[:done], np.concatenate(exact), k)


def _times(queries: Integers) -> Callable[[Integers], Products]:
    """Rows `[N, d]` → their products with these queries `[N, Q]`, exact."""
    if numkong is not None and len(queries) == 1:  # in half the time
        return lambda rows: np.asarray(numkong.cdist(rows, queries, "dot"))
    if numkong is not None:
        packed = numkong.dots_pack(queries)
        return lambda rows: np.asarray(numkong.dots_packed(rows, packed))
    columns = queries.T.astype(np.float32)

    def times(rows: Integers) -> Products:
        dots = np.zeros((len(rows), len(queries)), np.int32)
        for start in range(0, rows.shape[1], 1024):  # of as many, sums are exact in float32, in any order
            part = slice(start, start + 1024)
            dots += (rows[:, part].astype(np.float32) @ columns[part]).astype(np.int32)
        return dots

    return times


def _best(places: Indices, scores: Doubles, k: int) -> tuple[Indices, Doubles]:
    order = np.lexsort((places, -scores))[:k]
    return places[order], scores[order]


def _kth(values: Doubles, k: int) -> float:
    """The k-th greatest value; −∞ if there are fewer."""
    return float(-np.partition(-values, k - 1)[k - 1]) if len(values) >= k else -np.inf
