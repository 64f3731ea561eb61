"""Numbers of teaching, chosen on twelve other lists of labels, and what they give on the sets of the figures.

A search by a label's words, of which the first five hits are judged: mean average precision of all other
pictures before and after `Query(right=…, wrong=…)`, by how far the query moves. And labels judged by
themselves (`multi_label`): mean average precision over labels, and cross-entropy in nats, of the pictures
that are no examples, by the scale of the words and the strength of the prior.

`chosen` is, for queries, what gains most on average over the twelve lists of what lowers none (a wrong hit
must move a query, so its weight is not 0); for labels by themselves what ranks best of what is within one
percent of the least cross-entropy. `sets` has what the product's own numbers give.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from experiments.bench import CLASSIFICATION, Bench, data_root
from experiments.benchmarks.teach import COCO, crops
from experiments.other_lists import Listed, lists
from experiments.words import Texts, stages
from headword.aligners import KernelRidge
from headword.data.boxes_and_masks import read_boxes
from headword.extract import image_features
from headword.model import DualEncoder
from headword.recycling import recycle
from headword.scoring.taught import INDEPENDENT, teach
from headword.scoring.trust import Trust
from headword.search.query import LEAST_MOVE, MOVE, WRONG

JUDGED, SLACK = 5, 1.01
LEAST_MOVES, MOVES = (0.0, 0.1, 0.2, 0.3, 0.5), (0.0, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
WRONGS = (0.1, 0.25, 0.5, 1.0)
SHARES, PENALTIES = (0.4, 0.6, 0.8, 1.0, 1.3), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
SEVERAL = ("cifar10", "tf_flowers")  # sets that labels by themselves are tried on, with coco128's pictures
SHOWN, DRAWS, FEWEST = (10, 30, 60), 3, 12
Setting = tuple[float, ...]


def average_precision(scores: Tensor, has: Tensor) -> float:
    """Of scores `[N]`, where some `has` `[N]`, in percent."""
    ranked = has[scores.argsort(descending=True)].double()
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
    return 100 * float((precision * ranked).sum() / ranked.sum())


def refined(one: Listed, settings: Iterable[Setting]) -> tuple[float, list[float]]:
    """Mean average precision of the pictures that were not judged: by words alone, and by each setting."""
    found: list[list[float]] = []
    for query, has in zip(one.words, one.has.T, strict=True):
        first = (one.images @ query).topk(JUDGED).indices
        rest = torch.ones(len(has), dtype=torch.bool)
        rest[first] = False
        if not bool(has[rest].any()):
            continue
        none = torch.zeros_like(query)
        right, wrong = (
            one.images[those].mean(dim=0) if len(those) else none
            for those in (first[has[first]], first[~has[first]])
        )
        share = 1 - float(has[first].double().mean())
        moved = [
            query + (least + move * share) * (right - weight * wrong) for least, move, weight in settings
        ]
        found.append([average_precision(one.images[rest] @ q, has[rest]) for q in (query, *moved)])
    before, *after = (statistics.fmean(column) for column in zip(*found, strict=True))
    return before, after


def several(
    one: Listed, settings: Iterable[Setting], model: DualEncoder, bench: Bench
) -> dict[int, list[tuple[float, float]]]:
    """By pictures shown: (mean average precision, cross-entropy) of each setting, then of words alone and of
    logistic regressions of scikit-learn.
    """
    scores, L = model.scores, one.words.shape[0]
    result: dict[int, list[list[tuple[float, float]]]] = {}
    for draw, shown in itertools.product(range(DRAWS), SHOWN):
        order = torch.randperm(len(one.images), generator=bench.generator(7, draw))
        X, y = one.images[order[:shown]], one.has[order[:shown]]
        tests, truth = one.images[order[shown:]], one.has[order[shown:]]
        tested = truth.any(dim=0) & ~truth.all(dim=0)
        if len(tests) < shown or not bool(tested.any()):
            continue
        logits = []
        threshold, judged = torch.full((L,), -scores.threshold), 2 * y.to(torch.int8) - 1
        for share, penalty in settings:
            believed = Trust(share * scores.sigmoid_scale, penalty)
            fitted = teach(X, judged, one.words, threshold, independent=True, scale=1.0, believed=believed)
            logits.append(tests @ fitted.weight.T + fitted.bias)
        logits.append(scores.sigmoid_scale * (tests @ one.words.T + threshold))
        logits.append(torch.stack([_alone(X, column, tests) for column in y.T], dim=1))
        figures = [
            (
                statistics.fmean(average_precision(z[:, n], truth[:, n]) for n in tested.nonzero().flatten()),
                float(F.binary_cross_entropy_with_logits(z, truth.float())),
            )
            for z in logits
        ]
        result.setdefault(shown, []).append(figures)
    return {
        shown: [
            (statistics.fmean(p for p, _ in each), statistics.fmean(c for _, c in each))
            for each in zip(*draws, strict=True)
        ]
        for shown, draws in result.items()
    }


def _alone(X: Tensor, has: Tensor, tests: Tensor) -> Tensor:
    """Logits by scikit-learn's logistic regression, C 10; a constant where all examples are alike."""
    if bool(has.all()) or not bool(has.any()):
        return torch.full((len(tests),), 4.0 if bool(has.all()) else -4.0)
    fitted = LogisticRegression(C=10).fit(X.numpy(), has.numpy())
    return torch.from_numpy(fitted.decision_function(tests.numpy())).float()


