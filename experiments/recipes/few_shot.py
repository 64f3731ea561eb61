"""A few images of each class beside the rows: fitted together, or one after the other as in the paper."""

from __future__ import annotations

import statistics

import torch

from experiments.bench import CLASSIFICATION, NOTES, Bench
from experiments.figures import Figure
from experiments.findings import Findings, Recipe, judge
from experiments.fits import fit_once
from experiments.measure import Task, accuracy, drawn_task, each_centred
from experiments.records import Records, signed, standard_error
from headword.aligners import MLP, Aligner, KernelRidge, Linear, Ridge
from headword.aligners.pairs import Pairs

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
RIDGE = "rows + images, ridge"
IMAGES = "images alone, kernel-ridge"
STAGES = "rows, then images"


def run(bench: Bench) -> Findings:
    """Closed forms fitted jointly, the paper's mappings trained on, in draws."""
    records = Records()  # arm: way of fitting; set; metric: images a class
    rows = bench.head().pairs
    fewest = {name: int(torch.bincount(bench.labelled(name).labels).min()) for name in CLASSIFICATION}
    most = {name: max(n for n in SHOTS if n < least) for name, least in fewest.items()}
    for name in CLASSIFICATION:
        for draw in range(bench.draws):
            task = drawn_task(bench, name, most[name], draw)
            for n in (n for n in SHOTS if n <= most[name]):
                for way, aligner in _joint(rows, task, n).items():
                    records.add(way, name, **{str(n): accuracy(aligner, task.tests, task.words)})
    for kind, (mapping, shots) in SEQUENTIAL.items():
        if kind not in bench.without:
            bench.say(f"the paper's {kind}: rows first; the first fit can take an hour, later ones are read")
            first, _ = fit_once(mapping(epochs=bench.epochs), rows)
            for name in CLASSIFICATION:
                for draw in range(1 if kind == "mlp" else bench.draws):
                    task = drawn_task(bench, name, most[name], draw)
                    _in_stages(bench, records, kind, first, task, [n for n in shots if n <= most[name]])
    means = Records()
    for n in (n for n in SHOTS if n <= COMMON):
        means |= records.means_over(CLASSIFICATION, str(n))
    over = {n: means.gains(JOINT, IMAGES, "mean", n) for n in means.select(arm=IMAGES).axis("metric")}
    first_n, last_n = next(iter(over)), list(over)[-1]
    ways = means.axis("arm")
    stages = [way for way in ways if way.startswith(STAGES)]
    charts = {"In one fit": [way for way in ways if way not in stages]}
    charts |= {"One after the other": [JOINT, *stages]} if stages else {}
    return Findings(
        records=means | records,
        tables=(
            means.table("Mean of four sets over images a class, %", {"arm": "fitted on"}),
            *(
                records.select(set=name).table(f"{name} over images a class, %", {"arm": "fitted on"})
                for name in CLASSIFICATION
            ),
        ),
        figures=(
            Figure(
                name="few-shot",
                caption="Zero-shot accuracy, mean of four sets, after n images of each class were added. "
                "Bars are deviations over draws.",
                charts=[
                    means.select(arm=chosen).lines(
                        "images a class", "mean per-class top-1, %", "metric", title=title
                    )
                    for title, chosen in charts.items()
                ],
            ),
        ),
        verdicts={
            "most-with-few": judge(
                statistics.fmean(over[first_n]) - statistics.fmean(over[last_n]),
                f"rows add more to {first_n} image a class than to {last_n}",
                "; ".join(
                    f"{n} a class: images {means.value(IMAGES, 'mean', n):.1f} %, with rows "
                    f"{means.value(JOINT, 'mean', n):.1f} %"
                    for n in (first_n, last_n)
                ),
                error=standard_error([a - b for a, b in zip(over[first_n], over[last_n], strict=True)]),
            ),
            "complementary": judge(
                min(statistics.fmean(values) for values in over.values()),
                "rows and images together are above images alone, at every number of images",
                "rows add "
                + ", ".join(
                    f"{signed(statistics.fmean(values))} points to {n}" for n, values in over.items()
                ),
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
        notes=(
            NOTES["tiny_imagenet"],
            "Caltech-101 and tiny_imagenet have at most 8 shots to spare, so means go so far.",
            "The second stage is short here; the paper's MLP is trained on in one draw. Joint training by "
            "gradient descent, which would repeat the whole first stage for each draw, is left out.",
        ),
    )


def _joint(rows: Pairs, task: Task, n: int) -> dict[str, Aligner]:
    if n == 0:
        alone = KernelRidge().fit(rows)
        return {JOINT: alone, CENTRED: alone, RIDGE: Ridge().fit(rows)}
    images = task.pairs(n)
    return {
        JOINT: KernelRidge().fit(rows + images),
        CENTRED: KernelRidge().fit(each_centred(rows, images)),
        RIDGE: Ridge().fit(rows + images),
        IMAGES: KernelRidge().fit(images),
    }


def _in_stages(
    bench: Bench, records: Records, kind: str, first: Linear | MLP, task: Task, shots: list[int]
) -> None:
    """Rows first, then images alone."""
    zero = accuracy(first, task.tests, task.words)
    for rate in RATES:
        way = f"{STAGES} at {rate:g}, {kind}"
        records.add(way, task.data.name, **{"0": zero})
        for n in shots:
            second = type(first).restore(first.settings, first.tensors)
            second.continue_fit(task.pairs(n), epochs=bench.epochs or SECOND_STAGE, lr=rate)
            records.add(way, task.data.name, **{str(n): accuracy(second, task.tests, task.words)})


RECIPE = Recipe(
    name="few-shot",
    title="Rows and a few images of each class",
    lead="The mean of n images of a class, paired with the class's name, joins the head's rows: as one more "
    "pair a class in one fit, or in a second stage of training after the rows.",
    claims={
        "complementary": "Weights are complementary to real image-text pairs.",
        "most-with-few": "They are most useful where there are few pairs.",
    },
    run=run,
    sets=CLASSIFICATION,
)
