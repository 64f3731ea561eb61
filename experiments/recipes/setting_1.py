"""Weights only: every mapping fitted on the head's rows and class names, without one image-text pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.figures import Dots, Figure, Series
from experiments.recipes.bench import CLASSIFICATION, NOTES, Bench
from experiments.recipes.fits import fit_once
from experiments.recipes.measure import NAME, PHOTO, accuracies, recalls
from experiments.recipes.recipe import Cell, Claim, Findings, Outcome, Recipe, Table, Verdict, judge
from headword.aligners import CCA, MLP, Aligner, KernelRidge, Linear, Procrustes, PrototypeAttention, Ridge

HEADS = ("embedded", "embedded:lite1", "embedded:lite2", "mobilenetv2_100_in1k")

TIMES_CHANCE = 3.0
"""Above so many times chance, recall says that the captions were understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to use one mapping."""

    mapping: str
    template: str
    pool: bool

    @property
    def title(self) -> str:
        """What figures call it."""
        centre = "centred" if self.pool else "raw"
        return f"{'name' if self.template == NAME else 'photo'}, {centre}"


ARMS = tuple((template, pool) for pool in (False, True) for template in (PHOTO, NAME))
"""The paper's way (its prompt, images not centred) first."""


def mappings(epochs: int | None) -> dict[str, Aligner]:
    """Every mapping, unfitted, the paper's three first.

    Args:
        epochs: of the paper's two that gradient descent learns; the paper's number when None.
    """
    return {
        "mlp (paper)": MLP(epochs=epochs),
        "linear (paper)": Linear(epochs=epochs),
        "cca (paper's code)": CCA(penalty=0.0, weighted=False),
        "cca": CCA(),
        "kernel-ridge": KernelRidge(),
        "prototype-attention": PrototypeAttention(),
        "ridge": Ridge(),
        "procrustes": Procrustes(),
    }


def run(bench: Bench) -> Findings:
    """Fit each mapping on the embedded head; measure zero-shot and retrieval."""
    pairs = bench.head().pairs
    found: dict[Arm, dict[str, float]] = {}
    seconds: dict[str, float] = {}
    kept = {name: one for name, one in mappings(bench.epochs).items() if one.name not in bench.without}
    for name, aligner in kept.items():
        if aligner.iterative:
            bench.say(f"{name}: by gradient descent; the first fit can take an hour, later ones are read")
        fitted, seconds[name] = fit_once(aligner, pairs)
        for template, pool in ARMS:
            arm = Arm(mapping=name, template=template, pool=pool)
            found[arm] = {
                **accuracies(fitted, bench, template=template, pool=pool),
                **recalls(fitted, bench.captions("test"), pool=pool),
            }
    main = next(iter(kept))
    paper = found[Arm(mapping=main, template=PHOTO, pool=False)]
    chance = {name: 100 / len(bench.labelled(name).names) for name in CLASSIFICATION}
    guess = {
        name: (share * (100 - share) / len(bench.labelled(name).labels)) ** 0.5
        for name, share in chance.items()
    }
    images = len(bench.captions("test").features)
    heads, head_table = _heads(bench)
    return Findings(
        tables=(_table(found, seconds), head_table),
        figures=(_figure(found),),
        metrics={
            **{
                f"{arm.mapping}, {arm.title}, {key}": value[key]
                for arm, value in found.items()
                for key in ("mean", "t2i_r10", "i2t_r10", "i2t_p1", "i2t_p5", "i2t_map", "t2i_r1")
            },
            **{f"{name} mean": value for name, value in heads.items()},
        },
        verdicts={
            "zero-shot": judge(
                min(paper[name] - chance[name] - 2 * guess[name] for name in CLASSIFICATION),
                f"{main}, used the paper's way, is above chance on every set, by more than two standard "
                "errors "
                "of guessing",
                f"{main}: "
                + ", ".join(f"{name} {paper[name]:.1f} % (chance {chance[name]:.1f})" for name in chance),
            ),
            "retrieval": judge(
                paper["t2i_r10"] * images / 1000 - TIMES_CHANCE,
                f"it finds the image of a caption among its first ten more than {TIMES_CHANCE:.0f} times as "
                "often as chance",
                f"text to image R@10 {paper['t2i_r10']:.1f} % of {images:,} images (chance "
                f"{1000 / images:.1f}), R@1 {paper['t2i_r1']:.1f} %; image to text P@1 "
                f"{paper['i2t_p1']:.1f} %, mAP {paper['i2t_map']:.1f} %",
            ),
            "wide-heads": Verdict(
                outcome=Outcome.absent,
                measured="no ImageNet-21k head is among the classifiers here",
                rule="a 21k head has a higher mean accuracy than a 1k head of the same kind",
            ),
        },
        protocol={
            "fit": "1,000 rows of the head with their bare class names; no image-text pair",
            "prompts": [NAME, PHOTO],
            "centre": "raw: images not centred; centred: on the mean of the tested images, without labels",
            "classification": list(CLASSIFICATION),
            "classification metric": "mean per-class top-1, %",
            "retrieval": "flickr8k test",
            "epochs": bench.epochs or "the paper's",
        },
        model=bench.provenance(*HEADS),
        notes=(
            NOTES["flickr8k"],
            NOTES["tiny_imagenet"],
            "Many of tiny_imagenet's classes are classes of the head: it is not zero-shot in the class "
            "names.",
            "CLIP ViT-B/32, the paper's reference line, is not among the models here.",
            "The paper's unregularised CCA has fewer pairs here than dimensions (1,000 pairs, 1,280 wide).",
            *((f"Left out: {', '.join(bench.without)}.",) if bench.without else ()),
        ),
    )


