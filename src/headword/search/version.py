"""One version of an index, opened: what a search reads."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headword.aligners import Aligner
from headword.errors import HeadwordError
from headword.search.catalogue import Catalogue
from headword.search.exact import ExactSearch
from headword.search.filter import Condition, parse
from headword.search.manifest import NAME, Manifest
from headword.search.query import Hit
from headword.search.relevance import SAMPLED
from headword.search.rows import Rows
from headword.search.space import Floats, Indices, Space

Where = str | Condition
"""A filter, as it is written or parsed."""


class Version:
    """All of one version of an index; nothing in it changes."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        path = folder / manifest.catalogue
        self.catalogue = Catalogue(path, manifest.images, manifest.catalogue_sha256)
        state = self.catalogue.state
        self.slots: Indices = state["slots"]  # of each place
        self.places = np.full(manifest.slots, -1, np.int64)  # of each slot
        self.places[self.slots] = np.arange(len(self.slots))
        if {len(state[name]) for name in ("scales", "distances", "inverse_norms")} != {manifest.slots}:
            raise ValueError("arrays of other sizes")
        self.rows = Rows.open(folder, manifest.rows, manifest.dim, state["scales"], state["distances"])
        self.rows.check_against(self.slots, state["sums"], state["block_sums"])
        self.inverse_norms: Floats = state["inverse_norms"]
        self.centre: Floats = state["centre"]
        self._space: Space | None = None
        self._sample: Floats | None = None

    @classmethod
    def open(cls, folder: Path, manifest: Manifest) -> Version:
        """The version of a manifest."""
        try:
            return cls(folder, manifest)
        except (ArithmeticError, LookupError, TypeError, ValueError, MemoryError) as error:
            raise HeadwordError(f"{folder / NAME} does not fit its files; index the folder again") from error

    def space(self, aligner: Aligner) -> Space:
        """The shared space of its model's aligner, around its centre."""
        if self._space is None:
            self._space = Space.of(aligner, self.centre)
        return self._space

    def hit(self, place: int, score: float) -> Hit:
        """The image at a place."""
        path, tag, tag_score = self.catalogue.image(place)
        return Hit(path, score, tag, tag_score, self.catalogue.tags_of(place))

    def corrections(self) -> dict[int, dict[str, int]]:
        """What was said of images by hand, by place."""
        said = self.catalogue.corrections()
        places = {path: self.catalogue.place_of(path) for path in said}
        return {place: said[path] for path, place in places.items() if place is not None}

    def sample(self, aligner: Aligner) -> Floats:
        """Unit vectors of some of its images, evenly spread, in the shared space of its model's aligner."""
        if self._sample is None:
            places = np.linspace(0, len(self.slots) - 1, min(SAMPLED, len(self.slots))).astype(np.int64)
            self._sample = self.space(aligner).image(self.rows[self.slots[places]])
        return self._sample

    def places_where(self, where: Where | None) -> Indices:
        """The places of those that satisfy a condition, ascending."""
        if where is None:
            return np.arange(len(self.slots))
        return self.catalogue.places(parse(where) if isinstance(where, str) else where)

    def search(self, where: Where | None) -> ExactSearch:
        """The search of those that satisfy a condition."""
        if where is None:
            return self._whole
        return ExactSearch(self.rows, self.inverse_norms, self._mask(self.slots[self.places_where(where)]))

    @cached_property
    def _whole(self) -> ExactSearch:
        every = len(self.slots) == self.manifest.slots
        return ExactSearch(self.rows, self.inverse_norms, None if every else self._mask(self.slots))

    def _mask(self, slots: Indices) -> NDArray[np.bool_]:
        mask = np.zeros(self.manifest.slots, np.bool_)
        mask[slots] = True
        return mask


def newest(folder: Path) -> Version:
    """The newest version; again if a writer replaced it while it was being opened."""
    for _ in range(4):
        manifest = Manifest.read(folder)
        try:
            return Version.open(folder, manifest)
        except HeadwordError:
            if Manifest.read(folder).version == manifest.version:
                raise
    return Version.open(folder, Manifest.read(folder))
