"""Are a head's rows prototypes? The nearest row by cosine against the classifier itself."""

from __future__ import annotations

import statistics

from experiments.figures import Dots, Figure, values
from experiments.recipes.bench import NOTES, Bench
from experiments.recipes.recipe import Claim, Findings, Recipe, Table, judge
from headword.metrics.cosine import CosineTest, cosine_against_linear

HEADS = ("embedded", "embedded:lite1", "embedded:lite2", "mobilenetv2_100_in1k")

PAPER = {
    "BEiT": (82.71, 82.10),
    "CAFormer": (80.81, 80.28),
    "ConvFormer": (80.76, 80.08),
    "ConvNeXt": (83.29, 82.67),
    "TinyViT": (82.31, 81.30),
}
"""ImageNet-1k top-1 of the linear and of the cosine classifier, as the paper reports them."""

LARGEST = max(linear - cosine for linear, cosine in PAPER.values())


def run(bench: Bench) -> Findings:
    """Measure both classifiers of each head on one image of each of its classes."""
    found: dict[str, CosineTest] = {}
    for name in HEADS:
        head, data = bench.head(name), bench.labelled("imagenet_sample", name)
        found[head.title] = cosine_against_linear(data.features, data.labels, head.rows, head.bias)
    loss = statistics.fmean(test.loss for test in found.values())
    # The heads are tested on the same images, so their errors do not average out.
    error = statistics.fmean(test.error for test in found.values())
    rows = tuple((name, t.linear, t.cosine, t.loss, t.error, t.agreement) for name, t in found.items())
    measured = (
        f"the cosine classifier loses {loss:.2f} points (standard error {error:.2f}) on average over "
        f"{len(found)} classifiers, from {min(t.loss for t in found.values()):.1f} to "
        f"{max(t.loss for t in found.values()):.1f}"
    )
    return Findings(
        tables=(
            Table(
                title="Top-1 of the classifier and of its rows as prototypes, %",
                columns=("classifier", "linear", "cosine", "loss", "std. error", "same class"),
                rows=rows,
            ),
            Table(
                title="The paper's encoders, ImageNet-1k validation, %",
                columns=("classifier", "linear", "cosine", "loss"),
                rows=tuple((name, a, b, a - b) for name, (a, b) in PAPER.items()),
                digits=2,
            ),
        ),
        figures=(_figure(found),),
        metrics={
            "mean_loss": loss,
            **{f"linear {name}": test.linear for name, test in found.items()},
            **{f"cosine {name}": test.cosine for name, test in found.items()},
        },
        verdicts={
            "small-loss": judge(
                LARGEST - loss,
                f"the mean loss is below {LARGEST:.2f} points, the paper's largest",
                measured,
                error=error,
            )
        },
        protocol={
            "data": "imagenet_sample",
            "metric": "top-1, %",
            "heads": list(HEADS),
            "images": next(iter(found.values())).images,
        },
        model=bench.provenance(*HEADS),
        notes=(
            NOTES["imagenet_sample"],
            "The standard error of a loss counts the images on which the two classifiers differ.",
        ),
    )


def _figure(found: dict[str, CosineTest]) -> Figure:
    here = Dots(
        title="Here: one training image a class",
        rows=list(found),
        x_label="top-1, %",
        series=(
            values("linear", [test.linear for test in found.values()]),
            values("cosine", [test.cosine for test in found.values()]),
        ),
        joined=True,
    )
    there = Dots(
        title="The paper: ImageNet-1k validation",
        rows=list(PAPER),
        x_label="top-1, %",
        series=(
            values("linear", [linear for linear, _ in PAPER.values()]),
            values("cosine", [cosine for _, cosine in PAPER.values()]),
        ),
        joined=True,
    )
    return Figure(
        name="cosine-classifier",
        caption="Top-1 of the classifier itself (linear) and of the nearest row by cosine; the scale "
        "does not "
        "start at 0.",
        charts=(here, there),
    )


RECIPE = Recipe(
    name="cosine-classifier",
    title="Are a head's rows prototypes of its classes?",
    lead="If a row is a prototype, the class of an image is that of the nearest row: argmax cos(w, f(x)) "
    "should nearly match the classifier's own argmax(W f(x) + b).",
    claims=(
        Claim(
            key="small-loss",
            found="The cosine classifier loses 0.53 to 1.01 points of ImageNet-1k top-1 (BEiT, CAFormer, "
            "ConvFormer, ConvNeXt, TinyViT).",
        ),
    ),
    run=run,
    sets=("imagenet_sample",),
    weights=("mobilenetv2_100_in1k",),
)
