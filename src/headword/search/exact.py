"""The exact nearest rows: a first pass in bfloat16 that rules out most, and the others exactly.

A row's score is r · (a·u − b), of the float32 numbers r, a, u and the float64 number b, summed up in float64.
That is the definition of exact: it does not depend on batches, threads or what the first pass ran on.

The first pass computes p = fl(ã·ũ) of a and u rounded to bfloat16 (8 bits), summed in float32 and rounded to
bfloat16 once more. With ρ ≥ ‖u − ũ‖ of all rows, ‖u‖ ≤ 1 and δ = 2⁻⁸ the unit of rounding,

    |p − a·u| ≤ ‖a‖ ρ + ‖a − ã‖ ‖ũ‖ + δ |p| (1 + δ) + d 2⁻²³ ‖ã‖ ‖ũ‖

by Cauchy and Schwarz, so a score computed from p is off by at most r·η + 2δ|score| with an η that is known
before. Of each block of 128 rows only the greatest such score is kept. The k-th greatest lower bound of the
blocks bounds the k-th best score from below; blocks whose upper bound is less hold none of the best. Of the
others, rows are ruled out in the same way, and scored exactly from the highest upper bound downwards until
the next bound is less than the k-th score.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headword.extract.machine import native_bfloat16
from headword.search.rows import BLOCK, Rows
from headword.search.space import Doubles, Floats

Places = NDArray[np.int64]
Mask = NDArray[np.bool_]

DIRECT = 2048
"""Rows from which a first pass is worth it."""

_SCORES = 1 << 20  # scores at a time in the first pass: what stays in the processor's cache
_RESCORED = 512  # rows at a time that are scored exactly
_DELTA = 2.0**-8


def _best(places: Places, scores: Doubles, k: int) -> tuple[Places, Doubles]:
    order = np.lexsort((places, -scores))[:k]
    return places[order], scores[order]


class ExactSearch:
    """The k rows of highest score r · (a·u − b), best first; equal scores by row.

    Args:
        rows: u `[N, d]`.
        inverse_norms: r `[N]`, not negative.
        keep: which rows count `[N]`; all when not given.
    """

    def __init__(self, rows: Rows, inverse_norms: Floats, keep: Mask | None = None) -> None:
        self.rows = rows
        self.inverse_norms = inverse_norms
        self.few: Places | None = None
        count = len(rows) if keep is None else int(np.count_nonzero(keep))
        if count <= DIRECT:
            self.few = np.arange(count) if keep is None else np.flatnonzero(keep)
            return
        self.half = _bfloat16_is_sound()
        n, self.n_blocks = len(rows), -(-len(rows) // BLOCK)
        r = torch.zeros(self.n_blocks * BLOCK)
        r[:n] = torch.from_numpy(inverse_norms)
        self.r = r.view(self.n_blocks, BLOCK)
        self.r_most = self.r.amax(dim=1)  # [blocks]
        out = torch.ones(self.n_blocks * BLOCK, dtype=torch.bool)
        out[:n] = False if keep is None else torch.from_numpy(~keep)
        self.out = out.view(self.n_blocks, BLOCK)
        self.some_out = self.out.any(dim=1).tolist()

    def top(self, a: Floats, b: Doubles, k: int) -> list[tuple[Places, Doubles]]:
        """For each query up to k rows and their scores.

        Args:
            a: `[Q, d]`.
            b: `[Q]`.
            k: how many.
        """
        if self.few is not None:
            return [_best(self.few, self._exact(self.few, q, c), k) for q, c in zip(a, b, strict=True)]
        queries, offsets = torch.from_numpy(a), torch.from_numpy(b).float()
        given = queries.bfloat16() if self.half else queries
        greatest = self._greatest(given, offsets)  # [blocks, Q]
        slack, relative = self._errors(queries, given, torch.from_numpy(b))
        results = []
        for n, eta in enumerate(slack.tolist()):
            best = greatest[:, n].double()
            margin = torch.where(best.isinf(), 0.0, self.r_most.double() * eta + relative * best.abs())
            low = _kth((best - margin).numpy(), k)
            blocks = torch.from_numpy(np.flatnonzero((best + margin).numpy() >= low))
            # Of these blocks, which hold all of the best, the rows that may be among them:
            scores = self._scores(blocks, given[n : n + 1], offsets[n : n + 1])[:, 0].double()
            margin = self.r[blocks].double() * eta + relative * scores.abs()
            kept = ~self.out[blocks]
            places = (blocks[:, None] * BLOCK + torch.arange(BLOCK))[kept].numpy()
            low = max(low, _kth((scores - margin)[kept].numpy(), k))
            results.append(self._among(places, (scores + margin)[kept].numpy(), low, a[n], float(b[n]), k))
        return results

    def _exact(self, places: Places, query: Floats, offset: float) -> Doubles:
        scores = np.empty(len(places))
        for start in range(0, len(places), _RESCORED):
            part = places[start : start + _RESCORED]
            # einsum adds up each row by itself, in one order; a matrix product's order depends on its size.
            dots = np.einsum("nd,d->n", self.rows[part].astype(np.float64), query.astype(np.float64))
            scores[start : start + _RESCORED] = self.inverse_norms[part].astype(np.float64) * (dots - offset)
        return scores

    def _errors(self, queries: Tensor, given: Tensor, offsets: Tensor) -> tuple[Tensor, float]:
        """η `[Q]`, and how much a score is off in proportion to itself."""
        norm, length = queries.double().norm(dim=1), 1 + 1e-3
        summing = (queries.shape[1] + 8) * 2.0**-23 * norm * length
        small = 2.0**-22  # of offsets in float32, and of products with r
        if not self.half:
            return summing + 2 * small * offsets.abs(), 4 * small
        apart = (queries.double() - given.double()).norm(dim=1)
        delta = _DELTA * (1 + 2 * _DELTA)
        rounding = norm * self.rows.rounding + apart * length
        return rounding + summing + (delta + 2 * small) * offsets.abs(), delta + 4 * small

    def _greatest(self, given: Tensor, offsets: Tensor) -> Tensor:
        """The greatest computed score of each block, for each query `[blocks, Q]`."""
        step = max(1, _SCORES // (len(given) * BLOCK))
        greatest = torch.empty(self.n_blocks, len(given))
        for start in range(0, self.n_blocks, step):
            stop = min(start + step, self.n_blocks)
            scores = self._scores(slice(start, stop), given, offsets)
            if any(self.some_out[start:stop]):
                scores.masked_fill_(self.out[start:stop, None], -torch.inf)
            torch.amax(scores, dim=2, out=greatest[start:stop])
        return greatest

    def _scores(self, blocks: slice | Tensor, given: Tensor, offsets: Tensor) -> Tensor:
        """Computed scores `[blocks, Q, 128]`."""
        r = self.r[blocks]
        if self.half:
            parts = self.rows.half(blocks)
            dots = torch.bmm(given.expand(len(parts), *given.shape), parts).float()
        else:
            dots = self._float32(blocks, given).view(len(given), len(r), BLOCK).transpose(0, 1)
        return dots.sub_(offsets[:, None]).mul_(r[:, None])

    def _float32(self, blocks: slice | Tensor, given: Tensor) -> Tensor:
        """Products with the rows themselves, `[Q, blocks · 128]`."""
        numbers = np.arange(self.n_blocks)[blocks if isinstance(blocks, slice) else blocks.numpy()]
        dots = torch.zeros(len(given), len(numbers) * BLOCK)
        # A slice at once, others block by block.
        step = max(len(numbers), 1) if isinstance(blocks, slice) else 1
        for n in range(0, len(numbers), step):
            first, last = int(numbers[n]), int(numbers[n : n + step][-1])
            part = torch.from_numpy(np.ascontiguousarray(self.rows[first * BLOCK : (last + 1) * BLOCK]))
            dots[:, n * BLOCK : n * BLOCK + len(part)] = given @ part.T
        return dots

    def _among(
        self, places: Places, high: Doubles, low: float, query: Floats, offset: float, k: int
    ) -> tuple[Places, Doubles]:
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


def _kth(values: Doubles, k: int) -> float:
    """The k-th greatest value; −∞ if there are fewer."""
    return float(-np.partition(-values, k - 1)[k - 1]) if len(values) >= k else -np.inf


@cache
def _bfloat16_is_sound() -> bool:
    """Whether bfloat16 products are native here, and summed up in float32 as the bound supposes."""
    if not native_bfloat16(torch.device("cpu")):
        return False
    x = torch.linspace(0.5, 1, 1024).bfloat16()
    got = torch.bmm(x.expand(2, 1, -1), x[None, :, None].expand(2, -1, BLOCK)).double()
    return bool(((got / x.double().square().sum() - 1).abs() < 1.5 * _DELTA).all())
