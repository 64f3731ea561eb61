"""Which head's rows: a general one against birds and insects, each with its own backbone."""

from __future__ import annotations

import statistics

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench import CLASSIFICATION, NOTES, Bench, Labelled
from experiments.figures import Figure
from experiments.findings import Findings, Recipe, judge
from experiments.likeness import chance_neighbours, drawn_places, likeness
from experiments.measure import accuracies, recalls
from experiments.records import Records
from headword.aligners import KernelRidge
from headword.aligners.pairs import Pairs
from headword.metrics import classification_metrics

GENERAL = "mobilenetv2_100_in1k"
NARROW = ("mobilenetv2_100_inat_bird", "mobilenetv2_100_inat_insect")
HEADS = ("embedded", GENERAL, *NARROW)

K = 10
SHOTS = 4
"""Images a class of the nearest-mean classifier, which shows how good the features alone are."""

ZERO_SHOT, NEAREST = "words, zero-shot", f"no words, {SHOTS} images a class"


def run(bench: Bench) -> Findings:
    """Each head with its own backbone: shared neighbours, zero-shot, retrieval."""
    records, classes = Records(), {}
    for name in HEADS:
        head = bench.head(name)
        readings = {head.title: head.names}
        if name in NARROW:
            latin = [entry.synonyms[0] if entry.synonyms else entry.name for entry in head.classes]
            readings = {f"{head.title} (common names)": head.names, f"{head.title} (Latin names)": latin}
        nearest = statistics.fmean(
            nearest_mean(bench.labelled(data, name), bench.generator(place, draw))
            for place, data in enumerate(CLASSIFICATION)
            for draw in range(bench.draws)
        )
        for title, names in readings.items():
            text = bench.words(names)
            fitted = KernelRidge().fit(Pairs(image=head.rows, text=text, names=tuple(names)))
            top1 = accuracies(fitted, bench, head=name)
            back = recalls(fitted, bench.captions("test", name))
            k = min(K, len(names) - 1)
            share = likeness(head.rows, text, (k,)).neighbours[k]
            top1 |= {ZERO_SHOT: top1.pop("mean"), NEAREST: nearest}
            records.add(title, **top1, m_NN=share, **{"m_NN of chance": chance_neighbours(len(names), K)},
                        **{"t2i R@10": back["t2i_r10"], "i2t R@10": back["i2t_r10"]})  # fmt: skip
            classes[title] = len(names)
    mean = {title: records.value(title, metric=ZERO_SHOT) for title in classes}
    general = bench.head(GENERAL).title
    narrow = {title: mean[title] for title in (f"{bench.head(name).title} (common names)" for name in NARROW)}
    floor = min(narrow.values())
    chance = statistics.fmean(100 / len(bench.labelled(name).names) for name in CLASSIFICATION)
    shares = ("m_NN", "m_NN of chance")
    percent = (*CLASSIFICATION, ZERO_SHOT, NEAREST, "t2i R@10", "i2t R@10")
    return Findings(
        records=records,
        tables=(
            records.select(metric=percent).table(
                "Rows of different heads, each with its own backbone, %",
                {"arm": "head"},
                more={"classes": classes},
            ),
            records.select(metric=shares).table(
                f"Neighbours that rows share with their names, k = {K}", {"arm": "head"}, digits=3
            ),
        ),
        figures=(
            Figure(
                name="sources",
                caption="What the rows of a head are worth: zero-shot accuracy with words, and what the "
                f"backbone's features reach without any (nearest mean of {SHOTS} images a class); neighbours "
                "shared with names.",
                charts=[
                    records.select(metric=chosen).dots(label, "arm", "metric", title=title)
                    for chosen, label, title in (
                        ((ZERO_SHOT, NEAREST), "mean per-class accuracy, %", "Mean of four sets"),
                        (shares, "m_NN", f"Rows and names, k = {K}"),
                    )
                ],
            ),
        ),
        verdicts={
            "wider-is-better": judge(
                mean[general] - max(narrow.values()),
                "of three heads of one architecture, the general one has the highest mean accuracy",
                f"mean of four sets: {general} {mean[general]:.1f} %, "
                + ", ".join(f"{title} {value:.1f} %" for title, value in narrow.items()),
            ),
            "narrow-helps": judge(
                floor - 1.5 * chance,
                "every narrow head is above one and a half times chance",
                f"the lower of the narrow heads has {floor:.1f} %, chance is {chance:.1f} %",
            ),
        },
        protocol={
            "mapping": "kernel-ridge",
            "prompts": "bare names",
            "centre": "the mean of the tested images",
            "classification": list(CLASSIFICATION),
            "retrieval": "flickr8k test",
            "m_NN": f"k = {K}, rows against the names they are paired with, a share from 0 to 1",
            "nearest mean": f"{SHOTS} images a class, tested on the others, mean of {bench.draws} draws",
        },
        heads=HEADS,
        notes=(
            "Each head comes with its own backbone, so rows and features change together. The nearest mean "
            f"of {SHOTS} images a class, which uses no words, says how good the features are by themselves.",
            'Labels of the bird and insect heads read "Latin (Common)"; where the brackets are empty the '
            "Latin name stands for the common one too.",
            NOTES["flickr8k"],
        ),
    )


def nearest_mean(data: Labelled, generator: torch.Generator) -> float:
    """Mean per-class accuracy in percent of the nearest mean of `SHOTS` images a class, on the others."""
    fewest = int(torch.bincount(data.labels).min())
    shots = drawn_places(data.labels, min(SHOTS, fewest - 1), generator)  # [C, n]
    unit = F.normalize(data.features, dim=1)
    unit = F.normalize(unit - unit.mean(dim=0), dim=1)
    means = F.normalize(unit[shots].mean(dim=1), dim=1)
    tests: Tensor = torch.ones(len(unit), dtype=torch.bool)
    tests[shots.flatten()] = False
    return classification_metrics(unit[tests] @ means.T, data.labels[tests], (1,))["mean_per_class"]


RECIPE = Recipe(
    name="sources",
    title="Which head's rows?",
    lead="Rows name what their classifier was taught. A thousand everyday things, a thousand birds and a "
    "thousand insects are about as many pairs; which of them teach a mapping words in general?",
    claims={
        "wider-is-better": "The source matters: heads of ImageNet-21k are the strongest, narrower heads "
        "transfer less broadly.",
        "narrow-helps": "Narrower supervised heads still help.",
    },
    run=run,
    sets=(*CLASSIFICATION, "flickr8k"),
    weights=(GENERAL, *NARROW),
)
