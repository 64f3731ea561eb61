"""CLIP against SuperCLIP, for a sceptic: equal steps, pictures and compute, controls, weights, captions.

`train` trains what has no result yet, in order of value, and can be stopped, gone on with, and run several
times at once; `summary` reads results/superclip_evidence.json, one list of runs, and what was trained
since, and makes of them the paired differences. Each run is known by its configuration. Learning rates are
chosen for each method and batch size on pictures that nothing is reported of. Pictures are scaled once, into
a file that is mapped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor

from experiments import harness
from experiments.bench import data_root
from experiments.paired import compare, difference, table
from headword.cache import place
from headword.errors import HeadwordError
from headword.evaluation.shape_questions import evaluate_shapes
from headword.files.writing import locked, write_text_atomic
from headword.metrics import retrieval_metrics, retrieval_places
from headword.training import SuperCLIP, SuperCLIPTask
from headword.training.config import TrainConfig
from headword.training.data import Sample, TrainingSet, open_training_set
from headword.training.export import dual_encoder
from headword.training.in_training import SHAPES as SHAPE_METRICS
from headword.training.objective import Tensors, TrainingTask, make_task
from headword.training.run import train
from headword.training.trainer import Evaluator

NAME = "superclip_evidence"
PAIRS = 48_000  # that a run on shapes sees, unless it has as many steps as one of batch 32
LR_PAIRS, LR_SEED = 24_000, 100
LRS = (1e-3, 2e-3, 4e-3)  # at batch 64; the rest by the root of the batch
FIRST_LR = 2e-3  # chosen for CLIP at batch 64
SEEDS = range(8)
EQUAL_COMPUTE = 1.3  # what a step of SuperCLIP costs, in steps of CLIP, on these towers
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
VARIANTS: dict[str, dict[str, Any]] = {
    "clip": {"method": "clip"},
    "superclip": {},
    "superclass": {"method": "superclass"},
    "shuffled": {},
    "λ 0.1": {"token_weight": 0.1},
    "λ 0.3": {"token_weight": 0.3},
    "uniform": {"token_targets": "uniform"},
    "reference": {"token_targets": "reference"},
    "clip, long captions": {"method": "clip", "rewritten_share": 1.0},
    "superclip, long captions": {"rewritten_share": 1.0},
}
"""What runs differ in; "shuffled" gives the token loss the caption of another picture of the batch."""
Device = Literal["auto", "cpu", "cuda"]


class ShuffledTokens(SuperCLIPTask):
    """SuperCLIP whose token loss gets each picture the caption of another: regularised, not supervised."""

    def _token(self, features: Tensors, texts: Tensor) -> dict[str, Tensor]:
        return super()._token(features, texts.roll(1, dims=0))


@dataclass(frozen=True)
class Run:
    """One training run."""

    arm: str
    config: TrainConfig
    kept: bool = False  # with its token head

    @property
    def data(self) -> str:
        """What it is trained on."""
        return "flickr8k" if self.config.backbone else "shapes"

    @property
    def name(self) -> str:
        """What its files are called."""
        config = self.config
        length = f"e{config.epochs}" if config.epochs else f"n{config.steps}"
        arm = self.arm.replace(", ", "-").replace(" ", "")
        return f"{self.data}-{arm}-b{config.batch_size}-{length}-lr{config.lr:.3g}-s{config.seed}"

    def task(self, model: SuperCLIP, config: TrainConfig) -> TrainingTask:
        """Model and losses."""
        return ShuffledTokens(model) if self.arm == "shuffled" else make_task(model, config)

    def is_of(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is of this very arm and configuration, on whatever device."""
        before = TrainConfig(**record["config"]).replace(device="auto")
        return bool(record["arm"] == self.arm and before == self.config.replace(device="auto"))


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


def shapes_run(arm: str, batch: int, steps: int, lr: float, seed: int, *, kept: bool = False) -> Run:
    """A run from scratch; a tenth of it is warm-up."""
    config = SHAPES.replace(
        **VARIANTS[arm], batch_size=batch, steps=steps, warmup=steps // 10, seed=seed,
        lr=lr * math.sqrt(batch / 64),
    )  # fmt: skip
    return Run(arm, config, kept)


