"""Linear ridge regression from text embeddings to the image space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor

from headword.aligners.base import Aligner, centred, prepared, source_means, weighted_mean
from headword.aligners.linalg import double, solve_positive
from headword.aligners.pairs import HEAD, Pairs


@dataclass(eq=False, repr=False)
class Ridge(Aligner):
    """The linear map text → image space in closed form, both sides centred on their weighted means.

    With centred T, X and Ω = diag(ω):

        W = (TᵀΩT + λ I)⁻¹ TᵀΩX;   text map: normalise((t − t̄) W);   image map: normalise(x − centre)

    λ is not scaled by the number of pairs, as in `KernelRidge`, whose linear special case this is. The centre
    is zero until centred.
    """

    name = "ridge"
    text_axis = ("weight_", 0)

    penalty: Annotated[float, Gt(0)] = 3.0  # λ
    centre_by_source: bool = False
    """Centre both sides of each source (head rows, captioned images) on their own weighted mean, so that the
    gap between the two kinds is no part of what is learnt; t̄ and the centre are then the captions' and their
    images' means."""

    weight_: Tensor = field(init=False)  # [k, d], W
    text_mean_: Tensor = field(init=False)  # [k], t̄

    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> dict[str, Tensor]:
        (X, _), (T, mean) = centred(image, weight), centred(text, weight)
        weighted = double(weight)[:, None] * T
        W = solve_positive(self._system(T, weighted), weighted.T @ X)
        return {"weight_": W.to(image), "text_mean_": mean.to(text)}

    def _fit_by_source(
        self, image: Tensor, text: Tensor, weight: Tensor, source: Sequence[str]
    ) -> dict[str, Tensor]:
        means = source_means(text, weight, source)
        shown = [n for n, one in enumerate(source) if one != HEAD]
        mean = weighted_mean(text[shown], weight[shown]) if shown else means[0]
        return super()._fit_by_source(image, text - means, weight, source) | {"text_mean_": mean}

    def _system(self, T: Tensor, weighted: Tensor) -> Tensor:
        gram = weighted.T @ T  # [k, k]
        gram.diagonal().add_(self.penalty)
        return gram

    def weights(self, embeddings: Tensor, pairs: Pairs) -> Tensor:
        """β = (t − t̄) (TᵀΩT + λ I)⁻¹ TᵀΩ, with T centred."""
        unit = F.normalize(self._checked(embeddings, "text_dim"), dim=1)
        _, text, weight = prepared(pairs)
        T, _ = centred(text, weight)
        weighted = double(weight)[:, None] * T
        right = double(unit - self.text_mean_).T  # [k, M]
        return (weighted @ solve_positive(self._system(T, weighted), right)).T.to(unit)

    def _map_text(self, text: Tensor) -> Tensor:
        return (text - self.text_mean_) @ self.weight_
