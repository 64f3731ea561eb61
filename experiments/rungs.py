"""Rungs of a ladder: what each step is worth, with its deviation over resampled images or captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.records import Mean
from headword.metrics import places_of_labels

RESAMPLES = 200


@dataclass(frozen=True, slots=True, eq=False)
class Rung:
    """A figure by resample: the first is of the data as it is, the others of data drawn from it."""

    values: Tensor
    """`[1 + RESAMPLES]` percent."""

    @property
    def value(self) -> float:
        """The figure itself."""
        return float(self.values[0])

    @property
    def cell(self) -> Mean:
        """The figure with its standard deviation over the resamples."""
        return Mean(self.value, float(self.values[1:].std()))

    def above(self, other: Rung) -> Mean:
        """The difference to another rung of the same resamples, with its deviation."""
        return Rung(self.values - other.values).cell

    def times(self, other: Rung) -> Mean:
        """The ratio to another rung of the same resamples, with its deviation."""
        return Rung(self.values / other.values).cell


def accuracy_rung(scores: Mapping[str, Tensor], labels: Mapping[str, Tensor], seed: int) -> Rung:
    """Mean per-class top-1 in percent, mean over the sets; images are resampled within their class.

    Args:
        scores: `[N, C]` a set.
        labels: `[N]` a set.
        seed: equal seeds draw equal resamples.
    """
    sets = [_by_set(scores[name], labels[name], seed + n) for n, name in enumerate(scores)]
    return Rung(torch.stack(sets).mean(dim=0))


def recall_rungs(scores: Tensor, owner: Tensor, seed: int, *, k: int = 10) -> tuple[Rung, Rung]:
    """Recall@k in percent, text → image and image → text; queries are resampled.

    Args:
        scores: `[M, N]` of captions with images; higher is better, ties count against the model.
        owner: `[M]` the image of each caption.
        seed: equal seeds draw equal resamples.
        k: of the recall.
    """
    right_first = places_of_labels(scores, owner) <= k
    right = torch.full_like(scores, -torch.inf).scatter_(1, owner[:, None], scores.gather(1, owner[:, None]))
    best = right.max(dim=0).values  # [N] the best of an image's own captions
    wrong = (scores >= best).sum(dim=0) - (right >= best).sum(dim=0)
    return _resampled(right_first, seed), _resampled(wrong < k, seed + 1)


def _by_set(scores: Tensor, labels: Tensor, seed: int) -> Tensor:
    right = places_of_labels(scores, labels) == 1
    classes = [right[labels == label] for label in sorted(set(labels.tolist()))]
    return torch.stack([_resampled(one, seed + n).values for n, one in enumerate(classes)]).mean(dim=0)


def _resampled(right: Tensor, seed: int) -> Rung:
    drawn = torch.randint(len(right), (RESAMPLES, len(right)), generator=torch.Generator().manual_seed(seed))
    shares = torch.cat([right.double().mean().view(1), right[drawn].double().mean(dim=1)])
    return Rung(100 * shares)
