"""Approximate search: LanceDB names candidates, and the exact scores of these decide.

An IVF index with RaBitQ codes (Gao & Long, SIGMOD 2024): vectors are sorted into some √N partitions, of which
a query visits those nearest to it, and there compares one bit a dimension. It misses some images, but what it
finds has its exact score and is in the right order. Images that came after it was built are searched exactly
beside it; it is built anew when a tenth has changed.

How many partitions are visited and how many candidates are asked for is settled when it is built, with the
model's own class names as queries: as many as it takes to find 95 % of the exact ten best. What was measured
is stored with it.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headword.errors import HeadwordError
from headword.search.exact import ExactSearch, Places
from headword.search.space import Doubles, Floats, Space
from headword.search.table import DATABASE, connect

if TYPE_CHECKING:
    import pyarrow as pa

APPROXIMATE_FROM = 1_000_000
"""Images from which an index keeps an approximate one, unless told otherwise: below, the exact search of one
query takes a few hundredths of a second."""

CHANGED = 0.1
"""The share of images that came or went from which it is built anew."""

RECALL = 0.95
"""Of the exact ten best, on average over the queries."""

_FIRST = (8, 10)  # probes, and candidates for each image that is asked for, to begin with
_MANY = 32  # probes from which it may be for a lack of candidates that something is missed
_TOP = 10
_ROWS = 8192  # rows at a time


@dataclass(frozen=True, slots=True)
class Neighbours:
    """An approximate index, as a manifest names it."""

    table: str
    slots: int
    """Rows it was built from, by their greatest slot."""
    images: int
    partitions: int
    probes: int
    """Partitions that a query visits."""
    candidates: int
    """Candidates for each image that is asked for; for ten, if fewer are."""
    recall: float
    """Share of the exact ten best that it found when it was built."""
    queries: int
    """Class names that this was measured on."""
    exact_ms: float
    """Median milliseconds of an exact search then, one query at a time."""
    approximate_ms: float

    def as_json(self) -> dict[str, Any]:
        """All of it by name."""
        return asdict(self)

    def outdated(self, slots: NDArray[np.int64]) -> bool:
        """Whether too many of the images it knows went, or of those in these slots are not in it."""
        known = int(np.searchsorted(slots, self.slots))
        return len(slots) - known + self.images - known > CHANGED * self.images


class ApproximateSearch:
    """Candidates of an approximate index, in the order of their exact scores.

    Args:
        folder: the index.
        said: its approximate index.
        exact: the exact search over all its images.
        alive: which slots are of images `[slots]`.
    """

    def __init__(self, folder: Path, said: Neighbours, exact: ExactSearch, alive: NDArray[np.bool_]) -> None:
        self.said = said
        self._table = connect(folder).open_table(said.table)
        self._exact = exact
        self._alive = alive
        later = alive.copy()
        later[: said.slots] = False
        self._later = ExactSearch(exact.rows, exact.inverse_norms, later) if later.any() else None

    def top(self, vectors: Tensor, a: Floats, b: Doubles, k: int) -> list[tuple[Places, Doubles]]:
        """As `ExactSearch.top`, approximately.

        Args:
            vectors: unit vectors of the shared space `[Q, D]`.
            a: `[Q, d]`, these as queries of features.
            b: `[Q]`.
            k: how many.
        """
        found = []
        for n, vector in enumerate(_padded(vectors.detach().cpu().float().numpy())):
            query = self._table.search(vector, vector_column_name="vector").distance_type("dot")
            query = query.nprobes(self.said.probes).limit(self.said.candidates * max(k, _TOP))
            slots = query.select(["slot", "_distance"]).to_arrow()["slot"].to_numpy()
            slots = slots[self._alive[slots]]
            if self._later is not None:
                later, _ = self._later.top(a[n : n + 1], b[n : n + 1], k)[0]
                slots = np.concatenate([slots, later])
            found.append(self._exact.best_of(np.unique(slots), a[n], float(b[n]), k))
        return found


def build_neighbours(
    folder: Path, name: str, exact: ExactSearch, slots: NDArray[np.int64], space: Space, queries: Tensor
) -> Neighbours:
    """Build and measure an approximate index.

    Args:
        folder: the index.
        name: of the new table.
        exact: the search over all images.
        slots: of the images, ascending.
        space: the shared space.
        queries: unit vectors of it `[Q, D]`, to measure with.

    Raises:
        HeadwordError: if the disk is full, or the installed LanceDB is too old.
    """
    import pyarrow as pa

    database = connect(folder)
    try:
        from lancedb.index import IvfRq
    except ImportError:
        raise HeadwordError(
            "the installed LanceDB is too old for an approximate index; upgrade it, or use --no-approximate"
        ) from None
    partitions = max(1, round(len(slots) ** 0.5))
    shutil.rmtree(folder / DATABASE / f"{name}.lance", ignore_errors=True)  # of a run that was killed
    batches = _batches(exact.rows.values, slots, space)
    first = next(batches)
    reader = pa.RecordBatchReader.from_batches(first.schema, itertools.chain([first], batches))
    try:
        table = database.create_table(name, reader)
        config = IvfRq(distance_type="dot", num_partitions=partitions, max_iterations=10, sample_rate=64)
        table.create_index("vector", config=config)
    except (OSError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        raise HeadwordError(
            f"cannot build the approximate index in {folder}: {why}; the index is what it was"
        ) from error
    built = Neighbours(name, int(slots[-1]) + 1, len(slots), partitions, *_FIRST, 0.0, len(queries), 0.0, 0.0)
    return _settled(folder, built, exact, slots, space, queries)


def _settled(
    folder: Path,
    built: Neighbours,
    exact: ExactSearch,
    slots: NDArray[np.int64],
    space: Space,
    queries: Tensor,
) -> Neighbours:
    """With as many probes, and then candidates, as the recall takes."""
    a, b = space.affine(queries)
    one = [slice(n, n + 1) for n in range(len(queries))]
    right, exact_ms = _timed(lambda n: exact.top(a[n], b[n], _TOP), one)
    alive = np.zeros(len(exact.rows), np.bool_)
    alive[slots] = True
    while True:
        search = ApproximateSearch(folder, built, exact, alive)
        got, approximate_ms = _timed(partial(_top, search, queries, a, b), one)
        recall = float(np.mean([len(np.intersect1d(x, y)) / len(y) for x, y in zip(got, right, strict=True)]))
        built = replace(built, recall=recall, exact_ms=exact_ms, approximate_ms=approximate_ms)
        everything = built.probes >= built.partitions and built.candidates * _TOP >= built.images
        if recall >= RECALL or everything:
            return built
        more = built.candidates * (2 if built.probes >= min(_MANY, built.partitions) else 1)
        built = replace(built, probes=min(2 * built.probes, built.partitions), candidates=more)


def _top(
    search: ApproximateSearch, queries: Tensor, a: Floats, b: Doubles, n: slice
) -> list[tuple[Places, Doubles]]:
    return search.top(queries[n], a[n], b[n], _TOP)


def _timed(
    search: Callable[[slice], list[tuple[Places, Doubles]]], one: list[slice]
) -> tuple[list[Places], float]:
    """What a search finds for each query by itself, and its median milliseconds."""
    found, seconds = [], []
    for n in one:
        begin = time.perf_counter()
        found.append(search(n)[0][0])
        seconds.append(time.perf_counter() - begin)
    return found, 1000 * statistics.median(seconds)


def _batches(values: Floats, slots: NDArray[np.int64], space: Space) -> Iterator[pa.RecordBatch]:
    """Slots and their vectors in the shared space."""
    import pyarrow as pa

    for start in range(0, len(slots), _ROWS):
        part = slots[start : start + _ROWS]
        vectors = _padded(space.image(values[part]))
        flat = pa.array(vectors.reshape(-1))
        lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        yield pa.record_batch({"slot": pa.array(part), "vector": lists})


def _padded(vectors: Floats) -> Floats:
    """RaBitQ packs the signs of 8 dimensions."""
    return np.pad(vectors, ((0, 0), (0, -vectors.shape[1] % 8)))
