"""What examples teach a classifier of words: weights, how sure to be, and how often it is right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headword.scoring.calibration import fit_softmax
from headword.scoring.logistic import regress, span
from headword.scoring.trust import Trust, trust

_PARTS = 20  # parts that examples are left out in, at most: up to so many examples, each by itself
_WORK = 1e8  # products a step of all the fits with a part left out
_CLOSE = 2e-3  # the norm of the gradient of fits that only estimate, times the root of how many are left out
_USUAL = 1.6  # the temperature to expect
INDEPENDENT = Trust(0.8, 0.003)
"""Of labels by themselves: the scale as a share of the model's, and λ; `experiments/benchmarks/judged.py`."""


@dataclass(frozen=True, slots=True, eq=False)
class TaughtWeights:
    """A classifier after its examples."""

    weight: Tensor
    """`[L, D]`."""
    bias: Tensor
    """`[L]`."""
    trust: Trust
    temperature: float
    """What logits were multiplied by, so that chances are as often right as they say."""
    right: Tensor
    """bool `[m]` whether the classifier, without it, gives an example its label; of the m that were left out
    and have one.
    """

    @property
    def accuracy(self) -> float | None:
        """The share of examples that are labelled right without them; None where none was left out."""
        return float(self.right.double().mean()) if len(self.right) else None


def teach(
    embeddings: Tensor,
    judged: Tensor,
    words: Tensor,
    bias: Tensor,
    *,
    independent: bool,
    scale: float,
    believed: Trust | None = None,
    assessed: bool = True,
) -> TaughtWeights:
    """The logistic regression of examples around words; see `headword.scoring.logistic` and `.trust`.

    Args:
        embeddings: `[n, D]` unit-norm.
        judged: int8 `[n, L]`; see `Examples.judged`.
        words: `[L, D]` unit-norm; a row of zeros for none of these.
        bias: `[L]` what is added to the cosines with words; where all are 0 none is learnt.
        independent: whether each label is judged by itself.
        scale: of labels by themselves, before any example.
        believed: what the prior is; by the examples, or `INDEPENDENT`, when not given.
        assessed: whether examples are left out, to calibrate and to estimate how often it is right.
    """
    label = _only(judged)
    spoken = (label >= 0) & words.any(dim=1)[label]
    if believed is None and independent:
        believed = Trust(INDEPENDENT.scale * scale, INDEPENDENT.penalty)
    elif believed is None:
        believed = trust(embeddings[spoken], words, label[spoken])
    s, penalty = believed
    learns_bias = bool(bias.any())
    inputs = torch.cat([embeddings, torch.ones(len(embeddings), 1)], dim=1) if learns_bias else embeddings
    coordinates, axes = span(inputs)
    offsets = s * (embeddings @ words.T + bias)
    moved = regress(offsets, coordinates, judged, penalty, independent=independent)[0]
    delta = moved @ axes.T
    temperature, right = _USUAL, torch.zeros(0, dtype=torch.bool)
    if assessed and (independent or judged.shape[1] > 1):
        counted, parts = _left_out(label, coordinates.shape[1] * judged.shape[1])
        apart = regress(
            offsets,
            coordinates,
            judged,
            penalty,
            independent=independent,
            counted=counted,
            start=moved,
            tolerance=_CLOSE * (len(label) / (int(parts.max()) + 1)) ** 0.5,
        )
        out = parts < len(counted)
        left_out = offsets.clone()
        for part, fitted in enumerate(apart):
            those = parts == part
            left_out[those] += coordinates[those] @ fitted.T
        temperature, right = _assessed(left_out[out], judged[out], independent)
    weight = s * words + delta[:, : words.shape[1]]
    shift = s * bias + (delta[:, -1] if learns_bias else 0)
    return TaughtWeights(temperature * weight, temperature * shift, believed, temperature, right)


def _only(judged: Tensor) -> Tensor:
    """`[n]` the place of the one label that each example has, −1 where that is not known."""
    has = judged > 0
    return torch.where(has.sum(dim=1) == 1, has.int().argmax(dim=1), -1)


def _left_out(label: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Which examples count `[G, n]` while each of G parts is left out, and the part of each `[n]`.

    The examples of a label are in as many parts as can be. Where all parts are too much work, those from G on
    are not left out.
    """
    n = len(label)
    affordable = int(_WORK / max(1, n * width))
    parts = max(2, min(n, _PARTS, affordable if affordable > 1 else 5))
    part = torch.empty(n, dtype=torch.long)
    part[label.argsort(stable=True)] = torch.arange(n) % parts
    fits = parts if affordable > 1 else 1
    return (part != torch.arange(fits)[:, None]).float(), part


def _assessed(logits: Tensor, judged: Tensor, independent: bool) -> tuple[float, Tensor]:
    """The temperature of least cross-entropy on left-out examples, and which are right."""
    if independent:
        known = judged != 0
        chosen, has = logits[known], judged[known] > 0
        choices = torch.stack([torch.zeros_like(chosen), chosen], dim=1)
        right = (((logits >= 0) == (judged > 0)) | ~known).all(dim=1)[known.any(dim=1)]
        return _temperature(choices, has.long()), right
    label = _only(judged)
    known = label >= 0
    count = torch.bincount(label[known], minlength=judged.shape[1])
    # An example alone with its label had its words alone when it was left out, which it will not have.
    accompanied = known & (count[label] > 1)
    right = logits.argmax(dim=1)[known] == label[known]
    return _temperature(logits[accompanied], label[accompanied]), right


def _temperature(logits: Tensor, right: Tensor) -> float:
    return fit_softmax([logits], [right], prior=_USUAL) if len(right) else _USUAL