def _heads(bench: Bench) -> tuple[dict[str, float], Table]:
    """The default mapping on other heads."""
    means: dict[str, float] = {}
    rows: list[tuple[Cell, ...]] = []
    for name in HEADS:
        head = bench.head(name)
        fitted = KernelRidge().fit(head.pairs)
        top = accuracies(fitted, bench, head=name)
        back = recalls(fitted, bench.captions("test", name))
        means[head.title] = top["mean"]
        rows.append((head.title, *top.values(), back["t2i_r10"], back["i2t_r10"]))
    table = Table(
        title="kernel-ridge on other ImageNet-1k heads: names, centred, %",
        columns=("head", *CLASSIFICATION, "mean", "t2i R@10", "i2t R@10"),
        rows=tuple(rows),
    )
    return means, table


def _table(found: dict[Arm, dict[str, float]], seconds: dict[str, float]) -> Table:
    rows = tuple(
        (
            arm.mapping,
            arm.title,
            value["mean"],
            value["t2i_r10"],
            value["i2t_r10"],
            value["t2i_r1"],
            value["i2t_p1"],
            value["i2t_map"],
            seconds[arm.mapping],
        )
        for arm, value in found.items()
    )
    return Table(
        title="Weights only: mean of four sets and retrieval, %; seconds of the fit",
        columns=("mapping", "use", "mean", "t2i R@10", "i2t R@10", "t2i R@1", "i2t P@1", "i2t mAP", "fit s"),
        rows=rows,
    )


def _figure(found: dict[Arm, dict[str, float]]) -> Figure:
    names = list(dict.fromkeys(arm.mapping for arm in found))
    titles = list(dict.fromkeys(arm.title for arm in found))
    unprompted = list(dict.fromkeys(arm.title for arm in found if arm.template == NAME))

    def chart(key: str, title: str, label: str, uses: Sequence[str]) -> Dots:
        series = []
        for use in uses:
            chosen = [
                (names.index(arm.mapping), value[key]) for arm, value in found.items() if arm.title == use
            ]
            series.append(Series(use, [value for _, value in chosen], [row for row, _ in chosen]))
        return Dots(title=title, rows=names, x_label=label, series=series, joined=True)

    return Figure(
        name="setting-1",
        caption="Weights only: zero-shot accuracy and retrieval of each mapping, with the paper's prompt or "
        "the bare name, images centred on the collection or not. Captions have no "
        "prompt.",
        charts=(
            chart("mean", "Zero-shot, mean of four sets", "mean per-class top-1, %", titles),
            chart("t2i_r10", "Text to image, flickr8k", "R@10, %", unprompted),
        ),
    )


RECIPE = Recipe(
    name="setting-1",
    title="Setting I: words from weights alone",
    lead="A thousand rows and a thousand names are all the pairs there are. Every mapping learns from "
    "them, and "
    "labels and finds images that it has never seen a caption of.",
    claims=(
        Claim(
            key="zero-shot",
            found="A mapping learnt on the head's rows alone classifies images of other sets without an "
            "image-text pair.",
        ),
        Claim(
            key="retrieval",
            found="The same mapping retrieves images and captions (Flickr30k, COCO) without an "
            "image-text pair.",
        ),
        Claim(key="wide-heads", found="Heads of ImageNet-21k do better than heads of ImageNet-1k."),
    ),
    run=run,
    sets=(*CLASSIFICATION, "flickr8k"),
    weights=("mobilenetv2_100_in1k",),
)
