"""Are rows nearer to words than averages of images are? Shared neighbours with the class names' text."""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.bench import EMBEDDED, NOTES, Bench
from experiments.figures import Figure
from experiments.findings import Findings, Recipe, judge
from experiments.likeness import chance_neighbours, drawn_means, likeness
from experiments.measure import matched_images
from experiments.records import Records, standard_error

K = (3, 5, 10)
SHOTS = (1, 2, 3, 5, 10, 15)
"""Images that are averaged; as many as the set's classes have."""

HEADS = ("embedded", "embedded:lite1", "embedded:lite2", "mobilenetv2_100_in1k")
AVERAGED = ("tiny_imagenet", "caltech101")
"""Sets with several images of classes that the head has; the first is the larger."""


def run(bench: Bench) -> Findings:
    """Rows, and averages of more and more images, against the class names' text."""
    records, tables, classes = Records(), [], {}
    all_classes = len(bench.head().rows)
    for name in HEADS:
        head, data = bench.head(name), bench.labelled("imagenet_sample", name)
        images = drawn_means(data.features, data.labels, 1, bench.generator(0))
        for side, rows in (("rows", head.rows), ("one image a class", images)):
            records.add(f"{head.title}, {side}", **_likeness(rows, head.text))
    records.add("chance", **_chance(all_classes))
    tables.append(
        records.table(f"m_NN with the names, all {all_classes:,} classes", {"arm": "image side"}, digits=3)
    )
    for name in AVERAGED:
        one, classes[name] = _averages(bench, name)
        title = f"m_NN with the names, {classes[name]} classes of {name}"
        tables.append(one.table(title, {"arm": "image side", "set": "images averaged"}, digits=3))
        records |= one
    largest = AVERAGED[0]
    averages = f"averages of images, {largest}"
    shots = [n for n in records.select(arm=averages).axis("set") if n]
    top, k = shots[-1], max(k for k in K if k < classes[largest])
    title, k_all = bench.head(EMBEDDED).title, f"k = {max(K)}"
    all_rows, single = (
        records.value(f"{title}, {side}", metric=k_all) for side in ("rows", "one image a class")
    )
    own = records.value(f"rows, {largest}", metric=f"k = {k}")
    best = records.draws(averages, top, f"k = {k}")
    mean = sum(best) / len(best)
    return Findings(
        records=records,
        tables=tables,
        figures=(
            Figure(
                name="neighbourhoods",
                caption=f"Neighbours shared with the class names' text, over {classes[largest]} classes of "
                f"{largest}: the head's rows, and averages of more and more images. Bars are deviations over "
                "draws.",
                charts=[
                    records.select(arm=averages, metric=f"k = {k}").lines(
                        "images averaged a class", "m_NN with the names", title=f"k = {k}", log_x=True,
                        ticks=[(float(n), n) for n in shots],
                        levels=[
                            (what, records.value(f"{arm}, {largest}", metric=f"k = {k}"))
                            for what, arm in (("chance", "chance"), ("rows of the head", "rows"))
                        ],
                    )
                    for k in K
                    if k < classes[largest]
                ],
            ),
        ),
        verdicts={
            "rows-beat-one": judge(
                all_rows - single,
                "on all classes of the head, rows share more neighbours with names than single images do",
                f"m_NN ({k_all}) over {all_classes:,} classes: rows {all_rows:.3f}, one image a class "
                f"{single:.3f}, chance {chance_neighbours(all_classes, max(K)):.3f}",
            ),
            "rows-beat-many": judge(
                own - mean,
                f"rows share more neighbours with names than averages of {top} images, the most there are",
                f"m_NN (k = {k}) over the {classes[largest]} classes of {largest}: rows {own:.3f}, averages "
                f"of {top} images {mean:.3f}",
                error=standard_error(best),
            ),
        },
        protocol={
            "text": "bare class names",
            "k": list(K),
            "images averaged": list(SHOTS),
            "draws": bench.draws,
            "classes of averages": classes,
            "metrics": "shares from 0 to 1",
        },
        heads=HEADS,
        notes=(
            NOTES["imagenet_sample"],
            NOTES["tiny_imagenet"],
            "Classes of the other sets are matched to the head's by name: the first WordNet name, or for "
            "Caltech-101 any of the class's names; a name that two classes have is left out.",
            "Draws share images where a class has few, so deviations over draws are a lower reading.",
        ),
    )  # fmt: skip


def _averages(bench: Bench, name: str) -> tuple[Records, int]:
    """Rows and averages of images of those classes of a set that the head has, and their number."""
    records, head = Records(), bench.head()
    rows, features, labels = matched_images(head, bench.labelled(name))
    records.add(f"rows, {name}", **_likeness(head.rows[rows], head.text[rows]))
    fewest = int(torch.unique(labels, return_counts=True)[1].min())
    for n in (n for n in SHOTS if n <= fewest):
        for draw in range(bench.draws if n < fewest else 1):
            means = drawn_means(features, labels, n, bench.generator(n, draw))
            records.add(f"averages of images, {name}", n, **_likeness(means, head.text[rows]))
    records.add(f"chance, {name}", **_chance(len(rows)))
    return records, len(rows)


def _likeness(side: Tensor, text: Tensor) -> dict[str, float]:
    both = likeness(side, text, tuple(k for k in K if k < len(side)))
    return {**{f"k = {k}": share for k, share in both.neighbours.items()}, "CKA": both.cka}


def _chance(classes: int) -> dict[str, float]:
    return {f"k = {k}": chance_neighbours(classes, k) for k in K if k < classes}


RECIPE = Recipe(
    name="neighbourhoods",
    title="Are rows nearer to words than images are?",
    lead="Two spaces are alike where things have the same neighbours in both: m_NN is the share of a class's "
    "k nearest classes that the head's rows (or averages of n images) and the class names' text have in "
    "common.",
    claims={
        "rows-beat-one": "Over the 1,000 ImageNet classes, rows share more neighbours with the names than "
        "single images do (k = 3, 5, 10).",
        "rows-beat-many": "Rows win even against averages of 50 images a class.",
    },
    run=run,
    sets=("imagenet_sample", *AVERAGED),
    weights=("mobilenetv2_100_in1k",),
)
