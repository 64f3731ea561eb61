"""How far words and pictures are to be trusted: the scale of a prior and its strength, by the examples.

Of each example two things speak for a label l: the cosine p with its words, and the mean cosine k̄ with the
label's c other examples. The two weights of the joint score

    α p_l + β c_l/(c_l + κ) k̄_l

are those of least cross-entropy over the examples, each left out of its own k̄, with log-normal priors: where
words know much α is large, where pictures of a label are alike β is. The regression of
`headword.scoring.logistic` with the prior s T then starts from s = `_SHARE` α; its λ is the one at which its
optimum gives a picture the weight that β gives it, drawn half-way (in logarithms) to `_USUAL`.

An example that is alone with its label says nothing of β, so that with one example a label the prior decides:
likeness counts more where pictures of different labels are less alike, and words less beside it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_WORDS, _PICTURES = 17.0, 12.0  # α and β to expect
_SPREAD = 0.4  # standard deviation of both logarithms
_HALF = 3.7  # κ: so many examples count half of what endlessly many do
_UNLIKE = 1 / 120  # mean squared cosine of pictures with different labels to expect,
_UNLIKE_PAIRS = 30  # worth so many pairs
_BESIDE = 18.0  # the weight of one picture beside which words alone count half
_SHARE, _USUAL, _LEAST = 0.53, 0.017, 1e-3
_MOST = 2_000  # examples; two numbers need no more
_ROUNDS = 50


class Trust(NamedTuple):
    """What the regression's prior is."""

    scale: float
    """s: logits of the words are s times their cosines."""
    penalty: float
    """λ, the strength of the prior."""


def trust(embeddings: Tensor, words: Tensor, labels: Tensor, *, seed: int = 0) -> Trust:
    """How far to trust the words of some examples.

    Args:
        embeddings: `[n, D]` unit-norm, of the examples.
        words: `[L, D]` unit-norm, of the labels.
        labels: `[n]` the place of each example's label.
        seed: of the sample, where there are more than 2,000 examples.
    """
    if len(labels) > _MOST:
        sample = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:_MOST]
        embeddings, labels = embeddings[sample], labels[sample]
    rows = torch.arange(len(labels))
    cosines, alike = embeddings @ words.T, embeddings @ embeddings.T
    member = F.one_hot(labels, len(words)).to(embeddings)
    count = member.sum(dim=0)
    others = count - member  # [n, L]
    accompanied = others[rows, labels] > 0
    pictures = (alike - alike.diagonal().diag()) @ member / (others + _HALF) * accompanied[:, None]
    expected = torch.tensor([_WORDS, _PICTURES * _unlikeness(alike, labels) ** 1.5]).double()
    weight = _weights(torch.stack([cosines, pictures], dim=2).double(), labels, expected)
    alone = 1 - float(accompanied.double().mean()) if len(labels) else 0.0
    alpha, beta = float(weight[0]), float(weight[1])
    scale = _SHARE * alpha / (1 + alone * beta / (1 + _HALF) / _BESIDE)
    # At the optimum an example's weight is its residual over λ; here β/(c + κ), on the scale of s.
    ratio = scale / alpha
    joint = alpha * cosines + beta * (alike @ member) / (count + _HALF)
    residual = 1 - (ratio * joint).softmax(dim=1)[rows, labels]
    matched = float((residual * (count[labels] + _HALF)).mean()) / (ratio * beta) if len(labels) else _USUAL
    return Trust(scale, math.sqrt(_USUAL * max(matched, _LEAST)))


def _unlikeness(alike: Tensor, labels: Tensor) -> float:
    """How much less alike than usual pictures of different labels are, from their cosines `[n, n]`."""
    unlike = labels[:, None] != labels
    total = float(alike[unlike].square().sum()) / 2 + _UNLIKE_PAIRS * _UNLIKE
    return _UNLIKE * (float(unlike.sum()) / 2 + _UNLIKE_PAIRS) / total


def _weights(evidence: Tensor, labels: Tensor, expected: Tensor) -> Tensor:
    """The two weights `[2]` for evidence `[n, L, 2]`, by Newton's method on their logarithms."""
    own = evidence[torch.arange(len(labels)), labels]  # [n, 2]
    prior, precision = expected.log(), _SPREAD**-2

    def objective(log_weight: Tensor) -> float:
        logits = evidence @ log_weight.exp()
        fit = (logits.logsumexp(dim=1) - own @ log_weight.exp()).sum()
        return float(fit + precision / 2 * (log_weight - prior).square().sum())

    at, value = prior, objective(prior)
    for _ in range(_ROUNDS):
        weight = at.exp()
        chance = (evidence @ weight).softmax(dim=1)
        mean = torch.einsum("nl,nlk->nk", chance, evidence)
        gradient = (mean - own).sum(dim=0) * weight + precision * (at - prior)
        spread = torch.einsum("nl,nlj,nlk->jk", chance, evidence, evidence) - mean.T @ mean
        hessian = spread * weight[:, None] * weight + precision * torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(hessian, gradient)
        while (reached := objective(at - step)) > value and step.abs().max() > 1e-6:
            step = step / 2
        at, value = at - step, reached
        if step.abs().max() < 1e-4:
            break
    return at.exp()
