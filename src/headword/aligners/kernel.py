"""Kernel ridge regression from text embeddings to the image space: the default mapping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor

from headword.aligners.base import Aligner, prepared, weighted_mean
from headword.aligners.linalg import cholesky, double, row_chunks, solve_positive
from headword.aligners.pairs import Pairs

_NUGGET = 1e-6  # added to the landmarks' kernel's diagonal: far below any useful penalty, far above rounding


@dataclass(eq=False, repr=False)
class KernelRidge(Aligner):
    """Kernel ridge regression with the kernel of similar names.

    With k(t, t') = exp((t·t' − 1)/τ), weights ω of mean 1 and the weighted mean row μ:

        α = (K + λ diag(1/ω))⁻¹ (X − μ);  text map: normalise(k(t, T) α);  image map: normalise(x − centre)

    λ is not scaled by the number of pairs. The centre is zero until centred. A single pair has no
    direction from its own mean: every text then maps to zero.

    Past `max_exact` pairs only the solve for α is approximate: K is taken for its Nyström approximation
    at `n_landmarks` of the texts plus what that leaves of the diagonal (FITC: Snelson & Ghahramani, NIPS
    2005; Quiñonero-Candela & Rasmussen, JMLR 2005). The text map stays k(t, T) α over all pairs, which
    brings it far nearer the exact one than a sum over the landmarks alone. Memory then grows with the
    number of pairs as the pairs themselves do. The exact solve of 8,192 pairs takes 1.9 GB and, on two
    busy cores, 14 seconds; raise `max_exact` where memory and time allow.
    """

    name = "kernel-ridge"
    text_axis = ("text_", 1)

    tau: Annotated[float, Gt(0)] = 0.15  # τ, the kernel's width
    penalty: Annotated[float, Gt(0)] = 0.3  # λ, the ridge penalty
    max_exact: int = 8192  # the most pairs solved exactly
    n_landmarks: Annotated[int, Gt(0)] = 2048  # how many texts serve as landmarks past that
    landmarks: Literal["sampled", "farthest"] = "sampled"
    """"sampled" draws them with `seed`; "farthest" starts from the text nearest the mean and takes the text
    farthest from all taken so far, again and again: slower, for pairs with many near-duplicates."""
    seed: int = 0  # of the draw
    centre_by_source: bool = False
    """Centre the image sides of each source (head rows, captioned images) on their own weighted mean, so that
    the gap between the two kinds is no part of what is learnt; the centre is then the captioned images'."""

    text_: Tensor = field(init=False)  # [N, k] unit-norm texts
    alpha_: Tensor = field(init=False)  # [N, d] their coefficients

    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> dict[str, Tensor]:
        return {"alpha_": self._solved(image, text, weight), "text_": text}

    def _solved(self, image: Tensor, text: Tensor, weight: Tensor) -> Tensor:
        """α `[N, d]`."""
        return self._solve(image - weighted_mean(image, weight), text, weight).to(image)

    def _solve(self, right: Tensor, text: Tensor, weight: Tensor) -> Tensor:
        return (self._exact if len(text) <= self.max_exact else self._nystrom)(right, text, weight)

    def _exact(self, target: Tensor, text: Tensor, weight: Tensor) -> Tensor:
        # (K + λ Ω⁻¹)⁻¹ = √Ω (√Ω K √Ω + λ I)⁻¹ √Ω, which tiny weights leave well conditioned.
        return _applied(self._factor(text, weight), double(target), double(weight))

    def _factor(self, text: Tensor, weight: Tensor) -> Tensor:
        """The Cholesky factor of √Ω K √Ω + λ I, float64 `[N, N]`."""
        texts, root = double(text), double(weight).sqrt()[:, None]
        system = name_kernel(texts, texts, self.tau).mul_(root).mul_(root.T)
        system.diagonal().add_(self.penalty)
        return cholesky(system)

    def _nystrom(self, target: Tensor, text: Tensor, weight: Tensor) -> Tensor:
        """(ΦΦᵀ + D + λ Ω⁻¹)⁻¹ (X − μ) by Woodbury, for features Φ = k(T, T_L) L⁻ᵀ with L Lᵀ = k(T_L, T_L)."""
        if self.landmarks == "farthest":
            at = text[farthest_texts(text, self.n_landmarks)]
        else:
            order = torch.randperm(len(text), generator=torch.Generator().manual_seed(self.seed))
            at = text[order[: self.n_landmarks].to(text.device)]
        m = len(at)
        between = name_kernel(double(at), double(at), self.tau)
        between.diagonal().add_(_NUGGET)
        lower = cholesky(between).to(text)
        # Where Φ explains a text fully, D is zero. A text's kernel with itself is 1 unless the text is zero.
        own = (text.square().sum(dim=1) - 1).div_(self.tau).exp_()
        gram, right = text.new_zeros(m, m), target.new_zeros(m, target.shape[1])
        features, noises = [], []  # Φ and D + λ Ω⁻¹, a chunk of rows at a time
        for rows in row_chunks(torch.arange(len(text), device=text.device), m):
            near = name_kernel(at, text[rows], self.tau)
            phi = torch.linalg.solve_triangular(lower, near, upper=False)  # [m, c]
            left = (own[rows] - phi.square().sum(dim=0)).clamp_(min=0)
            features.append(phi)
            noises.append(left + self.penalty / weight[rows])
            scaled = phi / noises[-1]
            gram.addmm_(scaled, phi.T)
            right.addmm_(scaled, target[rows])
        system = double(gram)
        system.diagonal().add_(1)
        smooth = solve_positive(system, double(right)).to(text)  # [m, d]
        fitted = torch.cat([phi.T @ smooth for phi in features])
        return (target - fitted) / torch.cat(noises)[:, None]

    def weights(self, embeddings: Tensor, pairs: Pairs) -> Tensor:
        """β = k(t, T) (K + λ diag(1/ω))⁻¹, of whichever K the fit used; the first call takes as long."""
        unit = F.normalize(self._checked(embeddings, "text_dim"), dim=1)
        right, weight = name_kernel(self.text_, unit, self.tau), prepared(pairs)[2]  # [N, M], [N]
        if len(self.text_) > self.max_exact:
            return self._nystrom(right, self.text_, weight).T.to(unit)
        known = _factors.get(self)
        if known is None or known[0] is not self.text_ or not torch.equal(known[1], weight):
            known = (self.text_, weight, self._factor(self.text_, weight).to(unit))
            _factors[self] = known
        return _applied(known[2], right, weight).T

    def _map_text(self, text: Tensor) -> Tensor:
        parts = row_chunks(text, len(self.text_))
        return torch.cat([name_kernel(part, self.text_, self.tau) @ self.alpha_ for part in parts])


