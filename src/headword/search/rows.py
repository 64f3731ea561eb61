"""Features on disk: unit-norm rows in float32, and again rounded to 8 bits for the first pass of a search.

Both files grow at their end and are read through memory maps. A reader sees the rows its manifest counts;
what a writer adds lies behind them. Rows are never changed: a changed image gets a new one, and a removed
one's stays unused until the files are written anew.

`NAME.f32`  `[slots, d]`, u
`NAME.i8`   `[slots, d]`, integers i of −127 … 127: u is nearly s·i. The scale s of a row, and how far s·i is
            from u, are in the catalogue.

Each row of the first and each block of 128 rows of the second has a CRC-32, which is checked when it is
first read: a search touches all blocks, but of the rows only some hundreds. Before each read the file's size
is asked for: to read what was cut off a mapped file ends the process.
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
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headword.errors import HeadwordError
from headword.search.manifest import not_written
from headword.search.space import Floats, Indices

BLOCK = 128
"""Rows of a block."""

UNKNOWN = -1
"""The checksum of a row that belongs to no image."""

ROUNDED = ("scales", "distances", "block_sums")
"""What is to be known of rounded rows: see `Rounded`, and a CRC-32 of each block."""

_AT_ONCE = 64 * BLOCK  # rows of a write


class Rounded(NamedTuple):
    """Vectors of N rows as s·i: what is left of them in 8 bits."""

    integers: NDArray[np.int8]
    """i `[N, d]`."""
    scales: Floats
    """s `[N]`, above zero."""
    distances: Floats
    """Bounds on ‖u − s·i‖ `[N]`."""


def rounded(vectors: Floats) -> Rounded:
    """Vectors `[N, d]` in 8 bits."""
    scales = np.abs(vectors).max(axis=1) / np.float32(127)
    scales[scales < 1e-30] = 1
    integers = np.rint(vectors / scales[:, None]).clip(-127, 127)
    apart = vectors - integers.astype(np.float64) * scales[:, None]
    distances = np.sqrt(np.einsum("nd,nd->n", apart, apart)) * (1 + 1e-6) + 1e-30
    return Rounded(integers.astype(np.int8), scales, distances.astype(np.float32) * np.float32(1 + 1e-6))


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
                mapped = mmap.mmap(file.fileno(), needed, access=mmap.ACCESS_READ)
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
    """The features of an index, mapped, or in memory.

    `rows[places]` are rows `[n, d]`, unit norm or zero; `integers` gives the rounded ones.
    """

    def __init__(self, values: _File, integers: _File, scales: Floats, distances: Floats) -> None:
        self.values: Floats = values.array
        self.scales = scales
        """See `Rounded`, as is the next."""
        self.distances = distances
        self._files = values, integers
        self._row_sums = np.full(len(self.values), UNKNOWN)
        self._block_sums = np.full(-(-len(self.values) // BLOCK), UNKNOWN)
        self._rows_to_check = self._row_sums != UNKNOWN
        self._blocks_to_check = self._block_sums != UNKNOWN

    @classmethod
    def of(cls, units: Floats) -> Rows:
        """Rows `[N, d]` that are in memory."""
        parts = [rounded(units[start : start + _AT_ONCE]) for start in range(0, len(units), _AT_ONCE)]
        integers, scales, distances = map(np.concatenate, zip(*parts, strict=True))
        return cls(_File(units), _File(integers), scales, distances)

    @classmethod
    def open(cls, folder: Path, name: str, dim: int, scales: Floats, distances: Floats) -> Rows:
        """The first rows of the files, as many as there are scales."""
        slots = len(scales)
        values = _File.open(folder / f"{name}.f32", np.float32, slots, dim)
        return cls(values, _File.open(folder / f"{name}.i8", np.int8, slots, dim), scales, distances)

    def check_against(self, slots: Indices, row_sums: Indices, block_sums: Indices) -> None:
        """From now on, check what is read: the rows in some slots, and all blocks."""
        self._row_sums[slots], self._block_sums[:] = row_sums, block_sums
        self._rows_to_check = self._row_sums != UNKNOWN
        self._blocks_to_check = self._block_sums != UNKNOWN

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, places: slice | Indices) -> Floats:
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

    def integers(self, start: int, stop: int) -> NDArray[np.int8]:
        """Rounded rows from a multiple of 128 on, checked."""
        file = self._files[1]
        file.check_size()
        begin, end = start // BLOCK, -(-stop // BLOCK)
        if self._blocks_to_check[begin:end].any():
            for block in range(begin, end):
                first, last = block * BLOCK, min((block + 1) * BLOCK, len(self))
                if (
                    self._blocks_to_check[block]
                    and zlib.crc32(file.array[first:last].data) != self._block_sums[block]
                ):
                    raise file.damaged(f"rows {first} to {last - 1}")
            self._blocks_to_check[begin:end] = False
        array: NDArray[np.int8] = file.array[start:stop]
        return array

    def check(self, start: int, stop: int) -> None:
        """Check rows from a multiple of 128 on, in both files."""
        self[start:stop]
        self.integers(start, stop)


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
    """Put rows `[N, d]` behind the first `slots`, in place of what lay there; returns their checksums."""
    units = np.ascontiguousarray(units, np.float32)
    with _written(folder / f"{name}.f32", slots * units.shape[1] * 4) as file:
        file.truncate()
        file.write(units.data)
    return [zlib.crc32(row) for row in units]


def blank_rows(folder: Path, name: str, slots: Iterable[int], dim: int) -> None:
    """Zeros in place of damaged rows, which no image has any more."""
    with _written(folder / f"{name}.f32", 0) as file:
        for slot in slots:
            file.seek(slot * dim * 4)
            file.write(bytes(dim * 4))


def write_rounded(folder: Path, name: str, values: Floats, first: int) -> dict[str, NDArray[Any]]:
    """Write rows `[N, d]` rounded, from a multiple of 128 on; what is to be known of these."""
    scales, distances, sums = [np.empty(0, np.float32)], [np.empty(0, np.float32)], []
    # A last block that was not full is written again: those who have it mapped see its rows unchanged.
    with _written(folder / f"{name}.i8", first * values.shape[1]) as file:
        for start in range(first, len(values), _AT_ONCE):
            part = rounded(values[start : start + _AT_ONCE])
            file.write(part.integers.data)
            scales.append(part.scales)
            distances.append(part.distances)
            sums += [zlib.crc32(part.integers[n : n + BLOCK].data) for n in range(0, len(part.scales), BLOCK)]
        file.truncate()
    parts = np.concatenate(scales), np.concatenate(distances), np.array(sums, np.int64)
    return dict(zip(ROUNDED, parts, strict=True))


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
