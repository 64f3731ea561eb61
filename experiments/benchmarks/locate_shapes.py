"""Where shapes and colours are, by small models trained on shapes: pointing, and a probe of their patches.

CLIP and SuperCLIP, equal seeds, batches and steps, as in superclip-evidence. The pointing game counts the
shapes ("a circle") and colours ("something red") of test pictures whose map is highest on a pixel of them;
pictures of two groups of one shape ask for colours alone, and the other way round. The probe is a linear
layer on places, taught which shape or none they show on 200 pictures and tested on 500. What was trained is
kept in the cache, and a stopped run goes on.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from headword.cache import place
from headword.data.shapes import SHAPES, Shapes
from headword.evaluation.where import probe_places
from headword.metrics.localisation import segmentation_metrics
from headword.model import DualEncoder
from headword.training.config import TrainConfig
from headword.training.data import open_training_set
from headword.training.export import dual_encoder
from headword.training.run import train

PAIRS, BATCH = 48_000, 128
TAUGHT, TESTED = 200, 500  # pictures of the probe
LR = 2e-3  # at batch 64, as superclip-evidence chose it for CLIP
TOWERS = TrainConfig(
    model="timm:test_resnet", text_width=64, text_layers=2, embed_dim=64, context_length=24, eval_every=0,
    tensorboard=False, batch_size=BATCH, lr=LR * math.sqrt(BATCH / 64),
)  # fmt: skip


def run(
    seeds: Annotated[int, typer.Option(help="How many, from 0.")] = 3,
    pairs: Annotated[int, typer.Option(help="That a run sees.")] = PAIRS,
    pictures: Annotated[int, typer.Option(help="Of the pointing game and of the probe's test.")] = TESTED,
) -> dict[str, Any]:
    """Train what is not there yet, and measure it."""
    logging.disable(logging.WARNING)
    runs = {
        method: [measure(trained(method, seed, pairs), pictures) for seed in range(seeds)]
        for method in ("clip", "superclip")
    }
    gains = {
        name: [two[name] - one[name] for one, two in zip(runs["clip"], runs["superclip"], strict=True)]
        for name in runs["clip"][0]
    }
    spread = {
        name: {"mean": statistics.fmean(of), "sd": statistics.stdev(of) if len(of) > 1 else None}
        for name, of in gains.items()
    }
    protocol = {"pairs": pairs, "batch": BATCH, "taught": TAUGHT, "tested": pictures}
    return {"metrics": {**runs, "superclip - clip": spread}, "protocol": protocol}


def trained(method: str, seed: int, pairs: int) -> DualEncoder:
    """A model from scratch; one that is there is only opened."""
    steps = max(1, pairs // BATCH)
    config = TOWERS.replace(
        method=method, seed=seed, steps=steps, warmup=steps // 10, checkpoint_every=max(1, steps // 5)
    )
    out = place("benchmarks", "locate_shapes") / f"{method}-s{seed}-n{pairs}"
    result = train(config, out, dataset=open_training_set("shapes"), resume="auto", watch=_show)
    assert result.model is not None
    return dual_encoder(result.model)


def _show(record: Any) -> None:
    if "loss" in record and record["step"] % 50 == 0:
        print(f"  step {record['step']:.0f}, loss {record['loss']:.3f}", flush=True)


def measure(model: DualEncoder, pictures: int) -> dict[str, float]:
    """What one model's places say, in percent."""
    metrics: dict[str, float] = {}
    for split in ("val", "test"):
        data = Shapes(split, images=pictures)
        hits: dict[str, list[bool]] = {"shape": [], "colour": []}
        for index in range(len(data)):
            asked = targets(data, index)
            words = [word for _, word, _ in asked]
            (shares,) = model.locate(data.picture(index), words)
            for (kind, _, mask), one in zip(asked, shares, strict=True):
                hits[kind].append(on(one, mask))
        metrics |= {f"{split}_pointing_{kind}": 100 * statistics.fmean(of) for kind, of in hits.items()}
        metrics[f"{split}_pointing"] = 100 * statistics.fmean(hits["shape"] + hits["colour"])
    taught, tested = (probe_pictures(model, Shapes("train", images=TAUGHT), SHAPES),
                      probe_pictures(model, Shapes("val", images=pictures), SHAPES))  # fmt: skip
    counts = probe_places(taught, tested, len(SHAPES) + 1)
    return metrics | {f"probe_{name}": value for name, value in segmentation_metrics(counts).items()}


def targets(data: Shapes, index: int) -> list[tuple[str, str, Tensor]]:
    """What is asked of a picture: the kind, the words, and the pixels `[H, W]` that they mean."""
    masks: dict[tuple[str, str], Tensor] = {}
    for group, image in data.masks(index):
        mask = torch.from_numpy(np.array(image)) > 0
        for what in (("shape", f"a {group.shape}"), ("colour", f"a {group.colour} shape")):
            masks[what] = masks[what] | mask if what in masks else mask
    return [(kind, words, mask) for (kind, words), mask in masks.items()]


def on(shares: Tensor, mask: Tensor) -> bool:
    """Whether the highest point of a map `[h, w]` lies on a pixel of a mask `[H, W]`."""
    y, x = divmod(int(shares.argmax()), shares.shape[1])
    row, column = (
        int((at + 0.5) / of * side) for at, of, side in zip((y, x), shares.shape, mask.shape, strict=True)
    )
    return bool(mask[row, column])


def probe_pictures(model: DualEncoder, data: Shapes, shapes: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """Features of places `[d, h, w]`, and masks `[H, W]`: 0 for the ground, 1, 2, … for each shape."""
    found = []
    for index in range(len(data)):
        truth = torch.zeros(data.size, data.size, dtype=torch.long)
        for group, image in data.masks(index):
            truth[torch.from_numpy(np.array(image)) > 0] = 1 + list(shapes).index(group.shape)
        found.append((model.locator.features(data.picture(index)), truth))
    return found
