"""What a centre is worth: of the whole collection, of its first images, and as images arrive.

Protocol: the embedded encoders, kernel ridge fitted on the head's rows and four templates, the same templates
at use; mean per-class top-1 on four sets and the mean over them. Images come in an order drawn with a seed;
means over three seeds with their standard deviation. Three priors of the centre: zero, what the last batch
norm expects (`expected_centre`), and the mean of other images (generic: imagenet_sample). For each, κ is
(1 − ‖c‖²)/‖c − c₀‖² on flickr8k's validation images; none of the four sets had a say.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench import CLASSIFICATION, Bench, data_root
from experiments.expected_centre import expected_centre
from headword.aligners import KernelRidge
from headword.encoders.prompts import FOUR_TEMPLATES, embed_names
from headword.evaluation.subjects import arrival
from headword.metrics import classification_metrics
from headword.scoring.centring import RunningCentre

FIRST = (1, 4, 16, 64, 256)
SEEDS = (0, 1, 2)


def run(classes: int | None = None) -> dict[str, Any]:
    """Centre the four sets, by the head's first classes alone where so asked."""
    bench = Bench(root=data_root(), classes=classes)
    aligner = KernelRidge().fit(bench.pairs(templates=FOUR_TEMPLATES))
    sets = {name: bench.labelled(name) for name in CLASSIFICATION}
    words = {
        name: aligner.text(embed_names(bench.text(), data.names, FOUR_TEMPLATES))
        for name, data in sets.items()
    }
    others = bench.captions("val").features
    network = expected_centre(bench.vision())
    assert network is not None
    priors = {
        "zero": torch.zeros_like(network),
        "network": network,
        "generic": unit_mean(bench.labelled("imagenet_sample").features),
    }
    strengths = {name: spread_over_error(others, prior) for name, prior in priors.items()}

    def accuracies(centre: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """By set, and their mean, of images centred on what `centre` makes of their features."""
        top1 = {}
        for name, data in sets.items():
            scores = aligner.image(data.features, centre(data.features)) @ words[name].T
            top1[name] = classification_metrics(scores, data.labels, ks=(1,))["mean_per_class"]
        return {**top1, "mean": statistics.fmean(top1.values())}

    def over_seeds(centre: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
        """Means over orders of arrival, and the deviation of the mean over the sets."""
        runs = [accuracies(lambda x, seed=seed: centre(x, arrival(len(x), seed))) for seed in SEEDS]  # type: ignore[misc]
        means = {name: statistics.fmean(one[name] for one in runs) for name in runs[0]}
        return {**means, "mean_std": statistics.stdev(one["mean"] for one in runs)}

    results: dict[str, object] = {"pool": accuracies(unit_mean)}
    for name, prior in priors.items():

        def centres(x: Tensor, prior: Tensor = prior, strength: float = strengths[name]) -> Tensor:
            return RunningCentre(prior, strength).centres(x)

        results[f"{name} alone"] = accuracies(lambda _, prior=prior: prior)  # type: ignore[misc]
        for n in FIRST:
            results[f"first {n}, {name}"] = over_seeds(lambda x, order: centres(x[order[:n]])[-1])  # noqa: B023
        results[f"online, {name}"] = over_seeds(lambda x, order: centres(x[order])[order.argsort()])
    for n in FIRST:
        results[f"first {n}, no prior"] = over_seeds(lambda x, order: unit_mean(x[order[:n]]))  # noqa: B023
    pools = {name: unit_mean(data.features) for name, data in sets.items()}
    cosines = {name: float(F.cosine_similarity(network, pool, dim=0)) for name, pool in pools.items()}
    return {
        "metrics": {
            "mean_per_class_top1": results,
            "strength": strengths,
            "cosine_of_network_and_pool": cosines,
        },
        "protocol": {"sets": CLASSIFICATION, "templates": FOUR_TEMPLATES, "order": "drawn with the seed"},
        "seed": list(SEEDS),
    }


def unit_mean(features: Tensor) -> Tensor:
    """The mean of unit-norm features."""
    return F.normalize(features, dim=1).mean(dim=0)


def spread_over_error(features: Tensor, prior: Tensor) -> float:
    """κ: the spread of unit-norm images around their mean over the prior's squared distance from it."""
    mean = unit_mean(features)
    return float((1 - mean.square().sum()) / (mean - prior).square().sum())
