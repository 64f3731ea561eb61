"""A few images of each class beside the rows: fitted together, or one after the other as in the paper."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.figures import Figure, Lines, Series
from experiments.recipes.bench import CLASSIFICATION, NOTES, Bench, Labelled
from experiments.recipes.fits import fit_once
from experiments.recipes.measure import accuracy, each_centred
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
from headword.aligners import MLP, Aligner, KernelRidge, Linear, Ridge
from headword.aligners.pairs import Pairs
from headword.metrics.neighbours import drawn_places
from headword.recycling import class_mean_pairs

SHOTS = (0, 1, 2, 4, 8, 16)
COMMON = 8
"""The most shots that every set has; means over the sets go so far."""

RATES = (5e-4, 5e-3)
"""Learning rates of the second stage: the paper's text, and the authors' command line."""

SECOND_STAGE = 25
"""Epochs of the second stage: short, as it has one pair a class."""

SEQUENTIAL: dict[str, tuple[type[Linear] | type[MLP], tuple[int, ...]]] = {
    "linear": (Linear, (1, 2, 4, 8)),
    "mlp": (MLP, (1, 8)),
}
"""The paper's mappings that can be trained on, and the shots they are; the MLP's steps are slow."""

JOINT = "rows + images, kernel-ridge"
CENTRED = "rows + images, each centred, kernel-ridge"
IMAGES = "images alone, kernel-ridge"
STAGES = "rows, then images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One draw of shots from a set."""

    tests: Labelled
    """The images that no shot of the draw is."""
    shots: Tensor
    """`[C, most]` places in the set."""
    data: Labelled
    words: Tensor

    def pairs(self, n: int) -> Pairs:
        """The mean of n images of each class beside its name."""
        places = self.shots[:, :n].flatten()
        return class_mean_pairs(
            self.data.features[places], self.data.labels[places], self.data.names, self.words
        )


Runs = dict[str, dict[str, dict[int, list[float]]]]
"""Way of fitting → set → shots → accuracy of each draw."""


def run(bench: Bench) -> Findings:
    """Closed forms fitted jointly, the paper's mappings trained on, in draws."""
    runs: Runs = {}
    rows = bench.head().pairs
    for name, most in _most(bench).items():
        shots = [n for n in SHOTS if n <= most]
        for draw in range(bench.draws):
            task = drawn_task(bench, name, most, draw)
            for n in shots:
                for way, aligner in _joint(rows, task, n).items():
                    _note(runs, way, name, n, accuracy(aligner, task.tests, task.words))
    for kind, (mapping, shots_tried) in SEQUENTIAL.items():
        if kind not in bench.without:
            _sequential(bench, runs, kind, mapping, shots_tried)
    shots = [n for n in SHOTS if n <= COMMON]
    means = {way: _means(found, shots) for way, found in runs.items()}
    over = {
        n: [both - one for both, one in zip(means[JOINT][n], images, strict=True)]
        for n, images in means[IMAGES].items()
    }
    first, last = min(over), max(over)
    return Findings(
        tables=(_table(means, shots), *(_set_table(name, runs) for name in CLASSIFICATION)),
        figures=(_figure(means),),
        metrics={
            f"{way}, {n}": sum(values) / len(values)
            for way, one in means.items()
            for n, values in one.items()
        },
        verdicts={
            "most-with-few": judge(
                _average(over[first]) - _average(over[last]),
                f"rows add more to {first} image a class than to {last}",
                "; ".join(
                    f"{n} a class: images {_average(means[IMAGES][n]):.1f} %, with rows "
                    f"{_average(means[JOINT][n]):.1f} %"
                    for n in (first, last)
                ),
                error=standard_error([a - b for a, b in zip(over[first], over[last], strict=True)]),
            ),
            "complementary": judge(
                min(_average(values) for values in over.values()),
                "rows and images together are above images alone, at every number of images",
                "rows add "
                + ", ".join(f"{signed(_average(values))} points to {n}" for n, values in over.items()),
            ),
        },
        protocol={
            "pairs": "the mean of n images of a class beside its bare name, one pair a class",
            "shots": list(SHOTS),
            "draws": bench.draws,
            "tests": "all images of the set that are not drawn, the same for all n of a draw",
            "centre": "the mean of the tested images",
            "metric": "mean per-class top-1, %",
            "second stage": {"epochs": bench.epochs or SECOND_STAGE, "lr": list(RATES)},
        },
        model=bench.provenance(),
        notes=(
            NOTES["tiny_imagenet"],
            "Caltech-101 and tiny_imagenet have at most 8 shots to spare, so means go so far.",
            "The second stage is short here; the paper's MLP is trained on in one draw. Joint training by "
            "gradient descent, which would repeat the whole first stage for each draw, is left out.",
        ),
    )


def _most(bench: Bench) -> dict[str, int]:
    """The most shots of each set that leave an image of every class to test on."""
    fewest = {name: int(torch.bincount(bench.labelled(name).labels).min()) for name in CLASSIFICATION}
    return {name: max(n for n in SHOTS if n < least) for name, least in fewest.items()}


