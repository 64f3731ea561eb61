"""Does a search know when to stop? The relevance of hits, and where answers end, against what pictures show.

Protocol: the embedded default, each collection centred on itself. Queries and what answers them: the class
names of caltech101 and tiny_imagenet, the 80 words of coco128 (pictures with a box of it), nouns in
flickr8k's captions (pictures of which two captions name them), and the captions (their picture). Half of the
class names, drawn once, and the nouns of flickr8k's val are for fitting. All figures are of the other half,
and of flickr8k's test.

Mean F1 over queries: the best flat cosine of each set and each query's best cut, both in hindsight, and the
default cut. "closed" is the share of the way from the first to the second. Calibration error (ten bins) is of
the first 20 hits of each query. "without": fitted on the other sets alone. "absent": queries whose answers
were taken out of the collection, and the share of them that nothing answers, beside that of the others.
"precision_at_5": how well it is told, by Spearman's rank correlation over the nouns of the test split, by the
mean relevance of the first five hits, by the best cosine, and by the head's familiarity with the word.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import headword
from experiments.bench import Bench, data_root
from experiments.benchmarks.familiarity import spearman
from experiments.benchmarks.score_calibration import calibration_error
from headword.data.captions import read_captions
from headword.head.wordnet import wordnet
from headword.model import DualEncoder
from headword.scoring.calibration import logistic
from headword.search import relevance
from headword.search.space import Doubles, Floats

MAIN = ("caltech101", "tiny_imagenet", "coco128")
SEED = 0
MOST_NOUNS, LEAST_PICTURES, LEAST_CAPTIONS = 200, 3, 2
CAPTIONS = 1000
CALIBRATED = 20  # hits of a query
FITTED = 100
_RIDGE = 1e-4


@dataclass(frozen=True, slots=True)
class Collection:
    """Pictures, queries, and which answer which."""

    texts: Sequence[str]
    """`[Q]`."""
    images: Floats
    """`[N, D]` unit vectors."""
    queries: Floats
    """`[Q, D]` unit vectors."""
    answers: NDArray[np.bool_]
    """`[Q, N]`."""

    def of(self, queries: NDArray[np.int64]) -> Collection:
        """Some of the queries."""
        texts = [self.texts[query] for query in queries]
        return Collection(texts, self.images, self.queries[queries], self.answers[queries])


@dataclass(frozen=True, slots=True)
class Asked:
    """One query's hits."""

    evidence: Doubles
    """`[K, 5]`."""
    right: NDArray[np.bool_]
    """`[K]`."""
    answers: int
    """How many there are in the collection."""
    best: float
    """F1 of the best cut by cosine."""


def run() -> dict[str, Any]:
    """Fit the weights on one half, measure those of `headword.search.relevance` on the other."""
    bench, model = Bench(root=data_root()), headword.recycle()
    sets = {name: classes(bench, model, name) for name in MAIN[:2]} | {"coco128": boxes(bench, model)}
    halves = {name: halved(len(one.queries)) for name, one in sets.items()}
    fitting = {name: asked(one.of(halves[name][0])) for name, one in sets.items()}
    fitting["nouns"] = asked(nouns(bench, model, "val"))
    beta = fit(list(fitting.values()))
    metrics: dict[str, Any] = {}
    for name, one in sets.items():
        part = one.of(halves[name][1])
        whole, absent = asked(part), without_answers(part)
        others = fit([queries for other, queries in fitting.items() if other != name])
        metrics[name] = {
            "best_flat_cosine": 100 * flat(part),
            "each_query_best": 100 * statistics.fmean(query.best for query in whole),
            "default_cut": 100 * mean_f1(whole, beta),
            "default_cut_without": 100 * mean_f1(whole, others),
            "calibration_error": 100 * error(whole, beta),
            "calibration_error_without": 100 * error(whole, others),
            "nothing_answers": {
                "absent": 100 * unanswered(absent, beta),
                "others": 100 * unanswered(whole, beta),
            },
        }
    for one in metrics.values():
        gap = one["each_query_best"] - one["best_flat_cosine"]
        for key in ("default_cut", "default_cut_without"):
            one[key.replace("default_cut", "closed")] = 100 * (one[key] - one["best_flat_cosine"]) / gap
    for key in ("closed", "closed_without"):
        metrics[f"mean_{key}"] = statistics.fmean(metrics[name][key] for name in MAIN)
    test = {"nouns": nouns(bench, model, "test"), "captions": captions(bench, model)}
    metrics["precision_at_5"] = foretold(model, test["nouns"], beta)
    for name, part in test.items():
        whole = asked(part)
        metrics[f"flickr8k test, {name}"] = {
            "queries": len(whole),
            "best_flat_cosine": 100 * flat(part),
            "each_query_best": 100 * statistics.fmean(query.best for query in whole),
            "default_cut": 100 * mean_f1(whole, beta),
            "calibration_error": 100 * error(whole, beta),
        }
    return {
        "metrics": metrics,
        "fit": {"offset": float(beta[0]), "weights": beta[1:].tolist()},
        "protocol": {"sets": MAIN, "seed_of_halves": SEED, "calibrated_hits": CALIBRATED},
        "seed": SEED,
    }


