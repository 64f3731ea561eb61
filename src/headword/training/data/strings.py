"""Many strings in two arrays: a fraction of the memory of Python's own, and shared by forked workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


class Strings(Sequence[str]):
    """A list of strings, packed."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogatepass")


class Groups:
    """For each of N samples some strings, packed."""

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self._strings = Strings(text for group in groups for text in group)
        self._starts = np.cumsum([0, *map(len, groups)], dtype=np.int64)

    def __getitem__(self, index: int) -> tuple[str, ...]:
        return tuple(self._strings[i] for i in range(self._starts[index], self._starts[index + 1]))
