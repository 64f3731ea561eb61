"""C rows against C averages of images: which pairs are worth more, one for one?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.figures import Dots, Figure, Lines, Series, values
from experiments.recipes.bench import CLASSIFICATION, NOTES, Bench
from experiments.recipes.measure import accuracies, first_ten
from experiments.recipes.neighbourhoods import matched_classes
from experiments.recipes.recipe import (
    Cell,
    Claim,
    Findings,
    Mean,
    Recipe,
    Table,
    judge,
    mean_of,
    signed,
    standard_error,
)
from headword.aligners import Aligner, KernelRidge, Ridge
from headword.aligners.pairs import Pairs
from headword.metrics.neighbours import drawn_means

MAPPINGS: tuple[type[Aligner], ...] = (KernelRidge, Ridge)
SETS = {"tiny_imagenet": (1, 5, 10), "caltech101": (1, 5, 10, 15)}
"""Sets with classes of the head, and how many images a class are averaged."""

RETRIEVAL = "t2i R@10"


@dataclass(slots=True)
class Budget:
    """The same classes as rows and as averages of n images; both fitted and measured alike."""

    title: str
    classes: int
    tested: tuple[str, ...]
    """Sets that no image of the fit comes from."""
    found: dict[tuple[str, str], list[dict[str, float]]] = field(default_factory=dict)
    """By mapping and image side, what each draw reaches: a set's accuracy, `mean`, and `t2i R@10`."""

    def add(self, bench: Bench, side: str, image: Tensor, text: Tensor) -> None:
        """Fit every mapping on these pairs and measure it."""
        for mapping in MAPPINGS:
            fitted = mapping().fit(Pairs(image=image, text=text))
            top = accuracies(fitted, bench, sets=self.tested)
            found = first_ten(fitted, bench.captions("test"))
            self.found.setdefault((mapping.name, side), []).append({**top, RETRIEVAL: found})

    def cell(self, mapping: str, side: str, key: str) -> float | Mean:
        """Over draws."""
        return mean_of([one[key] for one in self.found[mapping, side]])

    def table(self) -> Table:
        """A row a mapping and side."""
        keys = (*self.tested, "mean", RETRIEVAL)
        rows: list[tuple[Cell, ...]] = [
            (mapping, side, *(self.cell(mapping, side, key) for key in keys)) for mapping, side in self.found
        ]
        return Table(title=self.title, columns=("mapping", "fitted on", *keys), rows=tuple(rows))