def classes(bench: Bench, model: DualEncoder, name: str) -> Collection:
    """Class names, and the pictures of each class."""
    data = bench.labelled(name)
    answers = np.stack([data.labels.numpy() == label for label in range(len(data.names))])
    return collection(model, data.features, data.names, answers)


def boxes(bench: Bench, model: DualEncoder) -> Collection:
    """The words of coco128 that a picture has a box of."""
    root = bench.root / "data" / "coco128"
    boxes = json.loads((root / "boxes.json").read_text())
    names = sorted({box["label"] for one in boxes.values() for box in one})
    answers = np.array(
        [[any(box["label"] == name for box in one) for one in boxes.values()] for name in names]
    )
    features = bench.images([root / "images" / file for file in boxes], "coco128")
    return collection(model, features, names, answers)


def nouns(bench: Bench, model: DualEncoder, split: str) -> Collection:
    """The most frequent nouns of captions, and the pictures of which two captions name them."""
    entries = read_captions(bench.root / "data" / "flickr8k" / "captions.jsonl", split=split)
    named = [nouns_of(entry.captions) for entry in entries]
    counts = Counter(noun for one in named for noun in one).most_common(MOST_NOUNS)
    names = [noun for noun, pictures in counts if pictures >= LEAST_PICTURES]
    answers = np.array([[name in one for one in named] for name in names])
    return collection(model, bench.captions(split).features, names, answers)


def nouns_of(texts: Sequence[str]) -> set[str]:
    """WordNet's nouns that two of a picture's captions have, in the singular."""
    known = Counter[str]()
    for text in texts:
        known.update({noun for word in re.findall("[a-z]{3,}", text.lower()) if (noun := singular(word))})
    return {noun for noun, count in known.items() if count >= LEAST_CAPTIONS}


def singular(word: str) -> str | None:
    """A noun's singular; None for what WordNet's table does not have."""
    senses = wordnet().senses(word)
    names = {name.lower() for sense in senses for name in sense.names}
    return next((form for form in (word.removesuffix("s"), word) if form in names), None)


def captions(bench: Bench, model: DualEncoder) -> Collection:
    """The first caption of each picture of the test split, and that picture."""
    entries = read_captions(bench.root / "data" / "flickr8k" / "captions.jsonl", split="test")[:CAPTIONS]
    texts = [entry.captions[0] for entry in entries]
    features = bench.captions("test").features
    return collection(model, features, texts, np.eye(len(texts), len(features), dtype=np.bool_))


def collection(
    model: DualEncoder, features: Tensor, texts: Sequence[str], answers: NDArray[np.bool_]
) -> Collection:
    """Pictures and queries in the shared space, centred on the pictures."""
    centred = model.centre_on(features)
    images = centred.encode_image(features, batch_size=4096)
    return Collection(texts, images.numpy(), centred.encode_text(list(texts)).numpy(), answers)


