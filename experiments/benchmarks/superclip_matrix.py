"""CLIP against SuperCLIP: same seeds, same data, same steps. Each run is a file; a stopped one goes on.

`lr` compares learning rates, for CLIP, on the validation split; `shapes` trains from scratch at batch 32, 64
and 128, three seeds; `flickr8k` from EfficientNet-Lite0, also with recycled prototypes; `summary` writes
results/superclip_matrix.json and .png. On CUDA training is in bfloat16. A run whose file is there with the
same configuration is not run again. Images are decoded and scaled once, into a file that is mapped into
memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from PIL import Image

from experiments import harness
from experiments.bench import data_root
from experiments.figures import Figure, Lines, Series, draw
from headword.cache import place
from headword.metrics import retrieval_metrics, retrieval_places
from headword.training import SuperCLIP
from headword.training.config import TrainConfig
from headword.training.data import Sample, TrainingSet, open_training_set
from headword.training.export import dual_encoder
from headword.training.in_training import SHAPES as SHAPE_METRICS
from headword.training.in_training import measure_shapes
from headword.training.run import train
from headword.training.trainer import Evaluator

NAME = "superclip_matrix"
SAMPLES = 48_000
"""Pairs that each run on shapes sees, whatever its batch size."""
LR_STEPS = 500
LRS = (1e-3, 2e-3, 4e-3)
BATCHES, SEEDS, FLICKR_SEEDS = (32, 64, 128), (0, 1, 2), (0, 1)
ARMS = ("clip", "superclip")
ATTRIBUTES = ("overall", "colour", "shape", "size", "count", "relation")
FLICKR_METRICS = tuple(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))
SHAPES = TrainConfig(
    model="timm:test_resnet", text_width=64, text_layers=2, embed_dim=64, context_length=24, eval_every=0,
    tensorboard=False,
)  # fmt: skip
FLICKR = TrainConfig(
    backbone="embedded", image_size=112, text_width=256, text_layers=4, embed_dim=256, context_length=32,
    epochs=3, batch_size=64, lr=5e-4, backbone_lr_factor=0.1, warmup=30, eval_every=0, checkpoint_every=93,
    tensorboard=False,
)  # fmt: skip


class What(str, Enum):
    """What to do."""

    lr = "lr"
    shapes = "shapes"
    flickr8k = "flickr8k"
    summary = "summary"


Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Run:
    """One training run."""

    name: str
    config: TrainConfig

    @property
    def arm(self) -> str:
        """What tables call it."""
        return self.config.method + (" + prototypes" if self.config.token_init == "prototypes" else "")


class Scaled:
    """A training set whose images were decoded and scaled to a square once, kept in a file."""

    def __init__(self, data: TrainingSet, side: int, images: int | None = None) -> None:
        key = hashlib.sha256(f"1 {data.fingerprint} {side} {images or ''}".rstrip().encode()).hexdigest()[:32]
        self.fingerprint, self._data, self._side = key, data, side
        self._images = min(len(data), images or len(data))
        self._file = place("benchmarks", f"pixels-{key}.npy")
        if not self._file.exists():
            self._write()
        self._pixels = np.load(self._file, mmap_mode="r")

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_name(f"{self._file.stem}.{os.getpid()}.partial.npy")
        shape = (self._images, self._side, self._side, 3)
        pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        for index in range(self._images):
            image = self._data[index].image
            pixels[index] = np.asarray(image.resize((self._side, self._side), Image.Resampling.BICUBIC))
        pixels.flush()
        partial.rename(self._file)

    def __len__(self) -> int:
        return self._images

    def __getitem__(self, index: int) -> Sample:
        captions, rewritten, name = self._data.text(index)  # type: ignore[attr-defined]
        return Sample(Image.fromarray(self._pixels[index]), captions, rewritten, name)


def shapes_runs(lr: float, device: Device) -> Iterator[Run]:
    """Every run sees as many pairs; the learning rate grows with the root of the batch, for both arms."""
    for seed in SEEDS:
        for batch in BATCHES:
            for method in ARMS:
                config = SHAPES.replace(
                    method=method, batch_size=batch, steps=SAMPLES // batch, seed=seed, device=device,
                    lr=lr * math.sqrt(batch / 64), warmup=SAMPLES // batch // 10,
                )  # fmt: skip
                yield Run(f"shapes-{method}-b{batch}-s{seed}", config)


def lr_runs(device: Device) -> Iterator[Run]:
    """CLIP at batch 64, somewhat shorter, with another seed."""
    for lr in LRS:
        config = SHAPES.replace(
            method="clip", batch_size=64, steps=LR_STEPS, warmup=LR_STEPS // 10, seed=100, lr=lr,
            device=device,
        )  # fmt: skip
        yield Run(f"lr-{lr:g}", config)


def flickr_runs(device: Device) -> Iterator[Run]:
    """Every run sees as many pairs; the learning rate goes with the root of the batch."""
    for seed in FLICKR_SEEDS:
        for method in ARMS:
            config = FLICKR.replace(method=method, seed=seed, device=device)
            yield Run(f"flickr8k-{method}-s{seed}", config)
            size = config.batch_size // 2
            half = config.replace(batch_size=size, lr=config.lr / math.sqrt(2), warmup=2 * config.warmup)
            yield Run(f"flickr8k-{method}-b{size}-s{seed}", half)
    config = FLICKR.replace(method="superclip", seed=0, device=device, token_init="prototypes")
    yield Run("flickr8k-superclip-prototypes-s0", config)


def file_of(run: Run) -> Path:
    return harness.RESULTS / NAME / f"{run.name}.json"


def finished(run: Run) -> dict[str, Any] | None:
    """The run's result, if it was run with this very configuration (on whatever device)."""
    if not file_of(run).is_file():
        return None
    said: dict[str, Any] = json.loads(file_of(run).read_text())
    before = TrainConfig(**said["config"])
    return said if before.replace(device="auto") == run.config.replace(device="auto") else None


