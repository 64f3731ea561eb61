"""What every metric refuses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headword.errors import HeadwordError

CHUNK_ELEMENTS = 16_000_000  # scores that are in memory at once: 64 MB in float32


def check_matrix(rows: Tensor, what: str) -> Tensor:
    """Rows `[N, D]` in float32 or float64, some and all finite: with a NaN, ranks would lie."""
    if rows.ndim != 2 or not len(rows):
        raise HeadwordError(f"{what} must be a matrix with at least one row, got shape {list(rows.shape)}")
    if not torch.isfinite(rows).all():
        raise HeadwordError(f"{what} have a NaN or infinite value")
    return rows if rows.dtype == torch.float64 else rows.float()


def check_k(ks: Sequence[int], size: int, what: str) -> None:
    """Refuse a k that is not positive or larger than the set it chooses from."""
    for k in ks:
        if not 1 <= k <= size:
            raise HeadwordError(f"k = {k} does not fit a set of {size} {what}; choose k from 1 to {size}")


def chunk_rows(columns: int) -> int:
    """How many rows of so many columns are computed at once."""
    return max(1, CHUNK_ELEMENTS // max(columns, 1))
