"""What scale do probabilities want when a head is small? Parts of the embedded head, scored on real pictures.

Protocol: k of the thousand rows of the embedded classifier, drawn at random ("mixed") or as neighbours in
WordNet's order ("one topic"), are recycled as a head of their own, with the default's words and mapping. Four
sets are labelled by it, centred on themselves and not, by names most of which it was not taught. For each
size: the scale of a grid with the least cross-entropy on all sets and parts at once; and the mean
cross-entropy, as nats below guessing, at 20, at the prior's scale, and at the scale fitted by leaving classes
out with and without the prior. The prior of `headword.scoring.calibration` was read off these figures: its
numbers are near the best of a grid by mean cross-entropy over the sizes up to 100. The network of these heads
knew a thousand classes, which is kind to small heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from experiments.bench import CLASSIFICATION, Bench, data_root
from experiments.words import Texts, Words
from headword.aligners import Aligner, make_aligner
from headword.aligners.pairs import Pairs
from headword.encoders.enrichment import RICH
from headword.encoders.prompts import FOUR_TEMPLATES, Prompts
from headword.scoring.calibration import fit_softmax, leave_classes_out, prior_scores, scores_from

SIZES = {2: 16, 5: 16, 10: 16, 20: 16, 35: 12, 50: 12, 100: 8, 200: 4, 500: 2}
"""Classes of a part, and how many parts of each kind are drawn."""
MOST = 100
"""The largest size that the prior is chosen on."""
STEP = 1.25
GRID = [STEP**n for n in range(-8, 21)]
KINDS = ("mixed", "one topic")


def parts(classes: int, most: int) -> Iterator[tuple[int, str, list[int]]]:
    """Size, kind and rows of each part."""
    drawn = torch.Generator().manual_seed(0)
    for size, number in SIZES.items():
        for _ in range(min(number, most)):
            yield size, KINDS[0], torch.randperm(classes, generator=drawn)[:size].tolist()
            start = int(torch.randint(classes - size + 1, (1,), generator=drawn))
            yield size, KINDS[1], list(range(start, start + size))


def run(
    most: Annotated[int, typer.Option(help="Parts of each size and kind at most.")] = 16,
) -> dict[str, Any]:
    """Recycle parts of the head and score the four sets with each."""
    bench = Bench(root=data_root())
    head, texts = bench.head(), Texts(bench)
    sets = []
    for name in CLASSIFICATION:
        data = bench.labelled(name)
        words = Prompts(data.names, FOUR_TEMPLATES, RICH.hypernym_weight)
        sets.append((data.features, words.combine(texts.encode(words.texts)), data.labels))
    results: dict[tuple[int, str], list[dict[str, Tensor]]] = {}
    for size, kind, chosen in parts(len(head.rows), most):
        pairs = texts.pairs(head, Words(title=kind, enrichment=RICH), torch.tensor(chosen))
        aligner = make_aligner().fit(pairs)
        curves = torch.stack([gain(aligner, *data) for data in sets])  # [set, centre, scale]
        results.setdefault((size, kind), []).append({"curves": curves, **scales(aligner, pairs, size)})
    metrics: dict[str, dict[int, object]] = {kind: {} for kind in KINDS}
    for (size, kind), entries in results.items():
        metrics[kind][size] = summary(entries)
        print(size, kind, metrics[kind][size], flush=True)
    prior = best_prior([(size, entries) for (size, _), entries in results.items() if size <= MOST])
    protocol = {"sets": CLASSIFICATION, "parts": SIZES, "grid": GRID, "centre": "each set's own, and none"}
    return {"metrics": metrics, "prior": prior, "protocol": protocol, "seed": 0}


@torch.inference_mode()
def gain(aligner: Aligner, features: Tensor, words: Tensor, labels: Tensor) -> Tensor:
    """`[2, grid]` nats that a set's cross-entropy is below guessing, centred and not, at each scale."""
    texts, mean = aligner.text(words), F.normalize(features, dim=1).mean(dim=0)
    rows = []
    for centre in (mean, torch.zeros_like(mean)):
        cosines = aligner.image(features, centre) @ texts.T
        guessing = math.log(cosines.shape[1])
        rows.append([guessing - float(F.cross_entropy(s * cosines, labels)) for s in GRID])
    return torch.tensor(rows)


def scales(aligner: Aligner, pairs: Pairs, size: int) -> dict[str, Tensor]:
    """The scales a head could get."""
    prior, left_out = prior_scores(size), leave_classes_out(aligner, pairs)
    alone = 20.0 if left_out is None else fit_softmax(left_out.cosines, left_out.right)
    each = {"20": 20.0, "prior": prior.scale, "fitted_alone": alone}
    each["fitted_with_prior"] = scores_from(left_out, prior).scale
    return {name: torch.tensor(scale) for name, scale in each.items()}


def at(curves: Tensor, scale: float) -> float:
    """Mean gain at a scale between those of the grid."""
    place = min(max(math.log(scale / GRID[0]) / math.log(STEP), 0.0), len(GRID) - 1.001)
    low, share = int(place), place % 1
    return float((1 - share) * curves[..., low].mean() + share * curves[..., low + 1].mean())


def summary(entries: list[dict[str, Tensor]]) -> dict[str, object]:
    """The best scale for all heads of a size, and what each way to choose one gains."""
    curves = torch.stack([entry["curves"] for entry in entries])
    ways = [way for way in entries[0] if way != "curves"]
    return {
        "best_scale": GRID[int(curves.mean(dim=(0, 1, 2)).argmax())],
        "median_scale": {way: float(torch.stack([e[way] for e in entries]).median()) for way in ways},
        "nats_below_guessing": {
            way: sum(at(e["curves"], float(e[way])) for e in entries) / len(entries) for way in ways
        },
    }


def best_prior(heads: list[tuple[int, list[dict[str, Tensor]]]]) -> dict[str, float]:
    """The top t and half-way size c of the scale t k / (k + c) that gains most over sizes and kinds."""
    curves = [(size, torch.stack([e["curves"] for e in entries])) for size, entries in heads]

    def total(choice: tuple[int, int]) -> float:
        top, half = choice
        return sum(at(curve, top * size / (size + half)) for size, curve in curves)

    top, half = max(((t, c) for t in range(16, 41, 2) for c in range(2, 41, 2)), key=total)
    return {"top": top, "half": half}