def figures_of(bench: Bench, texts: Texts) -> list[Listed]:
    """The sets of the figures."""
    mapping, default = KernelRidge().fit(texts.pairs(bench.head(), stages()[-1])), stages()[-1]
    result = []
    for name in (*CLASSIFICATION, COCO):
        data = crops(bench) if name == COCO else bench.labelled(name)
        aligner = mapping.centred_on(data.features)
        has = F.one_hot(data.labels, len(data.names)).bool()
        words = aligner.text(texts.labels(data.names, default))
        result.append(Listed(name, words, aligner.image(data.features), has))
    return result


def coco_pictures(bench: Bench, texts: Texts) -> Listed:
    """coco128's pictures, by the labels of which a dozen have boxes."""
    boxed = read_boxes(str(bench.root / "data" / COCO / "boxes.json"))
    names = [name for name in boxed.names if sum(name in boxes for boxes in boxed.boxes) >= FEWEST]
    features = image_features(bench.vision(), boxed.images)
    aligner = KernelRidge().fit(texts.pairs(bench.head(), stages()[-1])).centred_on(features)
    has = torch.tensor([[name in boxes for name in names] for boxes in boxed.boxes])
    words = aligner.text(texts.labels(names, stages()[-1]))
    return Listed("coco128, whole pictures", words, aligner.image(features), has)


def run() -> dict[str, Any]:
    """Choose on the twelve lists, report on the sets."""
    bench = Bench(root=data_root())
    texts, model = Texts(bench), recycle()
    twelve, sets = list(lists(bench, texts)), figures_of(bench, texts)

    moves = list(itertools.product(LEAST_MOVES, MOVES, WRONGS))
    by_list = {one.name: refined(one, moves) for one in twelve}
    gains = torch.tensor([[after - before for after in found] for before, found in by_list.values()])
    worth = gains.mean(dim=0).masked_fill(gains.min(dim=0).values < 0, -torch.inf)
    best = int(worth.argmax())
    queries = {
        "chosen": dict(zip(("least_move", "move", "wrong"), moves[best], strict=True)),
        "lists": {
            name: {"before": before, "after": found[best]} for name, (before, found) in by_list.items()
        },
        "mean_gain": float(worth[best]),
        "mean_gain_by_setting": {str(moves[n]): round(float(worth[n]), 2) for n in worth.topk(10).indices},
        "sets": {one.name: _by_own_numbers(one) for one in sets},
    }

    grid = list(itertools.product(SHARES, PENALTIES))
    found = [several(one, grid, model, bench) for one in twelve]
    entropy, precision = (
        torch.tensor([[figure[which] for figure in part] for one in found for part in one.values()]).mean(
            dim=0
        )
        for which in (1, 0)
    )
    close = entropy[:-2] <= SLACK * entropy[:-2].min()
    best = int(precision[:-2].masked_fill(~close, -torch.inf).argmax())
    names = [str(setting) for setting in grid] + ["words alone", "logistic regression"]
    independent = {
        "chosen": dict(zip(("share", "penalty"), grid[best], strict=True)),
        "lists": {
            name: {"mean_average_precision": float(p), "cross_entropy": float(c)}
            for name, p, c in zip(names, precision, entropy, strict=True)
        },
        "sets": {
            one.name: {
                str(shown): dict(
                    zip(("taught", "words alone", "logistic regression"), map(_named, part), strict=True)
                )
                for shown, part in several(one, [INDEPENDENT], model, bench).items()
            }
            for one in (*(one for one in sets if one.name in SEVERAL), coco_pictures(bench, texts))
        },
    }
    return {
        "queries": queries,
        "multi_label": independent,
        "protocol": {"judged": JUDGED, "draws": DRAWS, "lists": [one.name for one in twelve]},
        "seed": bench.seed,
    }


def _by_own_numbers(one: Listed) -> dict[str, float]:
    """What the product's numbers make of a search."""
    before, (after,) = refined(one, [(LEAST_MOVE, MOVE, WRONG)])
    return {"before": before, "after": after}


def _named(figure: tuple[float, float]) -> dict[str, float]:
    return {"mean_average_precision": figure[0], "cross_entropy": figure[1]}
