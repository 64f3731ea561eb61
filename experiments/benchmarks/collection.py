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
from typing import Any

from torch import Tensor

from experiments.bench import CLASSIFICATION, Bench, data_root
from headword.aligners import KernelRidge
from headword.encoders.prompts import FOUR_TEMPLATES, embed_names
from headword.metrics import classification_metrics
from headword.scoring.calibration import fit_scores
from headword.scoring.transductive import METHODS, adapt, collective_scores, label_shares


def run(classes: int | None = None) -> dict[str, Any]:
    """Label the four sets, by the head's first classes alone where so asked."""
    bench = Bench(root=data_root(), classes=classes)
    pairs = bench.pairs(templates=FOUR_TEMPLATES)
    aligner = KernelRidge().fit(pairs)
    scale = fit_scores(aligner, pairs).scale
    top1: dict[str, dict[str, float]] = {}

    def note(arm: str, name: str, scores: Tensor) -> None:
        metrics = classification_metrics(scores, bench.labelled(name).labels, ks=(1,))
        top1.setdefault(arm, {})[name] = metrics["mean_per_class"]

    for name in CLASSIFICATION:
        data = bench.labelled(name)
        words = aligner.text(embed_names(bench.text(), data.names, FOUR_TEMPLATES))
        pool = aligner.unit(data.features).mean(dim=0)
        for (centre, at), method in itertools.product({"raw": 0 * pool, "pool": pool}.items(), METHODS):
            shares = label_shares("uniform", data.names) if method == "sinkhorn" else None
            images = aligner.image(data.features, at)
            scores = collective_scores(images, words, method=method, scale=scale, shares=shares)
            note(f"{method}, {centre}", name, scores)
        images = aligner.image(data.features, pool)
        for weight in (0.5, 2.0):
            moved = adapt(images, words, scale, weight=weight)
            note(f"adapt of weight {weight}, pool", name, images @ moved.T)
    means = {arm: {**by_set, "mean": statistics.fmean(by_set.values())} for arm, by_set in top1.items()}
    return {
        "metrics": {"mean_per_class_top1": means, "scale": scale},
        "protocol": {"sets": CLASSIFICATION, "templates": FOUR_TEMPLATES},
        "seed": 0,
    }