def perform(runs: Iterator[Run], data: TrainingSet, evaluators: Mapping[str, Any]) -> list[str]:
    """Run what has no result yet, and name all; the folder of a run that was stopped is gone on with."""
    names = []
    for run in runs:
        names.append(run.name)
        if finished(run) is not None:
            continue
        print(f"{time.strftime('%H:%M:%S')} {run.name}", flush=True)
        out = place("benchmarks", NAME) / run.name
        begun = time.process_time()
        result = train(run.config, out, dataset=data, evaluators=evaluators, resume="auto", watch=show)
        harness.write(
            f"{NAME}/{run.name}",
            {
                "config": run.config.as_dict(),
                "steps": result.steps,
                "resumed_from": result.resumed_from,
                "images_per_second": round(result.images_per_second, 2),
                "cpu_seconds": round(time.process_time() - begun, 1),
                "metrics": {name: round(value, 3) for name, value in result.metrics.items()},
            },
        )
        shutil.rmtree(out)
    return names


def show(record: Mapping[str, float]) -> None:
    if "loss" in record and record["step"] % 100 == 0:
        print(f"  step {record['step']:.0f}, loss {record['loss']:.3f}", flush=True)


def shapes_evaluators() -> dict[str, Evaluator]:
    return {
        split: Evaluator(SHAPE_METRICS, partial(measure_shapes, split=split)) for split in ("test", "val")
    }


def flickr_evaluators() -> dict[str, Evaluator]:
    held = Scaled(
        open_training_set(str(data_root() / "data" / "flickr8k" / "captions.jsonl"), split="test"), 112
    )

    def retrieval(model: SuperCLIP) -> dict[str, float]:
        dual = dual_encoder(model)
        samples = [held[index] for index in range(len(held))]
        captions = [caption for sample in samples for caption in sample.captions]
        owner = torch.tensor([row for row, sample in enumerate(samples) for _ in sample.captions])
        pictures = dual.encode_image(sample.image for sample in samples)
        found = retrieval_metrics(retrieval_places(pictures, dual.encode_text(captions), owner))
        return {name: found[name] for name in FLICKR_METRICS}

    return {"test": Evaluator(FLICKR_METRICS, retrieval)}


def best_lr() -> float:
    """CLIP's best on the validation split, at batch 64."""
    found = {lr: finished(run) for lr, run in zip(LRS, lr_runs("auto"), strict=True)}
    known = {lr: said["metrics"]["val/overall"] for lr, said in found.items() if said is not None}
    if len(known) < len(LRS):
        raise SystemExit("choose the learning rate first: python -m experiments superclip-matrix lr")
    return max(known, key=lambda lr: known[lr])


