"""Training: one run's steps, evaluations and checkpoints, from any checkpoint on to the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from headword.errors import HeadwordError
from headword.superclip import checkpoint, run_folder
from headword.superclip.build import Blueprint, build, is_saved_model
from headword.superclip.checkpoint import Best
from headword.superclip.config import TrainConfig
from headword.superclip.data import Batches, TrainingSet, open_training_set
from headword.superclip.engine import make_fabric
from headword.superclip.feed import ahead, batches_from, make_batches
from headword.superclip.logs import Interval, Logs, Record
from headword.superclip.model import SuperCLIP
from headword.superclip.trainer import Trainer

Evaluator: TypeAlias = Callable[[SuperCLIP], Mapping[str, float]]
"""A model in evaluation mode → metrics by name, higher being better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run came to."""

    folder: Path
    """The run's folder."""
    steps: int
    """Of the whole run."""
    resumed_from: int
    """The step it went on after; 0 for a new run."""
    metrics: dict[str, float]
    """Of the last evaluation."""
    best: Best | None
    """The best evaluation, whose checkpoint is kept."""
    images_per_second: float
    """Over all processes, evaluations and checkpoints left out."""
    corrupt: int
    """Unreadable samples that were replaced."""
    model: SuperCLIP | None
    """The trained model, in evaluation mode; None in all processes but the first."""
    blueprint: Blueprint
    """How to build it again."""
    data_fingerprint: str
    """Of what it was trained on."""


def train(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    dataset: TrainingSet | None = None,
    evaluators: Mapping[str, Evaluator] | None = None,
    resume: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    watch: Callable[[Record], None] | None = None,
) -> TrainResult:
    """Train a model as a configuration says, into a folder.

    Args:
        config: all options.
        out: the run's folder, a new one unless `resume` or `overwrite` is given.
        dataset: in place of the one that `config.data` names.
        evaluators: run every `config.eval_every` steps and at the end, in the first process; their metrics
            are logged as "NAME/METRIC".
        resume: "auto" goes on from the last checkpoint in `out`, where there is one; or a checkpoint's
            folder.
        overwrite: replace another run in `out`.
        watch: called with each record that is logged, in the first process.

    Raises:
        HeadwordError: for options, data or folders that do not go together; for a loss that is not finite,
            with its step and samples.
        MissingExtraError: if a library of the extra "train" is missing.
    """
    fabric = make_fabric(config)
    data = dataset or open_training_set(config.data, split=config.split, seed=config.seed)
    place = None
    if fabric.is_global_zero:
        place = run_folder.find_place(out, config, data.fingerprint, resume=resume, overwrite=overwrite)
    place = fabric.broadcast(place)
    with _computing(config, fabric):
        model, blueprint = build(config)
        batches = make_batches(
            config,
            data,
            blueprint,
            model.tokenizer,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            pin_memory=fabric.device.type == "cuda",
        )
        if config.token_init == "prototypes" and place.source is None:
            _initialise_token_head(config, model, data, blueprint, fabric.world_size)
        steps = config.epochs * batches.steps_per_epoch if config.epochs else config.steps
        trainer = Trainer(fabric, config, model, steps)
        run = _Run(trainer, batches, blueprint, data.fingerprint, evaluators or {}, place.folder)
        if place.source is not None:
            run.restore(place.source)
        start = trainer.step
        if fabric.is_global_zero:
            run_folder.begin(place, config, blueprint, data.fingerprint)
        if start < steps:
            with ExitStack() as stack:
                logs = None
                if fabric.is_global_zero:
                    logs = stack.enter_context(Logs(place.folder, config, start, watch))
                run.steps(logs)
        return TrainResult(
            folder=place.folder,
            steps=steps,
            resumed_from=start,
            metrics=run.metrics,
            best=run.best,
            images_per_second=(steps - start) * config.batch_size / run.seconds if run.seconds else 0.0,
            corrupt=batches.corrupt,
            model=trainer.whole_model(blueprint),
            blueprint=blueprint,
            data_fingerprint=data.fingerprint,
        )


def _initialise_token_head(
    config: TrainConfig, model: SuperCLIP, data: TrainingSet, blueprint: Blueprint, world_size: int
) -> None:
    """Words of the recycled backbone into the token head; the first process's first batch sets its bias."""
    from headword.recycling import recycle
    from headword.saved_model import load
    from headword.superclip.prototypes import init_token_head

    backbone = str(config.backbone)
    dual = load(backbone, device="cpu") if is_saved_model(backbone) else recycle(backbone, device="cpu")
    near = replace(config, workers=0)
    batches = make_batches(near, data, blueprint, model.tokenizer, world_size=world_size)
    model.eval()
    with torch.no_grad():
        features = model(next(batches.epoch(0)).images).token_features
    init_token_head(model, dual, features=features)
    model.train()