def drawn_task(bench: Bench, name: str, most: int, draw: int) -> Task:
    """A set with `most` images of each class drawn to learn from and the others to test on."""
    data = bench.labelled(name)
    shots = drawn_places(data.labels, most, bench.generator(CLASSIFICATION.index(name), draw))
    kept = torch.ones(len(data.labels), dtype=torch.bool)
    kept[shots.flatten()] = False
    tests = Labelled(name=name, features=data.features[kept], labels=data.labels[kept], names=data.names)
    return Task(tests=tests, shots=shots, data=data, words=bench.words(data.names))


def _joint(rows: Pairs, task: Task, n: int) -> dict[str, Aligner]:
    if n == 0:
        alone = KernelRidge().fit(rows)
        return {JOINT: alone, CENTRED: alone, "rows + images, ridge": Ridge().fit(rows)}
    images = task.pairs(n)
    return {
        JOINT: KernelRidge().fit(rows + images),
        CENTRED: KernelRidge().fit(each_centred(rows, images)),
        "rows + images, ridge": Ridge().fit(rows + images),
        IMAGES: KernelRidge().fit(images),
    }


def _sequential(
    bench: Bench,
    runs: Runs,
    kind: str,
    mapping: type[Linear] | type[MLP],
    shots_tried: tuple[int, ...],
) -> None:
    """Rows first, then images alone."""
    bench.say(f"the paper's {kind}: rows first; the first fit can take an hour, later ones are read")
    first, _ = fit_once(mapping(epochs=bench.epochs), bench.head().pairs)
    for name, most in _most(bench).items():
        for draw in range(1 if kind == "mlp" else bench.draws):
            task = drawn_task(bench, name, most, draw)
            zero = accuracy(first, task.tests, task.words)
            for rate in RATES:
                way = f"{STAGES} at {rate:g}, {kind}"
                _note(runs, way, name, 0, zero)
                for n in (n for n in shots_tried if n <= most):
                    second = type(first).restore(first.settings, first.tensors)
                    second.continue_fit(task.pairs(n), epochs=bench.epochs or SECOND_STAGE, lr=rate)
                    _note(runs, way, name, n, accuracy(second, task.tests, task.words))


def _note(runs: Runs, way: str, name: str, n: int, value: float) -> None:
    runs.setdefault(way, {}).setdefault(name, {}).setdefault(n, []).append(value)


def _means(found: dict[str, dict[int, list[float]]], shots: list[int]) -> dict[int, list[float]]:
    """The mean over the sets for each draw, by shots."""
    means = {}
    for n in shots:
        draws = [found[name][n] for name in CLASSIFICATION if n in found.get(name, {})]
        if len(draws) == len(CLASSIFICATION):
            means[n] = [sum(values) / len(values) for values in zip(*draws, strict=True)]
    return means


def _average(values: list[float]) -> float:
    return sum(values) / len(values)


def _table(means: dict[str, dict[int, list[float]]], shots: list[int]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (way, *(mean_of(found[n]) if n in found else None for n in shots)) for way, found in means.items()
    ]
    return Table(
        title="Mean of four sets over images a class, %",
        columns=("fitted on", *(str(n) for n in shots)),
        rows=tuple(rows),
    )


def _set_table(name: str, runs: Runs) -> Table:
    shots = sorted({n for found in runs.values() for n in found.get(name, {})})
    rows: list[tuple[Cell, ...]] = [
        (way, *(mean_of(found[name][n]) if n in found[name] else None for n in shots))
        for way, found in runs.items()
    ]
    return Table(
        title=f"{name} over images a class, %", columns=("fitted on", *map(str, shots)), rows=tuple(rows)
    )


def _figure(means: dict[str, dict[int, list[float]]]) -> Figure:
    def chart(title: str, ways: Iterable[str]) -> Lines:
        series = []
        for way in ways:
            cells = [mean_of(values) for values in means[way].values()]
            heights = [one.value if isinstance(one, Mean) else one for one in cells]
            spread = [one.sd if isinstance(one, Mean) else 0.0 for one in cells]
            series.append(Series(way, list(means[way]), heights, spread))
        return Lines(title=title, x_label="images a class", y_label="mean per-class top-1, %", series=series)

    stages = [way for way in means if way.startswith(STAGES)]
    charts = [chart("In one fit", [way for way in means if way not in stages])]
    if stages:
        charts.append(chart("One after the other", [JOINT, *stages]))
    return Figure(
        name="few-shot",
        caption="Zero-shot accuracy, mean of four sets, after n images of each class were added. Bars are "
        "deviations over draws.",
        charts=charts,
    )


RECIPE = Recipe(
    name="few-shot",
    title="Rows and a few images of each class",
    lead="The mean of n images of a class, paired with the class's name, joins the head's rows: as one "
    "more pair "
    "a class in one fit, or in a second stage of training after the rows.",
    claims=(
        Claim(
            key="complementary",
            found="Weights are complementary to real image-text pairs.",
        ),
        Claim(
            key="most-with-few",
            found="They are most useful where there are few pairs.",
        ),
    ),
    run=run,
    sets=CLASSIFICATION,
)
