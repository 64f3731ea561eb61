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
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headword.errors import HeadwordError
from headword.search.space import Floats

BLOCK = 128
"""Rows of a block."""

UNKNOWN = -1
"""The checksum of a row that belongs to no image."""

_AT_ONCE = 64 * BLOCK  # rows of a write


class Rows:
    """The features of an index, in memory or mapped.

    `rows[places]` are rows `[n, d]`, unit norm or zero; `half` gives the rounded ones.

    Args:
        values: `[N, d]`.
        blocks: bfloat16 `[ceil(N / 128), d, 128]`.
        rounding: the greatest distance of a row to what it is rounded to.
        row_sums: CRC-32 of each row `[N]`, or `UNKNOWN`; not checked when not given.
        block_sums: CRC-32 of each block `[ceil(N / 128)]`, of the last one without its filling.
        path: of the files, without their endings.
        maps: of the files, by their endings.
    """

    def __init__(
        self,
        values: Floats,
        blocks: Tensor,
        rounding: float,
        *,
        row_sums: NDArray[np.int64] | None = None,
        block_sums: NDArray[np.int64] | None = None,
        path: Path | None = None,
        maps: Mapping[str, mmap.mmap] = MappingProxyType({}),
    ) -> None:
        self.values = values
        self.rounding = rounding
        self._blocks = blocks
        self._path = path
        self._maps = maps
        self._row_sums = np.full(len(values), UNKNOWN) if row_sums is None else row_sums
        self._block_sums = np.full(len(blocks), UNKNOWN) if block_sums is None else block_sums
        self._rows_to_check = self._row_sums != UNKNOWN
        self._blocks_to_check = self._block_sums != UNKNOWN

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, places: slice | NDArray[np.int64]) -> Floats:
        """Some rows, checked.

        Raises:
            HeadwordError: if one is damaged.
        """
        self._check_size("f32")
        rows, to_check = self.values[places], self._rows_to_check[places]
        if to_check.any():
            sums = np.fromiter(map(zlib.crc32, rows), np.int64, len(rows))
            damaged = np.flatnonzero(to_check & (sums != self._row_sums[places]))
            if len(damaged):
                raise self._damaged("f32", f"row {np.arange(len(self))[places][damaged[0]]}")
            self._rows_to_check[places] = False
        return rows

    def half(self, blocks: slice | Tensor) -> Tensor:
        """Some blocks of rounded rows, checked.

        Raises:
            HeadwordError: if one is damaged.
        """
        self._check_size("bf16")
        part = blocks if isinstance(blocks, slice) else blocks.numpy()
        if self._blocks_to_check[part].any():
            bits = self._blocks.view(torch.int16).numpy()
            for block in np.arange(len(bits))[part].tolist():
                rows = min(BLOCK, len(self) - block * BLOCK)
                if self._blocks_to_check[block] and _block_sum(bits[block], rows) != self._block_sums[block]:
                    raise self._damaged("bf16", f"rows {block * BLOCK} to {block * BLOCK + rows - 1}")
            self._blocks_to_check[part] = False
        return self._blocks[blocks]

    def check(self, start: int, stop: int) -> None:
        """Check rows from a multiple of 128 on, in both files.

        Raises:
            HeadwordError: if one is damaged.
        """
        self[start:stop]
        self.half(slice(start // BLOCK, -(-stop // BLOCK)))

    def _check_size(self, ending: str) -> None:
        mapped = self._maps.get(ending)
        if mapped is not None and (size := mapped.size()) < len(mapped):
            raise _cut_short(f"{self._path}.{ending}", size)

    def _damaged(self, ending: str, where: str) -> HeadwordError:
        return HeadwordError(
            f"{self._path}.{ending} is damaged ({where}); index the folder again, which computes anew only "
            "what is damaged"
        )

    @classmethod
    def of(cls, units: Floats) -> Rows:
        """Rows `[N, d]` that are in memory."""
        blocks, rounding = rounded(units)
        return cls(units, blocks, rounding)

    @classmethod
    def open(
        cls,
        folder: Path,
        name: str,
        slots: int,
        dim: int,
        rounding: float,
        row_sums: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
        block_sums: NDArray[np.int64] | None = None,
    ) -> Rows:
        """The first `slots` rows of the files, with the checksums of some of them, and of all blocks.

        Raises:
            HeadwordError: if one is missing or too short.
        """
        maps: dict[str, mmap.mmap] = {}
        values = _mapped(folder / f"{name}.f32", np.float32, (slots, dim), maps)
        bits = _mapped(folder / f"{name}.bf16", np.int16, (-(-slots // BLOCK), dim, BLOCK), maps)
        blocks = torch.from_numpy(bits).view(torch.bfloat16)
        sums = np.full(slots, UNKNOWN)
        if row_sums is not None:
            sums[row_sums[0]] = row_sums[1]
        path = folder / name
        return cls(values, blocks, rounding, row_sums=sums, block_sums=block_sums, path=path, maps=maps)


def rows_there(folder: Path, name: str, dim: int) -> Floats:
    """All rows that the file has, none if there is no file; not checked."""
    path = folder / f"{name}.f32"
    count = path.stat().st_size // (4 * dim) if path.is_file() else 0
    return _mapped(path, np.float32, (count, dim))


def append_rows(folder: Path, name: str, slots: int, units: Floats) -> list[int]:
    """Put rows `[N, d]` behind the first `slots`, on the disk; what lay there is replaced.

    Returns:
        Their checksums.

    Raises:
        HeadwordError: if the disk is full or fails; the first `slots` rows are as they were.
    """
    units = np.ascontiguousarray(units, np.float32)
    path = folder / f"{name}.f32"
    try:
        with _at(path, slots * units.shape[1] * 4) as file:
            file.truncate()
            file.write(units.data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _not_written(path, error) from error
    return [zlib.crc32(row) for row in units]


def blank_rows(folder: Path, name: str, slots: Iterable[int], dim: int) -> None:
    """Zeros in place of damaged rows, which no image has any more: they count where rows are rounded.

    Raises:
        HeadwordError: if the file cannot be written.
    """
    path = folder / f"{name}.f32"
    try:
        with path.open("r+b") as file:
            for slot in slots:
                file.seek(slot * dim * 4)
                file.write(bytes(dim * 4))
    except OSError as error:
        raise _not_written(path, error) from error


def write_halves(folder: Path, name: str, values: Floats, first: int) -> tuple[list[int], float]:
    """Write rows `[N, d]` rounded, from the block `first` on.

    Returns:
        Checksums of these blocks, and the greatest rounding.

    Raises:
        HeadwordError: if the disk is full or fails.
    """
    sums: list[int] = []
    greatest = 0.0
    path = folder / f"{name}.bf16"
    try:
        # A last block that was not full is written again: those who have it mapped see its rows unchanged.
        with _at(path, first * BLOCK * values.shape[1] * 2) as file:
            for start in range(first * BLOCK, len(values), _AT_ONCE):
                part = values[start : start + _AT_ONCE]
                blocks, rounding = rounded(part)
                bits = blocks.view(torch.int16).numpy()
                file.write(bits.data)
                greatest = max(greatest, rounding)
                sums += [_block_sum(block, len(part) - n * BLOCK) for n, block in enumerate(bits)]
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _not_written(path, error) from error
    return sums, greatest


def rounded(units: Floats) -> tuple[Tensor, float]:
    """Rows `[N, d]` → bfloat16 blocks `[ceil(N / 128), d, 128]`, and the greatest rounding."""
    blocks = torch.zeros(-(-len(units) // BLOCK), units.shape[1], BLOCK, dtype=torch.bfloat16)
    greatest = 0.0
    for start in range(0, len(units), _AT_ONCE):
        rows = torch.tensor(units[start : start + _AT_ONCE])
        half = rows.bfloat16()
        greatest = max(greatest, float((rows - half.float()).norm(dim=1).max()))
        full = len(rows) // BLOCK
        first = start // BLOCK
        blocks[first : first + full] = half[: full * BLOCK].view(full, BLOCK, rows.shape[1]).transpose(1, 2)
        if len(rows) > full * BLOCK:
            blocks[first + full, :, : len(rows) - full * BLOCK] = half[full * BLOCK :].T
    return blocks, greatest * (1 + 1e-5)


def _block_sum(bits: NDArray[np.int16], rows: int) -> int:
    """CRC-32 of a block `[d, 128]`, of its first rows where it is not full: others may be added to it."""
    return zlib.crc32(np.ascontiguousarray(bits[:, :rows]).data)


def _not_written(path: Path, error: OSError) -> HeadwordError:
    return HeadwordError(
        f"cannot write {path}: {error.strerror}; the index is what it was: make room and run the same "
        "command again"
    )


def _at(path: Path, begin: int) -> BinaryIO:
    """A file opened for writing from a place on."""
    file = path.open("r+b" if path.exists() else "x+b")
    file.seek(begin)
    return file


def _mapped(
    path: Path, dtype: type, shape: tuple[int, ...], maps: dict[str, mmap.mmap] | None = None
) -> np.ndarray[Any, Any]:
    """The beginning of a file as an array; its map is put into `maps`, by the file's ending."""
    if 0 in shape:
        return np.zeros(shape, dtype)
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
    if maps is not None:
        maps[path.suffix[1:]] = mapped
    return np.frombuffer(mapped, dtype).reshape(shape)


def _cut_short(path: str | Path, size: int) -> HeadwordError:
    return HeadwordError(f"{path} is cut short ({size:,} bytes); index the folder again")
