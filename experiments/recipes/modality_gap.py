"""Rows and images lie apart: how far, how plainly, and what corrections do to the gap and to accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.figures import Dots, Figure, Points, Series, values
from experiments.recipes.bench import CLASSIFICATION, NOTES, Bench
from experiments.recipes.measure import accuracies, first_ten
from experiments.recipes.neighbourhoods import matched_classes
from experiments.recipes.recipe import Claim, Findings, Recipe, Table, judge
from headword.aligners import KernelRidge
from headword.aligners.pairs import Pairs
from headword.metrics import CentroidTest, centroid_test
from headword.metrics.gap import (
    Separability,
    attention_corrected,
    linear_corrected,
    linear_separability,
    mean_corrected,
    own_kind,
    planar,
)
from headword.metrics.neighbours import drawn_means

AVERAGED = "tiny_imagenet"
REGIONS = 90.0
"""Percent of neighbours of a point's own kind that make two regions of a picture."""

SURE = 0.001
PLAIN = 99.0
"""Percent of held-out points that a linear layer must tell apart for "plainly apart"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Rows against averages of images of the same classes."""

    what: str
    rows: Tensor
    """`[C, d]` unit norm."""
    images: Tensor
    """`[C, d]` unit norm."""
    test: CentroidTest
    apart: Separability

    @classmethod
    def of(cls, what: str, rows: Tensor, images: Tensor, bench: Bench) -> Gap:
        """Measure it."""
        rows, images = F.normalize(rows, dim=1), F.normalize(images, dim=1)
        return cls(
            what=what,
            rows=rows,
            images=images,
            test=centroid_test(rows, images, permutations=bench.permutations, seed=bench.seed),
            apart=linear_separability(rows, images, seed=bench.seed),
        )


def run(bench: Bench) -> Findings:
    """Measure the gap on two sets of averages, correct it in three ways, fit on what comes out."""
    head, data = bench.head(), bench.labelled("imagenet_sample")
    images = drawn_means(data.features, data.labels, 1, bench.generator(0))
    single = Gap.of(f"{len(images):,} classes, one image each", head.rows, images, bench)
    averaged = _averaged(bench)
    corrected = {
        "none": head.rows,
        "mean": mean_corrected(head.rows, data.features),
        "attention": attention_corrected(head.rows, images),
        "linear": linear_corrected(head.rows, head.rows, images, seed=bench.seed),
    }
    gaps = {
        name: single if name == "none" else Gap.of(name, rows, images, bench)
        for name, rows in corrected.items()
    }
    image_pairs = Pairs(image=images, text=head.text)
    alone = {name: _worth(bench, Pairs(image=rows, text=head.text)) for name, rows in corrected.items()}
    joint = {
        name: _worth(bench, Pairs(image=rows, text=head.text) + image_pairs)
        for name, rows in corrected.items()
    }
    pictures = {
        "Rows as they are": _flat(single, bench),
        "Rows moved onto the images' mean": _flat(gaps["mean"], bench),
    }
    own = own_kind(*pictures["Rows as they are"])
    best = max(joint, key=lambda name: joint[name][0])
    return Findings(
        tables=(
            Table(
                title="The gap between rows and averages of images",
                columns=("rows against", "distance", "shuffled", "shuffled max", "p", "told apart, %"),
                rows=tuple(
                    (
                        gap.what, gap.test.distance, gap.test.shuffled_mean, gap.test.shuffled_max,
                        f"{gap.test.p:.1g}", f"{gap.apart.test:.2f} of {gap.apart.tested}",
                    )
                    for gap in (single, averaged)
                ),
                digits=3,
            ),
            Table(
                title="Corrections of the rows: the gap left, and what mappings fitted on them reach, %",
                columns=(
                    "correction", "distance", "told apart", "rows: mean", "rows: t2i R@10",
                    "rows + images: mean", "rows + images: t2i R@10",
                ),
                rows=tuple(
                    (name, f"{gap.test.distance:.3f}", gap.apart.test, *alone[name], *joint[name])
                    for name, gap in gaps.items()
                ),
            ),
        ),
        figures=(_picture(pictures), _corrections(alone, joint)),
        metrics={
            "distance": single.test.distance,
            "p": single.test.p,
            "separability": single.apart.test,
            "own_kind_in_picture": own,
            **{f"{name} distance": gap.test.distance for name, gap in gaps.items()},
            **{f"{name} separability": gap.apart.test for name, gap in gaps.items()},
            **{f"{name} mean": value[0] for name, value in alone.items()},
            **{f"{name} with images mean": value[0] for name, value in joint.items()},
        },
        verdicts={
            "significant": judge(
                SURE - max(single.test.p, averaged.test.p),
                f"p < {SURE} of a permutation test with {bench.permutations:,} shuffles, for both averages",
                f"p = {single.test.p:.1g} for {single.what}, {averaged.test.p:.1g} for {averaged.what}",
            ),
            "separable": judge(
                min(single.apart.test, averaged.apart.test) - PLAIN,
                f"a linear layer tells more than {PLAIN:.0f} % of held-out points apart, for both averages",
                f"{single.apart.test:.2f} % for {single.what}, {averaged.apart.test:.2f} % for "
                f"{averaged.what}",
            ),
            "regions": judge(
                own - REGIONS,
                f"in the picture, more than {REGIONS:.0f} % of a point's ten nearest are of its own kind",
                f"{own:.1f} % are of a point's own kind; 50 % where rows and images are mixed",
            ),
            "compatible": judge(
                joint["none"][0] - alone["none"][0],
                "images added to uncorrected rows raise the mean accuracy",
                f"rows {alone['none'][0]:.1f} %, rows and images {joint['none'][0]:.1f} %; the best "
                f"correction with images is {best!r}: {joint[best][0]:.1f} %",
            ),
        },
        protocol={
            "rows and images": "unit norm; averages of unit-norm images",
            "test": f"Euclidean distance of centroids, {bench.permutations:,} shuffles, one-sided",
            "separability": "one linear layer, stratified 80/20, Adam 1e-3, 100 epochs, batches of 64",
            "corrections": "unit norm; attention without temperature; linear learnt on the same classes",
            "accuracy": "kernel-ridge, bare names, images centred on the tested ones, mean per-class top-1",
            "classification": list(CLASSIFICATION),
            "retrieval": "flickr8k test",
        },
        model=bench.provenance(),
        notes=(
            NOTES["imagenet_sample"],
            NOTES["tiny_imagenet"],
            "Held-out points of two clouds with one mean come out below 50 %: what is held out of a "
            "cloud pulls "
            "the mean of the rest the other way.",
            "kernel-ridge learns from rows less their mean, so that moving all rows alike changes little.",
        ),
    )  # fmt: skip


