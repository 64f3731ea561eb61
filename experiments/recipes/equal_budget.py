"""C rows against C averages of images: which pairs are worth more, one for one?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.bench import CLASSIFICATION, NOTES, Bench
from experiments.figures import Figure
from experiments.findings import Findings, Recipe, judge
from experiments.likeness import drawn_means
from experiments.measure import accuracies, first_ten, matched_images
from experiments.records import Records, signed, standard_error
from headword.aligners import Aligner, KernelRidge, Ridge
from headword.aligners.pairs import Pairs

MAPPINGS: tuple[type[Aligner], ...] = (KernelRidge, Ridge)
DEFAULT = MAPPINGS[0].name
SETS = {"tiny_imagenet": (1, 5, 10), "caltech101": (1, 5, 10, 15)}
"""Sets with classes of the head, and how many images a class are averaged."""

MEAN, T2I = "mean", "t2i R@10"


def run(bench: Bench) -> Findings:
    """Rows and averages on all classes with one image, and on fewer classes with more images."""
    head, data = bench.head(), bench.labelled("imagenet_sample")
    single = Records()  # arm: mapping; set: image side
    images = drawn_means(data.features, data.labels, 1, bench.generator(0))
    for side, rows in (("rows", head.rows), ("images", images)):
        _add(bench, single, "{}", side, Pairs(image=rows, text=head.text), CLASSIFICATION)
    several, classes = Records(), {}
    for name, shots in SETS.items():
        classes[name] = _several(bench, several, name, shots)
    advantage = {key: _above(single, DEFAULT, "images", key) for key in (MEAN, T2I)}
    per_set = [_above(single, DEFAULT, "images", name) for name in CLASSIFICATION]
    against = {
        (name, key): _above(several, f"{DEFAULT}, {name}", str(shots[-1]), key)
        for name, shots in SETS.items()
        for key in (MEAN, T2I)
    }
    name, key = min(against, key=lambda one: against[one])
    # Deviation over draws, of the most images that there are several draws of.
    drawn = [several.draws(f"{DEFAULT}, {name}", n, key) for n in SETS[name]]
    noise = next((statistics.stdev(draws) for draws in reversed(drawn) if len(draws) > 1), 0.0)
    keys = (*CLASSIFICATION, MEAN, T2I)
    value = {(side, key): single.value(DEFAULT, side, key) for side in ("rows", "images") for key in keys}
    return Findings(
        records=single | several,
        tables=(
            single.table(
                f"All {len(head.rows):,} classes: rows against one image each, %",
                {"arm": "mapping", "set": "fitted on"},
            ),
            *(
                several.select(arm=_arms(name)).table(
                    f"{classes[name]} classes of {name}: rows against averages of n images, %",
                    {"arm": "mapping", "set": "fitted on (n)"},
                )
                for name in SETS
            ),
        ),
        figures=(
            Figure(
                name="one-image",
                caption=f"{len(head.rows):,} rows against {len(head.rows):,} images, one of each class: what "
                "a mapping fitted on them reaches.",
                charts=[
                    single.select(arm=mapping.name, metric=keys).dots(
                        "%", "metric", "set", title=mapping.name, joined=True
                    )
                    for mapping in MAPPINGS
                ],
            ),
            Figure(
                name="averages",
                caption="Rows against averages of more and more images of the same classes. Bars are "
                "deviations over draws.",
                charts=[
                    several.select(arm=_arms(name), set=[str(n) for n in shots], metric=MEAN).lines(
                        "images averaged a class", "mean accuracy of the other sets, %",
                        title=f"{classes[name]} classes of {name}",
                        levels=[(f"{arm}: rows", several.value(arm, "rows", MEAN)) for arm in _arms(name)],
                    )
                    for name, shots in SETS.items()
                ],
            ),
        ),
        verdicts={
            "classification": judge(
                advantage[MEAN],
                "rows have the higher mean accuracy than one image a class; the standard error is over the "
                "sets",
                f"{len(head.rows):,} pairs each, {DEFAULT}: rows {value['rows', MEAN]:.1f} %, images "
                f"{value['images', MEAN]:.1f} % (mean of {len(CLASSIFICATION)} sets)",
                error=standard_error(per_set),
            ),
            "retrieval": judge(
                advantage[T2I],
                "rows have the higher text-to-image R@10 than one image a class",
                f"rows {value['rows', T2I]:.1f} %, images {value['images', T2I]:.1f} %",
            ),
            "averages": judge(
                against[name, key],
                "rows are above averages of the most images there are, in accuracy and in retrieval, on the "
                "classes of every set (the error is the deviation over draws of fewer images)",
                "; ".join(
                    f"{classes[name]} classes of {name}, rows against averages of {shots[-1]}: "
                    f"{signed(against[name, MEAN])} points of accuracy, {signed(against[name, T2I])} of {T2I}"
                    for name, shots in SETS.items()
                ),
                error=noise,
            ),
        },
        protocol={
            "mappings": [mapping.name for mapping in MAPPINGS],
            "text": "bare class names, at fit and in use",
            "centre": "the mean of the tested images",
            "averages": {name: list(shots) for name, shots in SETS.items()},
            "draws": bench.draws,
            "classification": "mean per-class top-1, %; sets that the fit's images come from are not tested",
            "retrieval": "flickr8k test",
        },
        notes=(NOTES["imagenet_sample"], NOTES["tiny_imagenet"], NOTES["flickr8k"]),
    )  # fmt: skip


def _several(bench: Bench, records: Records, name: str, shots: Sequence[int]) -> int:
    """Rows against averages of more and more images, on the classes that have enough of them."""
    head = bench.head()
    rows, features, labels = matched_images(head, bench.labelled(name), at_least=shots[-1])
    fewest = int(torch.unique(labels, return_counts=True)[1].min())
    tested = [one for one in CLASSIFICATION if one != name]

    def add(side: str, image: Tensor) -> None:
        _add(bench, records, f"{{}}, {name}", side, Pairs(image=image, text=head.text[rows]), tested)

    add("rows", head.rows[rows])
    for n in shots:
        for draw in range(bench.draws if n < fewest else 1):
            add(str(n), drawn_means(features, labels, n, bench.generator(n, draw)))
    return len(rows)


def _add(bench: Bench, records: Records, arm: str, side: str, pairs: Pairs, tested: Sequence[str]) -> None:
    """Fit every mapping on these pairs and measure it, on sets that no image of the fit comes from."""
    for mapping in MAPPINGS:
        fitted = mapping().fit(pairs)
        top1 = accuracies(fitted, bench, sets=tested)
        records.add(
            arm.format(mapping.name), side, **top1, **{T2I: first_ten(fitted, bench.captions("test"))}
        )


def _arms(name: str) -> list[str]:
    return [f"{mapping.name}, {name}" for mapping in MAPPINGS]


def _above(records: Records, arm: str, images: str, key: str) -> float:
    """Points that rows are above what they are compared with."""
    return records.value(arm, "rows", key) - records.value(arm, images, key)


RECIPE = Recipe(
    name="equal-budget",
    title="A row or an image: which is worth more?",
    lead="As many rows as images, of the same classes and with the same names, through the same mapping: "
    "what does each teach it?",
    claims={
        "classification": "With the same number of pairs, rows are stronger alignment data for "
        "classification than image representations.",
        "retrieval": "The same for retrieval.",
        "averages": "The same against averages of several images a class.",
    },
    run=run,
    sets=("imagenet_sample", *CLASSIFICATION, "flickr8k"),
)
