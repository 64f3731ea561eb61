"""What a collection says of itself: labels by all images at once, hubs of a reference, fits by source.

Protocol: the embedded encoders, kernel ridge. Classification: fitted and used with four templates; mean
per-class top-1 on four sets (nearly balanced: good to a uniform prior), images not centred or centred on the
set. λ = 1 and ten rounds of `adapt` and the scale of the softmax were set before these sets were looked at;
k is as published. Retrieval: flickr8k test; bare names at fit; hubness in 6,000 training images and their
first captions, unmatched. By source: 100 training images with their captions beside the head's rows; τ, λ and
the captions' weight chosen on val by text-to-image R@10 for each arm, on draw 0; three draws.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from common import CLASSIFICATION, data_root, features_of, write
from headword.aligners import Aligner, KernelRidge
from headword.collection import METHODS, Hubs, collective_scores, label_shares
from headword.data.captions import read_captions
from headword.encoders import TextEncoder, VisionEncoder, load_text, load_vision
from headword.encoders.prompts import embed_names
from headword.extract import image_features
from headword.metrics import classification_metrics, retrieval_metrics, retrieval_places
from headword.pairs import Pairs
from headword.recycling import head_pairs
from headword.scoring import fit_scores

FOUR = ("{}", "a photo of a {}", "a picture of a {}", "an image of a {}")
GRID = tuple(itertools.product((0.15, 0.3, 0.6), (0.3, 1.0), (0.1, 0.3, 1.0)))
"""τ, λ and the captions' weight."""
IMAGES = 100
SHOWN = ("t2i_r1", "t2i_r10", "i2t_r1", "i2t_r10")


@dataclass(frozen=True)
class Split:
    """Captioned images: features `[N, d]`, texts `[M, k]` and the image of each `[M]`."""

    image: Tensor
    text: Tensor
    owner: Tensor

    @property
    def firsts(self) -> Tensor:
        """`[N, k]` the first caption of each image."""
        return self.text[torch.searchsorted(self.owner, torch.arange(len(self.image)))]


def main() -> None:
    vision, text = load_vision("embedded", dtype="float32"), load_text("embedded")
    flickr = {split: captioned(vision, text, split) for split in ("train", "val", "test")}
    rows = head_pairs(vision, text)
    write(
        "collection",
        {
            "metrics": {
                "mean_per_class_top1": classification(vision, text),
                "flickr8k_test_weights_only": weights_only(KernelRidge().fit(rows), flickr),
                f"flickr8k_test_{IMAGES}_images_and_weights": by_source(rows, flickr),
            },
            "protocol": {"sets": CLASSIFICATION, "templates": FOUR, "grid": GRID, "draws": 3},
            "seed": 0,
        },
    )


def captioned(vision: VisionEncoder, text: TextEncoder, split: str) -> Split:
    """flickr8k's split."""
    entries = read_captions(data_root() / "flickr8k" / "captions.jsonl", split=split)
    captions = [caption for entry in entries for caption in entry.captions]
    owner = torch.tensor([n for n, entry in enumerate(entries) for _ in entry.captions])
    return Split(image_features(vision, [entry.image for entry in entries]), text.encode(captions), owner)


def classification(vision: VisionEncoder, text: TextEncoder) -> dict[str, dict[str, float]]:
    """Each method, with images centred on the set and not."""
    pairs = head_pairs(vision, text, FOUR)
    aligner = KernelRidge().fit(pairs)
    scale = fit_scores(aligner, pairs).scale
    found: dict[str, dict[str, float]] = {}
    for name in CLASSIFICATION:
        data, features = features_of(vision, name)
        words = aligner.text(embed_names(text, data.names, FOUR))
        zero = torch.zeros(vision.dim)
        centres = {"raw": zero, "pool": torch.nn.functional.normalize(features, dim=1).mean(dim=0)}
        for (centre, at), method in itertools.product(centres.items(), METHODS):
            shares = label_shares("uniform", data.names) if method == "sinkhorn" else None
            images = aligner.image(features, at)
            scores = collective_scores(images, words, method=method, scale=scale, shares=shares)
            metrics = classification_metrics(scores, torch.tensor(data.labels), ks=(1,))
            found.setdefault(f"{method}, {centre}", {})[name] = metrics["mean_per_class"]
    return {arm: {**by, "mean": statistics.fmean(by.values())} for arm, by in found.items()}


def recalls(aligner: Aligner, data: Split, train: Split, *, hubness: bool) -> dict[str, float]:
    """Retrieval by an aligner whose centre is set."""
    images, texts = aligner.image(data.image), aligner.text(data.text)
    if hubness:
        images, texts = Hubs.of(aligner.image(train.image), aligner.text(train.firsts)).sides(images, texts)
    metrics = retrieval_metrics(retrieval_places(images, texts, data.owner), (1, 5, 10))
    return {key: metrics[key] for key in SHOWN}


def weights_only(aligner: Aligner, flickr: dict[str, Split]) -> dict[str, dict[str, float]]:
    """Not centred, centred on the tested images and on the training images, without hubness and with it."""
    found = {}
    for centre in ("none", "pool", "reference"):
        if centre != "none":
            aligner.calibrate(flickr["test" if centre == "pool" else "train"].image)
        for hubness in (False, True):
            arm = f"centre {centre}" + (", hubness" if hubness else "")
            found[arm] = recalls(aligner, flickr["test"], flickr["train"], hubness=hubness)
    return found


def by_source(rows: Pairs, flickr: dict[str, Split]) -> dict[str, object]:
    """One list of pairs against each source on its own mean; images are centred on the training images."""
    found: dict[str, object] = {}
    train = flickr["train"]
    for apart in (False, True):

        def fitted(draw: int, tau: float, penalty: float, weight: float, apart: bool = apart) -> Aligner:
            drawn = drawn_pairs(train, draw).weighted(weight)
            aligner = KernelRidge(tau=tau, penalty=penalty, centre_by_source=apart).fit(rows + drawn)
            return aligner.calibrate(train.image)

        def on_val(setting: tuple[float, float, float]) -> float:
            return recalls(fitted(0, *setting), flickr["val"], train, hubness=False)["t2i_r10"]

        best = max(GRID, key=on_val)
        for hubness in (False, True):
            runs = [recalls(fitted(d, *best), flickr["test"], train, hubness=hubness) for d in range(3)]
            means = {key: statistics.fmean(run[key] for run in runs) for key in SHOWN}
            spread = statistics.stdev(run["t2i_r10"] for run in runs)
            arm = ("each source centred" if apart else "one list") + (", hubness" if hubness else "")
            found[arm] = {**means, "t2i_r10_std": spread, "tau_penalty_weight": best}
    return found


def drawn_pairs(train: Split, draw: int) -> Pairs:
    """Images drawn from the training split, each with all its captions."""
    order = torch.randperm(len(train.image), generator=torch.Generator().manual_seed(draw))[:IMAGES]
    kept = torch.isin(train.owner, order)
    n = int(kept.sum())
    return Pairs(train.image[train.owner[kept]], train.text[kept], source=("caption",) * n)


if __name__ == "__main__":
    main()
