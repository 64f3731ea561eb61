"""What a search of images gives: places and scores, and paths where paths were searched."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor
from typing_extensions import Self

from headword.extract.given import named_images
from headword.results import Table


class Matches(Table, tuple[Tensor, Tensor]):
    """The best images for each of Q queries, best first: (places `[Q, k]`, scores `[Q, k]`)."""

    paths: list[list[str]] | None
    """Theirs, for each query, where a folder or a list of paths was searched."""

    @classmethod
    def of(cls, images: object, places: Tensor, scores: Tensor) -> Self:
        """Places in `images`, as `DualEncoder.search` was given them."""
        matches = cls((places, scores))
        names = None
        if isinstance(images, str | os.PathLike):
            names = [str(path) for path in named_images(images)]
        elif isinstance(images, list | tuple) and all(isinstance(one, str | os.PathLike) for one in images):
            names = [os.fspath(one) for one in images]
        rows = places.tolist()
        matches.paths = None if names is None else [[names[place] for place in row] for row in rows]
        return matches

    def columns(self) -> dict[str, list[Any]]:
        """A row for each match: the query's place, the image's path or place, and the score."""
        names, (places, scores) = self.paths or self[0].tolist(), self
        return {
            "query": [query for query, row in enumerate(places) for _ in row],
            "image": [name for row in names for name in row],
            "score": scores.flatten().tolist(),
        }
