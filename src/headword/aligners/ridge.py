"""Linear ridge regression from text embeddings to the image space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.aligners.base import Aligner, prepared, source_means, weighted_mean
from headword.aligners.linalg import double, solve_positive
from headword.aligners.pairs import HEAD, Pairs


class Ridge(Aligner):
    """The linear map text → image space in closed form, both sides centred on their weighted means.

    With centred T, X and Ω = diag(ω):

        W = (TᵀΩT + λ I)⁻¹ TᵀΩX;   text map: normalise((t − t̄) W);   image map: normalise(x − centre)

    λ is not scaled by the number of pairs, as in `KernelRidge`, whose linear special case this is. The centre
    is zero until centred.

    Args:
        penalty: λ.
        centre_by_source: centre both sides of each source (head rows, captioned images) on their own
            weighted mean, so that the gap between the two kinds is no part of what is learnt; t̄ and the
            centre are then the captions' and their images' means.
    """

    name = "ridge"

    weight_: Tensor
    """`[k, d]`, W."""
    text_mean_: Tensor
    """`[k]`, t̄."""

    def __init__(self, penalty: float = 3.0, centre_by_source: bool = False) -> None:
        super().__init__()
        self.penalty = penalty
        self.centre_by_source = centre_by_source

    @property
    def text_dim(self) -> int:
        """Width k of the text embeddings."""
        return self._width("weight_", 0)

    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> None:
        self._require(self.penalty > 0, "penalty", "must be positive")
        X, T, omega = double(image), double(text), double(weight)
        mean = weighted_mean(T, omega)
        T, X = T - mean, X - weighted_mean(X, omega)
        weighted = omega[:, None] * T
        self._learn("weight_", solve_positive(self._system(T, weighted), weighted.T @ X).to(image))
        self._learn("text_mean_", mean.to(text))
        self._learn("centre_", torch.zeros_like(image[0]))

    def _fit_by_source(self, image: Tensor, text: Tensor, weight: Tensor, source: Sequence[str]) -> None:
        means = source_means(text, weight, source)
        super()._fit_by_source(image, text - means, weight, source)
        shown = [n for n, one in enumerate(source) if one != HEAD]
        self._learn("text_mean_", weighted_mean(text[shown], weight[shown]) if shown else means[0])

    def _system(self, T: Tensor, weighted: Tensor) -> Tensor:
        gram = weighted.T @ T  # [k, k]
        gram.diagonal().add_(self.penalty)
        return gram

    def weights(self, embeddings: Tensor, pairs: Pairs) -> Tensor:
        """β = (t − t̄) (TᵀΩT + λ I)⁻¹ TᵀΩ, with T centred."""
        unit = F.normalize(self._checked(embeddings, "text_dim"), dim=1)
        _, text, weight = prepared(pairs)
        T = double(text) - weighted_mean(double(text), double(weight))
        weighted = double(weight)[:, None] * T
        right = double(unit - self.text_mean_).T  # [k, M]
        return (weighted @ solve_positive(self._system(T, weighted), right)).T.to(unit)

    def _map_text(self, text: Tensor) -> Tensor:
        return (text - self.text_mean_) @ self.weight_