def lr_runs(arm: str, batch: int) -> dict[float, Run]:
    """A run a rate, somewhat shorter, with a seed of their own."""
    return {lr: shapes_run(arm, batch, LR_PAIRS // batch, lr, LR_SEED) for lr in LRS}


def chosen_lr(arm: str, batch: int) -> float:
    """A method's best rate at a batch size, on the pictures for choosing; `FIRST_LR` before all were run."""
    method = "clip" if arm.startswith("clip") else "superclip"
    values = {lr: finished(run) for lr, run in lr_runs(method, batch).items()}
    if any(record is None for record in values.values()):
        return FIRST_LR
    return max(LRS, key=lambda lr: values[lr]["metrics"]["choice/overall"])  # type: ignore[index]


def flickr_runs() -> Iterator[Run]:
    """From a trained classifier's backbone, at two batch sizes; the rate goes with the root of the batch."""
    for seed in (0, 1):
        for arm in ("superclip", "clip"):
            config = FLICKR.replace(**VARIANTS[arm], seed=seed)
            yield Run(arm, config)
            half = config.replace(batch_size=32, lr=config.lr / math.sqrt(2), warmup=2 * config.warmup)
            yield Run(arm, half)
        yield Run("superclip, prototypes", FLICKR.replace(seed=seed, token_init="prototypes"))


def recycled_runs() -> Iterator[Run]:
    """Those whose token heads are kept, to be recycled: on flickr8k smaller and shorter than the others."""
    for arm in ("superclip", "superclass"):
        yield shapes_run(arm, 128, PAIRS // 128, FIRST_LR, 3, kept=True)
    for arm in ("superclip", "superclass"):
        yield Run(arm, FLICKR.replace(**VARIANTS[arm], seed=2, image_size=64, epochs=2), kept=True)


def planned() -> Iterator[Run]:
    """All runs, the most telling first."""
    b32, b128 = PAIRS // 32, PAIRS // 128
    yield from recycled_runs()
    for seed in SEEDS:
        lr = {(arm, batch): chosen_lr(arm, batch) for arm in ("clip", "superclip") for batch in (32, 128)}
        for arm, batch, steps in (
            *(("shuffled", 32, b32), ("clip", 32, b32), ("superclip", 32, b32)),
            *(("clip", 128, b128), ("superclip", 128, b128), ("clip", 32, round(EQUAL_COMPUTE * b32))),
        ):
            yield shapes_run(arm, batch, steps, lr["clip" if arm == "clip" else "superclip", batch], seed)
    for batch in (32, 128, 64):
        for arm in ("clip", "superclip"):
            yield from lr_runs(arm, batch).values()
    others = [arm for arm in VARIANTS if arm not in ("clip", "superclip", "superclass", "shuffled")]
    for seed in SEEDS:
        for arm in others:
            yield shapes_run(arm, 32, b32, chosen_lr(arm, 32), seed)
        for arm in ("clip", "superclip"):
            yield shapes_run(arm, 128, b32, chosen_lr(arm, 128), seed)
    yield from flickr_runs()


def own_place() -> Path:
    """Where runs lie while they go on, and what they gave until `summary` takes it."""
    return place("benchmarks", NAME)


def finished(run: Run) -> dict[str, Any] | None:
    """The record of a run that was done, here or where the results were written."""
    file = own_place() / f"{run.name}.json"
    if file.is_file():
        record: dict[str, Any] = json.loads(file.read_text())
        if run.is_of(record):
            return record
    return next((record for record in known_records() if run.is_of(record)), None)


def known_records() -> list[dict[str, Any]]:
    """The runs of the results that were written."""
    file = harness.RESULTS / f"{NAME}.json"
    return list(json.loads(file.read_text())["runs"]) if file.is_file() else []


def perform(run: Run, data: TrainingSet, evaluators: Mapping[str, Evaluator]) -> None:
    """Train a model and write what it gave; a run that was stopped goes on."""
    print(f"{time.strftime('%H:%M:%S')} {run.name}", flush=True)
    out = own_place() / run.name
    begun = time.process_time()
    result = train(
        run.config, out, dataset=data, evaluators=evaluators, resume="auto", watch=show, task=run.task
    )
    record = {
        "name": run.name, "arm": run.arm, "data": run.data, "config": run.config.as_dict(),
        "resumed_from": result.resumed_from, "images_per_second": round(result.images_per_second, 2),
        "cpu_seconds": round(time.process_time() - begun, 1),
        "metrics": {name: round(value, 3) for name, value in result.metrics.items()},
    }  # fmt: skip
    write_text_atomic(own_place() / f"{run.name}.json", json.dumps(record))
    if not run.kept:
        shutil.rmtree(out)


def show(record: Mapping[str, float]) -> None:
    if "loss" in record and record["step"] % 500 == 0:
        print(f"  step {record['step']:.0f}, loss {record['loss']:.3f}", flush=True)


def shape_evaluators(run: Run) -> dict[str, Evaluator]:
    """New pictures of combinations that training showed ("seen") and did not ("held_out"); others to choose
    a learning rate by ("choice").
    """

    def measure(model: SuperCLIP, *, split: str, seed: int) -> dict[str, float]:
        dual = dual_encoder(model)
        metrics = evaluate_shapes(dual.encode_image, dual.encode_text, split=split, seed=seed)
        return {name: metrics[name] for name in SHAPE_METRICS}

    splits = {"seen": ("val", 0), "held_out": ("test", 0)}
    if run.config.seed == LR_SEED:
        splits = {"choice": ("val", 1)}
    return {
        name: Evaluator(SHAPE_METRICS, partial(measure, split=split, seed=seed))
        for name, (split, seed) in splits.items()
    }


def flickr_evaluators() -> dict[str, Evaluator]:
    """Retrieval on the test split."""
    held = Scaled(flickr8k("test"), 112)

    def retrieval(model: SuperCLIP) -> dict[str, float]:
        dual = dual_encoder(model)
        samples = [held[index] for index in range(len(held))]
        captions = [caption for sample in samples for caption in sample.captions]
        owner = torch.tensor([row for row, sample in enumerate(samples) for _ in sample.captions])
        pictures = dual.encode_image(sample.image for sample in samples)
        metrics = retrieval_metrics(retrieval_places(pictures, dual.encode_text(captions), owner))
        return {name: metrics[name] for name in FLICKR_METRICS}

    return {"test": Evaluator(FLICKR_METRICS, retrieval)}


def flickr8k(split: str) -> TrainingSet:
    """A part of flickr8k."""
    return open_training_set(str(data_root() / "data" / "flickr8k" / "captions.jsonl"), split=split)


def train_all(device: Device, only: str, images: int | None, until: float) -> list[str]:
    """Train what no one has trained or is training; the names of the runs done here."""
    done: list[str] = []
    sources: dict[str, TrainingSet] = {}
    busy: set[str] = set()
    while time.time() < until:
        runs = [run for run in planned() if only in run.name and finished(run) is None]
        free = [run for run in runs if run.name not in busy]
        if not free:
            if not runs:
                break
            busy.clear()
            time.sleep(10)
            continue
        run = free[0]
        try:
            with locked(own_place() / f"{run.name}.lock", "another process is at it"):
                if run.data not in sources:
                    sources[run.data] = (
                        Scaled(flickr8k("train"), 112, images)
                        if run.data == "flickr8k"
                        else Scaled(open_training_set("shapes"), 64, images)
                    )
                evaluators = flickr_evaluators() if run.data == "flickr8k" else shape_evaluators(run)
                on_device = Run(run.arm, run.config.replace(device=device), run.kept)
                perform(on_device, sources[run.data], evaluators)
                done.append(run.name)
        except HeadwordError as error:
            if "another process" not in str(error):
                raise
            busy.add(run.name)
    return done


def summary() -> dict[str, Any]:
    """All runs, and the comparisons that they allow, with intervals."""
    fresh = [json.loads(file.read_text()) for file in sorted(own_place().glob("*.json"))]
    runs = {record["name"]: record for record in (*known_records(), *fresh)}
    cells: dict[Cell, dict[int, dict[str, float]]] = {}
    for record in runs.values():
        config = record["config"]
        if config["seed"] != LR_SEED:
            length = f"{config['epochs']} epochs" if config["epochs"] else f"{config['steps']} steps"
            cell = Cell(record["data"], config["batch_size"], length, record["arm"])
            cells.setdefault(cell, {})[config["seed"]] = record["metrics"]
    compared = [
        comparison
        for cell, by_seed in cells.items()
        if cell.arm != "clip" and (base := cells.get(cell._replace(arm="clip")))
        for comparison in compare(f"{cell} − clip", by_seed, base)
    ]
    for small, large in ((32, 64), (64, 128), (32, 128)):
        gains = [
            {s: difference(ours[s], theirs[s]) for s in ours if s in theirs}
            for batch in (small, large)
            if (ours := cells.get(Cell("shapes", batch, f"{PAIRS // batch} steps", "superclip")))
            and (theirs := cells.get(Cell("shapes", batch, f"{PAIRS // batch} steps", "clip")))
        ]
        if len(gains) == 2:
            compared += compare(f"superclip − clip at batch {small}, less the same at {large}", *gains)
    print(table(compared))
    return {"pairs": PAIRS, "comparisons": compared, "runs": list(runs.values())}


class Cell(NamedTuple):
    """Runs that differ in their seeds alone."""

    data: str
    batch: int
    length: str
    arm: str

    def __str__(self) -> str:
        return f"{self.data}, batch {self.batch}, {self.length}: {self.arm}"


def run(
    what: Annotated[Literal["train", "summary"], typer.Argument(help="Train, or gather what there is.")],
    device: Device = "cpu",
    only: Annotated[str, typer.Option(help="What a run's name must contain.")] = "",
    images: Annotated[int | None, typer.Option(help="Train on the first so many, for a trial.")] = None,
    hours: Annotated[float, typer.Option(help="Begin no run after so many hours.")] = 24.0,
) -> dict[str, Any]:
    """Train what has no result yet, or gather what there is."""
    logging.disable(logging.WARNING)
    if what == "train":
        names = train_all(device, only, images, time.time() + 3600 * hours)
        logging.disable(logging.NOTSET)
        return {"file": f"{NAME}_trained", "runs": names}
    logging.disable(logging.NOTSET)
    return summary()
