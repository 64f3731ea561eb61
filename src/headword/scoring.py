"""Cosines → probabilities, with a scale and a threshold learnt by leaving classes out."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from headword.aligners import Aligner, held_out
from headword.errors import HeadwordError
from headword.pairs import Pairs

NONE_OF_THESE = "none of these"

# Past this many pairs a sample of them says as much about two numbers as all do, and is quick to fit five
# times.
_MOST_PAIRS = 4_000


@dataclass(frozen=True, slots=True)
class Scores:
    """How a dual encoder's cosines become probabilities."""

    scale: float
    """Softmax over labels is of scale · cosine."""
    sigmoid_scale: float
    """A label by itself has probability sigmoid(sigmoid_scale · (cosine - threshold))."""
    threshold: float
    """The cosine at which a label is as likely right as wrong, right and wrong ones taken to be equally
    many.
    """
    fitted_on: int = 0
    """Number of held-out rows the numbers were fitted on; 0 where there were too few and defaults stand."""

    def probabilities(
        self, cosines: Tensor, *, multi_label: bool = False, none_of_these: bool = False
    ) -> Tensor:
        """Cosines `[N, L]` of images to labels → probabilities `[N, L]`.

        Args:
            cosines: of each image to each label.
            multi_label: an independent probability for each label instead of one choice among them.
            none_of_these: one more choice, in a last column, that wins where no label reaches `threshold`.

        Raises:
            HeadwordError: if both options are asked for; independent labels may all be absent as it is.
        """
        if multi_label and none_of_these:
            raise HeadwordError(
                "multi_label and none_of_these exclude each other: independent labels may all be absent"
            )
        if multi_label:
            return torch.sigmoid(self.sigmoid_scale * (cosines - self.threshold))
        if none_of_these:
            none = torch.full_like(cosines[:, :1], self.threshold)
            cosines = torch.cat([cosines, none], dim=1)
        return (self.scale * cosines).softmax(dim=1)

    def as_json(self) -> dict[str, float | int]:
        """The numbers by name."""
        return asdict(self)


DEFAULT_SCORES = Scores(scale=20.0, sigmoid_scale=20.0, threshold=0.2)
"""What stands where there are too few pairs to leave any out."""


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """What a mapping says of head rows whose classes it was fitted without, fold by fold."""

    known: Pairs
    """The pairs, of which each fold was left out once."""
    rows: list[list[int]]
    """Which of them each fold has."""
    cosines: list[Tensor]
    """Of each fold's n rows, which stand for images, with its L names: `[n, L]`."""
    right: list[Tensor]
    """`[n]` which name is a row's own."""


def head_rows(pairs: Pairs) -> Pairs:
    """The pairs of the head's rows, or all where there are none."""
    head = [i for i, source in enumerate(pairs.source) if source == "head"]
    return pairs[head] if head else pairs


def leave_classes_out(aligner: Aligner, pairs: Pairs, *, seed: int = 0) -> LeftOut | None:
    """Fit the aligner's settings with a fifth of the classes left out, five times over.

    Each left-out row stands for an image of its class, the names left out with it for the labels. Head rows
    are used where there are any, and of more than 4,000 pairs a sample. None for fewer than ten names.
    """
    known = head_rows(pairs)
    known = known.sample(_MOST_PAIRS, seed=seed) if len(known) > _MOST_PAIRS else known
    if len(set(known.names)) < 10:
        return None
    out = held_out(aligner, known, seed=seed, centred=True)
    names = [known.names[row] for row in out.rows.tolist()]
    found = LeftOut(known, [], [], [])
    for fold in sorted(set(out.fold.tolist())):
        places = (out.fold == fold).nonzero().flatten().tolist()
        first = {names[place]: place for place in reversed(places)}
        labels = list(first)
        found.rows.append(out.rows[places].tolist())
        found.cosines.append(out.image[places].double() @ out.text[list(first.values())].double().T)
        found.right.append(
            torch.tensor([labels.index(names[place]) for place in places], device=out.image.device)
        )
    return found


def fit_scores(aligner: Aligner, pairs: Pairs, *, seed: int = 0) -> Scores:
    """Scale and threshold by `scores_from` what the aligner's settings say of classes left out."""
    return scores_from(leave_classes_out(aligner, pairs, seed=seed))


def scores_from(left_out: LeftOut | None) -> Scores:
    """Fit scale and threshold on rows whose classes the aligner has not seen.

    `scale` is the softmax temperature of least cross-entropy (Guo et al., 2017); `sigmoid_scale` and
    `threshold` are Platt's logistic regression of right against wrong on the cosine, both kinds weighted
    alike.
    """
    if left_out is None:
        return DEFAULT_SCORES
    scale = _fit_softmax(left_out.cosines, left_out.right)
    sigmoid_scale, threshold = _fit_sigmoid(left_out.cosines, left_out.right)
    return Scores(scale, sigmoid_scale, threshold, sum(map(len, left_out.rows)))


def _fit_softmax(scores: list[Tensor], right: list[Tensor]) -> float:
    """The scale of least cross-entropy: its derivative is monotone in the scale, so bisect for the zero."""
    low, high = 0.1, 1_000.0
    for _ in range(22):  # to 2 parts in a million
        scale = (low * high) ** 0.5
        slope = 0.0
        for cosines, target in zip(scores, right, strict=True):
            expected = ((scale * cosines).softmax(dim=1) * cosines).sum(dim=1)
            slope += float((expected - cosines.gather(1, target[:, None])[:, 0]).sum())
        low, high = (scale, high) if slope < 0 else (low, scale)
    return float((low * high) ** 0.5)


def _fit_sigmoid(scores: list[Tensor], right: list[Tensor]) -> tuple[float, float]:
    """Slope and midpoint of the logistic regression of right against wrong, by Newton's method."""
    x = torch.cat([cosines.flatten() for cosines in scores])
    y = torch.cat(
        [
            torch.zeros_like(c).scatter_(1, t[:, None], 1.0).flatten()
            for c, t in zip(scores, right, strict=True)
        ]
    )
    weight = torch.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    design = torch.stack([x, torch.ones_like(x)], dim=1)  # [n, 2]
    beta = torch.zeros(2, dtype=x.dtype, device=x.device)
    ridge = 1e-6 * torch.eye(
        2, dtype=x.dtype, device=x.device
    )  # keeps the slope finite where the two do not overlap
    for _ in range(100):
        p = torch.sigmoid(design @ beta)
        gradient = design.T @ (weight * (p - y)) + ridge @ beta
        hessian = design.T @ (design * (weight * p * (1 - p))[:, None]) + ridge
        step = torch.linalg.solve(hessian, gradient)
        beta = beta - step.clamp(-10, 10)
        if step.abs().max() < 1e-9:
            break
    slope = float(beta[0].clamp_min(1e-3))
    return slope, float(-beta[1] / slope)
