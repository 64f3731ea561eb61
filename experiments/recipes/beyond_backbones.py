"""Several backbones in `beyond`: their heads joined in one space, against the best single one."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.recipes.bench import CLASSIFICATION, HEADS, Bench
from experiments.recipes.beyond_words import Speech, Words
from experiments.recipes.ladder import Rung, accuracy_rung
from headword.aligners import Aligner, JointKernelRidge, KernelRidge
from headword.scoring.transductive import collective_scores

BACKBONES = ("embedded", "embedded:lite1", "embedded:lite2", "mobilenetv2_100_in1k")
JOINT = "all four, joined"
METHODS = ("off", "csls", "adapt")


@torch.inference_mode()
def by_backbone(bench: Bench, speech: Speech, words: Words, scale: float) -> dict[str, dict[str, Rung]]:
    """Accuracy of each backbone and of all joined, centred on the collection, by collection method."""
    heads = [bench.head(name) for name in BACKBONES]
    rows = torch.cat([F.normalize(head.rows, dim=1) for head in heads], dim=1)
    widths = tuple(head.rows.shape[1] for head in heads)
    asked: dict[str, tuple[Aligner, tuple[str, ...]]] = {
        HEADS[name]: (KernelRidge().fit(speech.pairs(head, words)), (name,))
        for name, head in zip(BACKBONES, heads, strict=True)
    }
    joint = JointKernelRidge(widths=widths).fit(speech.pairs(replace(heads[0], rows=rows), words))
    asked[JOINT] = (joint, BACKBONES)
    labels = {name: bench.labelled(name).labels for name in CLASSIFICATION}
    found: dict[str, dict[str, Rung]] = {}
    for title, (aligner, names) in asked.items():
        scores: dict[str, dict[str, Tensor]] = {method: {} for method in METHODS}
        for data in CLASSIFICATION:
            features = torch.cat([bench.labelled(data, name).features for name in names], dim=1)
            images = aligner.centre_on(features).image(features)
            texts = aligner.text(speech.labels(bench.labelled(data).names, words))
            for method in METHODS:
                scores[method][data] = collective_scores(images, texts, method=method, scale=scale)
        found[title] = {method: accuracy_rung(scores[method], labels, bench.seed) for method in METHODS}
    return found


def best_single(found: dict[str, dict[str, Rung]], method: str) -> tuple[str, Rung]:
    """The single backbone of the highest accuracy."""
    singles = {name: rungs[method] for name, rungs in found.items() if name != JOINT}
    name = max(singles, key=lambda one: singles[one].value)
    return name, singles[name]
