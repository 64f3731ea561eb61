"""Are a head's rows prototypes? The nearest row by cosine against the classifier itself."""

from __future__ import annotations

import statistics

from experiments.bench import NOTES, Bench
from experiments.figures import Figure
from experiments.findings import Findings, Recipe, judge
from experiments.records import Records
from headword.metrics.classification import cosine_against_linear

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
    here, paper = Records(), Records()
    for name in HEADS:
        head, data = bench.head(name), bench.labelled("imagenet_sample", name)
        test = cosine_against_linear(data.features, data.labels, head.rows, head.bias)
        here.add(head.title, linear=test.linear, cosine=test.cosine, loss=test.loss,
                 **{"std. error": test.error, "same class": test.agreement})  # fmt: skip
    for name, (linear, cosine) in PAPER.items():
        paper.add(name, linear=linear, cosine=cosine, loss=linear - cosine)
    losses = {name: here.value(name, metric="loss") for name in here.axis("arm")}
    loss = statistics.fmean(losses.values())
    # The heads are tested on the same images, so their errors do not average out.
    error = statistics.fmean(here.value(name, metric="std. error") for name in losses)
    both = {"metric": ("linear", "cosine")}
    return Findings(
        records=here,
        tables=(
            here.table("Top-1 of the classifier and of its rows as prototypes, %", {"arm": "classifier"}),
            paper.table("The paper's encoders, ImageNet-1k validation, %", {"arm": "classifier"}, digits=2),
        ),
        figures=(
            Figure(
                name="cosine-classifier",
                caption="Top-1 of the classifier itself (linear) and of the nearest row by cosine; the scale "
                "does not start at 0.",
                charts=[
                    records.select(**both).dots("top-1, %", "arm", "metric", title=title, joined=True)
                    for title, records in {
                        "Here: one training image a class": here,
                        "The paper: ImageNet-1k validation": paper,
                    }.items()
                ],
            ),
        ),
        verdicts={
            "small-loss": judge(
                LARGEST - loss,
                f"the mean loss is below {LARGEST:.2f} points, the paper's largest",
                f"the cosine classifier loses {loss:.2f} points (standard error {error:.2f}) on average over "
                f"{len(losses)} classifiers, from {min(losses.values()):.1f} to {max(losses.values()):.1f}",
                error=error,
            )
        },
        protocol={
            "data": "imagenet_sample",
            "metric": "top-1, %",
            "heads": list(HEADS),
            "images": len(data.labels),
        },
        heads=HEADS,
        notes=(
            NOTES["imagenet_sample"],
            "The standard error of a loss counts the images on which the two classifiers differ.",
        ),
    )


RECIPE = Recipe(
    name="cosine-classifier",
    title="Are a head's rows prototypes of its classes?",
    lead="If a row is a prototype, the class of an image is that of the nearest row: argmax cos(w, f(x)) "
    "should nearly match the classifier's own argmax(W f(x) + b).",
    claims={
        "small-loss": "The cosine classifier loses 0.53 to 1.01 points of ImageNet-1k top-1 (BEiT, CAFormer, "
        "ConvFormer, ConvNeXt, TinyViT)."
    },
    run=run,
    sets=("imagenet_sample",),
    weights=("mobilenetv2_100_in1k",),
)
