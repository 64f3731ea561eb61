"""Features on disk: unit-norm rows in float32, and again in bfloat16 for the first pass of a search.

Both files grow at their end and are read through memory maps. A reader sees the rows its manifest counts;
what a writer adds lies behind them. Rows are never changed: a changed image gets a new one, and a removed
one's stays unused until the files are written anew.

`NAME.f32`   `[slots, d]`
`NAME.bf16`  `[blocks, d, 128]`: blocks of 128 rows, each transposed. A product with a block then adds up 128
             sums at once; with rows as they are it is half as fast. The last block is filled up with zeros.

Each row of the first and each block of the second has a CRC-32, which is checked when it is first read: a
search touches all blocks, but of the rows only some hundreds. Before each read the file's size is asked for:
to read what was cut off a mapped file ends the process.
"""

from __future__ import annotations

import math
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headword.errors import HeadwordError
from headword.search.manifest import not_written
from headword.search.space import Floats

BLOCK = 128
"""Rows of a block."""

UNKNOWN = -1
"""The checksum of a row that belongs to no image."""

Sums = NDArray[np.int64]

_AT_ONCE = 64 * BLOCK  # rows of a write


@dataclass(frozen=True, slots=True)
class _File:
    """The beginning of a file, mapped; or an array in memory, which has no file."""

    array: np.ndarray[Any, Any]
    path: Path | None = None
    map: mmap.mmap | None = None

    @classmethod
    def open(cls, path: Path, dtype: type, *shape: int) -> _File:
        """An array of this shape."""
        if 0 in shape:
            return cls(np.zeros(shape, dtype))
        needed = math.prod(shape) * np.dtype(dtype).itemsize
        try:
            with path.open("rb") as file:
                if (size := os.fstat(file.fileno()).st_size) < needed:
                    raise _cut_short(path, size)
                # Copy on write: torch wants memory that it may write to, and nobody does.
                mapped = mmap.mmap(file.fileno(), needed, access=mmap.ACCESS_COPY)
        except FileNotFoundError:
            raise HeadwordError(f"{path} is missing; index the folder again") from None
        except OSError as error:
            raise HeadwordError(f"{path} cannot be read: {error.strerror}") from error
        return cls(np.frombuffer(mapped, dtype).reshape(shape), path, mapped)

    def check_size(self) -> None:
        if self.map is not None and (size := self.map.size()) < len(self.map):
            raise _cut_short(self.path, size)

    def damaged(self, where: str) -> HeadwordError:
        return HeadwordError(
            f"{self.path} is damaged ({where}); index the folder again, which computes anew only what is "
            "damaged"
        )


