"""Ridge regression over many settings at once: pairs as sums, and a whole path of penalties from one
decomposition.

Pairs enter a ridge regression only through sums over them, so that captions are added, and rows weighted
against them, without going through them again; the captions of one image share its feature and are added up
before they meet it. One eigendecomposition serves all penalties. The result is that of
`headword.aligners.Ridge` on the pairs themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench import Captions


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Weighted sums over pairs of unit-norm texts t and images x, in float64."""

    weight: float
    """Σ ω."""
    pairs: int
    text: Tensor
    """`[k]`, Σ ω t."""
    image: Tensor
    """`[d]`, Σ ω x."""
    gram: Tensor
    """`[k, k]`, Σ ω t tᵀ."""
    cross: Tensor
    """`[k, d]`, Σ ω t xᵀ."""

    @classmethod
    def of(cls, text: Tensor, image: Tensor) -> Moments:
        """Pairs of weight 1: `[N, k]` and `[N, d]`, brought to unit norm."""
        return cls.of_captions(text, image, torch.arange(len(text)))

    @classmethod
    def of_captions(cls, text: Tensor, image: Tensor, owner: Tensor) -> Moments:
        """Pairs of weight 1: texts `[M, k]`, each with the image `[N, d]` that `owner` `[M]` says."""
        T, X = F.normalize(text, dim=1).double(), F.normalize(image, dim=1).double()
        summed = T.new_zeros(len(X), T.shape[1]).index_add_(0, owner, T)  # [N, k]
        counts = torch.bincount(owner, minlength=len(X)).double()
        return cls(float(len(T)), len(T), T.sum(dim=0), counts @ X, T.T @ T, summed.T @ X)

    def __add__(self, other: Moments) -> Moments:
        """The sums over both's pairs."""
        return Moments(
            self.weight + other.weight,
            self.pairs + other.pairs,
            self.text + other.text,
            self.image + other.image,
            self.gram + other.gram,
            self.cross + other.cross,
        )

    def __mul__(self, factor: float) -> Moments:
        """The same pairs, each weight multiplied."""
        return Moments(
            self.weight * factor,
            self.pairs,
            self.text * factor,
            self.image * factor,
            self.gram * factor,
            self.cross * factor,
        )

    def centred(self) -> Moments:
        """The same pairs, each side less its own mean."""
        return Moments(
            self.weight,
            self.pairs,
            torch.zeros_like(self.text),
            torch.zeros_like(self.image),
            self.gram - torch.outer(self.text, self.text) / self.weight,
            self.cross - torch.outer(self.text, self.image) / self.weight,
        )

    def path(self, mean: Tensor | None = None) -> Path:
        """The regression of images on texts, both centred on their means, weights scaled to mean 1.

        Args:
            mean: `[k]` what is subtracted from texts in use; the mean text of the pairs when not given.
        """
        scale = self.pairs / self.weight
        centre = self.text / self.weight
        gram = scale * (self.gram - torch.outer(self.text, centre))
        cross = scale * (self.cross - torch.outer(centre, self.image))
        values, vectors = torch.linalg.eigh(gram)
        used = centre if mean is None else mean
        return Path(used.float(), values.clamp_min(0).float(), vectors.float(), (vectors.T @ cross).float())


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """Ridge regressions of all penalties λ: W = U diag(1/(s + λ)) Uᵀ B."""

    mean: Tensor
    """`[k]`, the mean text."""
    values: Tensor
    """`[k]`, s."""
    vectors: Tensor
    """`[k, k]`, U."""
    target: Tensor
    """`[k, d]`, Uᵀ B."""

    def map_text(self, text: Tensor, penalty: float) -> Tensor:
        """Texts `[M, k]` → unit-norm `[M, d]` in the image space."""
        coordinates = (F.normalize(text, dim=1) - self.mean) @ self.vectors / (self.values + penalty)
        return F.normalize(coordinates @ self.target, dim=1)

    def sides(self, queries: Queries, penalty: float) -> tuple[Tensor, Tensor]:
        """Images `[N, k]` and texts `[M, k]` whose inner products are the cosines of the shared space, in as
        many dimensions as texts have instead of images' many more.
        """
        coordinates = (queries.text - self.mean) @ self.vectors / (self.values + penalty)
        norms = ((coordinates @ (self.target @ self.target.T)) * coordinates).sum(dim=1).clamp_min(0).sqrt()
        return queries.image @ self.target.T, coordinates / norms.clamp_min(1e-12)[:, None]

    def recalls(self, queries: Queries, penalties: Sequence[float], k: int = 10) -> list[float]:
        """Text-to-image recall@k in percent for each penalty; a wrong image that ties goes first."""
        coordinates = (queries.text - self.mean) @ self.vectors  # [M, k]
        target = self.target @ queries.image.T  # [k, N]
        found = []
        for penalty in penalties:
            # A caption's norm changes nothing in its own ranking of the images.
            scores = (coordinates / (self.values + penalty)) @ target  # [M, N]
            right = scores.gather(1, queries.owner[:, None])
            found.append(100 * float(((scores >= right).sum(dim=1) <= k).double().mean()))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """Captions that look for their images, as `Path.recalls` needs them."""

    text: Tensor
    """`[M, k]` unit norm."""
    image: Tensor
    """`[N, d]` centred on their own mean and unit norm."""
    owner: Tensor
    """`[M]`."""

    @classmethod
    def of(cls, data: Captions, each: int | None = None) -> Queries:
        """The captions of a split, or the first `each` of every image; images centred on their own mean."""
        unit = F.normalize(data.features, dim=1)
        first = torch.searchsorted(data.owner, data.owner)  # where the image's captions begin
        kept = torch.arange(len(first)) - first < (each or len(first))
        text, owner = F.normalize(data.text, dim=1)[kept], data.owner[kept]
        return cls(text, F.normalize(unit - unit.mean(dim=0), dim=1), owner)
