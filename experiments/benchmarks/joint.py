"""Several backbones as one model: against the best single one, and a general one beside specialists.

Same classes: EfficientNet-Lite0, Lite1, Lite2 and MobileNetV2 (all ImageNet-1k), equal weights, kernel ridge;
the same names, templates and centring for the joint model and for each part. Mean per-class top-1 on the four
sets, on whose labels nothing was chosen.

Different classes: Lite0 beside MobileNetV2 of iNaturalist birds and of insects. The gate's temperature is
compared by leaving classes out: each left-out name looks for its row among the left-out rows of all heads.
Then, with the default: the four sets and Flickr8k's validation captions, which need no specialist, with and
without them; and ImageNet's 59 bird classes, one training image each, with their rows taken from the general
head's pairs, so that only the specialist has names of birds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from experiments.bench import CLASSIFICATION, Bench, data_root
from experiments.measure import accuracy
from headword.aligners import Aligner, JointKernelRidge, KernelRidge, leave_out
from headword.aligners.pairs import Pairs
from headword.encoders.prompts import FOUR_TEMPLATES, embed_names
from headword.metrics import classification_metrics

GENERAL = ["embedded", "embedded:lite1", "embedded:lite2", "mobilenetv2_100_in1k"]
SPECIAL = ["mobilenetv2_100_inat_bird", "mobilenetv2_100_inat_insect"]
GATES = (0.02, 0.05, 0.1, 0.2, 1e6)
BIRDS = [*range(7, 25), *range(80, 101), *range(127, 147)]
"""ImageNet-1k's birds: cock to great grey owl, black grouse to black swan, white stork to albatross."""


def run(
    general: Annotated[list[str], typer.Option(help="Classifiers of one set of classes.")] = GENERAL,
    special: Annotated[list[str], typer.Option(help="Classifiers of other classes.")] = SPECIAL,
    classes: int | None = None,
) -> dict[str, Any]:
    """Measure all of it, on the first classes of each head where so asked."""
    bench = Bench(root=data_root(), classes=classes)
    metrics = {
        "same_classes": same_classes(bench, general),
        "left_out_names_by_gate": {
            " + ".join(parts): gates(bench, parts)
            for parts in ((general[0], special[0]), (general[0], *special))
        },
        "specialists_beside_the_first": {
            " + ".join(parts): beside(bench, parts) for parts in ((general[0],), (general[0], *special))
        },
        "birds_without_general_names": birds(bench, general[0], special[0]),
    }
    protocol = {
        "general": general,
        "special": special,
        "text": bench.text().name,
        "templates": FOUR_TEMPLATES,
    }
    return {"metrics": metrics, "protocol": protocol, "seed": 0}


def joint_pairs(pairs: Sequence[Pairs], *, shared: bool) -> Pairs:
    """Parts' pairs as those of a joint head: side by side where they share classes, else with zeros."""
    if shared:
        return replace(pairs[0], image=torch.cat([part.image for part in pairs], dim=1))
    widths = [part.image.shape[1] for part in pairs]
    parts = []
    for n, part in enumerate(pairs):
        blocks = [part.image if n == m else torch.zeros(len(part), width) for m, width in enumerate(widths)]
        parts.append(replace(part, image=torch.cat(blocks, dim=1)))
    return reduce(Pairs.__add__, parts)


def widths_of(bench: Bench, parts: Sequence[str]) -> tuple[int, ...]:
    """Of several backbones' features."""
    return tuple(bench.head(part).rows.shape[1] for part in parts)


def on_the_sets(
    bench: Bench, aligner: Aligner, parts: Sequence[str], templates: Sequence[str], *, pool: bool = True
) -> dict[str, float]:
    """Each set's mean per-class top-1 in percent, and their mean."""
    top1 = {}
    for name in CLASSIFICATION:
        sets = [bench.labelled(name, part) for part in parts]
        data = replace(sets[0], features=torch.cat([one.features for one in sets], dim=1))
        top1[name] = accuracy(aligner, data, embed_names(bench.text(), data.names, templates), pool=pool)
    return {**top1, "mean": statistics.fmean(top1.values())}