class Rows:
    """The features of an index, in memory or mapped.

    `rows[places]` are rows `[n, d]`, unit norm or zero; `half` gives the rounded ones.

    Args:
        values: `[N, d]`.
        bits: bfloat16 `[ceil(N / 128), d, 128]`, as int16.
        rounding: the greatest distance of a row to what it is rounded to.
        row_sums: CRC-32 of each row `[N]`, or `UNKNOWN`; not checked when not given.
        block_sums: CRC-32 of each block `[ceil(N / 128)]`, of the last one without its filling.
    """

    def __init__(
        self,
        values: _File,
        bits: _File,
        rounding: float,
        row_sums: Sums | None = None,
        block_sums: Sums | None = None,
    ) -> None:
        self.values: Floats = values.array
        self.rounding = rounding
        self._files = values, bits
        self._blocks = torch.from_numpy(bits.array).view(torch.bfloat16)
        self._row_sums = np.full(len(values.array), UNKNOWN) if row_sums is None else row_sums
        self._block_sums = np.full(len(bits.array), UNKNOWN) if block_sums is None else block_sums
        self._rows_to_check = self._row_sums != UNKNOWN
        self._blocks_to_check = self._block_sums != UNKNOWN

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, places: slice | NDArray[np.int64]) -> Floats:
        """Some rows, checked."""
        file = self._files[0]
        file.check_size()
        rows, to_check = self.values[places], self._rows_to_check[places]
        if to_check.any():
            sums = np.fromiter(map(zlib.crc32, rows), np.int64, len(rows))
            damaged = np.flatnonzero(to_check & (sums != self._row_sums[places]))
            if len(damaged):
                raise file.damaged(f"row {np.arange(len(self))[places][damaged[0]]}")
            self._rows_to_check[places] = False
        return rows

    def half(self, blocks: slice | Tensor) -> Tensor:
        """Some blocks of rounded rows, checked."""
        file = self._files[1]
        file.check_size()
        part = blocks if isinstance(blocks, slice) else blocks.numpy()
        if self._blocks_to_check[part].any():
            for block in np.arange(len(file.array))[part].tolist():
                first, rows = block * BLOCK, min(BLOCK, len(self) - block * BLOCK)
                if (
                    self._blocks_to_check[block]
                    and _block_sum(file.array[block], rows) != self._block_sums[block]
                ):
                    raise file.damaged(f"rows {first} to {first + rows - 1}")
            self._blocks_to_check[part] = False
        return self._blocks[blocks]

    def check(self, start: int, stop: int) -> None:
        """Check rows from a multiple of 128 on, in both files."""
        self[start:stop]
        self.half(slice(start // BLOCK, -(-stop // BLOCK)))

    @classmethod
    def of(cls, units: Floats) -> Rows:
        """Rows `[N, d]` that are in memory."""
        blocks, rounding = rounded(units)
        return cls(_File(units), _File(blocks.view(torch.int16).numpy()), rounding)

    @classmethod
    def open(
        cls,
        folder: Path,
        name: str,
        slots: int,
        dim: int,
        rounding: float,
        row_sums: tuple[NDArray[np.int64], Sums] | None = None,
        block_sums: Sums | None = None,
    ) -> Rows:
        """The first `slots` rows of the files, with the checksums of some of them, and of all blocks."""
        values = _File.open(folder / f"{name}.f32", np.float32, slots, dim)
        bits = _File.open(folder / f"{name}.bf16", np.int16, -(-slots // BLOCK), dim, BLOCK)
        sums = np.full(slots, UNKNOWN)
        if row_sums is not None:
            sums[row_sums[0]] = row_sums[1]
        return cls(values, bits, rounding, sums, block_sums)


def next_rows(name: str) -> str:
    """The name of the files that rows go to when they are written anew."""
    return f"rows-{int(name.removeprefix('rows-')) + 1:06d}"


def present_rows(folder: Path, name: str, dim: int) -> Floats:
    """All rows that the file has, none if there is no file; not checked."""
    path = folder / f"{name}.f32"
    count = path.stat().st_size // (4 * dim) if path.is_file() else 0
    values: Floats = _File.open(path, np.float32, count, dim).array
    return values


def append_rows(folder: Path, name: str, slots: int, units: Floats) -> list[int]:
    """Put rows `[N, d]` behind the first `slots`, on the disk; what lay there is replaced.

    Returns:
        Their checksums.
    """
    units = np.ascontiguousarray(units, np.float32)
    with _written(folder / f"{name}.f32", slots * units.shape[1] * 4) as file:
        file.truncate()
        file.write(units.data)
    return [zlib.crc32(row) for row in units]


def blank_rows(folder: Path, name: str, slots: Iterable[int], dim: int) -> None:
    """Zeros in place of damaged rows, which no image has any more: they count where rows are rounded."""
    with _written(folder / f"{name}.f32", 0) as file:
        for slot in slots:
            file.seek(slot * dim * 4)
            file.write(bytes(dim * 4))


def write_halves(folder: Path, name: str, values: Floats, first: int) -> tuple[list[int], float]:
    """Write rows `[N, d]` rounded, from the block `first` on.

    Returns:
        Checksums of these blocks, and the greatest rounding.
    """
    sums: list[int] = []
    greatest = 0.0
    # A last block that was not full is written again: those who have it mapped see its rows unchanged.
    with _written(folder / f"{name}.bf16", first * BLOCK * values.shape[1] * 2) as file:
        for start in range(first * BLOCK, len(values), _AT_ONCE):
            part = values[start : start + _AT_ONCE]
            blocks, rounding = rounded(part)
            bits = blocks.view(torch.int16).numpy()
            file.write(bits.data)
            greatest = max(greatest, rounding)
            sums += [_block_sum(block, len(part) - n * BLOCK) for n, block in enumerate(bits)]
        file.truncate()
    return sums, greatest


def rounded(units: Floats) -> tuple[Tensor, float]:
    """Rows `[N, d]` → bfloat16 blocks `[ceil(N / 128), d, 128]`, and the greatest rounding."""
    blocks = torch.zeros(-(-len(units) // BLOCK), units.shape[1], BLOCK, dtype=torch.bfloat16)
    greatest = 0.0
    for start in range(0, len(units), _AT_ONCE):
        rows = torch.tensor(units[start : start + _AT_ONCE])
        half = rows.bfloat16()
        greatest = max(greatest, float((rows - half.float()).norm(dim=1).max()))
        for n in range(0, len(half), BLOCK):
            part = half[n : n + BLOCK]
            blocks[(start + n) // BLOCK, :, : len(part)] = part.T
    return blocks, greatest * (1 + 1e-5)


def _block_sum(bits: NDArray[np.int16], rows: int) -> int:
    """CRC-32 of a block `[d, 128]`, of its first rows where it is not full: others may be added to it."""
    return zlib.crc32(np.ascontiguousarray(bits[:, :rows]).data)


@contextmanager
def _written(path: Path, begin: int) -> Iterator[BinaryIO]:
    """A file to write from a place on; it is on the disk afterwards."""
    try:
        with path.open("r+b" if path.exists() else "x+b") as file:
            file.seek(begin)
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise not_written(path, error) from error


def _cut_short(path: Path | None, size: int) -> HeadwordError:
    return HeadwordError(f"{path} is cut short ({size:,} bytes); index the folder again")
