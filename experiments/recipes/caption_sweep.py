"""The sweep of Setting II: image-caption pairs with and without rows, every choice made on a validation
split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.recipes.bench import Bench, Captions
from experiments.recipes.moments import Moments, Path, Queries
from headword.metrics import retrieval_metrics, retrieval_places

NUMBERS = (0, 10, 30, 100, 300, 1000, 3000, 6000)
"""N, images with all their captions."""

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""λ of the ridge."""

ROW_WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""ω of a row against a caption."""

ROWS = "rows alone"
ALONE = "captions alone"
PLAIN = "rows + captions, as the paper"
"""All pairs weighted alike and centred on one mean, as in a plain concatenation."""
WEIGHTED = "rows + captions, weighted"
"""On one mean; the rows' weight chosen."""
JOINT = "rows + captions, each centred"
"""Rows and names less their own means, images and captions less theirs: a constant gap between the two kinds
of pair is then no part of what is learnt. The rows' weight chosen.
"""
ARMS = (ALONE, PLAIN, WEIGHTED, JOINT)

DRAWS = 3
VAL_CAPTIONS = 2
"""Captions of each validation image that choices are made by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One arm on one draw: what validation chose, and what it reaches on the test split."""

    arm: str
    number: int
    draw: int
    row_weight: float
    penalty: float
    val: float
    """t2i R@10 on the validation split."""
    test: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """flickr8k as the sweep needs it."""

    train: Captions
    val: Queries
    test: Queries


def sweep(bench: Bench, splits: Splits, rows: Moments) -> Iterator[Fit]:
    """Every N, draw and arm, the best λ and ω on the validation split each."""
    total = len(splits.train.features)
    numbers = sorted({min(n, total) for n in NUMBERS})
    yield chosen(ROWS, 0, 0, {1.0: rows.path()}, splits)
    for draw in range(min(DRAWS, bench.draws)):
        order = torch.randperm(total, generator=bench.generator(7, draw))
        seen, before = None, 0
        for n in numbers:
            if n == 0 or (n == total and draw):  # all images are one draw
                continue
            added = captions_of(splits.train, order[before:n])
            seen = added if seen is None else seen + added
            before = n
            for arm, candidates in _arms(seen, rows):
                yield chosen(arm, n, draw, candidates, splits)


def _arms(captions: Moments, rows: Moments) -> Iterator[tuple[str, dict[float, Path]]]:
    """Each arm's regressions by the rows' weight."""
    yield ALONE, {0.0: captions.path()}
    yield PLAIN, {1.0: (captions + rows).path()}
    yield WEIGHTED, {weight: (captions + rows * weight).path() for weight in ROW_WEIGHTS}
    apart, mean = (captions.centred(), rows.centred()), captions.text / captions.weight
    yield JOINT, {weight: (apart[0] + apart[1] * weight).path(mean) for weight in ROW_WEIGHTS}


def chosen(arm: str, number: int, draw: int, candidates: dict[float, Path], splits: Splits) -> Fit:
    """The candidate (by its row weight) and the penalty that are best on the validation split, on the test
    split.
    """
    best: tuple[float, float, float, Path] | None = None
    for weight, path in candidates.items():
        for penalty, recall in zip(PENALTIES, path.recalls(splits.val, PENALTIES), strict=True):
            if best is None or recall > best[0]:
                best = (recall, weight, penalty, path)
    assert best is not None
    val, weight, penalty, path = best
    test = recalls_of(path, penalty, splits.test)
    return Fit(arm=arm, number=number, draw=draw, row_weight=weight, penalty=penalty, val=val, test=test)


def captions_of(data: Captions, images: Tensor) -> Moments:
    """The pairs of some images, each with all its captions."""
    place = torch.full((len(data.features),), -1)
    place[images] = torch.arange(len(images))
    kept = place[data.owner] >= 0
    return Moments.of_captions(data.text[kept], data.features[images], place[data.owner[kept]])


def recalls_of(path: Path, penalty: float, queries: Queries) -> dict[str, float]:
    """All retrieval metrics in percent of one regression."""
    places = retrieval_places(*path.sides(queries, penalty), queries.owner)
    return retrieval_metrics(places, (1, 5, 10))


def same_budget(bench: Bench, splits: Splits, pairs: int) -> dict[str, list[float]]:
    """Text-to-image R@10 of as many caption pairs as the head has rows, each draw: images with all their
    captions, and as many images with one caption each.
    """
    data = splits.train
    images = len(data.features)
    each = max(1, len(data.owner) // images)
    found: dict[str, list[float]] = {}
    for draw in range(min(DRAWS, bench.draws)):
        order = torch.randperm(images, generator=bench.generator(8, draw))
        several = captions_of(data, order[: max(1, pairs // each)])
        few = order[:pairs]
        firsts = torch.tensor([int((data.owner == image).nonzero()[0]) for image in few])
        single = Moments.of(data.text[firsts], data.features[few])
        for name, moments in (
            (f"{max(1, pairs // each):,} images with all captions", several),
            (f"{len(few):,} images with one caption", single),
        ):
            fit = chosen(ALONE, len(few), draw, {0.0: moments.path()}, splits)
            found.setdefault(name, []).append(fit.test["t2i_r10"])
    return found