def same_classes(bench: Bench, general: Sequence[str]) -> dict[str, Any]:
    """The joint model and its parts, by templates and centring."""
    result = {}
    for title, templates in {"bare names": ("{}",), "four templates": FOUR_TEMPLATES}.items():
        pairs = {part: bench.pairs(part, templates) for part in general}
        models: dict[tuple[str, ...], Aligner] = {(part,): KernelRidge().fit(pairs[part]) for part in general}
        for parts in (tuple(general), tuple(general[:3])):
            together = joint_pairs([pairs[part] for part in parts], shared=True)
            models[parts] = JointKernelRidge(widths=widths_of(bench, parts)).fit(together)
        for pool in (False, True):
            runs = {
                " + ".join(parts): on_the_sets(bench, model, parts, templates, pool=pool)
                for parts, model in models.items()
            }
            best = max(runs[part]["mean"] for part in general)
            gains = {name: run["mean"] - best for name, run in runs.items() if " + " in name}
            centre = "centred on each set" if pool else "not centred"
            result[f"{title}, {centre}"] = {"top1": runs, "points_above_best_single": gains}
    return result


def gates(bench: Bench, parts: Sequence[str]) -> dict[str, Any]:
    """Recall@1 and @10 in percent of left-out names for their rows, by head and on average."""
    pairs = [bench.pairs(part) for part in parts]
    whole = joint_pairs(pairs, shared=False)
    head = torch.tensor([n for n, part in enumerate(pairs) for _ in range(len(part))])
    result = {}
    for gate in GATES:
        aligner = JointKernelRidge(widths=widths_of(bench, parts), gate=gate)
        out = leave_out(aligner, whole, centred=True)
        rank = torch.zeros(len(whole), dtype=torch.long)
        for rows, image, text in zip(out.rows, out.image, out.text, strict=True):
            scores = text @ image.T
            rank[rows] = (scores >= scores.diagonal()[:, None]).sum(dim=1)
        recall = {
            part: {f"r{k}": 100 * float((rank[head == n] <= k).float().mean()) for k in (1, 10)}
            for n, part in enumerate(parts)
        }
        mean = {k: statistics.fmean(one[k] for one in recall.values()) for k in ("r1", "r10")}
        result["no gate" if gate == GATES[-1] else str(gate)] = {**recall, "mean": mean}
    return result


def beside(bench: Bench, parts: Sequence[str]) -> dict[str, Any]:
    """What specialists cost or bring where they are not needed."""
    pairs = joint_pairs([bench.pairs(part, FOUR_TEMPLATES) for part in parts], shared=False)
    model = JointKernelRidge(widths=widths_of(bench, parts)).fit(pairs)
    captions = bench.captions("val", parts[0])
    images = torch.cat([bench.captions("val", part).features for part in parts], dim=1)
    tested = on_the_sets(bench, model, parts, FOUR_TEMPLATES)
    model.centre_on(images)
    best = (model.text(captions.text) @ model.image(images).T).topk(min(10, len(images)), dim=1).indices
    recall = 100 * float((best == captions.owner[:, None]).any(dim=1).float().mean())
    return {"top1": tested, "flickr8k_val_t2i_r10": recall}


def birds(bench: Bench, general: str, special: str) -> dict[str, dict[str, float]]:
    """Top-1 and top-5 in percent over ImageNet's birds, centred on the whole sample."""
    sample = {part: bench.labelled("imagenet_sample", part) for part in (general, special)}
    head = bench.head(general)
    chosen = [n for n in BIRDS if n < len(head.names)]
    names = [head.names[n] for n in chosen]
    rest = [n for n in range(len(head.names)) if n not in BIRDS]
    pairs = {
        general: bench.pairs(general, FOUR_TEMPLATES)[rest],
        special: bench.pairs(special, FOUR_TEMPLATES),
    }
    result = {}
    for parts in ((general,), (special,), (general, special)):
        model = JointKernelRidge(widths=widths_of(bench, parts))
        model.fit(joint_pairs([pairs[part] for part in parts], shared=False))
        images: Tensor = torch.cat([sample[part].features for part in parts], dim=1)
        model.centre_on(images)
        tested = torch.isin(sample[parts[0]].labels, torch.tensor(chosen))
        labels = torch.searchsorted(torch.tensor(chosen), sample[parts[0]].labels[tested])
        scores = model.image(images[tested]) @ model.text(embed_names(bench.text(), names, FOUR_TEMPLATES)).T
        result[" + ".join(parts)] = dict(classification_metrics(scores, labels, ks=(1, 5)))
    return result
