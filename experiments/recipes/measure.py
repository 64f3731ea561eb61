"""Zero-shot classification and retrieval as every recipe measures them, on tensors."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.recipes.bench import CLASSIFICATION, EMBEDDED, Bench, Captions, Labelled
from headword.aligners import Aligner
from headword.aligners.pairs import Pairs
from headword.metrics import classification_metrics, retrieval_metrics, retrieval_places

NAME = "{}"
PHOTO = "A photo of a {}"
"""The paper's prompt."""


@torch.inference_mode()
def accuracy(aligner: Aligner, data: Labelled, words: Tensor, *, pool: bool = True) -> float:
    """Mean per-class accuracy in percent of a set's images against text embeddings `[C, k]` of its classes.

    With `pool`, images are centred on the mean of these very images, without their labels.
    """
    fitted = aligner.centred_on(data.features) if pool else aligner
    scores = fitted.image(data.features) @ fitted.text(words).T
    return classification_metrics(scores, data.labels, (1,))["mean_per_class"]


def accuracies(
    aligner: Aligner,
    bench: Bench,
    *,
    head: str = EMBEDDED,
    sets: Sequence[str] = CLASSIFICATION,
    template: str = NAME,
    pool: bool = True,
) -> dict[str, float]:
    """`accuracy` on each set, and their mean as `mean`."""
    found = {}
    for name in sets:
        data = bench.labelled(name, head)
        found[name] = accuracy(aligner, data, bench.words(data.names, template), pool=pool)
    return {**found, "mean": statistics.fmean(found.values())}


@torch.inference_mode()
def recalls(aligner: Aligner, data: Captions, *, pool: bool = True) -> dict[str, float]:
    """Retrieval metrics in percent (see `headword.metrics.retrieval_metrics`), on captions as they are."""
    fitted = aligner.centred_on(data.features) if pool else aligner
    places = retrieval_places(fitted.image(data.features), fitted.text(data.text), data.owner)
    return retrieval_metrics(places, (1, 5, 10))


def each_centred(*kinds: Pairs) -> Pairs:
    """Pairs of several kinds in one, the unit-norm image side of each kind less its own mean.

    Rows and images lie apart; what is common to a kind then says nothing of a pair.
    """
    parts = []
    for pairs in kinds:
        unit = F.normalize(pairs.image, dim=1)
        parts.append(replace(pairs, image=unit - unit.mean(dim=0)))
    return sum(parts[1:], parts[0])


@torch.inference_mode()
def first_ten(aligner: Aligner, data: Captions) -> float:
    """`t2i_r10` of `recalls` by itself, in half the time."""
    fitted = aligner.centred_on(data.features)
    scores = fitted.text(data.text) @ fitted.image(data.features).T  # [M, N]
    right = scores.gather(1, data.owner[:, None])
    return 100 * float(((scores >= right).sum(dim=1) <= 10).double().mean())