class _Run:
    """The loop around a trainer: what is read, logged, evaluated and kept."""

    def __init__(
        self,
        trainer: Trainer,
        batches: Batches,
        blueprint: Blueprint,
        fingerprint: str,
        evaluators: Mapping[str, Evaluator],
        folder: Path,
    ) -> None:
        self.trainer, self.batches, self.blueprint = trainer, batches, blueprint
        self.fingerprint, self.evaluators, self.folder = fingerprint, evaluators, folder
        self.config, self.fabric = trainer.config, trainer.fabric
        self.metrics: dict[str, float] = {}
        self.best: Best | None = None
        self.seconds = 0.0
        """Spent on steps, waiting for batches included."""

    def steps(self, logs: Logs | None) -> None:
        """All steps that are left."""
        trainer, config = self.trainer, self.config
        interval = Interval(self.fabric)
        feed = ahead(partial(batches_from, self.batches, trainer.step, trainer.steps))
        with closing(feed):
            begun = time.perf_counter()
            for batch in feed:
                waited = time.perf_counter() - begun
                images = batch.images.to(self.fabric.device, non_blocking=True)
                texts = batch.texts.to(self.fabric.device, non_blocking=True)
                losses, norm = trainer.advance(images, texts)
                interval.add(trainer.step, batch, losses, norm, waited)
                last = trainer.step == trainer.steps
                evaluates = last or (config.eval_every and trainer.step % config.eval_every == 0)
                keeps = last or trainer.step % config.checkpoint_every == 0
                if last or evaluates or keeps or trainer.step % config.log_every == 0:
                    interval.check()
                self.seconds += time.perf_counter() - begun
                interval.seconds += time.perf_counter() - begun
                if last or trainer.step % config.log_every == 0:
                    self._log(logs, interval)
                improved = self._evaluate(logs) if evaluates and self.evaluators else False
                if keeps or improved:
                    self._keep()
                begun = time.perf_counter()

    def restore(self, source: Path) -> None:
        """Go on where a checkpoint was written."""
        state = self.trainer.restore(source)
        self.batches.load_state_dict(state["loader"])
        self.metrics = state["metrics"]
        self.best = Best(**state["best"]) if state["best"] else None

    def _log(self, logs: Logs | None, interval: Interval) -> None:
        trainer = self.trainer
        means = interval.take(self.config.batch_size)
        record = {
            "step": trainer.step,
            "epoch": trainer.step / self.batches.steps_per_epoch,
            **means,
            "lr": max(group["lr"] for group in trainer.optimizer.param_groups),
            "logit_scale": float(checkpoint.whole(trainer.plain.model.clip.logit_scale).exp()),
            "corrupt": self.batches.corrupt,
        }
        if logs is not None:
            logs.write(record)

    def _evaluate(self, logs: Logs | None) -> bool:
        """Run the evaluators; whether the metric that counts has never been better."""
        model = self.trainer.whole_model(self.blueprint)
        if model is not None:
            with torch.no_grad():
                found = {
                    f"{name}/{metric}": float(value)
                    for name, evaluator in self.evaluators.items()
                    for metric, value in evaluator(model).items()
                }
            self.metrics = found
        self.metrics = self.fabric.broadcast(self.metrics)
        self.trainer.train()
        if logs is not None:
            logs.write({"step": self.trainer.step, **self.metrics})
        metric = self.config.best_metric or next(iter(self.metrics), None)
        if metric is None:
            return False
        if metric not in self.metrics:
            raise HeadwordError(
                f"best_metric {metric!r} is none of those measured: {', '.join(self.metrics)}"
            )
        if self.best is not None and self.metrics[metric] <= self.best.value:
            return False
        self.best = Best(self.trainer.step, metric, self.metrics[metric])
        return True

    def _keep(self) -> None:
        state = {
            "config": self.config.as_dict(),
            "data_fingerprint": self.fingerprint,
            "steps_per_epoch": self.batches.steps_per_epoch,
            "loader": self.batches.state_dict(),
            "metrics": self.metrics,
            "best": asdict(self.best) if self.best else None,
        }
        self.trainer.save(checkpoint.folder_of(self.folder, self.trainer.step), state)
        if self.fabric.is_global_zero:
            checkpoint.prune(self.folder, self.config.keep_last, self.best)
        self.fabric.barrier()


@contextmanager
def _computing(config: TrainConfig, fabric: Any) -> Iterator[None]:
    """torch's own random numbers and its choice of algorithms are afterwards as they were."""
    before = torch.are_deterministic_algorithms_enabled()
    cuda = [fabric.device] if fabric.device.type == "cuda" else []
    if config.deterministic and cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS asks
    with torch.random.fork_rng(devices=cuda):
        torch.use_deterministic_algorithms(config.deterministic or before)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
