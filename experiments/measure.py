"""Zero-shot classification and retrieval as every recipe measures them, on tensors."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench import CLASSIFICATION, EMBEDDED, Bench, Captions, Head, Labelled
from experiments.likeness import drawn_places
from headword.aligners import Aligner
from headword.aligners.pairs import Pairs
from headword.metrics import classification_metrics, retrieval_metrics, retrieval_places
from headword.recycling import class_mean_pairs

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
    top1 = {}
    for name in sets:
        data = bench.labelled(name, head)
        top1[name] = accuracy(aligner, data, bench.words(data.names, template), pool=pool)
    return {**top1, "mean": statistics.fmean(top1.values())}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One draw of shots from a set."""

    tests: Labelled
    """The images that no shot of the draw is."""
    shots: Tensor
    """`[C, most]` places in the set."""
    data: Labelled
    words: Tensor

    def pairs(self, n: int) -> Pairs:
        """The mean of n images of each class beside its name."""
        places = self.shots[:, :n].flatten()
        return class_mean_pairs(
            self.data.features[places], self.data.labels[places], self.data.names, self.words
        )


def drawn_task(bench: Bench, name: str, most: int, draw: int) -> Task:
    """A set with `most` images of each class drawn to learn from and the others to test on."""
    data = bench.labelled(name)
    shots = drawn_places(data.labels, most, bench.generator(CLASSIFICATION.index(name), draw))
    kept = torch.ones(len(data.labels), dtype=torch.bool)
    kept[shots.flatten()] = False
    tests = replace(data, features=data.features[kept], labels=data.labels[kept])
    return Task(tests=tests, shots=shots, data=data, words=bench.words(data.names))


def matched_images(head: Head, data: Labelled, *, at_least: int = 1) -> tuple[list[int], Tensor, Tensor]:
    """Of the classes of a set that a head has: their rows, and the set's features and labels.

    Args:
        head: the head.
        data: the set; its classes are matched by their names, tiny_imagenet's by the first alone.
        at_least: images that a class must have.
    """
    matched = matched_classes(head, data.names, synonyms=data.name != "tiny_imagenet")
    counts = torch.bincount(data.labels, minlength=len(data.names))
    places = [place for place in matched if counts[place] >= at_least]
    keep = torch.isin(data.labels, torch.tensor(places))
    return [matched[place] for place in places], data.features[keep], data.labels[keep]


def matched_classes(head: Head, names: Sequence[str], *, synonyms: bool) -> dict[int, int]:
    """Places in `names` → rows of the head whose class has that name; names that two classes have are left
    out.

    Args:
        head: the head.
        names: class names of a set.
        synonyms: whether a class's further names count.
    """
    known: dict[str, set[int]] = {}
    for row, entry in enumerate(head.classes):
        for name in (entry.name, *entry.synonyms) if synonyms else (entry.name,):
            known.setdefault(name, set()).add(row)
            known.setdefault(name.lower(), set()).add(row)
    matched: dict[int, int] = {}
    for place, name in enumerate(names):
        rows = known.get(name, known.get(name.lower(), set()))
        if len(rows) == 1 and next(iter(rows)) not in matched.values():
            matched[place] = next(iter(rows))
    return matched
