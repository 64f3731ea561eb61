"""Are a head's rows prototypes? The nearest row by cosine against the classifier itself."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench import NOTES, Bench
from experiments.figures import Figure
from experiments.findings import Findings, Recipe, judge
from experiments.records import Records
from headword.errors import HeadwordError
from headword.metrics import places_of_labels

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineTest:
    """The outcome of `cosine_against_linear`; shares in percent."""

    linear: float
    """Top-1 of argmax(W f + b)."""
    cosine: float
    """Top-1 of argmax cos(w_c, f)."""
    linear_top5: float
    cosine_top5: float
    agreement: float
    """Images to which both give the same class."""
    lost: int
    """Images that only the linear classifier gets right."""
    won: int
    """Images that only the cosine classifier gets right."""
    images: int

    @property
    def loss(self) -> float:
        """Points of top-1 that the cosine classifier loses."""
        return self.linear - self.cosine

    @property
    def error(self) -> float:
        """Standard error of `loss`, from the images on which the two differ (McNemar 1947)."""
        n = self.images
        return float(100 * ((self.lost + self.won) - (self.lost - self.won) ** 2 / n) ** 0.5 / n)


@torch.inference_mode()
def cosine_against_linear(features: Tensor, labels: Tensor, rows: Tensor, bias: Tensor) -> CosineTest:
    """Classify features by argmax cos(w_c, f) and by argmax(w_c·f + b_c) (Méndez et al. 2026, analysis 1).

    Args:
        features: `[N, d]` inputs of the head.
        labels: `[N]` right classes.
        rows: `[C, d]` the head's rows.
        bias: `[C]`.

    Raises:
        HeadwordError: for widths that differ, values that are not finite, or labels that are no row.
    """
    if features.ndim != 2 or rows.ndim != 2 or features.shape[1] != rows.shape[1]:
        raise HeadwordError(f"features {list(features.shape)} do not fit a head of {list(rows.shape)}")
    linear = features @ rows.T + bias
    cosine = F.normalize(features, dim=1) @ F.normalize(rows, dim=1).T
    places = [places_of_labels(scores, labels) for scores in (linear, cosine)]
    five, right = 5 if len(rows) >= 5 else 1, [place == 1 for place in places]

    def percent(of: Tensor) -> float:
        return 100 * float(of.double().mean())

    return CosineTest(
        linear=percent(right[0]),
        cosine=percent(right[1]),
        linear_top5=percent(places[0] <= five),
        cosine_top5=percent(places[1] <= five),
        agreement=percent(linear.argmax(dim=1) == cosine.argmax(dim=1)),
        lost=int((right[0] & ~right[1]).sum()),
        won=int((~right[0] & right[1]).sum()),
        images=len(labels),
    )


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
