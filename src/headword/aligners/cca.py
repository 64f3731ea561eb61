"""Canonical correlation analysis: both sides into a shared space of their most correlated directions."""

from __future__ import annotations

import torch
from torch import Tensor

from headword.aligners.base import Aligner, weighted_mean
from headword.aligners.linalg import double


class CCA(Aligner):
    """Regularised canonical correlation analysis, weighted by the correlations as in CSA.

    With centred X, T, weighted covariances C and ρ_x, ρ_t = penalty · mean variance of a side:

        (C_xx + ρ_x I)^−½ C_xt (C_tt + ρ_t I)^−½ = U S Vᵀ,
        image map: normalise((x − centre) (C_xx + ρ_x I)^−½ U S^½);   text map: the same with V and t̄

    so that inner products are weighted by the canonical correlations S, which is the similarity of CSA (Li et
    al., "CSA: data-efficient mapping of unimodal features to multimodal features", ICLR 2025), but for the
    norms: CSA divides by those of the unweighted coordinates, a cosine has to divide by those of the weighted
    ones. `penalty=0, weighted=False` is what the "Weight recycling" paper (ICML 2026) ran under this name:
    unregularised, plain cosine; it needs many more pairs than dimensions.

    The centre starts as the fit's weighted mean image; `centre_on` replaces it. Directions beyond the rank of
    a side are dropped, so the shared space may be narrower than `dim`. The signs of the directions are fixed
    by making the largest entry of the image side's positive.

    Args:
        dim: the most canonical directions.
        penalty: the ridge on both sides, relative to their mean variance; large by default because a head has
            about as many rows as dimensions.
        weighted: scale the coordinates by the square roots of the canonical correlations.
    """

    name = "cca"

    image_map_: Tensor
    """`[d, D]`."""
    text_map_: Tensor
    """`[k, D]`."""
    text_mean_: Tensor
    """`[k]`, t̄."""
    correlation_: Tensor
    """`[D]`, the (regularised) canonical correlations, descending."""

    def __init__(self, dim: int = 200, penalty: float = 10.0, weighted: bool = True) -> None:
        super().__init__()
        self.dim = dim
        self.penalty = penalty
        self.weighted = weighted

    @property
    def text_dim(self) -> int:
        """Width k of the text embeddings."""
        return self._width("text_map_", 0)

    @property
    def shared_dim(self) -> int:
        """The number D of canonical directions kept."""
        return self._width("image_map_", 1)

    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> None:
        self._require(self.dim > 0, "dim", "must be positive")
        self._require(self.penalty >= 0, "penalty", "must not be negative")
        X, T, omega = double(image), double(text), double(weight)
        image_mean, text_mean = weighted_mean(X, omega), weighted_mean(T, omega)
        root = (omega / omega.sum()).sqrt()[:, None]
        X, T = root * (X - image_mean), root * (T - text_mean)
        noise = torch.finfo(image.dtype).eps
        whiten_x, whiten_t = whitening(X, self.penalty, noise), whitening(T, self.penalty, noise)
        U, S, Vh = torch.linalg.svd((X @ whiten_x).T @ (T @ whiten_t), full_matrices=False)
        kept = min(self.dim, len(S))
        A, B, S = whiten_x @ U[:, :kept], whiten_t @ Vh[:kept].T, S[:kept].clamp(max=1)
        sign = A.gather(0, A.abs().argmax(dim=0, keepdim=True)).sign()  # [1, D]
        scale = sign * S.sqrt() if self.weighted else sign
        self._learn("image_map_", (A * scale).to(image))
        self._learn("text_map_", (B * scale).to(text))
        self._learn("text_mean_", text_mean.to(text))
        self._learn("correlation_", S.to(image))
        self._learn("centre_", image_mean.to(image))

    def _map_text(self, text: Tensor) -> Tensor:
        return (text - self.text_mean_) @ self.text_map_

    def _map_image(self, centred: Tensor) -> Tensor:
        return centred @ self.image_map_


def whitening(rows: Tensor, penalty: float, noise: float) -> Tensor:
    """E (Λ + ρ I)^−½ of the covariance rowsᵀ rows = E Λ Eᵀ: `[d, r]`, without the directions of no variance.

    ρ = penalty · trace/d; a variance within `noise`² of a unit-norm row's length is none. If no direction has
    any, one is left, mapped to zero.
    """
    covariance = rows.T @ rows
    variance: Tensor
    directions: Tensor
    variance, directions = torch.linalg.eigh(covariance)
    least = max(noise**2, float(variance[-1]) * len(variance) * torch.finfo(rows.dtype).eps)
    kept = variance > least
    if not kept.any():
        return torch.zeros_like(covariance[:, :1])
    ridge = penalty * covariance.diagonal().mean()
    return directions[:, kept] * (variance[kept] + ridge).rsqrt()