# Factors that `weights` computed, with the texts and weights they are of: a server explains again and again.
_factors: WeakKeyDictionary[KernelRidge, tuple[Tensor, Tensor, Tensor]] = WeakKeyDictionary()


def _applied(factor: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """√Ω (L Lᵀ)⁻¹ √Ω of a target `[N, d]`, by the factor L of `KernelRidge._factor`."""
    root = weight.sqrt()[:, None]
    return root * torch.cholesky_solve(root * target, factor)


def name_kernel(a: Tensor, b: Tensor, tau: float) -> Tensor:
    """exp((a·b − 1)/τ) for unit-norm rows `[M, k]` and `[N, k]`: `[M, N]`, 1 where the texts agree."""
    return (a @ b.T).sub_(1).div_(tau).exp_()


def farthest_texts(texts: Tensor, n: int) -> Tensor:
    """Up to `n` rows of unit-norm `[N, k]`, each the farthest from those before it (Gonzalez 1985)."""
    chosen = [int((texts @ texts.mean(dim=0)).argmax())]
    nearest = texts @ texts[chosen[0]]
    while len(chosen) < n:
        nearest[chosen[-1]] = torch.inf
        following = int(nearest.argmin())
        if nearest[following] > 1 - 4 * torch.finfo(texts.dtype).eps:
            break
        chosen.append(following)
        torch.maximum(nearest, texts @ texts[following], out=nearest)
    return torch.tensor(chosen, device=texts.device)
