"""An index, to read: one version of it, held until `reload`."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from headword.aligners import Aligner
from headword.dual_encoder import DualEncoder
from headword.errors import HeadwordError
from headword.files import expand, load_tensors
from headword.search.approximate import ApproximateSearch, Neighbours
from headword.search.exact import ExactSearch, alive_of
from headword.search.identity import check_model
from headword.search.manifest import Manifest
from headword.search.query import Hit, Query
from headword.search.rows import Rows
from headword.search.space import Floats, Space
from headword.search.table import Filter, read_table

if TYPE_CHECKING:
    from headword.extract import Progress
    from headword.search.build import Changes

Words = Callable[[list[str]], Tensor]
"""Texts → unit vectors `[N, D]` in the shared space."""


class Version:
    """All of one version of an index; nothing in it changes."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        table = read_table(folder, manifest.table)
        slots = table["slot"].to_numpy()
        readable = np.flatnonzero(slots >= 0)
        self.slots = slots[readable]  # of each place
        table = table.take(readable) if len(readable) < len(slots) else table
        self.paths = table["path"].combine_chunks()
        self.raw = table["raw"].combine_chunks()
        self.tags = table["tag"].combine_chunks()
        self.tag_scores = table["tag_score"].combine_chunks()
        self.filter = Filter(folder, manifest.table)
        self.rows = Rows.open(folder, manifest.rows, manifest.slots, manifest.dim, manifest.rounding)
        state = load_tensors(folder / f"{manifest.state}.safetensors")
        self.inverse_norms: Floats = state["inverse_norms"].numpy()
        self.centre: Floats = state["centre"].numpy()
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
    def approximate(self) -> ApproximateSearch | None:
        """The approximate search of all images, if there is one."""
        said = self.manifest.approximate
        if said is None:
            return None
        return ApproximateSearch(self.folder, Neighbours(**said), self.exact, self.places >= 0)

    def exact_where(self, where: str) -> ExactSearch:
        """The search of those that satisfy a condition."""
        keep = np.zeros(self.manifest.slots, np.bool_)
        keep[self.slots[self.filter.places(where)]] = True
        return ExactSearch(self.rows, self.inverse_norms, keep)


