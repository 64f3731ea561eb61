"""Cosines → probabilities, with a scale and a threshold learnt by leaving classes out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from headword.aligners import Aligner, LeftOut, leave_out
from headword.aligners.pairs import HEAD, ROW_SOURCES, Pairs

NONE_OF_THESE = "none of these"

# Past this many pairs a sample of them says as much about two numbers, and is quick to fit five times.
_MOST_PAIRS = 4_000

FEW = 50  # with fewer class names a head is too small to tell what it knows: how sure to be is mostly prior
PRIOR_SPREAD = 0.5  # standard deviation of the prior of `prior_scores`, as a share of its values


@dataclass(frozen=True, slots=True)
class Scores:
    """How a dual encoder's cosines become probabilities, in `headword.classifier`."""

    scale: float  # softmax over labels is of scale · cosine
    sigmoid_scale: float  # a label by itself has probability sigmoid(sigmoid_scale · (cosine - threshold))
    threshold: float  # the cosine of even odds, right and wrong labels being equally many
    fitted_on: int = 0  # held-out rows; 0 where there were too few and a prior stands
    first: int | None = None  # how many of them found their own name first, where that was counted
    by_chance: float | None = None  # how many would by chance

    def doubt(self, names: int) -> str | None:
        """Why to take care with a model that was taught so many names; None where nothing speaks for it."""
        if names < FEW:
            return f"it learnt from {names} class name{'s' * (names != 1)}, too few to tell what it knows"
        if self.first is None or self.by_chance is None:
            return None
        # One-sided at 5 %: the normal approximation, with continuity correction, of the number of firsts.
        spread = math.sqrt(self.by_chance * (1 - self.by_chance / self.fitted_on))
        if self.first - 0.5 > self.by_chance + 1.645 * spread:
            return None
        return (
            f"of {self.fitted_on:,} left-out rows {self.first:,} found their name first, no better than "
            f"chance ({self.by_chance:.0f})"
        )

    def as_json(self) -> dict[str, float | int]:
        """The numbers by name, those that are known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def prior_scores(names: int) -> Scores:
    """What to expect of a head of so many class names, before any is left out.

    The scale of least cross-entropy on pictures, measured on parts of a head, is 24 k / (k + 14) for k names.
    """
    scale = 24.0 * names / (names + 14.0)
    return Scores(scale, sigmoid_scale=0.75 * scale, threshold=0.01)


def taught_rows(pairs: Pairs) -> Pairs:
    """What was taught: the head's rows, or what was added where they have too few names, or all pairs."""
    return pairs[_taught(pairs)]


def names_taught(pairs: Pairs) -> int:
    """How many different names the `taught_rows` have."""
    return len({pairs.names[row] for row in _taught(pairs)})


def _taught(pairs: Pairs) -> list[int]:
    head = [row for row, source in enumerate(pairs.source) if source == HEAD]
    added = [row for row, source in enumerate(pairs.source) if source not in ROW_SOURCES]
    if len({pairs.names[row] for row in head}) < FEW <= len({pairs.names[row] for row in added}):
        return added
    return head or list(range(len(pairs)))


def leave_classes_out(aligner: Aligner, pairs: Pairs, *, seed: int = 0) -> LeftOut | None:
    """Fit the aligner's settings with a fifth of the classes left out, five times; None below ten names.

    A left-out row stands for an image, the names left out for labels; many `taught_rows` are sampled.
    """
    known = taught_rows(pairs)
    known = known.sample(_MOST_PAIRS, seed=seed) if len(known) > _MOST_PAIRS else known
    if len(set(known.names)) < 10:
        return None
    return leave_out(aligner, known, seed=seed, centred=True)


def fit_scores(aligner: Aligner, pairs: Pairs, *, seed: int = 0) -> Scores:
    """Scale and threshold by `scores_from` what the aligner's settings say of classes left out."""
    left_out = leave_classes_out(aligner, pairs, seed=seed)
    return scores_from(left_out, prior_scores(names_taught(pairs)))


