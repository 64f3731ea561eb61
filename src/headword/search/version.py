"""One version of an index, opened: what a search reads."""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headword.aligners import Aligner
from headword.errors import HeadwordError
from headword.search.exact import ExactSearch, alive_of
from headword.search.filter import Condition, parse
from headword.search.manifest import NAME, Manifest
from headword.search.query import Hit
from headword.search.rows import Rows
from headword.search.space import Floats, Space
from headword.search.table import columns_of, integers, places_where, read_table, row_sums

if TYPE_CHECKING:
    import pyarrow as pa

Where = str | Condition
"""A filter, as it is written or parsed."""


class Version:
    """All of one version of an index; nothing in it changes."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        table = read_table(manifest.table_file(folder))
        slots = integers(table, "slot")
        readable = np.flatnonzero(slots >= 0)
        self.slots = slots[readable]  # of each place
        table = table.take(readable) if len(readable) < len(slots) else table
        self.paths = table["path"].combine_chunks()
        self.raw = table["raw"].combine_chunks()
        self.tags = table["tag"].combine_chunks()
        self.tag_scores = table["tag_score"].combine_chunks()
        self.table = table
        state = manifest.read_state(folder)
        sums = row_sums(table), state["block_sums"]
        self.rows = Rows.open(folder, manifest.rows, manifest.slots, manifest.dim, manifest.rounding, *sums)
        self.inverse_norms: Floats = state["inverse_norms"]
        self.centre: Floats = state["centre"]
        self.places = np.full(manifest.slots, -1, np.int64)  # of each slot
        self.places[self.slots] = np.arange(len(self.slots))
        self._space: Space | None = None

    def space(self, aligner: Aligner) -> Space:
        """The shared space of its model's aligner, around its centre."""
        if self._space is None:
            self._space = Space.of(aligner, self.centre)
        return self._space

    def place_of(self, path: str) -> int | None:
        """Where a path stands, in the order of paths."""
        place = bisect_left(range(len(self.paths)), path, key=lambda i: self.paths[i].as_py())
        there = place < len(self.paths) and self.paths[place].as_py() == path
        return place if there else None

    def hit(self, place: int, score: float) -> Hit:
        """The image at a place."""
        return Hit(self.paths[place].as_py(), score, self.tags[place].as_py(), self.tag_scores[place].as_py())

    @cached_property
    def exact(self) -> ExactSearch:
        """The search of all images."""
        keep = alive_of(np.sort(self.slots), self.manifest.slots)
        return ExactSearch(self.rows, self.inverse_norms, keep)

    @cached_property
    def columns(self) -> dict[str, pa.Array]:
        """What a filter may name."""
        return columns_of(self.table)

    def places_where(self, where: Where) -> NDArray[np.int64]:
        """The places of those that satisfy a condition, ascending."""
        return places_where(self.columns, parse(where) if isinstance(where, str) else where)

    def exact_where(self, where: Where) -> ExactSearch:
        """The search of them."""
        keep = np.zeros(self.manifest.slots, np.bool_)
        keep[self.slots[self.places_where(where)]] = True
        return ExactSearch(self.rows, self.inverse_norms, keep)


def newest(folder: Path) -> Version:
    """The newest version; again if a writer replaced it while it was being opened."""
    for _ in range(4):
        manifest = Manifest.read(folder)
        try:
            return Version(folder, manifest)
        except (ArithmeticError, LookupError, TypeError, ValueError, MemoryError) as error:
            raise HeadwordError(f"{folder / NAME} does not fit its files; index the folder again") from error
        except HeadwordError:
            if Manifest.read(folder).version == manifest.version:
                raise
    return Version(folder, Manifest.read(folder))
