"""The rotation that brings text embeddings nearest to the image space."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from headword.aligners.base import Aligner, centred
from headword.aligners.linalg import double


@dataclass(eq=False, repr=False)
class Procrustes(Aligner):
    """The orthogonal map text → image space, both sides centred on their weighted means (Schönemann 1966).

    With centred T, X, Ω = diag(ω) and the singular value decomposition TᵀΩX = U S Vᵀ:

        R = U Vᵀ;   text map: normalise((t − t̄) R);   image map: normalise(x − centre)

    For k ≠ d, R has orthonormal rows or columns, whichever fit. Directions of which the pairs say nothing
    (singular value zero, as with fewer pairs than dimensions) map to zero instead of somewhere arbitrary. The
    centre is zero until centred.
    """

    name = "procrustes"
    text_axis = ("rotation_", 0)

    rotation_: Tensor = field(init=False)  # [k, d], R
    text_mean_: Tensor = field(init=False)  # [k], t̄

    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> dict[str, Tensor]:
        (X, _), (T, mean) = centred(image, weight), centred(text, weight)
        cross = (double(weight)[:, None] * T).T @ X  # [k, d]
        U, S, Vh = torch.linalg.svd(cross, full_matrices=False)
        # The inputs are unit norm, so what rounding alone makes of a zero grows with the number of pairs.
        known = S.gt(32 * len(T) * torch.finfo(image.dtype).eps)
        return {"rotation_": ((U * known) @ Vh).to(image), "text_mean_": mean.to(text)}

    def _map_text(self, text: Tensor) -> Tensor:
        return (text - self.text_mean_) @ self.rotation_
