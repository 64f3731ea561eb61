"""Are rows nearer to words than averages of images are? Shared neighbours with the class names' text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.figures import Figure, Lines, Series
from experiments.recipes.bench import EMBEDDED, NOTES, Bench, Head
from experiments.recipes.recipe import (
    Cell,
    Claim,
    Findings,
    Mean,
    Recipe,
    Table,
    judge,
    mean_of,
    standard_error,
)
from headword.metrics.neighbours import Likeness, chance_neighbours, drawn_means, likeness

K = (3, 5, 10)
SHOTS = (1, 2, 3, 5, 10, 15)
"""Images that are averaged; as many as the set's classes have."""

HEADS = ("embedded", "embedded:lite1", "embedded:lite2", "mobilenetv2_100_in1k")
AVERAGED = ("tiny_imagenet", "caltech101")
"""Sets with several images of classes that the head has."""


def run(bench: Bench) -> Findings:
    """Rows, and averages of more and more images, against the class names' text."""
    single = {name: _single(bench, name) for name in HEADS}
    averaged = {name: _Averages(bench, name) for name in AVERAGED}
    largest = averaged[AVERAGED[0]]
    top = max(largest.means)
    k = max(largest.rows.neighbours)
    rows, image = (one.neighbours[max(K)] for one in single[EMBEDDED])
    best = largest.of(top, k)
    verdicts = {
        "rows-beat-one": judge(
            rows - image,
            "on all classes of the head, rows share more neighbours with names than single images do",
            f"m_NN (k = {max(K)}) over {largest.head_classes:,} classes: rows {rows:.3f}, one image a class "
            f"{image:.3f}, chance {chance_neighbours(largest.head_classes, max(K)):.3f}",
        ),
        "rows-beat-many": judge(
            largest.rows.neighbours[k] - _value(best),
            f"rows share more neighbours with names than averages of {top} images, the most there are",
            f"m_NN (k = {k}) over the {len(largest.names)} classes of {AVERAGED[0]}: rows "
            f"{largest.rows.neighbours[k]:.3f}, averages of {top} images {_value(best):.3f}",
            error=standard_error(largest.values(top, k)),
        ),
    }
    return Findings(
        tables=(
            _single_table(bench, single),
            *(found.table(name) for name, found in averaged.items()),
        ),
        figures=(_figure(largest),),
        metrics={
            "m_nn_rows_1000": rows,
            "m_nn_one_image_1000": image,
            f"m_nn_rows_{AVERAGED[0]}": largest.rows.neighbours[k],
            **{f"m_nn_images_{n}_{AVERAGED[0]}": _value(largest.of(n, k)) for n in largest.means},
        },
        verdicts=verdicts,
        protocol={
            "text": "bare class names",
            "k": list(K),
            "images averaged": list(SHOTS),
            "draws": bench.draws,
            "classes of averages": {name: len(found.names) for name, found in averaged.items()},
            "metrics": "shares from 0 to 1",
        },
        model=bench.provenance(*HEADS),
        notes=(
            NOTES["imagenet_sample"],
            NOTES["tiny_imagenet"],
            "Classes of the other sets are matched to the head's by name: the first WordNet name, or for "
            "Caltech-101 any of the class's names; a name that two classes have is left out.",
            "Draws share images where a class has few, so deviations over draws are a lower reading.",
        ),
    )


class _Averages:
    """Rows and averages of images of those classes of a set that the head has."""

    def __init__(self, bench: Bench, name: str) -> None:
        head, data = bench.head(), bench.labelled(name)
        matched = matched_classes(head, data.names, synonyms=name != "tiny_imagenet")
        places = list(matched)
        self.head_classes = len(head.rows)
        self.names = [data.names[place] for place in places]
        chosen = [matched[place] for place in places]
        ks = tuple(k for k in K if k < len(places))
        self.rows: Likeness = likeness(head.rows[chosen], head.text[chosen], ks)
        keep = torch.isin(data.labels, torch.tensor(places))
        features, labels = data.features[keep], data.labels[keep]
        fewest = int(torch.bincount(labels)[places].min())
        self.means: dict[int, list[Likeness]] = {}
        for n in (n for n in SHOTS if n <= fewest):
            draws = bench.draws if n < fewest else 1
            self.means[n] = [
                likeness(drawn_means(features, labels, n, bench.generator(n, draw)), head.text[chosen], ks)
                for draw in range(draws)
            ]

    def values(self, n: int, k: int) -> list[float]:
        """m_NN of each draw."""
        return [one.neighbours[k] for one in self.means[n]]

    def of(self, n: int, k: int) -> float | Mean:
        """m_NN over draws."""
        return mean_of(self.values(n, k))

    def table(self, name: str) -> Table:
        """A row a representation."""
        ks = list(self.rows.neighbours)
        rows: list[tuple[Cell, ...]] = [("rows", *self.rows.neighbours.values(), self.rows.cka)]
        for n, found in self.means.items():
            cka = mean_of([one.cka for one in found])
            rows.append((f"mean of {n}", *(self.of(n, k) for k in ks), cka))
        rows.append(("chance", *(chance_neighbours(len(self.names), k) for k in ks), None))
        return Table(
            title=f"m_NN with the names, {len(self.names)} classes of {name}",
            columns=("image side", *(f"k = {k}" for k in ks), "CKA"),
            rows=tuple(rows),
            digits=3,
        )


