"""The exact nearest rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headword.search.space import Doubles, Floats

Places = NDArray[np.int64]


def exact_top(
    rows: Floats,
    inverse_norms: Floats,
    a: Floats,
    b: Doubles,
    k: int,
    *,
    keep: NDArray[np.bool_] | None = None,
) -> list[tuple[Places, Doubles]]:
    """The k rows of highest score r · (a·u − b) for each query, best first; equal scores by row.

    Args:
        rows: u `[N, d]`.
        inverse_norms: r `[N]`.
        a: `[Q, d]`.
        b: `[Q]`.
        k: how many.
        keep: which rows count `[N]`; all when not given.

    Returns:
        For each query the rows and their scores.
    """
    allowed = np.arange(len(rows)) if keep is None else np.flatnonzero(keep)
    found = []
    for query, offset in zip(a, b, strict=True):
        scores = inverse_norms[allowed] * (rows[allowed].astype(np.float64) @ query - offset)
        order = np.lexsort((allowed, -scores))[:k]
        found.append((allowed[order], scores[order]))
    return found
