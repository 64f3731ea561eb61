"""Which head's rows: a general one against birds and insects, each with its own backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.figures import Dots, Figure, values
from experiments.recipes.bench import CLASSIFICATION, NOTES, Bench, Head, Labelled
from experiments.recipes.measure import accuracies, recalls
from experiments.recipes.recipe import Claim, Findings, Recipe, Table, judge
from headword.aligners import KernelRidge
from headword.aligners.pairs import Pairs
from headword.metrics import classification_metrics
from headword.metrics.neighbours import chance_neighbours, drawn_places, likeness

GENERAL = "mobilenetv2_100_in1k"
NARROW = ("mobilenetv2_100_inat_bird", "mobilenetv2_100_inat_insect")
HEADS = ("embedded", GENERAL, *NARROW)

K = 10
SHOTS = 4
"""Images a class of the nearest-mean classifier, which shows how good the features alone are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What one head's rows are worth."""

    title: str
    classes: int
    zero_shot: dict[str, float]
    t2i_r10: float
    i2t_r10: float
    m_nn: float
    backbone: float
    """Mean accuracy of the nearest mean of `SHOTS` images, with this backbone and no words."""


def run(bench: Bench) -> Findings:
    """Each head with its own backbone: shared neighbours, zero-shot, retrieval."""
    found = [source for name in HEADS for source in _sources(bench, name)]
    by_title = {source.title: source for source in found}
    general = by_title[bench.head(GENERAL).title]
    narrow = [by_title[f"{bench.head(name).title} (common names)"] for name in NARROW]
    best = max(narrow, key=lambda source: source.zero_shot["mean"])
    floor = min(source.zero_shot["mean"] for source in narrow)
    chance = sum(100 / len(bench.labelled(name).names) for name in CLASSIFICATION) / len(CLASSIFICATION)
    return Findings(
        tables=(_table(found),),
        figures=(_figure(found),),
        metrics={
            **{f"{source.title} mean": source.zero_shot["mean"] for source in found},
            **{f"{source.title} t2i_r10": source.t2i_r10 for source in found},
            **{f"{source.title} m_nn": source.m_nn for source in found},
        },
        verdicts={
            "wider-is-better": judge(
                general.zero_shot["mean"] - best.zero_shot["mean"],
                "of three heads of one architecture, the general one has the highest mean accuracy",
                f"mean of four sets: {general.title} {general.zero_shot['mean']:.1f} %, "
                + ", ".join(f"{s.title} {s.zero_shot['mean']:.1f} %" for s in narrow),
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
        model=bench.provenance(*HEADS),
        notes=(
            "Each head comes with its own backbone, so rows and features change together. The nearest "
            "mean of "
            f"{SHOTS} images a class, which uses no words, says how good the features are by themselves.",
            'Labels of the bird and insect heads read "Latin (Common)"; where the brackets are empty the '
            "Latin name stands for the common one too.",
            NOTES["flickr8k"],
        ),
    )


def _sources(bench: Bench, name: str) -> list[Source]:
    head = bench.head(name)
    if name not in NARROW:
        return [_source(bench, head, head.title, head.names)]
    latin = [entry.synonyms[0] if entry.synonyms else entry.name for entry in head.classes]
    return [
        _source(bench, head, f"{head.title} (common names)", head.names),
        _source(bench, head, f"{head.title} (Latin names)", latin),
    ]


def _source(bench: Bench, head: Head, title: str, names: Sequence[str]) -> Source:
    text = bench.words(names)
    fitted = KernelRidge().fit(Pairs(image=head.rows, text=text, names=tuple(names)))
    back = recalls(fitted, bench.captions("test", head.name))
    k = min(K, len(names) - 1)
    return Source(
        title=title,
        classes=len(names),
        zero_shot=accuracies(fitted, bench, head=head.name),
        t2i_r10=back["t2i_r10"],
        i2t_r10=back["i2t_r10"],
        m_nn=likeness(head.rows, text, (k,)).neighbours[k],
        backbone=_backbone(bench, head.name),
    )


def _backbone(bench: Bench, head: str) -> float:
    found = [
        nearest_mean(bench.labelled(name, head), bench.generator(place, draw))
        for place, name in enumerate(CLASSIFICATION)
        for draw in range(bench.draws)
    ]
    return sum(found) / len(found)


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


def _table(found: Sequence[Source]) -> Table:
    return Table(
        title="Rows of different heads, each with its own backbone, %",
        columns=("head", "classes", *CLASSIFICATION, "mean", "t2i R@10", "i2t R@10", "m_NN", "nearest mean"),
        rows=tuple(
            (s.title, s.classes, *s.zero_shot.values(), s.t2i_r10, s.i2t_r10, f"{s.m_nn:.3f}", s.backbone)
            for s in found
        ),
    )


def _figure(found: Sequence[Source]) -> Figure:
    titles = [source.title for source in found]
    return Figure(
        name="sources",
        caption="What the rows of a head are worth: zero-shot accuracy with words, and what the backbone's "
        f"features reach without any (nearest mean of {SHOTS} images a class); neighbours shared with names.",
        charts=(
            Dots(
                title="Mean of four sets",
                rows=titles,
                x_label="mean per-class accuracy, %",
                series=(
                    values("words, zero-shot", [source.zero_shot["mean"] for source in found]),
                    values(f"no words, {SHOTS} images a class", [source.backbone for source in found]),
                ),
            ),
            Dots(
                title=f"Rows and names, k = {K}",
                rows=titles,
                x_label="m_NN",
                series=(
                    values("m_NN", [source.m_nn for source in found]),
                    values("m_NN of chance", [chance_neighbours(source.classes, K) for source in found]),
                ),
            ),
        ),
    )


RECIPE = Recipe(
    name="sources",
    title="Which head's rows?",
    lead="Rows name what their classifier was taught. A thousand everyday things, a thousand birds and a "
    "thousand insects are about as many pairs; which of them teach a mapping words in general?",
    claims=(
        Claim(
            key="wider-is-better",
            found="The source matters: heads of ImageNet-21k are the strongest, narrower heads transfer less "
            "broadly.",
        ),
        Claim(key="narrow-helps", found="Narrower supervised heads still help."),
    ),
    run=run,
    sets=(*CLASSIFICATION, "flickr8k"),
    weights=(GENERAL, *NARROW),
)
