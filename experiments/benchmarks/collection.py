"""What labelling a whole collection at once is worth, by each method.

Protocol: the embedded encoders, kernel ridge fitted on the head's rows and four templates, the same templates
at use; mean per-class top-1 on four sets and the mean over them; images not centred, or centred on the set.
The sets are nearly balanced, which is good to a uniform prior. `csls` has its paper's k = 10, the softmax the
scale learnt by leaving classes out, `adapt` ten rounds and the even weight 1; 0.5 and 2 stand beside it to
show what that choice is worth here. Retrieval with hubs and fits by source are in the recipes `beyond` and
`setting-2`.
"""

from __future__ import annotations

import itertools
import statistics

import torch

from experiments.benchmarks.common import CLASSIFICATION, features_of, write
from headword.aligners import KernelRidge
from headword.encoders import load_text, load_vision
from headword.encoders.prompts import FOUR_TEMPLATES, embed_names
from headword.metrics import classification_metrics
from headword.recycling import head_pairs
from headword.scoring.probabilities import fit_scores
from headword.scoring.transductive import METHODS, adapt, collective_scores, label_shares


def main() -> None:
    vision, text = load_vision("embedded", dtype="float32"), load_text("embedded")
    pairs = head_pairs(vision, text, FOUR_TEMPLATES)
    aligner = KernelRidge().fit(pairs)
    scale = fit_scores(aligner, pairs).scale
    found: dict[str, dict[str, float]] = {}
    for name in CLASSIFICATION:
        data, features = features_of(vision, name)
        words = aligner.text(embed_names(text, data.names, FOUR_TEMPLATES))
        pool = torch.nn.functional.normalize(features, dim=1).mean(dim=0)
        for (centre, at), method in itertools.product({"raw": 0 * pool, "pool": pool}.items(), METHODS):
            shares = label_shares("uniform", data.names) if method == "sinkhorn" else None
            images = aligner.image(features, at)
            scores = collective_scores(images, words, method=method, scale=scale, shares=shares)
            metrics = classification_metrics(scores, torch.tensor(data.labels), ks=(1,))
            found.setdefault(f"{method}, {centre}", {})[name] = metrics["mean_per_class"]
        for weight in (0.5, 2.0):
            images = aligner.image(features, pool)
            moved = adapt(images, words, scale, weight=weight)
            metrics = classification_metrics(images @ moved.T, torch.tensor(data.labels), ks=(1,))
            found.setdefault(f"adapt of weight {weight}, pool", {})[name] = metrics["mean_per_class"]
    means = {arm: {**by, "mean": statistics.fmean(by.values())} for arm, by in found.items()}
    write(
        "collection",
        {
            "metrics": {"mean_per_class_top1": means, "scale": scale},
            "protocol": {"sets": CLASSIFICATION, "templates": FOUR_TEMPLATES},
            "seed": 0,
        },
    )


if __name__ == "__main__":
    main()
