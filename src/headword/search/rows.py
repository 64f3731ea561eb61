"""Features on disk: a file of float32 rows that grows at its end, read through memory maps.

A reader maps the rows its manifest counts; what a writer adds lies behind them. Rows are never changed: a
changed image gets a new one, and a removed one's stays unused until the file is written anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from headword.errors import HeadwordError
from headword.search.space import Floats


def open_rows(folder: Path, name: str, slots: int, dim: int) -> Floats:
    """The first `slots` rows of a file, `[slots, dim]`, mapped.

    Raises:
        HeadwordError: if the file is missing or too short.
    """
    path = folder / f"{name}.f32"
    if not slots:
        return np.zeros((0, dim), np.float32)
    try:
        size = path.stat().st_size
    except OSError:
        raise HeadwordError(f"{folder} is not whole: {path.name} is missing; index the folder again") from None
    if size < slots * dim * 4:
        raise HeadwordError(f"{path} is cut short ({size:,} bytes); index the folder again")
    return np.memmap(path, np.float32, "r", shape=(slots, dim))


def append_rows(folder: Path, name: str, slots: int, units: Floats) -> None:
    """Put rows `[N, dim]` behind the first `slots`, on the disk; what lay there is replaced.

    Raises:
        HeadwordError: if the disk is full or fails; the first `slots` rows are as they were.
    """
    path = folder / f"{name}.f32"
    begin = slots * units.shape[1] * 4
    try:
        with path.open("r+b" if path.exists() else "x+b") as file:
            file.truncate(begin)
            file.seek(begin)
            file.write(np.ascontiguousarray(units).data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise HeadwordError(
            f"cannot write {path}: {error.strerror}; the index is what it was: make room and run the same "
            "command again"
        ) from error
