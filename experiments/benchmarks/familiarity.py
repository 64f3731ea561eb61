"""Does familiarity, learnt from the head alone, tell which labels a model will get right?

Protocol: the embedded default, each set centred on its own images, bare names. For every class of four sets:
its familiarity, and the share of its images that get its name (per-class accuracy). Spearman's rank
correlation of the two, within each set and over the classes of all sets, with 95 % intervals of a bootstrap
over classes, beside two baselines: the largest cosine of the class's name to a name of the head, and the norm
of the text's vector before it is normalised. The difference to the cosine is bootstrapped on the same
resamples. Folds of another seed say how well familiarity is calibrated on the head's own classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import headword
from experiments.bench import CLASSIFICATION, Bench, Labelled, data_root
from headword.aligners import KernelRidge
from headword.encoders.prompts import embed_names
from headword.model import DualEncoder
from headword.scoring.calibration import leave_classes_out, taught_rows
from headword.scoring.familiarity import Taught, chance_first

RESAMPLES = 2_000
SCORES = ("familiarity", "cosine_to_nearest_name", "norm")


def run() -> dict[str, Any]:
    """Measure the default on the four sets."""
    bench, model = Bench(root=data_root()), headword.recycle()
    assert model.familiarity_fit is not None
    columns: dict[str, dict[str, Tensor]] = {
        name: per_class(model, bench.labelled(name)) for name in CLASSIFICATION
    }
    pooled = {key: torch.cat([c[key] for c in columns.values()]) for key in (*SCORES, "accuracy")}
    low = pooled["familiarity"] < model.familiarity_fit.low
    farthest = pooled["cosine_to_nearest_name"].argsort()[: int(low.sum())]
    untaught = pooled["cosine_to_nearest_name"] < 0.9999
    groups = {**columns, "all sets": pooled, "all sets, names not in the head": rows_of(pooled, untaught)}
    metrics = {
        "spearman": {name: correlations(c) for name, c in groups.items()},
        "out_of_depth": {
            "classes": int(low.sum()),
            "mean_accuracy": 100 * float(pooled["accuracy"][low].mean()),
            "mean_accuracy_of_as_many_farthest_by_cosine": 100 * float(pooled["accuracy"][farthest].mean()),
            "mean_accuracy_of_the_others": 100 * float(pooled["accuracy"][~low].mean()),
            "by_set": {
                name: [len(c["familiarity"]), int((c["familiarity"] < model.familiarity_fit.low).sum())]
                for name, c in columns.items()
            },
        },
        "left_out_classes_of_the_head": reliability(model),
    }
    return {
        "metrics": metrics,
        "fit": model.familiarity_fit.as_json(),
        "protocol": {
            "sets": CLASSIFICATION,
            "centre": "each set's own images",
            "prompt": "name",
            "bootstrap": {"resamples": RESAMPLES, "over": "classes", "interval": "2.5 to 97.5 %"},
        },
        "seed": 0,
    }


def rows_of(columns: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Some classes of each column."""
    return {name: column[rows] for name, column in columns.items()}


def per_class(model: DualEncoder, data: Labelled) -> dict[str, Tensor]:
    """Scores and accuracy of each class that has images: `[C]` each."""
    classifier = model.centre_on(data.features).classifier(data.names, templates="{}")
    label = classifier.cosines(model.encode_image(data.features)).argmax(dim=1)
    present = torch.unique(data.labels).tolist()
    names = [data.names[c] for c in present]
    texts = F.normalize(embed_names(model.text, names), dim=1)
    assert model.pairs is not None
    taught = F.normalize(taught_rows(model.pairs).text, dim=1)
    assert isinstance(model.aligner, KernelRidge)
    return {
        "familiarity": model.familiarity(names),
        "cosine_to_nearest_name": (texts @ taught.T).max(dim=1).values,
        "norm": model.aligner._map_text(texts).norm(dim=1),
        "accuracy": torch.tensor([float((label[data.labels == c] == c).float().mean()) for c in present]),
    }


def correlations(columns: dict[str, Tensor]) -> dict[str, object]:
    """Each score's rank correlation with accuracy, and by how much familiarity's is above the cosine's."""
    n, drawn = len(columns["accuracy"]), torch.Generator().manual_seed(0)
    picks = [torch.randint(n, (n,), generator=drawn) for _ in range(RESAMPLES)]
    runs = {
        score: torch.tensor([spearman(columns[score][p], columns["accuracy"][p]) for p in picks])
        for score in SCORES
    }
    found: dict[str, object] = {"classes": n}
    for score in SCORES:
        value = spearman(columns[score], columns["accuracy"])
        found[score] = {"rho": value, "interval": interval(runs[score])}
    found["familiarity_above_cosine_interval"] = interval(
        runs["familiarity"] - runs["cosine_to_nearest_name"]
    )
    return found


def spearman(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of the ranks, ties sharing their mean rank; NaN for a constant."""
    ranks = torch.stack([mean_ranks(a), mean_ranks(b)])
    return float(torch.corrcoef(ranks)[0, 1])


def mean_ranks(values: Tensor) -> Tensor:
    """Rank of each value, from 1, with ties at their mean."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = (last - (counts - 1) / 2)[place]
    return ranks


def interval(values: Tensor) -> list[float]:
    """2.5 and 97.5 % quantiles of those that are numbers: a resample of one repeated class has no ranks."""
    kept = values[~values.isnan()].double()
    if not len(kept):
        return []
    return kept.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


def reliability(model: DualEncoder, seed: int = 1) -> dict[str, object]:
    """Familiarity of left-out classes against the chance they turned out to have, by its quarters."""
    fit = model.familiarity_fit
    assert fit is not None
    assert model.pairs is not None
    left_out = leave_classes_out(model.aligner, model.pairs, seed=seed)
    assert left_out is not None
    expected, was, cosine = [], [], []
    for rows, cosines, right in zip(left_out.rows, left_out.cosines, left_out.right, strict=True):
        inside = torch.zeros(len(left_out.known), dtype=torch.bool)
        inside[rows] = True
        rest, text = left_out.known[~inside], left_out.known.text[rows]
        expected.append(fit.of(Taught(rest).evidence(text)))
        cosine.append((F.normalize(text, dim=1) @ F.normalize(rest.text, dim=1).T).max(dim=1).values)
        was.append(chance_first(cosines, right, fit.among))
    familiarity, chance = torch.cat(expected), torch.cat(was)
    quarters = torch.tensor_split(familiarity.argsort(), 4)
    return {
        "seed_of_the_folds": seed,
        "spearman": spearman(familiarity, chance),
        "spearman_of_cosine_to_nearest_name": spearman(torch.cat(cosine), chance),
        "mean_familiarity_by_quarter": [100 * float(familiarity[q].mean()) for q in quarters],
        "found_first_by_quarter": [100 * float(chance[q].mean()) for q in quarters],
    }
