"""Pictures that are there more than once: exact neighbours above a cosine that altered copies keep.

How far a copy may lie from its original, and other pictures from each other, depends on the classifier and
on the pictures, so both are measured. Some pictures of the index are saved smaller and rougher, cropped and
made brighter: duplicates begin no lower than the cosine that nine in ten of these copies keep. And no lower
than one in a hundred pictures has a neighbour, unless a quarter of the copies would be missed: then there are
more copies than that. Features are compared as they are stored, around no centre; all pairs are.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn.functional import normalize

from headword.data.safe_images import load_image
from headword.errors import HeadwordError
from headword.results import Table
from headword.search.query import Hit
from headword.search.space import Floats, Indices

if TYPE_CHECKING:
    from headword.extract import Progress
    from headword.search.index import Index

ALTERED, COMPARED = 24, 1000
"""Pictures whose altered copies, and whose nearest neighbours, say where duplicates begin."""

KEPT = 0.9
"""Share of the altered copies that may count as duplicates."""

MISSED = 0.25
"""Share of them that may be missed, for the sake of what follows."""

NEAR = 0.01
"""Share of the pictures of which another may be that near, though it is no copy."""

_ROWS = 1024  # rows at a time, each with all that follow
_ROUGH = 1e-4  # more than float32 leaves of a cosine


@dataclass(frozen=True, slots=True)
class Duplicates(Table):
    """What `find_duplicates` found; a table of images by the number of their group."""

    groups: list[list[Hit]]
    """Images that are linked by cosines of at least `similarity`, by path; the largest group first. A hit's
    score is its cosine with the nearest of its group."""
    similarity: float

    def columns(self) -> dict[str, list[Any]]:
        """The number of its group, path and score of each image."""
        hits = [(number, hit.path, hit.score) for number, group in enumerate(self.groups) for hit in group]
        return {name: [hit[n] for hit in hits] for n, name in enumerate(("group", "path", "score"))}


Encode = Callable[[list[Image.Image]], Tensor]
"""Pictures → features `[N, d]`, as `DualEncoder.image_features`."""


def find_duplicates(
    index: Index,
    *,
    similarity: float | None = None,
    encode: Encode | None = None,
    progress: Progress | None = None,
) -> Duplicates:
    """Group the images of an index that are copies of each other, or nearly.

    Args:
        index: the index.
        similarity: the least cosine of features, -1 … 1; measured on altered copies when not given.
        encode: what computes features of altered copies, instead of the index's model.
        progress: called with (done, all) of the images.

    Raises:
        HeadwordError: for a similarity out of its range, or if no image that is sampled can be read.
    """
    version = index._version
    features = np.asarray(version.rows[version.slots])
    if similarity is None:
        similarity = copies_begin(index, features, encode or index.model.image_features)
    if not -1 <= similarity <= 1:
        raise HeadwordError(f"a similarity is a cosine, -1 … 1, got {similarity}")
    nearest = np.full(len(features), -1.0)
    first = np.arange(len(features))  # of each image's group, as far as it is known
    for a, b, cosine in _pairs(features, similarity, progress):
        nearest[a], nearest[b] = max(nearest[a], cosine), max(nearest[b], cosine)
        low, high = sorted((_root(first, a), _root(first, b)))
        first[high] = low
    groups: dict[int, list[int]] = {}
    for place in np.flatnonzero(nearest >= similarity).tolist():
        groups.setdefault(_root(first, place), []).append(place)
    ordered = sorted(groups.values(), key=lambda places: (-len(places), places))
    return Duplicates(
        [[version.hit(place, float(nearest[place])) for place in places] for places in ordered], similarity
    )


def copies_begin(index: Index, features: Floats, encode: Encode) -> float:
    """The cosine where duplicates begin, by altered copies of some pictures and the neighbours of more."""
    cosines: list[float] = []
    for place in _spread(len(features), ALTERED):
        with suppress(HeadwordError):  # it may be gone or damaged by now
            file = index.file(index._version.catalogue.image(place)[0])
            image = load_image(file, shrink_to=512, inside=index.root)
            copies = normalize(encode(list(altered(image))), dim=1).numpy()
            cosines += (copies @ features[place]).tolist()
    if not cosines:
        raise HeadwordError(f"no image of {index.root} can be read; give a similarity: --similarity 0.95")
    some = _spread(len(features), COMPARED)
    others = torch.from_numpy(features[some]) @ torch.from_numpy(features).T
    others[torch.arange(len(some)), torch.tensor(some)] = -1.0
    low, high = np.quantile(cosines, [1 - KEPT, MISSED])
    near = np.quantile(others.amax(dim=1).numpy(), 1 - NEAR)
    return float(max(low, min(near, high)))


def _spread(count: int, most: int) -> list[int]:
    """Up to so many places of so many, evenly."""
    places: list[int] = np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()
    return places


def altered(image: Image.Image) -> Iterator[Image.Image]:
    """Copies as people make them: smaller and rougher, without its edges, brighter."""
    width, height = image.size
    buffer = io.BytesIO()
    small = image.resize((max(1, width * 3 // 4), max(1, height * 3 // 4)))
    small.save(buffer, "JPEG", quality=75)
    yield Image.open(buffer).convert("RGB")
    x, y = width // 50, height // 50
    yield image.crop((x, y, width - x, height - y))
    yield ImageEnhance.Brightness(image).enhance(1.1)


def _pairs(
    features: Floats, similarity: float, progress: Progress | None
) -> Iterator[tuple[int, int, float]]:
    """Pairs of rows whose cosine, added up in float64, is at least that."""
    for start in range(0, len(features), _ROWS):
        block = features[start : start + _ROWS]
        rough = torch.from_numpy(block) @ torch.from_numpy(features[start:]).T
        close: Indices = torch.nonzero(rough >= similarity - _ROUGH).numpy()
        for a, b in close[close[:, 0] < close[:, 1]] + start:
            cosine = float(np.dot(features[a].astype(np.float64), features[b].astype(np.float64)))
            if cosine >= similarity:
                yield int(a), int(b), cosine
        if progress is not None:
            progress(start + len(block), len(features))


def _root(first: Indices, place: int) -> int:
    while first[place] != place:
        first[place] = first[first[place]]
        place = int(first[place])
    return place
