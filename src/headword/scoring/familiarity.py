"""How well the words that a head was taught cover other words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.aligners import Aligner, LeftOut
from headword.aligners.base import prepared, weighted_mean
from headword.aligners.kernel import name_kernel
from headword.aligners.linalg import cholesky, double, row_chunks
from headword.aligners.pairs import Pairs, distinct
from headword.scoring.calibration import FEW, logistic

TAU, PENALTY = 0.15, 0.3  # of the Gaussian process below: `KernelRidge`'s defaults, whatever mapping is used
MOST_EXACT = 2048  # pairs whose Gaussian process is solved as a whole; past that, each text has its own
NEIGHBOURS = 64  # how many of the nearest names a text's own process has
AMONG = 100  # how many names the right one is to come first among
LOW_QUANTILE = 0.25  # of the left-out classes: familiarity below theirs is out of the head's depth
_RIDGE = 1e-3  # keeps the slopes, on columns of unit variance, from running away


@dataclass(frozen=True, slots=True)
class Familiarity:
    """From what a head was taught to a chance, for any text.

    familiarity = sigmoid(offset + agreement · a + knowledge · v), with a and v the `Taught.evidence` of the
    text: the estimated chance that a head row of that meaning finds the text first among `among` names. It
    says nothing of how hard the pictures are, nor of how alike the labels are that it competes with.
    """

    offset: float
    agreement: float
    knowledge: float
    low: float  # below it words are out of the head's depth, as a quarter of its own are when left out
    among: int  # how many names, the right one among them
    fitted_on: int  # number of left-out rows

    def of(self, evidence: Tensor) -> Tensor:
        """`Taught.evidence` `[M, 2]` → familiarity `[M]` between 0 and 1."""
        weights = evidence.new_tensor([self.agreement, self.knowledge])
        return torch.sigmoid(evidence @ weights + self.offset)

    def as_json(self) -> dict[str, float | int]:
        """The numbers by name."""
        return asdict(self)


class Depth(NamedTuple):
    """How far a text is to be relied on."""

    familiarity: float | None
    out_of_depth: bool | None


class Taught:
    """What a head's rows and names say of a text, as a Gaussian process from texts to rows.

    Rows less their weighted mean μ are taken for values, at the unit-norm names T, of a process with the
    kernel k(t, t') = exp((t·t' − 1)/τ) and noise λ/ω. For a text t with k = k(T, t) and A = K + λ diag(1/ω)
    the process expects f(t) = (X − μ)ᵀ A⁻¹ k and explains the share v(t) = kᵀ A⁻¹ k of the variance
    (Rasmussen & Williams 2006, eq. 2.25 and 2.26). Under the process itself ‖f‖² is s² v in the mean, s²
    being the mean of ‖x − μ‖²; rows of near names make it larger where they agree more than that.

    Past `MOST_EXACT` pairs, or where `local` says so, each text gets the process of its `NEIGHBOURS` nearest
    names alone (Vecchia 1988).
    """

    def __init__(self, pairs: Pairs, *, local: bool | None = None) -> None:
        image, self._text, weight = prepared(pairs)
        self._image = image - weighted_mean(image, weight)
        self._spread = float(weighted_mean(self._image.square(), weight).sum().sqrt())
        self._noise = double(PENALTY / weight)
        self._lower: Tensor | None = None
        if not (len(pairs) > MOST_EXACT if local is None else local):
            texts = double(self._text)
            system = name_kernel(texts, texts, TAU)
            system.diagonal().add_(self._noise)
            self._lower = cholesky(system)

    def evidence(self, text: Tensor) -> Tensor:
        """Text embeddings `[M, k]` → float64 `[M, 2]`: log(‖f‖ / (s √v)), and v between 0 and 1."""
        unit = F.normalize(text.to(self._text), dim=1)
        few = len(self._text) if self._lower is not None else NEIGHBOURS * self._image.shape[1]
        parts = row_chunks(unit, max(len(self._text), few))
        return torch.cat([self._evidence(part) for part in parts])

    def _evidence(self, unit: Tensor) -> Tensor:
        cosines = unit @ self._text.T
        if self._lower is not None:
            near = double((cosines - 1) / TAU).exp()  # [M, N]
            weights = torch.cholesky_solve(near.T, self._lower).T
            expected = weights.to(unit) @ self._image
        else:
            nearest = cosines.topk(min(NEIGHBOURS, len(self._text)), dim=1)
            near = double((nearest.values - 1) / TAU).exp()  # [M, m]
            names = double(self._text[nearest.indices])  # [M, m, k]
            system = ((names @ names.mT - 1) / TAU).exp()
            system.diagonal(dim1=1, dim2=2).add_(self._noise[nearest.indices])
            weights = torch.cholesky_solve(near[:, :, None], torch.linalg.cholesky(system))[:, :, 0]
            expected = torch.einsum("qm,qmd->qd", weights.to(unit), self._image[nearest.indices])
        explained = (near * weights).sum(dim=1)
        tiny = torch.finfo(torch.float32).tiny
        norm = double(expected.norm(dim=1)).clamp_min(tiny)
        ratio = norm / (self._spread * explained.clamp_min(tiny).sqrt())
        return torch.stack([ratio.log(), explained], dim=1)


def fit_familiarity(aligner: Aligner, left_out: LeftOut | None) -> Familiarity | None:
    """Fit `Familiarity`, a logistic regression of the chance to be found; None below 50 class names.

    Left-out rows tell how success falls with distance from the rest; rows at their own names, what holds for
    words that were taught. Both kinds weigh alike.
    """
    if left_out is None or len(set(left_out.known.names)) < FEW:
        return None
    known, local = left_out.known, len(left_out.known) > MOST_EXACT
    among = min(AMONG, *(cosines.shape[1] for cosines in left_out.cosines))
    evidence, chances = [], []
    for rows, cosines, right in zip(left_out.rows, left_out.cosines, left_out.right, strict=True):
        inside = torch.zeros(len(known), dtype=torch.bool)
        inside[rows] = True
        evidence.append(Taught(known[~inside], local=local).evidence(known.text[rows]))
        chances.append(chance_first(cosines, right, among))
    out = torch.cat(chances)
    first, label = distinct(known.names)
    fitted = aligner.centred_on(known.image)
    cosines = fitted.image(known.image) @ fitted.text(known.text[first]).T
    evidence.append(Taught(known, local=local).evidence(known.text))
    taught = chance_first(cosines, torch.tensor(label, device=cosines.device), among)
    weight = torch.cat([torch.full_like(part, 0.5 / len(part)) for part in (out, taught)])
    X = torch.cat(evidence)
    mean, spread = X.mean(dim=0), X.std(dim=0).clamp_min(1e-9)
    design = torch.cat([torch.ones_like(X[:, :1]), (X - mean) / spread], dim=1)
    none = torch.zeros_like(design[0])
    beta = logistic(design, torch.cat([out, taught]).to(X), weight.to(X), none + _RIDGE, none)
    agreement, knowledge = (beta[1:] / spread).tolist()
    offset = float(beta[0] - (beta[1:] / spread) @ mean)
    fit = Familiarity(offset, agreement, knowledge, low=0.0, among=among, fitted_on=len(out))
    return replace(fit, low=float(fit.of(X[: len(out)]).quantile(LOW_QUANTILE)))


def chance_first(cosines: Tensor, right: Tensor, among: int) -> Tensor:
    """The chance `[n]` that a row finds its own label before `among` − 1 others drawn from those there are.

    With w of the L − 1 other labels nearer, by cosines `[n, L]`, than the own one, at `right` `[n]`, it is
    C(L − 1 − w, among − 1) / C(L − 1, among − 1).
    """
    own = cosines.gather(1, right[:, None])
    others = cosines.shape[1] - 1
    left = (others - (cosines > own).sum(dim=1)).double()  # labels that are not nearer
    drawn = among - 1
    log_chance = (
        torch.lgamma(left + 1)
        - torch.lgamma((left - drawn).clamp_min(0) + 1)
        - torch.lgamma(left.new_tensor(others + 1.0))
        + torch.lgamma(left.new_tensor(others - drawn + 1.0))
    )
    return torch.where(left < drawn, 0.0, log_chance.exp())
