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

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.benchmarks.common import CLASSIFICATION, data_root, features_of, write
from experiments.benchmarks.expected_centre import expected_centre
from headword.aligners import KernelRidge
from headword.data.captions import read_captions
from headword.data.folders import list_images
from headword.encoders import load_text, load_vision
from headword.encoders.prompts import FOUR_TEMPLATES, embed_names
from headword.evaluation.subjects import arrival
from headword.extract import image_features
from headword.metrics import classification_metrics
from headword.recycling import head_pairs
from headword.scoring.centring import RunningCentre

FIRST = (1, 4, 16, 64, 256)
SEEDS = (0, 1, 2)


def main() -> None:
    vision, text = load_vision("embedded", dtype="float32"), load_text("embedded")
    aligner = KernelRidge().fit(head_pairs(vision, text, FOUR_TEMPLATES))
    sets = {name: features_of(vision, name) for name in CLASSIFICATION}
    words = {
        name: aligner.text(embed_names(text, data.names, FOUR_TEMPLATES)) for name, (data, _) in sets.items()
    }
    entries = read_captions(data_root() / "flickr8k" / "captions.jsonl", split="val")
    others = image_features(vision, [entry.image for entry in entries])
    network = expected_centre(vision)
    assert network is not None
    priors = {
        name: (prior, spread_over_error(others, prior))
        for name, prior in {
            "zero": torch.zeros(vision.dim),
            "network": network,
            "generic": unit_mean(image_features(vision, list_images(data_root() / "imagenet_sample"))),
        }.items()
    }

    def accuracies(centre: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """By set, and their mean, of images centred on what `centre` makes of their features."""
        found = {}
        for name, (data, features) in sets.items():
            scores = aligner.image(features, centre(features)) @ words[name].T
            labels = torch.tensor(data.labels)
            found[name] = classification_metrics(scores, labels, ks=(1,))["mean_per_class"]
        return {**found, "mean": statistics.fmean(found.values())}

    results: dict[str, object] = {"pool": accuracies(unit_mean)}
    for name, (prior, strength) in priors.items():
        results[f"{name} alone"] = accuracies(lambda _, prior=prior: prior)  # type: ignore[misc]
        for first in FIRST:
            runs = [accuracies(centre_of_first(prior, strength, first, seed)) for seed in SEEDS]
            results[f"first {first}, {name}"] = summary(runs)
        runs = [accuracies(centre_as_they_arrive(prior, strength, seed)) for seed in SEEDS]
        results[f"online, {name}"] = summary(runs)
    for first in FIRST:
        runs = [accuracies(lambda x, n=first, s=seed: unit_mean(x[arrival(len(x), s)[:n]])) for seed in SEEDS]  # type: ignore[misc]
        results[f"first {first}, no prior"] = summary(runs)
    write(
        "centring",
        {
            "metrics": {
                "mean_per_class_top1": results,
                "strength": {name: strength for name, (_, strength) in priors.items()},
                "cosine_of_network_and_pool": {
                    name: float(F.cosine_similarity(network, unit_mean(features), dim=0))
                    for name, (_, features) in sets.items()
                },
            },
            "protocol": {"sets": CLASSIFICATION, "templates": FOUR_TEMPLATES, "order": "drawn with the seed"},
            "seed": list(SEEDS),
        },
    )


def unit_mean(features: Tensor) -> Tensor:
    """The mean of unit-norm features."""
    return F.normalize(features, dim=1).mean(dim=0)


def spread_over_error(features: Tensor, prior: Tensor) -> float:
    """κ: the spread of unit-norm images around their mean over the prior's squared distance from it."""
    mean = unit_mean(features)
    return float((1 - mean.square().sum()) / (mean - prior).square().sum())


def centre_of_first(prior: Tensor, strength: float, first: int, seed: int) -> Callable[[Tensor], Tensor]:
    """The centre after the first images have come."""

    def centre(features: Tensor) -> Tensor:
        order = arrival(len(features), seed)[:first]
        return RunningCentre(prior, strength).centres(features[order])[-1]

    return centre


def centre_as_they_arrive(prior: Tensor, strength: float, seed: int) -> Callable[[Tensor], Tensor]:
    """Each image's centre when it comes."""

    def centre(features: Tensor) -> Tensor:
        order = arrival(len(features), seed)
        centres = torch.empty_like(features)
        centres[order] = RunningCentre(prior, strength).centres(features[order])
        return centres

    return centre


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Means over the seeds, and the standard deviation of the mean over the sets."""
    means = {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}
    return {**means, "mean_std": statistics.stdev(run["mean"] for run in runs)}


if __name__ == "__main__":
    main()