def summary() -> dict[str, Any]:
    """Means and standard deviations over seeds, and SuperCLIP's advantage pair by pair."""
    cells: dict[str, Any] = {}
    groups = {
        f"shapes, batch {b}": [r for r in shapes_runs(best_lr(), "auto") if f"-b{b}-" in r.name]
        for b in BATCHES
    }
    for run in flickr_runs("auto"):
        groups.setdefault(f"flickr8k, batch {run.config.batch_size}", []).append(run)
    for group, runs in groups.items():
        done = {run: said for run in runs if (said := finished(run)) is not None}
        arms: dict[str, dict[int, dict[str, float]]] = {}
        for run, said in done.items():
            arms.setdefault(run.arm, {})[run.config.seed] = said["metrics"]
        cells[group] = {
            arm: {"seeds": sorted(by_seed), **spread([by_seed[seed] for seed in sorted(by_seed)])}
            for arm, by_seed in arms.items()
        }
        both = sorted(set(arms.get("clip", {})) & set(arms.get("superclip", {})))
        if both:
            gains = [
                {key: arms["superclip"][s][key] - arms["clip"][s][key] for key in arms["clip"][s]}
                for s in both
            ]
            cells[group]["superclip - clip"] = {"seeds": both, **spread(gains)}
    figure(cells)
    print(table(cells))
    return {"samples": SAMPLES, "lr": best_lr(), "cells": cells}


def table(cells: Mapping[str, Any]) -> str:
    """The means and deviations as Markdown."""
    names = {
        "shapes": (
            *(f"test/{name}" for name in (*ATTRIBUTES, "i2t_r1", "t2i_r1")),
            "val/overall", "val/shape", "val/t2i_r1",
        ),
        "flickr8k": tuple(f"test/{name}" for name in FLICKR_METRICS),
    }  # fmt: skip
    lines: list[str] = []
    for kind, columns in names.items():
        lines += ["", f"| {kind} | seeds | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
        for group, arms in cells.items():
            if not group.startswith(kind):
                continue
            for arm, said in arms.items():
                known = (said[name] for name in columns)
                shown = (
                    f"{v['mean']:.1f}" + (f" ± {v['sd']:.1f}" if v["sd"] is not None else "") for v in known
                )
                lines.append(f"| {group}, {arm} | {len(said['seeds'])} | {' | '.join(shown)} |")
    return "\n".join(lines)


def spread(values: list[dict[str, float]]) -> dict[str, Any]:
    keys = [key for key in values[0] if "chance" not in key and "images" not in key]
    return {
        key: {
            "mean": round(statistics.fmean(v[key] for v in values), 2),
            "sd": round(statistics.stdev(v[key] for v in values), 2) if len(values) > 1 else None,
        }
        for key in keys
    }


def figure(cells: Mapping[str, Any]) -> None:
    """SuperCLIP's advantage attribute by attribute against the batch size, mean and deviation over seeds."""
    splits = {"seen combinations": "val", "held-out combinations": "test"}
    charts = []
    for attribute in ATTRIBUTES:
        series = []
        for title, split in splits.items():
            gains = {batch: cells[f"shapes, batch {batch}"].get("superclip - clip") for batch in BATCHES}
            known = {batch: gain[f"{split}/{attribute}"] for batch, gain in gains.items() if gain}
            means, spread = (
                [one["mean"] for one in known.values()],
                [one["sd"] or 0.0 for one in known.values()],
            )
            series.append(Series(title, list(known), means, spread))
        charts.append(
            Lines(
                title=attribute, x_label="batch", y_label="SuperCLIP − CLIP, points", series=series,
                levels=(("", 0.0),), ticks=[(batch, str(batch)) for batch in BATCHES], log_x=True,
            )
        )  # fmt: skip
    drawn = draw(Figure(name=NAME, caption="", charts=charts), "png")
    (harness.RESULTS / f"{NAME}.png").write_bytes(drawn)


def run(
    what: Annotated[What, typer.Argument(help="Which runs, or their summary.")],
    device: Device = "cpu",
    only: Annotated[str, typer.Option(help="What a run's name must contain.")] = "",
    images: Annotated[int | None, typer.Option(help="Train on the first so many, for a trial.")] = None,
) -> dict[str, Any]:
    """Train what has no result yet, or gather what there is."""
    logging.disable(logging.WARNING)
    if what is What.summary:
        return summary()
    if what is What.flickr8k:
        runs, side, evaluators = flickr_runs(device), 112, flickr_evaluators()
        source = open_training_set(str(data_root() / "data" / "flickr8k" / "captions.jsonl"), split="train")
    else:
        runs = lr_runs(device) if what is What.lr else shapes_runs(best_lr(), device)
        source, side, evaluators = open_training_set("shapes"), 64, shapes_evaluators()
    names = perform((one for one in runs if only in one.name), Scaled(source, side, images), evaluators)
    logging.disable(logging.NOTSET)
    return {"file": f"{NAME}/{what.value}", "runs": names}