def scores_from(left_out: LeftOut | None, prior: Scores) -> Scores:
    """Fit scale and threshold on rows whose classes the aligner has not seen, from a prior.

    `scale` is the softmax temperature of least cross-entropy (Guo et al., 2017); `sigmoid_scale` and
    `threshold` are Platt's logistic regression of right against wrong on the cosine, both kinds weighted
    alike. The prior counts as a normal distribution around its values (see `PRIOR_SPREAD`): it decides where
    few rows are left out, and is nothing beside a thousand.
    """
    if left_out is None:
        return prior
    cosines, right = left_out.cosines, left_out.right
    first = sum(int((c.argmax(dim=1) == r).sum()) for c, r in zip(cosines, right, strict=True))
    by_chance = sum(len(c) / c.shape[1] for c in cosines)
    scale = fit_softmax(cosines, right, prior.scale)
    sigmoid_scale, threshold = fit_platt(cosines, right, prior)
    return Scores(scale, sigmoid_scale, threshold, sum(map(len, left_out.rows)), first, by_chance)


def fit_softmax(scores: list[Tensor], right: list[Tensor], prior: float | None = None) -> float:
    """The scale s of least cross-entropy, summed over rows, plus ½ ((s − prior)/(`PRIOR_SPREAD` · prior))².

    The derivative is monotone, so bisect. A fold has cosines `[n, L]`, and the place `[n]` of rows' own
    labels.
    """
    low, high = 0.1, 1_000.0
    for _ in range(22):  # to 2 parts in a million
        scale = (low * high) ** 0.5
        slope = 0.0 if prior is None else (scale - prior) / (PRIOR_SPREAD * prior) ** 2
        for cosines, target in zip(scores, right, strict=True):
            expected = ((scale * cosines).softmax(dim=1) * cosines).sum(dim=1)
            slope += float((expected - cosines.gather(1, target[:, None])[:, 0]).sum())
        low, high = (scale, high) if slope < 0 else (low, scale)
    return float((low * high) ** 0.5)


def fit_platt(scores: list[Tensor], right: list[Tensor], prior: Scores | None = None) -> tuple[float, float]:
    """Slope and midpoint of the logistic regression of right against wrong, by Newton's method.

    Rows count one each, half for their own label and half for the others. The prior is normal, around its
    slope (`PRIOR_SPREAD`) and intercept (standard deviation `PRIOR_SPREAD`).
    """
    x = torch.cat([cosines.flatten() for cosines in scores])
    own = [
        torch.zeros_like(c).scatter_(1, place[:, None], 1.0) for c, place in zip(scores, right, strict=True)
    ]
    y = torch.cat([one.flatten() for one in own])
    weight = torch.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum()) * y.sum()
    design = torch.stack([x, torch.ones_like(x)], dim=1)  # [n, 2]
    # Without a prior the ridge keeps the slope finite where the two do not overlap.
    expected, ridge = torch.zeros_like(design[0]), torch.full_like(design[0], 1e-6)
    if prior is not None:
        expected = x.new_tensor([prior.sigmoid_scale, -prior.sigmoid_scale * prior.threshold])
        ridge = (PRIOR_SPREAD * x.new_tensor([prior.sigmoid_scale, 1.0])) ** -2
    beta = logistic(design, y, weight, ridge, expected)
    slope = float(beta[0].clamp_min(1e-3))
    return slope, float(-beta[1] / slope)


def logistic(design: Tensor, y: Tensor, weight: Tensor, ridge: Tensor, expected: Tensor) -> Tensor:
    """β `[p]` of a logistic regression of chances y `[n]` on `[n, p]`, by Newton's method.

    Minimises Σ weight · cross-entropy(y, sigmoid(design β)) + ½ Σ ridge (β − expected)², with a ridge `[p]`
    above 0 where the data do not bound β.
    """
    beta = expected
    for _ in range(100):
        p = torch.sigmoid(design @ beta)
        gradient = design.T @ (weight * (p - y)) + ridge * (beta - expected)
        hessian = design.T @ (design * (weight * p * (1 - p))[:, None]) + torch.diag(ridge)
        step = torch.linalg.solve(hessian, gradient)
        beta = beta - step.clamp(-10, 10)
        if step.abs().max() < 1e-9:
            break
    return beta
