"""An index, to read: one version of it, held until `reload`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from headword.classifier import Classifier
from headword.encoders.fingerprint import check_model
from headword.encoders.vision import Vision
from headword.errors import HeadwordError
from headword.files import expand
from headword.model import DualEncoder
from headword.scoring.centring import Centre
from headword.search.lesson import Lesson
from headword.search.manifest import NAME, Manifest
from headword.search.query import LEAST_MOVE, MOVE, WRONG, Hit, Hits, Query
from headword.search.relevance import FIRST, POOL, chances, evidence, least_shown
from headword.search.space import Doubles, Floats, Indices
from headword.search.tagging import correct_tags, tag_index
from headword.search.version import Version, Where, newest
from headword.teaching import around

if TYPE_CHECKING:
    from headword.extract import Progress
    from headword.search.building import Changes

Words = Callable[[list[str]], Tensor]
"""Texts → unit vectors `[N, D]` in the shared space."""

_CHECKED = 8192  # rows at a time


class Index:
    """A searchable folder of images. Made by `headword.search.build_index`, opened by `Index.open`.

    What is found belongs to one version of the index, the one there was at `open` or the last `reload`;
    another process may write a new one meanwhile. Searching is thread-safe.
    """

    def __init__(
        self,
        folder: Path,
        model: DualEncoder | Path | None,
        vision: Vision | None,
        device: str | torch.device,
    ) -> None:
        self.path = folder
        """The index's folder, absolute."""
        self._device, self._vision = device, vision
        self._version = newest(folder)
        self._moved_to = model if isinstance(model, Path) else None
        if isinstance(model, DualEncoder):
            check_model(model, self._version.manifest.model, folder)
            self.__dict__["model"] = model

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        model: DualEncoder | str | os.PathLike[str] | None = None,
        vision: Vision | None = None,
        device: str | torch.device = "auto",
    ) -> Index:
        """Open an index.

        Args:
            folder: where it is.
            model: the model it was made with, if that is at hand or was never saved, or its folder, if that
                was moved; otherwise it is loaded from where it was when it is first needed.
            vision: that model's classifier, as in `headword.load`.
            device: where that model computes.

        Raises:
            HeadwordError: if the folder is no index or a damaged one, or `model` is another than its own.
        """
        if model is not None and not isinstance(model, DualEncoder):
            model = expand(model).resolve()
        return cls(expand(folder).resolve(), model, vision, device)

    @cached_property
    def model(self) -> DualEncoder:
        """The model the index was made with.

        Raises:
            HeadwordError: if it cannot be loaded, or is another by now.
        """
        from headword.model import load

        described = self._version.manifest.model
        folder = self._moved_to or described["folder"]
        if folder is None:
            raise HeadwordError(
                f"{self.path} was made with a model that was not saved; give it: Index.open(folder, model=…)"
            )
        if self._moved_to is None and not Path(folder).is_dir():
            raise HeadwordError(
                f"{self.path} was made with the model at {folder}, which is not there by now; say where it "
                "is: --model DIR, or in Python Index.open(folder, model=…)"
            )
        model = load(folder, vision=self._vision, device=self._device, defer_vision=True)
        check_model(model, described, self.path)
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
        return self._version.manifest.images

    def __getitem__(self, path: str) -> Hit:
        if path not in self:
            raise KeyError(path)
        return self._version.hit(self._version.catalogue.place_of(path) or 0, 0.0)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._version.catalogue.place_of(path) is not None

    def reload(self) -> bool:
        """Take up the newest version; returns whether it is another."""
        if Manifest.read(self.path).version == self.version:
            return False
        before, self._version = self._version, newest(self.path)
        if self._version.manifest.model["fingerprint"] != before.manifest.model["fingerprint"]:
            self.__dict__.pop("model", None)
        return True

    def about(self) -> dict[str, Any]:
        """What the index is, as JSON."""
        manifest = self._version.manifest
        return {
            "folder": str(self.path),
            "root": manifest.root,
            "images": manifest.images,
            "unreadable": manifest.unreadable,
            "model": manifest.model,
            "features": manifest.space,
            "centre": manifest.centre,
            "engine": "exact",
            "tags": manifest.tags and {**manifest.tags, "counts": self.tags()},
            "created": manifest.created,
            "updated": manifest.updated,
            "version": manifest.version,
        }

    def search(self, query: Query, *, k: int = 10, where: Where | None = None) -> Hits:
        """The k images nearest to a query, best first.

        Args:
            query: words, a picture, or both.
            k: how many.
            where: a condition on path, folder, bytes, modified and tags; see `headword.search.filter`.

        Raises:
            HeadwordError: for a query that says nothing, an unreadable picture or a bad condition.
        """
        return self.nearest(self.encode([query]), k=k, where=where, judged=[query.is_words])[0]

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
                picture = self._given(query) if query.like is None else self._units([query.like], version)
                parts.append(query.image_weight * self._embeddings(picture, version)[0])
            parts += [-query.negative_weight * next(encoded) for _ in query.negative]
            row = torch.stack(parts).sum(dim=0) if parts else torch.zeros(self.model.dim)
            row = torch.nn.functional.normalize(row, dim=0)
            rows.append(torch.nn.functional.normalize(row + self._judged(query, version), dim=0))
        return torch.stack(rows)

    def nearest(
        self, vectors: Tensor, *, k: int = 10, where: Where | None = None, judged: Sequence[bool] = ()
    ) -> list[Hits]:
        """The k images nearest to each unit vector `[Q, D]` of the shared space, best first.

        The hits of those that are `judged`, which are of words, have a relevance.

        Raises:
            HeadwordError: for a bad condition, or `k` below 1.
        """
        if k < 1:
            raise HeadwordError(f"k must be 1 or more, got {k}")
        version = self._version
        judged = judged or [False] * len(vectors)
        a, b = version.space(self.model.aligner).affine(vectors)
        best = version.search(where).top(a, b, max(k, POOL) if any(judged) else k)
        first = version.search(None).top(a, b, FIRST) if any(judged) and where is not None else best
        results = []
        for vector, (slots, scores), leading, is_judged in zip(vectors, best, first, judged, strict=True):
            places = version.places[slots[:k]].tolist()
            hits = Hits(map(version.hit, places, scores[:k].tolist()))
            if is_judged:
                relevance = self._relevance(vector, slots, leading[0][:FIRST], version)
                hits = Hits(
                    replace(hit, relevance=p) for hit, p in zip(hits, relevance.tolist(), strict=False)
                )
                hits.least_shown = least_shown(relevance[:POOL])
            results.append(hits)
        return results

    def browse(self, *, k: int = 100, offset: int = 0, where: Where | None = None) -> Hits:
        """Images in the order of their paths, with a score of 0.

        Raises:
            HeadwordError: for a bad condition.
        """
        version = self._version
        places = version.places_where(where)[offset : offset + k].tolist()
        return Hits(version.hit(place, 0.0) for place in places)

    def count(self, where: Where | None = None) -> int:
        """How many images there are, or satisfy a condition.

        Raises:
            HeadwordError: for a bad condition.
        """
        return len(self) if where is None else len(self._version.places_where(where))

    def tags(self) -> dict[str, int]:
        """How many images each label of `tag` was given to, the most frequent first."""
        return self._version.catalogue.tags()

    def folders(self) -> dict[str, int]:
        """How many images lie in each folder of the indexed one, its subfolders not counted."""
        return self._version.catalogue.folders()

    def file(self, path: str) -> Path:
        """The file of an image of the index.

        Args:
            path: as in a `Hit`.

        Raises:
            HeadwordError: if it is not in the index, or lies (links resolved) outside the indexed folder.
        """
        name = self._version.catalogue.file_name(path)
        if name is None:
            raise HeadwordError(f"{path!r} is not in the index {self.path}")
        file = (self.root / name).resolve()
        if self.root not in file.parents:
            raise HeadwordError(f"{path!r} lies outside {self.root} by now; index the folder again")
        return file

    def check(self, *, progress: Progress | None = None) -> int:
        """Check every file of the index; those that are read whole are checked whenever it is opened.

        Args:
            progress: called with (done, all) of the rows.

        Returns:
            How many bytes they have.

        Raises:
            HeadwordError: if one is damaged, with its name.
        """
        version = newest(self.path)
        rows, manifest = version.rows, version.manifest
        for start in range(0, len(rows), _CHECKED):
            rows.check(start, min(start + _CHECKED, len(rows)))
            if progress is not None:
                progress(min(start + _CHECKED, len(rows)), len(rows))
        names = [NAME, manifest.catalogue, f"{manifest.rows}.f32", f"{manifest.rows}.i8"]
        return sum((self.path / name).stat().st_size for name in names)

    def refresh(self, *, progress: Progress | None = None) -> Changes:
        """Take up what changed in the folder; see `headword.search.build_index`.

        Raises:
            HeadwordError: as `build_index`.
        """
        from headword.search.building import build_index

        self.reload()  # another process may have given it another model
        changes = build_index(self.model, self.root, self.path, progress=progress)
        self.reload()
        return changes

    def tag(
        self,
        labels: Sequence[str] | Classifier,
        *,
        templates: str | Sequence[str] | None = None,
        none_of_these: bool = False,
        multi_label: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, int]:
        """Give every image the label that fits it best, or with `multi_label` all that are likely; tags given
        by hand stay. See `headword.search.tagging`.

        Labels may be a classifier of the index's model, in which templates and the like are settled.

        Raises:
            HeadwordError: for no labels, an empty or a repeated one, or a bad template.
        """
        self.reload()
        classifier = self.classifier(
            labels, templates=templates, none_of_these=none_of_these, multi_label=multi_label
        )
        tag_index(self.path, self.model, classifier, progress=progress)
        self.reload()
        return self.tags()

    def correct(self, said: Mapping[str, Mapping[str, bool]]) -> None:
        """Say by hand which tags images have (True) or have not, by path; see `correct_tags` of tagging."""
        correct_tags(self.path, said)
        self.reload()

    def lesson(self, labels: Sequence[str] | Classifier, *, none_of_these: bool = False) -> Lesson:
        """A classifier to teach by the pictures of this version; arguments as of `classifier`."""
        classifier, version = self.classifier(labels, none_of_these=none_of_these), self._version
        features = torch.from_numpy(version.rows[version.slots]).float()
        return Lesson(classifier, features, [version.catalogue.image(place)[0] for place in range(len(self))])

    def classifier(self, labels: Sequence[str] | Classifier, **options: Any) -> Classifier:
        """A classifier around the index's own centre: of words, with options as of `DualEncoder.classifier`;
        or one of the index's model, which learns anew.

        Raises:
            HeadwordError: for a bad label or template.
        """
        version = self._version
        pool = Centre("pool", len(self), str(self.root))
        centre = pool if version.manifest.centre["kind"] == "collection" else self.model.centre
        model = around(self.model, torch.from_numpy(version.centre), centre)
        if isinstance(labels, Classifier):
            return labels.around(model)
        return model.classifier(labels, **options)

    def _given(self, query: Query) -> Floats:
        """Unit-norm features `[1, d]` of a query's own picture."""
        image = query.image
        features = self.model.image_features(image if isinstance(image, Tensor) else [image])
        units: Floats = torch.nn.functional.normalize(features, dim=1).numpy()
        return units

    def _units(self, paths: Sequence[str], version: Version) -> Floats:
        """Unit-norm features `[N, d]` of pictures of the index."""
        places = [version.catalogue.place_of(path) for path in paths]
        if None in places:
            raise HeadwordError(
                f"{paths[places.index(None)]!r} is not in the index {self.path}; give its path as a search "
                "shows it, within the indexed folder"
            )
        return np.asarray(version.rows[version.slots[np.array(places, np.int64)]])

    def _embeddings(self, units: Floats, version: Version) -> Tensor:
        return torch.from_numpy(version.space(self.model.aligner).image(units))

    def _relevance(self, query: Tensor, slots: Indices, first: Indices, version: Version) -> Doubles:
        """Of hits of a query `[D]` in some slots; `first` are those of the whole collection."""
        space, sample = version.space(self.model.aligner), version.sample(self.model.aligner)
        hits, leading = space.image(version.rows[slots]), space.image(version.rows[first])
        return chances(evidence(query.detach().cpu().float().numpy(), hits, leading, sample))

    def _judged(self, query: Query, version: Version) -> Tensor:
        """What judged pictures add to a query `[D]`; see `Query`."""
        added = torch.zeros(self.model.dim)
        judged = len(query.right) + len(query.wrong)
        for paths, sign in ((query.right, 1.0), (query.wrong, -WRONG)):
            if paths:
                added += sign * self._embeddings(self._units(paths, version), version).mean(dim=0)
        return added * (LEAST_MOVE + MOVE * len(query.wrong) / max(1, judged))
