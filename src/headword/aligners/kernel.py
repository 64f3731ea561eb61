"""Kernel ridge regression from text embeddings to the image space: the default mapping."""

from __future__ import annotations

import torch
from torch import Tensor

from headword.aligners._linalg import cholesky, double, row_chunks, solve_positive
from headword.aligners.base import Aligner, weighted_mean

_NUGGET = 1e-7
"""Added to the landmarks' kernel's diagonal: far below any useful penalty, far above float64's rounding."""


class KernelRidge(Aligner):
    """Kernel ridge regression with the kernel of similar names.

    With k(t, t') = exp((t·t' − 1)/τ), weights ω of mean 1 and the weighted mean row μ:

        α = (K + λ diag(1/ω))⁻¹ (X − μ);   text map: normalise(k(t, T) α);   image map: normalise(x − centre)

    λ is not scaled by the number of pairs. The centre is zero until calibrated. A single pair has no
    direction from its own mean: every text then maps to zero.

    Past `max_exact` pairs (8,192 take about 1.3 GB and some seconds) the solution is sought among kernel
    functions at `n_landmarks` of the distinct texts only (Nyström; "subset of regressors" in Rasmussen &
    Williams, *Gaussian Processes for Machine Learning*, §8.3.1): the same objective, deterministic, memory
    bounded.

    Args:
        tau: τ, the kernel's width.
        penalty: λ, the ridge penalty.
        max_exact: the most pairs solved exactly.
        n_landmarks: how many texts serve as landmarks past that.
        landmarks: "sampled" draws them with `seed`; "farthest" starts from the text nearest the mean and
            takes the text farthest from all taken so far, again and again: slower, for pairs with many
            near-duplicates.
        seed: of the draw.
    """

    name = "kernel-ridge"

    text_: Tensor
    """`[m, k]` unit-norm texts the kernel functions sit at: all pairs' or the landmarks'."""
    alpha_: Tensor
    """`[m, d]` their coefficients."""

    def __init__(
        self,
        tau: float = 0.15,
        penalty: float = 0.3,
        max_exact: int = 8192,
        n_landmarks: int = 2048,
        landmarks: str = "sampled",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.tau = tau
        self.penalty = penalty
        self.max_exact = max_exact
        self.n_landmarks = n_landmarks
        self.landmarks = landmarks
        self.seed = seed

    @property
    def text_dim(self) -> int:
        """Width k of the text embeddings."""
        return self._width("text_", 1)

    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> None:
        self._require(self.tau > 0, "tau", "must be positive")
        self._require(self.penalty > 0, "penalty", "must be positive")
        self._require(self.n_landmarks > 0, "n_landmarks", "must be positive")
        self._require(
            self.landmarks in ("sampled", "farthest"), "landmarks", "must be 'sampled' or 'farthest'"
        )
        target, texts, omega = double(image), double(text), double(weight)
        target = target - weighted_mean(target, omega)
        if len(text) <= self.max_exact:
            at, alpha = texts, self._exact(target, texts, omega)
        else:
            pick = farthest_texts if self.landmarks == "farthest" else self._sampled
            at = texts[pick(texts, self.n_landmarks)]
            alpha = self._nystrom(target, texts, omega, at)
        self._learn("text_", at.to(text))
        self._learn("alpha_", alpha.to(image))
        self._learn("centre_", torch.zeros_like(image[0]))

    def _exact(self, target: Tensor, texts: Tensor, omega: Tensor) -> Tensor:
        # (K + λ Ω⁻¹)⁻¹ = √Ω (√Ω K √Ω + λ I)⁻¹ √Ω, which tiny weights leave well conditioned.
        root = omega.sqrt()[:, None]
        system = name_kernel(texts, texts, self.tau).mul_(root).mul_(root.T)  # [N, N]
        system.diagonal().add_(self.penalty)
        return root * solve_positive(system, root * target)

    def _nystrom(self, target: Tensor, texts: Tensor, omega: Tensor, at: Tensor) -> Tensor:
        m = len(at)
        gram, right = texts.new_zeros(m, m), target.new_zeros(m, target.shape[1])
        for rows in row_chunks(torch.arange(len(texts), device=texts.device), m):
            near = name_kernel(texts[rows], at, self.tau)  # [c, m]
            weighted = near * omega[rows, None]
            gram.addmm_(weighted.T, near)
            right.addmm_(weighted.T, target[rows])
        # In the features φ(t) = L⁻¹ k(T_L, t), L Lᵀ = K_LL, the kernel's penalty is the plain λ I.
        between = name_kernel(at, at, self.tau)
        between.diagonal().add_(_NUGGET)
        lower = cholesky(between)
        gram = torch.linalg.solve_triangular(lower, gram, upper=False)
        gram = torch.linalg.solve_triangular(lower, gram.T, upper=False)
        gram.diagonal().add_(self.penalty)
        in_features = solve_positive(gram, torch.linalg.solve_triangular(lower, right, upper=False))
        alpha: Tensor = torch.linalg.solve_triangular(lower.T, in_features, upper=True)
        return alpha

    def _sampled(self, texts: Tensor, n: int) -> Tensor:
        distinct = first_of_each(texts)
        order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(self.seed))
        return distinct[order[:n].sort().values.to(distinct.device)]

    def _map_text(self, text: Tensor) -> Tensor:
        parts = row_chunks(text, len(self.text_))
        return torch.cat([name_kernel(part, self.text_, self.tau) @ self.alpha_ for part in parts])


def name_kernel(a: Tensor, b: Tensor, tau: float) -> Tensor:
    """exp((a·b − 1)/τ) for unit-norm rows `[M, k]` and `[N, k]`: `[M, N]`, 1 where the texts agree."""
    return (a @ b.T).sub_(1).div_(tau).exp_()


def first_of_each(rows: Tensor) -> Tensor:
    """The index of the first of each set of equal rows, ascending."""
    group: Tensor = torch.unique(rows, dim=0, return_inverse=True)[1]
    index = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(index, len(rows)).scatter_reduce(0, group, index, "amin")
    return torch.sort(first[first < len(rows)]).values


def farthest_texts(texts: Tensor, n: int) -> Tensor:
    """Up to `n` rows of unit-norm `[N, k]`, each the farthest from those before it; fewer if the rest repeat.

    Farthest-point traversal (Gonzalez 1985), from the row nearest the mean.
    """
    chosen = [int((texts @ texts.mean(dim=0)).argmax())]
    nearest = texts @ texts[chosen[0]]
    while len(chosen) < n:
        nearest[chosen[-1]] = torch.inf
        following = int(nearest.argmin())
        if nearest[following] > 1 - 1e-12:
            break
        chosen.append(following)
        torch.maximum(nearest, texts @ texts[following], out=nearest)
    return torch.tensor(chosen, device=texts.device)