def _averaged(bench: Bench) -> Gap:
    """Rows against averages of all images of the classes that a set shares with the head."""
    head, data = bench.head(), bench.labelled(AVERAGED)
    matched = matched_classes(head, data.names, synonyms=False)
    keep = torch.isin(data.labels, torch.tensor(list(matched)))
    features, labels = data.features[keep], data.labels[keep]
    n = int(torch.bincount(labels)[list(matched)].min())
    means = drawn_means(features, labels, n, bench.generator(1))
    return Gap.of(f"{len(matched)} classes, {n} images each", head.rows[list(matched.values())], means, bench)


def _worth(bench: Bench, pairs: Pairs) -> tuple[float, float]:
    """Mean accuracy and text-to-image recall of the default mapping fitted on these pairs."""
    fitted = KernelRidge().fit(pairs)
    return accuracies(fitted, bench)["mean"], first_ten(fitted, bench.captions("test"))


def _flat(gap: Gap, bench: Bench) -> tuple[Tensor, Tensor]:
    """Rows and images `[C, 2]` each, in one picture."""
    flat = planar(torch.cat([gap.rows, gap.images]), seed=bench.seed)
    return flat[: len(gap.rows)], flat[len(gap.rows) :]


def _picture(pictures: dict[str, tuple[Tensor, Tensor]]) -> Figure:
    charts = []
    for title, sides in pictures.items():
        series = [
            Series(name, *(np.round(axis.double().numpy(), 3).tolist() for axis in side.T))
            for name, side in zip(("rows of the head", "images"), sides, strict=True)
        ]
        charts.append(Points(title=title, series=series))
    return Figure(
        name="umap",
        caption="UMAP of the head's rows and one image of each class, by cosine. Distances between clouds "
        "mean little in such a picture; the tests say how far they are apart.",
        charts=charts,
    )


def _corrections(alone: dict[str, tuple[float, float]], joint: dict[str, tuple[float, float]]) -> Figure:
    def chart(place: int, title: str, label: str) -> Dots:
        return Dots(
            title=title,
            rows=list(alone),
            x_label=label,
            series=(
                values("rows", [value[place] for value in alone.values()]),
                values("rows and images", [value[place] for value in joint.values()]),
            ),
        )

    return Figure(
        name="corrections",
        caption="What a mapping reaches that is fitted on corrected rows, alone or with one image of each "
        "class.",
        charts=(
            chart(0, "Zero-shot, mean of four sets", "mean per-class top-1, %"),
            chart(1, "Text to image, flickr8k", "R@10, %"),
        ),
    )


RECIPE = Recipe(
    name="modality-gap",
    title="How far are rows from images?",
    lead="If rows were class means of images, the two would lie in one place. They do not: a test of their "
    "centroids, a linear layer and a picture say so. Three corrections move rows towards images.",
    claims=(
        Claim(
            key="significant",
            found="The centroids of rows and class-averaged images differ (permutation test, p < 0.001).",
        ),
        Claim(key="separable", found="A single linear layer tells rows and averages apart at 99.75 %."),
        Claim(key="regions", found="Images and rows occupy two regions of a UMAP picture."),
        Claim(
            key="compatible",
            found="Despite the gap, rows and images are compatible: together they align better.",
        ),
    ),
    run=run,
    sets=("imagenet_sample", *CLASSIFICATION, "flickr8k"),
)