def matched_classes(head: Head, names: Sequence[str], *, synonyms: bool) -> dict[int, int]:
    """Places in `names` → rows of the head whose class has that name; names that two classes have are left
    out.

    Args:
        head: the head.
        names: class names of a set.
        synonyms: whether a class's further names count.
    """
    known: dict[str, set[int]] = {}
    for row, entry in enumerate(head.classes):
        for name in (entry.name, *entry.synonyms) if synonyms else (entry.name,):
            known.setdefault(name, set()).add(row)
            known.setdefault(name.lower(), set()).add(row)
    found: dict[int, int] = {}
    for place, name in enumerate(names):
        rows = known.get(name, known.get(name.lower(), set()))
        if len(rows) == 1 and next(iter(rows)) not in found.values():
            found[place] = next(iter(rows))
    return found


def _single(bench: Bench, name: str) -> tuple[Likeness, Likeness]:
    """Rows, and one image of each class, against all names of a head."""
    head, data = bench.head(name), bench.labelled("imagenet_sample", name)
    images: Tensor = drawn_means(data.features, data.labels, 1, bench.generator(0))
    ks = tuple(k for k in K if k < len(head.rows))
    return likeness(head.rows, head.text, ks), likeness(images, head.text, ks)


def _single_table(bench: Bench, single: dict[str, tuple[Likeness, Likeness]]) -> Table:
    classes = len(bench.head().rows)
    rows: list[tuple[Cell, ...]] = []
    for name, pair in single.items():
        for side, one in zip(("rows", "one image a class"), pair, strict=True):
            rows.append((f"{bench.head(name).title}, {side}", *one.neighbours.values(), one.cka))
    rows.append(("chance", *(chance_neighbours(classes, k) for k in single[EMBEDDED][0].neighbours), None))
    return Table(
        title=f"m_NN with the names, all {classes:,} classes",
        columns=("image side", *(f"k = {k}" for k in single[EMBEDDED][0].neighbours), "CKA"),
        rows=tuple(rows),
        digits=3,
    )


def _figure(found: _Averages) -> Figure:
    charts = []
    for k, rows in found.rows.neighbours.items():
        shots = list(found.means)
        shares = [found.of(n, k) for n in shots]
        spread = [one.sd if isinstance(one, Mean) else 0.0 for one in shares]
        charts.append(
            Lines(
                title=f"k = {k}",
                x_label="images averaged a class",
                y_label="m_NN with the names",
                series=(
                    Series("averages of images", shots, [_value(one) for one in shares], spread),
                    Series("rows of the head", [shots[0], shots[-1]], [rows, rows]),
                ),
                levels=(("chance", chance_neighbours(len(found.names), k)),),
                ticks=[(n, str(n)) for n in shots],
                log_x=True,
            )
        )
    return Figure(
        name="neighbourhoods",
        caption=f"Neighbours shared with the class names' text, over {len(found.names)} classes of "
        f"{AVERAGED[0]}: the head's rows, and averages of more and more images. Bars are deviations over "
        "draws.",
        charts=charts,
    )


def _value(cell: float | Mean) -> float:
    return cell.value if isinstance(cell, Mean) else cell


RECIPE = Recipe(
    name="neighbourhoods",
    title="Are rows nearer to words than images are?",
    lead="Two spaces are alike where things have the same neighbours in both: m_NN is the share of a "
    "class's k "
    "nearest classes that the head's rows (or averages of n images) and the class names' text have in "
    "common.",
    claims=(
        Claim(
            key="rows-beat-one",
            found="Over the 1,000 ImageNet classes, rows share more neighbours with the names than single "
            "images do (k = 3, 5, 10).",
        ),
        Claim(
            key="rows-beat-many",
            found="Rows win even against averages of 50 images a class.",
        ),
    ),
    run=run,
    sets=("imagenet_sample", *AVERAGED),
    weights=("mobilenetv2_100_in1k",),
)
