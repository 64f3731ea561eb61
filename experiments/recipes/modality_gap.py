"""Rows and images lie apart: how far, how plainly, and what corrections do to the gap and to accuracy."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench import CLASSIFICATION, NOTES, Bench
from experiments.figures import Figure, Points, Series
from experiments.findings import Findings, Recipe, judge
from experiments.gap import (
    attention_corrected,
    linear_corrected,
    linear_separability,
    mean_corrected,
    own_kind,
    planar,
)
from experiments.likeness import drawn_means
from experiments.measure import accuracies, first_ten, matched_images
from experiments.records import Records, Table
from headword.aligners import KernelRidge
from headword.aligners.pairs import Pairs
from headword.metrics import centroid_test

AVERAGED = "tiny_imagenet"
REGIONS = 90.0
"""Percent of neighbours of a point's own kind that make two regions of a picture."""

SURE = 0.001
PLAIN = 99.0
"""Percent of held-out points that a linear layer must tell apart for "plainly apart"."""

MEAN, T2I = "mean", "t2i R@10"


def run(bench: Bench) -> Findings:
    """Measure the gap on two sets of averages, correct it in three ways, fit on what comes out."""
    records = Records()
    head, data = bench.head(), bench.labelled("imagenet_sample")
    images = drawn_means(data.features, data.labels, 1, bench.generator(0))
    corrected = {
        "none": head.rows,
        "mean": mean_corrected(head.rows, data.features),
        "attention": attention_corrected(head.rows, images),
        "linear": linear_corrected(head.rows, head.rows, images, seed=bench.seed),
    }
    image_pairs = Pairs(image=images, text=head.text)
    for name, rows in corrected.items():
        _gap(bench, records, name, rows, images)
        pairs = Pairs(image=rows, text=head.text)
        for kind, chosen in (("rows", pairs), ("rows and images", pairs + image_pairs)):
            fitted = KernelRidge().fit(chosen)
            recall = first_ten(fitted, bench.captions("test"))
            records.add(name, kind, **{MEAN: accuracies(fitted, bench)["mean"], T2I: recall})
    rows_of, features, labels = matched_images(head, bench.labelled(AVERAGED))
    n = int(torch.unique(labels, return_counts=True)[1].min())
    averages = drawn_means(features, labels, n, bench.generator(1))
    single, averaged = f"{len(images):,} classes, one image each", f"{len(rows_of)} classes, {n} images each"
    _gap(bench, records, averaged, head.rows[rows_of], averages)
    pictures = {
        title: _flat(corrected[name], images, bench.seed)
        for title, name in (("Rows as they are", "none"), ("Rows moved onto the images' mean", "mean"))
    }
    own = own_kind(*pictures["Rows as they are"])
    records.add("none", "picture", **{"of own kind": own})
    alone = records.value("none", "rows", MEAN)
    joint = {name: records.value(name, "rows and images", MEAN) for name in corrected}
    best = max(joint, key=lambda name: joint[name])
    both = {"none": single, averaged: averaged}

    def of(metric: str) -> dict[str, float]:
        return {title: records.value(arm, "gap", metric) for arm, title in both.items()}

    return Findings(
        records=records,
        tables=(
            Table(
                title="The gap between rows and averages of images",
                columns=("rows against", "distance", "shuffled", "shuffled max", "p", "told apart, %"),
                rows=tuple(
                    (title, *(records.value(arm, "gap", key) for key in
                              ("distance", "shuffled", "shuffled max", "p", "told apart")))
                    for arm, title in both.items()
                ),
                digits=4,
            ),
            records.select(arm=list(corrected), set="gap", metric=("distance", "told apart")).table(
                "Corrections of the rows: the gap left", {"arm": "correction"}, digits=3
            ),
            records.select(arm=list(corrected), set=("rows", "rows and images"), metric=(MEAN, T2I)).table(
                "Corrections of the rows: what mappings fitted on them reach, %",
                {"arm": "correction", "set": "fitted on"},
            ),
        ),
        figures=(
            _picture(pictures),
            Figure(
                name="corrections",
                caption="What a mapping reaches that is fitted on corrected rows, alone or with one image of "
                "each class.",
                charts=[
                    records.select(arm=list(corrected), set=("rows", "rows and images"), metric=key).dots(
                        label, "arm", "set", title=title
                    )
                    for key, label, title in (
                        (MEAN, "mean per-class top-1, %", "Zero-shot, mean of four sets"),
                        (T2I, "R@10, %", "Text to image, flickr8k"),
                    )
                ],
            ),
        ),
        verdicts={
            "significant": judge(
                SURE - max(of("p").values()),
                f"p < {SURE} of a permutation test with {bench.permutations:,} shuffles, for both averages",
                "p = " + ", ".join(f"{p:.1g} for {title}" for title, p in of("p").items()),
            ),
            "separable": judge(
                min(of("told apart").values()) - PLAIN,
                f"a linear layer tells more than {PLAIN:.0f} % of held-out points apart, for both averages",
                ", ".join(f"{share:.2f} % for {title}" for title, share in of("told apart").items()),
            ),
            "regions": judge(
                own - REGIONS,
                f"in the picture, more than {REGIONS:.0f} % of a point's ten nearest are of its own kind",
                f"{own:.1f} % are of a point's own kind; 50 % where rows and images are mixed",
            ),
            "compatible": judge(
                joint["none"] - alone,
                "images added to uncorrected rows raise the mean accuracy",
                f"rows {alone:.1f} %, rows and images {joint['none']:.1f} %; the best correction with images "
                f"is {best!r}: {joint[best]:.1f} %",
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
        notes=(
            NOTES["imagenet_sample"],
            NOTES["tiny_imagenet"],
            "Held-out points of two clouds with one mean come out below 50 %: what is held out of a cloud "
            "pulls the mean of the rest the other way.",
            "kernel-ridge learns from rows less their mean, so that moving all rows alike changes little.",
        ),
    )  # fmt: skip


def _gap(bench: Bench, records: Records, arm: str, rows: Tensor, images: Tensor) -> None:
    """Rows against averages of images of the same classes, `[C, d]` each."""
    rows, images = F.normalize(rows, dim=1), F.normalize(images, dim=1)
    test = centroid_test(rows, images, permutations=bench.permutations, seed=bench.seed)
    apart = linear_separability(rows, images, seed=bench.seed)
    records.add(arm, "gap", distance=test.distance, p=test.p, shuffled=test.shuffled_mean,
                **{"shuffled max": test.shuffled_max, "told apart": apart.test})  # fmt: skip


def _flat(rows: Tensor, images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Rows and images `[C, 2]` each, in one picture."""
    flat = planar(F.normalize(torch.cat([rows, images]), dim=1), seed=seed)
    return flat[: len(rows)], flat[len(rows) :]


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


RECIPE = Recipe(
    name="modality-gap",
    title="How far are rows from images?",
    lead="If rows were class means of images, the two would lie in one place. They do not: a test of their "
    "centroids, a linear layer and a picture say so. Three corrections move rows towards images.",
    claims={
        "significant": "The centroids of rows and class-averaged images differ (permutation test, "
        "p < 0.001).",
        "separable": "A single linear layer tells rows and averages apart at 99.75 %.",
        "regions": "Images and rows occupy two regions of a UMAP picture.",
        "compatible": "Despite the gap, rows and images are compatible: together they align better.",
    },
    run=run,
    sets=("imagenet_sample", *CLASSIFICATION, "flickr8k"),
)