def run(bench: Bench) -> Findings:
    """Rows and averages on all classes with one image, and on fewer classes with more images."""
    single = _single(bench)
    several = {name: _several(bench, name, shots) for name, shots in SETS.items()}
    default = MAPPINGS[0].name
    advantage = {key: _advantage(single, default, key) for key in ("mean", RETRIEVAL)}
    per_set = [
        single.found[default, "rows"][0][name] - single.found[default, "images"][0][name]
        for name in single.tested
    ]
    most = {name: f"averages of {shots[-1]}" for name, shots in SETS.items()}
    against_most = {
        name: (
            _advantage(budget, default, "mean", most[name]),
            _advantage(budget, default, RETRIEVAL, most[name]),
        )
        for name, budget in several.items()
    }
    worst, noise = min(
        (advantage, _noise(several[name], key))
        for name, pair in against_most.items()
        for key, advantage in zip(("mean", RETRIEVAL), pair, strict=True)
    )
    return Findings(
        tables=(single.table(), *(budget.table() for budget in several.values())),
        figures=(_figure_single(single), _figure_several(several)),
        metrics={
            "rows_above_images_mean": advantage["mean"],
            "rows_above_images_t2i_r10": advantage[RETRIEVAL],
            **{f"rows_above_most_mean {name}": value[0] for name, value in against_most.items()},
            **{f"rows_above_most_t2i_r10 {name}": value[1] for name, value in against_most.items()},
        },
        verdicts={
            "classification": judge(
                advantage["mean"],
                "rows have the higher mean accuracy than one image a class; the standard error is over the "
                "sets",
                f"{single.classes:,} pairs each, {default}: rows {_value(single, 'rows', 'mean'):.1f} %, "
                "images "
                f"{_value(single, 'images', 'mean'):.1f} % (mean of {len(single.tested)} sets)",
                error=standard_error(per_set),
            ),
            "retrieval": judge(
                advantage[RETRIEVAL],
                "rows have the higher text-to-image R@10 than one image a class",
                f"rows {_value(single, 'rows', RETRIEVAL):.1f} %, images "
                f"{_value(single, 'images', RETRIEVAL):.1f} %",
            ),
            "averages": judge(
                worst,
                "rows are above averages of the most images there are, in accuracy and in retrieval, on the "
                "classes of every set (the error is the deviation over draws of fewer images)",
                "; ".join(
                    f"{several[name].classes} classes of {name}, rows against {most[name]}: "
                    f"{signed(pair[0])} points of accuracy, {signed(pair[1])} of {RETRIEVAL}"
                    for name, pair in against_most.items()
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
        model=bench.provenance(),
        notes=(NOTES["imagenet_sample"], NOTES["tiny_imagenet"], NOTES["flickr8k"]),
    )


def _single(bench: Bench) -> Budget:
    head, data = bench.head(), bench.labelled("imagenet_sample")
    images = drawn_means(data.features, data.labels, 1, bench.generator(0))
    budget = Budget(
        f"All {len(head.rows):,} classes: rows against one image each, %", len(head.rows), CLASSIFICATION
    )
    budget.add(bench, "rows", head.rows, head.text)
    budget.add(bench, "images", images, head.text)
    return budget


def _several(bench: Bench, name: str, shots: Sequence[int]) -> Budget:
    """Rows against averages of more and more images, on the classes that have enough of them."""
    head, data = bench.head(), bench.labelled(name)
    counts = torch.bincount(data.labels, minlength=len(data.names))
    matched = matched_classes(head, data.names, synonyms=name != "tiny_imagenet")
    matched = {place: row for place, row in matched.items() if counts[place] >= shots[-1]}
    rows = list(matched.values())
    keep = torch.isin(data.labels, torch.tensor(list(matched)))
    features, labels = data.features[keep], data.labels[keep]
    fewest = int(counts[list(matched)].min())
    budget = Budget(
        f"{len(rows)} classes of {name}: rows against averages of n images, %",
        len(rows),
        tuple(one for one in CLASSIFICATION if one != name),
    )
    budget.add(bench, "rows", head.rows[rows], head.text[rows])
    for n in shots:
        for draw in range(bench.draws if n < fewest else 1):
            means = drawn_means(features, labels, n, bench.generator(n, draw))
            budget.add(bench, f"averages of {n}", means, head.text[rows])
    return budget


def _value(budget: Budget, side: str, key: str) -> float:
    return statistics.fmean(one[key] for one in budget.found[MAPPINGS[0].name, side])


def _advantage(budget: Budget, mapping: str, key: str, against: str = "images") -> float:
    """Points that rows are above what they are compared with."""
    images = statistics.fmean(one[key] for one in budget.found[mapping, against])
    return budget.found[mapping, "rows"][0][key] - images


def _noise(budget: Budget, key: str) -> float:
    """Deviation over draws, of the most images that there are several draws of."""
    drawn = [
        runs for (mapping, _), runs in budget.found.items() if mapping == MAPPINGS[0].name and len(runs) > 1
    ]
    return statistics.stdev(one[key] for one in drawn[-1]) if drawn else 0.0


def _figure_single(single: Budget) -> Figure:
    keys = [*single.tested, "mean", RETRIEVAL]
    charts = [
        Dots(
            title=mapping.name,
            rows=keys,
            x_label="%",
            series=[
                values(side, [single.found[mapping.name, side][0][key] for key in keys])
                for side in ("rows", "images")
            ],
            joined=True,
        )
        for mapping in MAPPINGS
    ]
    return Figure(
        name="one-image",
        caption=f"{single.classes:,} rows against {single.classes:,} images, one of each class: what a "
        "mapping "
        "fitted on them reaches.",
        charts=charts,
    )


def _figure_several(several: dict[str, Budget]) -> Figure:
    charts = []
    for name, budget in several.items():
        shots = list(SETS[name])
        series = []
        for mapping in MAPPINGS:
            cells = [budget.cell(mapping.name, f"averages of {n}", "mean") for n in shots]
            means = [one.value if isinstance(one, Mean) else one for one in cells]
            spread = [one.sd if isinstance(one, Mean) else 0.0 for one in cells]
            row = budget.found[mapping.name, "rows"][0]["mean"]
            series.append(Series(f"{mapping.name}, averages", shots, means, spread))
            series.append(Series(f"{mapping.name}, rows", [shots[0], shots[-1]], [row, row]))
        charts.append(
            Lines(
                title=f"{budget.classes} classes of {name}",
                x_label="images averaged a class",
                y_label="mean accuracy of the other sets, %",
                series=series,
            )
        )
    return Figure(
        name="averages",
        caption="Rows against averages of more and more images of the same classes. Bars are deviations over "
        "draws.",
        charts=charts,
    )


RECIPE = Recipe(
    name="equal-budget",
    title="A row or an image: which is worth more?",
    lead="As many rows as images, of the same classes and with the same names, through the same mapping: "
    "what "
    "does each teach it?",
    claims=(
        Claim(
            key="classification",
            found="With the same number of pairs, rows are stronger alignment data for classification than "
            "image representations.",
        ),
        Claim(key="retrieval", found="The same for retrieval."),
        Claim(key="averages", found="The same against averages of several images a class."),
    ),
    run=run,
    sets=("imagenet_sample", *CLASSIFICATION, "flickr8k"),
)