def halved(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two halves of so many queries."""
    order = np.random.default_rng(SEED).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def asked(one: Collection) -> list[Asked]:
    """The first hits of every query."""
    result = []
    for query, answers in zip(one.queries, one.answers, strict=True):
        cosines = one.images @ query
        order = np.argsort(-cosines, kind="stable")
        right = answers[order]
        total = int(answers.sum())
        f1 = 2 * right.cumsum() / (np.arange(1, len(right) + 1) + max(1, total))
        hits = order[: relevance.POOL]
        found = one.images[hits]
        evidence = relevance.evidence(query, found, found[: relevance.FIRST], one.images[: relevance.SAMPLED])
        result.append(Asked(evidence, right[: relevance.POOL], total, float(f1.max())))
    return result


def without_answers(one: Collection) -> list[Asked]:
    """Every query, of a collection that its answers were taken out of."""
    left = [
        Collection([text], one.images[~answers], query[None], answers[None, ~answers])
        for text, query, answers in zip(one.texts, one.queries, one.answers, strict=True)
    ]
    return [asked(part)[0] for part in left]


def fit(parts: Sequence[Sequence[Asked]]) -> Tensor:
    """Offset and weights `[6]` of a logistic regression in which each set weighs alike."""
    X = torch.cat([torch.from_numpy(query.evidence[:FITTED]) for part in parts for query in part])
    y = torch.cat([torch.from_numpy(query.right[:FITTED]) for part in parts for query in part]).double()
    sizes = [sum(len(query.right[:FITTED]) for query in part) for part in parts]
    weight = torch.cat([torch.full((size,), 1 / size, dtype=torch.float64) for size in sizes])
    mean, spread = X.mean(dim=0), X.std(dim=0)
    design = torch.cat([torch.ones_like(X[:, :1]), (X - mean) / spread], dim=1)
    none = torch.zeros_like(design[0])
    beta = logistic(design, y, weight, none + _RIDGE, none)
    weights = beta[1:] / spread
    return torch.cat([beta[:1] - weights @ mean, weights])


def chances(query: Asked, beta: Tensor) -> Doubles:
    """Relevance of a query's hits."""
    p: Doubles = torch.sigmoid(torch.from_numpy(query.evidence) @ beta[1:] + beta[0]).numpy()
    return p


def mean_f1(queries: Sequence[Asked], beta: Tensor) -> float:
    """Mean F1 of the default cut."""
    values = []
    for query in queries:
        p = chances(query, beta)
        shown = p >= relevance.least_shown(p)
        values.append(2 * int((shown & query.right).sum()) / max(1, int(shown.sum()) + query.answers))
    return statistics.fmean(values)


def unanswered(queries: Sequence[Asked], beta: Tensor) -> float:
    """The share of queries that nothing answers, as a search would say."""
    return statistics.fmean(chances(query, beta).max() < relevance.LEAST for query in queries)


def error(queries: Sequence[Asked], beta: Tensor) -> float:
    """Calibration error over the first hits of all queries."""
    p = np.concatenate([chances(query, beta)[:CALIBRATED] for query in queries])
    right = np.concatenate([query.right[:CALIBRATED] for query in queries])
    return calibration_error(torch.from_numpy(p), torch.from_numpy(right))


def foretold(model: DualEncoder, one: Collection, beta: Tensor) -> dict[str, float]:
    """How well precision at 5 is told, by rank correlation over the queries."""
    queries = asked(one)
    precision = torch.tensor([query.right[:5].mean() for query in queries])
    told = {
        "relevance": torch.tensor([chances(query, beta)[:5].mean() for query in queries]),
        "best_cosine": torch.from_numpy((one.queries @ one.images.T).max(axis=1)),
        "familiarity": model.familiarity(list(one.texts)),
    }
    return {name: spearman(values, precision) for name, values in told.items()} | {"queries": len(queries)}


def flat(one: Collection) -> float:
    """Mean F1 of the flat cosine that is best in hindsight."""
    cosines = one.queries @ one.images.T
    best = 0.0
    for cut in np.quantile(cosines, 1 - np.geomspace(1e-4, 0.3, 300)):
        shown = cosines >= cut
        f1 = (
            2 * (shown & one.answers).sum(axis=1) / np.maximum(1, shown.sum(axis=1) + one.answers.sum(axis=1))
        )
        best = max(best, float(f1.mean()))
    return best
