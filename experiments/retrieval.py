"""The retrieval side of the recipe `beyond`: rows alone and with a few captions, and hubs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench import Bench, Captions
from experiments.measure import first_ten
from experiments.records import Records
from experiments.rungs import Rung, recall_rungs
from headword.aligners import Aligner, KernelRidge
from headword.aligners.pairs import Pairs
from headword.scoring.transductive import Hubs

NUMBERS = (100, 1000)
"""Images with captions beside the rows."""

TAUS = (0.3, 0.6)
WEIGHTS = (0.03, 0.1, 0.3)
"""Of a caption beside a row's 1; what validation chooses from, with τ."""

MEANT_FROM = 1_000
"""Images from which one pair stands for all captions of an image, their mean, at five times the weight."""

REFERENCE = "one caption of each training image, and the training images, as unlabelled references"


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Unlabelled images and texts of the kind that will be searched."""

    features: Tensor
    text: Tensor

    @classmethod
    def of(cls, train: Captions) -> Reference:
        """The training images, and the first caption of each."""
        first = torch.searchsorted(train.owner, torch.arange(len(train.features)))
        return cls(train.features, train.text[first])


@torch.inference_mode()
def recall(aligner: Aligner, data: Captions, seed: int, *, hubs: Reference | None = None) -> dict[str, Rung]:
    """Recall@10 both ways, by cosines, or with texts centred and hubs subtracted by a reference (CSLS)."""
    images, texts = aligner.image(data.features), aligner.text(data.text)
    if hubs is not None:
        known = Hubs.of(aligner.image(hubs.features), aligner.text(hubs.text))
        images, texts = known.sides(images, texts)
    return dict(zip(("t2i R@10", "i2t R@10"), recall_rungs(texts @ images.T, data.owner, seed), strict=True))


def by_rows(aligner: Aligner, data: Captions, reference: Reference, seed: int) -> dict[str, dict[str, Rung]]:
    """A mapping fitted on rows alone: as it is, centred, and with hubs."""
    mapping = aligner.centred_on(reference.features)
    return {
        "as it is": recall(aligner, data, seed),
        "images centred on the reference": recall(mapping, data, seed),
        "texts centred too, and hubs": recall(mapping, data, seed, hubs=reference),
    }


def with_captions(
    bench: Bench, records: Records, rows: Pairs, number: int, reference: Reference, *, draw: int = 0
) -> None:
    """Rows and the captions of `number` training images, τ and the captions' weight chosen on val."""
    train, val, test = (bench.captions(split) for split in ("train", "val", "test"))
    order = torch.randperm(len(train.features), generator=bench.generator(draw, number))
    shown = caption_pairs(train, order[:number])
    tried = []
    for tau, weight in itertools.product(TAUS, WEIGHTS):
        aligner = KernelRidge(tau=tau, penalty=1.0, centre_by_source=True).fit(rows + shown.weighted(weight))
        tried.append((first_ten(aligner, val), aligner, {"τ": tau, "caption weight": weight}))
    _, best, choice = max(tried, key=lambda one: one[0])
    best.centre_on(reference.features)
    arm = f"rows + {number} images with captions"
    for way, hubs in (("plain", None), ("hubs", reference)):
        recalls = recall(best, test, bench.seed, hubs=hubs)
        records.add(arm, way, **choice, **{metric: rung.cell for metric, rung in recalls.items()})


def caption_pairs(train: Captions, images: Tensor) -> Pairs:
    """The images' captions, a pair each, or their mean as one pair an image where there are many."""
    rows = (train.owner[:, None] == images).nonzero()  # [M, 2] caption and place in `images`
    each = Pairs(
        image=train.features[images[rows[:, 1]]],
        text=train.text[rows[:, 0]],
        source=("caption",) * len(rows),
    )
    if len(images) < MEANT_FROM:
        return each
    captions = torch.bincount(rows[:, 1], minlength=len(images)).float()
    text = torch.zeros(len(images), train.text.shape[1]).index_add(0, rows[:, 1], train.text[rows[:, 0]])
    return replace(
        each,
        image=train.features[images],
        text=F.normalize(text, dim=1),
        names=(),
        source=("caption",) * len(images),
        weight=captions,
    )