class Index:
    """A searchable folder of images. Made by `headword.search.build_index`, opened by `Index.open`.

    What is found belongs to one version of the index, the one there was at `open` or the last `reload`;
    another process may write a new one meanwhile. Searching is thread-safe.
    """

    def __init__(self, folder: Path, *, model: DualEncoder | None, device: str | torch.device) -> None:
        self.path = folder
        """The index's folder, absolute."""
        self._device = device
        self._version = _current(folder)
        if model is not None:
            check_model(model, self._version.manifest.model, folder)
            self.__dict__["model"] = model

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        model: DualEncoder | None = None,
        device: str | torch.device = "auto",
    ) -> Index:
        """Open an index.

        Args:
            folder: where it is.
            model: the model it was made with, if that is at hand, or was never saved; otherwise it is loaded
                when it is first needed.
            device: where that model computes.

        Raises:
            HeadwordError: if the folder is no index or a damaged one, or `model` is another than its own.
        """
        return cls(expand(folder).resolve(), model=model, device=device)

    @cached_property
    def model(self) -> DualEncoder:
        """The model the index was made with.

        Raises:
            HeadwordError: if it cannot be loaded, or is another by now.
        """
        from headword.saved_model import load

        said = self._version.manifest.model
        if said["folder"] is None:
            raise HeadwordError(
                f"{self.path} was made with a model that was not saved; give it: Index.open(folder, model=…)"
            )
        model = load(said["folder"], device=self._device)
        check_model(model, said, self.path)
        return model

    @property
    def version(self) -> str:
        """Another string for every change; see `headword.search.read_version`."""
        return self._version.manifest.version

    @property
    def root(self) -> Path:
        """The indexed folder, absolute."""
        return Path(self._version.manifest.root)

    def __len__(self) -> int:
        return len(self._version.paths)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._version.place_of(path) is not None

    def reload(self) -> bool:
        """Take up the newest version; returns whether it is another."""
        manifest = Manifest.read(self.path)
        if manifest.version == self.version:
            return False
        if (
            "model" in self.__dict__
            and manifest.model["fingerprint"] != self._version.manifest.model["fingerprint"]
        ):
            del self.__dict__["model"]
        self._version = _current(self.path)
        return True

    def about(self) -> dict[str, Any]:
        """What the index is, as JSON."""
        said = self._version.manifest
        return {
            "folder": str(self.path),
            "root": said.root,
            "images": said.images,
            "unreadable": said.unreadable,
            "model": said.model,
            "features": said.space,
            "centre": said.centre,
            "engine": self.engine(),
            "approximate": said.approximate,
            "tags": said.tags and {**said.tags, "counts": self.tags()},
            "created": said.created,
            "updated": said.updated,
            "version": said.version,
        }

    def engine(self) -> str:
        """What a search without a condition runs on: "exact", or "approximate" with its recall."""
        return self._version.manifest.engine

    def search(
        self, query: Query, *, k: int = 10, where: str | None = None, exact: bool = False
    ) -> list[Hit]:
        """The k images nearest to a query, best first.

        Args:
            query: words, a picture, or both.
            k: how many.
            where: an SQL condition on the columns path, folder, bytes, modified, tag and tag_score.
            exact: see `nearest`.

        Raises:
            HeadwordError: for a query that says nothing, an unreadable picture or a bad condition.
        """
        return self.nearest(self.encode([query]), k=k, where=where, exact=exact)[0]

    def coverage(self, text: str) -> tuple[float, bool] | None:
        """How well the model's head knows a text, 0 … 1, and whether that is out of its depth.

        None for a model that cannot tell; see `headword.coverage`.
        """
        return coverage(self.model, [text])[0]

    def encode(self, queries: Sequence[Query], words: Words | None = None) -> Tensor:
        """Queries → unit vectors `[Q, D]`; see `Query` for the formula.

        Args:
            queries: what to search for; all their texts are encoded together.
            words: encodes texts in place of the model (from a cache, say).

        Raises:
            HeadwordError: for a query that says nothing, or an unreadable picture.
        """
        for query in queries:
            query.check()
        texts = [text for query in queries for text in (query.text, *query.negative) if text is not None]
        encoded = iter((words or self.model.encode_text)(texts)) if texts else iter(())
        version = self._version
        rows = []
        for query in queries:
            parts = []
            if query.text is not None:
                parts.append(query.text_weight * next(encoded))
            if query.image is not None or query.like is not None:
                parts.append(query.image_weight * self._picture(query, version))
            parts += [-query.negative_weight * next(encoded) for _ in query.negative]
            row = torch.stack(parts).sum(dim=0)
            rows.append(torch.nn.functional.normalize(row, dim=0))
        return torch.stack(rows)

    def nearest(
        self, vectors: Tensor, *, k: int = 10, where: str | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """The k images nearest to each unit vector `[Q, D]` of the shared space, best first.

        The search is exact, unless the index has an approximate one, there is no condition, and `exact` does
        not ask for it.

        Raises:
            HeadwordError: for a bad condition, or `k` below 1.
        """
        if k < 1:
            raise HeadwordError(f"k must be 1 or more, got {k}")
        version = self._version
        a, b = version.space(self.model.aligner).affine(vectors)
        near = version.approximate if where is None and not exact else None
        if near is not None:
            found = near.top(vectors, a, b, k)
        else:
            found = (version.exact if where is None else version.exact_where(where)).top(a, b, k)
        return [
            [version.hit(int(version.places[slot]), float(score)) for slot, score in zip(*best, strict=True)]
            for best in found
        ]

    def browse(self, *, k: int = 100, offset: int = 0, where: str | None = None) -> list[Hit]:
        """Images in the order of their paths, with a score of 0.

        Raises:
            HeadwordError: for a bad condition.
        """
        version = self._version
        places = range(len(version.paths)) if where is None else version.filter.places(where)
        return [version.hit(int(place), 0.0) for place in places[offset : offset + k]]

    def count(self, where: str | None = None) -> int:
        """How many images there are, or satisfy a condition.

        Raises:
            HeadwordError: for a bad condition.
        """
        return len(self) if where is None else len(self._version.filter.places(where))

    def tags(self) -> dict[str, int]:
        """How many images each label of `tag` was given to, the most frequent first."""
        counts: dict[str, int] = {}
        for entry in self._version.tags.drop_null().value_counts():
            counts[entry["values"].as_py()] = entry["counts"].as_py()
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def file(self, path: str) -> Path:
        """The file of an image of the index.

        Args:
            path: as in a `Hit`.

        Raises:
            HeadwordError: if it is not in the index, or lies (links resolved) outside the indexed folder.
        """
        version = self._version
        place = version.place_of(path)
        if place is None:
            raise HeadwordError(f"{path!r} is not in the index {self.path}")
        raw = version.raw[place].as_py()
        file = (self.root / (path if raw is None else os.fsdecode(raw))).resolve()
        if self.root not in file.parents:
            raise HeadwordError(f"{path!r} lies outside {self.root} by now; index the folder again")
        return file

    def refresh(self, *, progress: Progress | None = None) -> Changes:
        """Take up what changed in the folder; see `headword.search.build_index`.

        Raises:
            HeadwordError: as `build_index`.
        """
        from headword.search.build import build_index

        self.reload()  # another process may have given it another model
        changes = build_index(self.model, self.root, self.path, progress=progress)
        self.reload()
        return changes

    def tag(
        self,
        labels: Sequence[str],
        *,
        template: str | Sequence[str] | None = None,
        none_of_these: bool = False,
        words: Words | None = None,
        progress: Progress | None = None,
    ) -> dict[str, int]:
        """Give every image the label that fits it best; see `headword.search.tagging`.

        Raises:
            HeadwordError: for no labels, an empty or a repeated one, or a bad template.
        """
        from headword.search.tagging import tag_index

        self.reload()
        tag_index(
            self.path, self.model, labels, template=template, none_of_these=none_of_these, words=words,
            progress=progress,
        )  # fmt: skip
        self.reload()
        return self.tags()

    def _picture(self, query: Query, version: Version) -> Tensor:
        if query.like is not None:
            place = version.place_of(query.like)
            if place is None:
                raise HeadwordError(f"{query.like!r} is not in the index {self.path}")
            slot = version.slots[place]
            units = np.asarray(version.rows.values[slot : slot + 1])
        else:
            image = query.image
            features = self.model.image_features(image if isinstance(image, Tensor) else [image])
            units = torch.nn.functional.normalize(features, dim=1).numpy()
        return torch.from_numpy(version.space(self.model.aligner).image(units)[0])


def coverage(model: DualEncoder, texts: Sequence[str]) -> list[tuple[float, bool] | None]:
    """`Index.coverage` of each of some texts."""
    fit = model.coverage_fit
    if fit is None or not texts:
        return [None] * len(texts)
    return [(known, known < fit.low) for known in model.coverage(texts).tolist()]


def _current(folder: Path) -> Version:
    """The newest version; again if a writer replaced it while it was being opened."""
    for _ in range(4):
        manifest = Manifest.read(folder)
        try:
            return Version(folder, manifest)
        except HeadwordError:
            if Manifest.read(folder).version == manifest.version:
                raise
    return Version(folder, Manifest.read(folder))
