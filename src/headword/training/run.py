"""Training: one run's steps, evaluations and checkpoints, from any checkpoint on to the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from headword.errors import HeadwordError, near
from headword.training import checkpoint, run_folder
from headword.training.build import Blueprint, build, is_saved_model
from headword.training.checkpoint import Best
from headword.training.config import TrainConfig
from headword.training.data import Batches, TrainingSet, open_training_set
from headword.training.engine import make_fabric
from headword.training.feed import ahead, batches_from, make_batches
from headword.training.interrupt import Stop, stoppable
from headword.training.logs import Interval, Logs, Record
from headword.training.superclip import SuperCLIP
from headword.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Evaluator:
    """What a model is measured by as it is trained."""

    metrics: tuple[str, ...]
    """Names of what it measures; the first counts where `best_metric` names none."""
    measure: Callable[[SuperCLIP], Mapping[str, float]]
    """A model in evaluation mode → metrics by name, higher being better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run came to."""

    folder: Path
    """The run's folder."""
    steps: int
    """Of the whole run."""
    frozen: tuple[str, ...]
    """Parts of the model that were not trained, since no loss of the method reaches them."""
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
    say: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train a model as a configuration says, into a folder.

    The first SIGINT (Ctrl-C) or SIGTERM ends the run with a checkpoint of the step under way, where this is
    the main thread; the second does at once what it always does.

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
        say: called with lines for people, likewise.

    Raises:
        HeadwordError: for options, data or folders that do not go together; if another process trains into
            the folder; for a loss that is not finite, with its step and samples.
        KeyboardInterrupt: when interrupted, with what is kept and how to go on; `SystemExit` in all processes
            but the first.
        MissingExtraError: if a library of the extra "train" is missing.
    """
    evaluators = evaluators or {}
    best_metric = _best_metric(config, evaluators)
    fabric = make_fabric(config)
    data = dataset or open_training_set(config.data, split=config.split, seed=config.seed)
    with ExitStack() as stack:
        place = None
        if fabric.is_global_zero:
            find = partial(run_folder.find_place, out, config, data.fingerprint)
            find(resume=resume, overwrite=overwrite)  # refuses before anything is made
            stack.enter_context(run_folder.writing(out))
            place = find(resume=resume, overwrite=overwrite)
        place = fabric.broadcast(place)
        stack.enter_context(_computing(config, fabric))
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
        run = _Run(trainer, batches, blueprint, data.fingerprint, evaluators, best_metric, place.folder)
        if place.source is not None:
            run.restore(place.source)
        start = trainer.step
        if fabric.is_global_zero:
            run_folder.begin(place, config, blueprint, data.fingerprint)
        if start < steps or run.evaluation_is_due:
            logs = Logs(place.folder, config, start, watch) if fabric.is_global_zero else None
            if logs is not None:
                stack.enter_context(logs)
                _announce(say or (lambda _: None), trainer, start)
            stop = stack.enter_context(stoppable(alone=fabric.world_size == 1))
            try:
                run.steps(logs, stop)
            except KeyboardInterrupt:
                if not fabric.is_global_zero:
                    raise SystemExit(130) from None  # one process speaks
                raise KeyboardInterrupt(run_folder.going_on(place.folder)) from None
        return TrainResult(
            folder=place.folder,
            steps=steps,
            frozen=trainer.frozen,
            resumed_from=start,
            metrics=run.metrics,
            best=run.best,
            images_per_second=(steps - start) * config.batch_size / run.seconds if run.seconds else 0.0,
            corrupt=batches.corrupt,
            model=trainer.whole_model(blueprint),
            blueprint=blueprint,
            data_fingerprint=data.fingerprint,
        )


def _best_metric(config: TrainConfig, evaluators: Mapping[str, Evaluator]) -> str | None:
    """Which metric says what checkpoint is the best; None where nothing is measured."""
    names = [f"{name}/{metric}" for name, evaluator in evaluators.items() for metric in evaluator.metrics]
    wanted = config.best_metric
    if wanted is None:
        return names[0] if names else None
    if not names:
        raise HeadwordError(f"best_metric {wanted!r} is not measured, nor is anything; give eval_data")
    if wanted not in names:
        raise HeadwordError(
            f"best_metric {wanted!r} is none of those measured: {', '.join(names)}{near(wanted, names, n=1)}"
        )
    return wanted


def _announce(say: Callable[[str], None], trainer: Trainer, start: int) -> None:
    if trainer.frozen:
        say(f"not trained, since no loss here reaches it: {', '.join(trainer.frozen)}")
    if start < trainer.steps:
        after = f" after step {start:,}" if start else ""
        say(f"{trainer.steps - start:,} steps{after}; Ctrl-C keeps what is done")


def _initialise_token_head(
    config: TrainConfig, model: SuperCLIP, data: TrainingSet, blueprint: Blueprint, world_size: int
) -> None:
    """Words of the recycled backbone into the token head; the first process's first batch sets its bias."""
    from headword.model import load
    from headword.recycling import recycle
    from headword.training.prototypes import init_token_head

    backbone = str(config.backbone)
    dual = load(backbone, device="cpu") if is_saved_model(backbone) else recycle(backbone, device="cpu")
    near = config.replace(workers=0)
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
        best_metric: str | None,
        folder: Path,
    ) -> None:
        self.trainer, self.batches, self.blueprint = trainer, batches, blueprint
        self.fingerprint, self.evaluators, self.folder = fingerprint, evaluators, folder
        self.best_metric = best_metric
        self.config, self.fabric = trainer.config, trainer.fabric
        self.metrics: dict[str, float] = {}
        self.evaluated: int | None = None
        """The step that `metrics` are of."""
        self.best: Best | None = None
        self.seconds = 0.0
        """Spent on steps, waiting for batches included."""

    @property
    def evaluation_is_due(self) -> bool:
        """Whether the step that is done is to be evaluated, and was not."""
        step, every = self.trainer.step, self.config.eval_every
        due = step == self.trainer.steps or (every and step and step % every == 0)
        return bool(self.evaluators and due and self.evaluated != step)

    def steps(self, logs: Logs | None, stop: Stop) -> None:
        """All steps that are left.

        Raises:
            KeyboardInterrupt: when asked to stop, after a checkpoint.
        """
        trainer, config = self.trainer, self.config
        if self.evaluation_is_due:  # stopped in the middle of one
            self._evaluate(logs)
        interval = Interval(self.fabric)
        feed = ahead(partial(batches_from, self.batches, trainer.step, trainer.steps))
        with closing(feed):
            begun = time.perf_counter()
            for batch in feed:
                waited = time.perf_counter() - begun
                images = batch.images.to(self.fabric.device, non_blocking=True)
                texts = batch.texts.to(self.fabric.device, non_blocking=True)
                losses, norm = trainer.advance(images, texts)
                stopping = interval.add(trainer.step, batch, losses, norm, waited, stop.asked)
                last = trainer.step == trainer.steps
                writes = last or trainer.step % config.log_every == 0
                keeps = last or stopping or trainer.step % config.checkpoint_every == 0
                keeps = keeps or self.evaluation_is_due  # an evaluation that fails shall lose nothing
                if writes or keeps:
                    interval.check()
                self.seconds += time.perf_counter() - begun
                interval.seconds += time.perf_counter() - begun
                if writes:
                    self._log(logs, interval)
                if keeps:
                    self._keep()
                if stopping:
                    raise KeyboardInterrupt
                if self.evaluation_is_due:
                    self._evaluate(logs)
                if keeps and self.fabric.is_global_zero:
                    checkpoint.prune(self.folder, config.keep_last, self.best)
                begun = time.perf_counter()
        if stop.asked and self.fabric.world_size == 1:
            raise KeyboardInterrupt

    def restore(self, source: Path) -> None:
        """Go on where a checkpoint was written.

        Raises:
            HeadwordError: if it has taken more steps than the run shall have.
        """
        state = self.trainer.restore(source)
        step, steps = self.trainer.step, self.trainer.steps
        if step > steps:
            raise HeadwordError(
                f"{source} is already past the {steps:,} steps that the run shall have; give more than "
                f"{step:,}"
            )
        self.batches.load_state_dict(state["loader"])
        before = TrainConfig(**state["config"])
        same = (before.eval_data, before.eval_split) == (self.config.eval_data, self.config.eval_split)
        if same:  # else nothing of it compares
            self.metrics, self.evaluated = state["metrics"], state.get("evaluated", step)
        if same and state["best"] and state["best"]["metric"] == self.best_metric:
            self.best = Best(**state["best"])

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

    def _evaluate(self, logs: Logs | None) -> None:
        """Run the evaluators on the step that is done, and write what they say into its checkpoint."""
        model = self.trainer.whole_model(self.blueprint)
        if model is not None:
            try:
                with torch.no_grad():
                    self.metrics = {
                        f"{name}/{metric}": float(value)
                        for name, evaluator in self.evaluators.items()
                        for metric, value in evaluator.measure(model).items()
                    }
            except HeadwordError as error:
                raise HeadwordError(f"{error}; {run_folder.going_on(self.folder)}") from error
        self.metrics = self.fabric.broadcast(self.metrics)
        self.evaluated = self.trainer.step
        self.trainer.train()
        value = self.metrics.get(self.best_metric or "")
        if value is not None and (self.best is None or value > self.best.value):
            self.best = Best(self.trainer.step, str(self.best_metric), value)
        if logs is not None:
            logs.write({"step": self.trainer.step, **self.metrics})
            kept = checkpoint.folder_of(self.folder, self.trainer.step)
            if kept.is_dir():
                checkpoint.write_state(kept, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.trainer.step,
            "config": self.config.as_dict(),
            "data_fingerprint": self.fingerprint,
            "steps_per_epoch": self.batches.steps_per_epoch,
            "loader": self.batches.state_dict(),
            "metrics": self.metrics,
            "evaluated": self.evaluated,
            "best": asdict(self.best) if self.best else None,
        }

    def _keep(self) -> None:
        self.trainer.save(checkpoint.folder_of(self.folder, self.trainer.step), self._state())
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
