"""The rotation that brings text embeddings nearest to the image space."""

from __future__ import annotations

import torch
from torch import Tensor

from headword.aligners.base import Aligner, weighted_mean
from headword.aligners.linalg import double


class Procrustes(Aligner):
    """The orthogonal map text → image space, both sides centred on their weighted means (Schönemann 1966).

    With centred T, X, Ω = diag(ω) and the singular value decomposition TᵀΩX = U S Vᵀ:

        R = U Vᵀ;   text map: normalise((t − t̄) R);   image map: normalise(x − centre)

    For k ≠ d, R has orthonormal rows or columns, whichever fit. Directions of which the pairs say nothing
    (singular value zero, as with fewer pairs than dimensions) map to zero instead of somewhere arbitrary. The
    centre is zero until centred.
    """

    name = "procrustes"

    rotation_: Tensor
    """`[k, d]`, R."""
    text_mean_: Tensor
    """`[k]`, t̄."""

    @property
    def text_dim(self) -> int:
        """Width k of the text embeddings."""
        return self._width("rotation_", 0)

    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> None:
        X, T, omega = double(image), double(text), double(weight)
        mean = weighted_mean(T, omega)
        cross = (omega[:, None] * (T - mean)).T @ (X - weighted_mean(X, omega))  # [k, d]
        U, S, Vh = torch.linalg.svd(cross, full_matrices=False)
        # The inputs are unit norm, so what rounding alone makes of a zero grows with the number of pairs.
        known = S.gt(32 * len(T) * torch.finfo(image.dtype).eps)
        self._learn("rotation_", ((U * known) @ Vh).to(image))
        self._learn("text_mean_", mean.to(text))
        self._learn("centre_", torch.zeros_like(image[0]))

    def _map_text(self, text: Tensor) -> Tensor:
        return (text - self.text_mean_) @ self.rotation_
