"""Features on disk: unit-norm rows in float32, and again in bfloat16 for the first pass of a search.

Both files grow at their end and are read through memory maps. A reader sees the rows its manifest counts; what
a writer adds lies behind them. Rows are never changed: a changed image gets a new one, and a removed one's
stays unused until the files are written anew.

`NAME.f32`   `[slots, d]`
`NAME.bf16`  `[blocks, d, 128]`: blocks of 128 rows, each transposed. A product with a block then adds up 128
             sums at once; with rows as they are it is half as fast. The last block is filled up with zeros.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from headword.errors import HeadwordError
from headword.search.space import Floats

BLOCK = 128
"""Rows of a block."""

_AT_ONCE = 64 * BLOCK  # rows of a write


@dataclass(frozen=True, slots=True)
class Rows:
    """The features of an index, in memory or mapped."""

    values: Floats
    """`[N, d]`, unit norm (or zero)."""
    blocks: Tensor
    """bfloat16 `[ceil(N / 128), d, 128]`."""
    rounding: float
    """The greatest distance of a row to what it is rounded to."""

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, units: Floats) -> Rows:
        """Rows `[N, d]` that are in memory."""
        blocks, rounding = rounded(units)
        return cls(units, blocks, rounding)

    @classmethod
    def open(cls, folder: Path, name: str, slots: int, dim: int, rounding: float) -> Rows:
        """The first `slots` rows of the files.

        Raises:
            HeadwordError: if one is missing or too short.
        """
        count = -(-slots // BLOCK)
        values = _mapped(folder / f"{name}.f32", np.float32, (slots, dim))
        blocks = _mapped(folder / f"{name}.bf16", np.int16, (count, dim, BLOCK))
        return cls(values, torch.from_numpy(blocks).view(torch.bfloat16), rounding)


def append_rows(folder: Path, name: str, slots: int, units: Floats) -> float:
    """Put rows `[N, d]` behind the first `slots`, on the disk; what lay there is replaced.

    Returns:
        Their greatest rounding.

    Raises:
        HeadwordError: if the disk is full or fails; the first `slots` rows are as they were.
    """
    dim = units.shape[1]
    rounding = 0.0
    # The last block is written again, with the rows that were in it: those who have it mapped see no change.
    begin = slots // BLOCK * BLOCK
    try:
        with _at(folder / f"{name}.f32", slots * dim * 4) as file:
            file.write(np.ascontiguousarray(units, np.float32).data)
            file.flush()
            os.fsync(file.fileno())
        last = _mapped(folder / f"{name}.f32", np.float32, (slots, dim))[begin:]
        path = folder / f"{name}.bf16"
        with _at(path, begin * dim * 2, cut=False) as file:
            for start in range(-len(last), len(units), _AT_ONCE):
                part = units[max(start, 0) : start + _AT_ONCE]
                part = np.concatenate([last, part]) if start < 0 else part
                blocks, apart = rounded(part)
                rounding = max(rounding, apart)
                file.write(blocks.view(torch.int16).numpy().data)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise HeadwordError(
            f"cannot write {folder / name}: {error.strerror}; the index is what it was: make room and run "
            "the same command again"
        ) from error
    return rounding


def rounded(units: Floats) -> tuple[Tensor, float]:
    """Rows `[N, d]` → bfloat16 blocks `[ceil(N / 128), d, 128]`, and the greatest rounding."""
    blocks = torch.zeros(-(-len(units) // BLOCK), units.shape[1], BLOCK, dtype=torch.bfloat16)
    greatest = 0.0
    for start in range(0, len(units), _AT_ONCE):
        rows = torch.from_numpy(np.ascontiguousarray(units[start : start + _AT_ONCE]))
        half = rows.bfloat16()
        greatest = max(greatest, float((rows - half.float()).norm(dim=1).max()))
        full = len(rows) // BLOCK
        first = start // BLOCK
        blocks[first : first + full] = half[: full * BLOCK].view(full, BLOCK, rows.shape[1]).transpose(1, 2)
        if len(rows) > full * BLOCK:
            blocks[first + full, :, : len(rows) - full * BLOCK] = half[full * BLOCK :].T
    return blocks, greatest * (1 + 1e-5)


def _at(path: Path, begin: int, *, cut: bool = True) -> BinaryIO:
    """A file opened for writing from a place on; what lies behind it is cut off, or not yet."""
    file = path.open("r+b" if path.exists() else "x+b")
    try:
        if cut:
            file.truncate(begin)
        file.seek(begin)
    except OSError:
        file.close()
        raise
    return file


def _mapped(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if 0 in shape:
        return np.zeros(shape, dtype)
    try:
        size = path.stat().st_size
    except OSError:
        raise HeadwordError(f"the index is not whole: {path} is missing; index the folder again") from None
    if size < np.prod(shape, dtype=np.int64) * np.dtype(dtype).itemsize:
        raise HeadwordError(f"{path} is cut short ({size:,} bytes); index the folder again")
    # Copy on write: torch wants memory that it may write to, and nobody does.
    return np.memmap(path, dtype, "c", shape=shape)
