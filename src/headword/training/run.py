"""A run from its options to its result: the folder, the processes, the data, the model, then the trainer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headword.errors import HeadwordError, near
from headword.training import checkpoint
from headword.training.build import Blueprint, build, is_saved_model
from headword.training.checkpoint import Best
from headword.training.config import TrainConfig
from headword.training.data import Batches, TrainingSet, TrainTransform, open_training_set
from headword.training.logs import Logs, Record
from headword.training.objective import make_task
from headword.training.processes import Processes, stoppable
from headword.training.superclip import SuperCLIP
from headword.training.trainer import Evaluator, MakeTask, Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run came to."""

    folder: Path  # the run's folder
    steps: int  # of the whole run
    frozen: tuple[str, ...]  # parts of the model that were not trained, since no loss reaches them
    resumed_from: int  # the step it went on after; 0 for a new run
    metrics: dict[str, float]  # of the last evaluation
    best: Best | None  # the best evaluation, whose checkpoint is kept
    images_per_second: float  # over all processes, evaluations and checkpoints left out
    corrupt: int  # unreadable samples that were replaced
    model: SuperCLIP | None  # the trained model, in evaluation mode; None in all processes but the first
    token_counts: Tensor | None  # `[V]`, how many captions had each token, where the loss counts them
    blueprint: Blueprint  # how to build it again
    data_fingerprint: str


def train(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    dataset: TrainingSet | None = None,
    evaluators: Mapping[str, Evaluator] | None = None,
    task: MakeTask = make_task,
    resume: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    watch: Callable[[Record], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> TrainResult:
    """Train a model as a configuration says, into a folder.

    The first SIGINT (Ctrl-C) or SIGTERM ends the run with a checkpoint of the step under way, where this is
    the main thread; the second does at once what it always does.

    Args:
        config: all options.
        out: the run's folder, a new one unless `resume` or `overwrite` is given.
        dataset: in place of the one that `config.data` names.
        evaluators: run every `config.eval_every` steps and at the end; logged as "NAME/METRIC".
        task: makes the model's losses of it and the configuration, in place of the ones that `method` names.
        resume: "auto", from the last checkpoint in `out` where there is one; or a checkpoint's folder.
        overwrite: replace another run in `out`.
        watch: called with each record that is logged; as `say`, in the first process.
        say: called with lines for people.

    Raises:
        HeadwordError: for options, data or folders that do not go together; if another process trains into
            the folder; for a loss that is not finite, with its step and samples.
        KeyboardInterrupt: when interrupted, with what is kept and how to go on; `SystemExit` in all
            processes but the first.
        MissingExtraError: if a library of the extra "train" is missing.
    """
    evaluators = evaluators or {}
    best_metric = _best_metric(config, evaluators)
    processes = Processes.join(config)
    data = dataset or open_training_set(config.data, split=config.split, seed=config.seed)
    with ExitStack() as stack:
        place = None
        if processes.first:
            find = partial(checkpoint.find_place, out, config, data.fingerprint, resume, overwrite)
            find()  # refuses before anything is made
            stack.enter_context(checkpoint.writing(out))
            place = find()
        place = processes.from_first(place)
        assert place is not None
        stack.enter_context(_computing(config, processes.device))
        model, blueprint = build(config)
        batches = make_batches(
            config, data, blueprint, model.tokenizer, rank=processes.rank, world_size=processes.world_size,
            pin_memory=processes.device.type == "cuda",
        )  # fmt: skip
        if config.token_init == "prototypes" and place.source is None:
            _initialise_token_head(config, model, data, blueprint, processes.world_size)
        trainer = Trainer(
            config, processes, model, blueprint, batches, folder=place.folder, fingerprint=data.fingerprint,
            evaluators=evaluators, best_metric=best_metric, task=task,
        )  # fmt: skip
        if place.source is not None:
            trainer.restore(place.source)
        start = trainer.step
        if processes.first:
            checkpoint.begin(place, config, blueprint, data.fingerprint)
        if start < trainer.steps or trainer.evaluation_is_due:
            logs = Logs(place.folder, config, start, watch) if processes.first else None
            if logs is not None:
                stack.enter_context(logs)
                if trainer.frozen:
                    say(f"not trained, since no loss here reaches it: {', '.join(trainer.frozen)}")
                if start < trainer.steps:
                    after = f" after step {start:,}" if start else ""
                    say(f"{trainer.steps - start:,} steps{after}; Ctrl-C keeps what is done")
            stop = stack.enter_context(stoppable(alone=processes.world_size == 1))
            try:
                trainer.run(logs, stop)
            except KeyboardInterrupt:
                if not processes.first:
                    raise SystemExit(130) from None  # one process speaks
                raise KeyboardInterrupt(checkpoint.going_on(place.folder)) from None
        images = (trainer.steps - start) * config.batch_size
        return TrainResult(
            folder=place.folder, steps=trainer.steps, frozen=trainer.frozen, resumed_from=start,
            metrics=trainer.metrics, best=trainer.best, corrupt=batches.corrupt, blueprint=blueprint,
            images_per_second=images / trainer.seconds if trainer.seconds else 0.0,
            model=trainer.whole_model(), token_counts=trainer.task.token_counts,
            data_fingerprint=data.fingerprint,
        )  # fmt: skip


def make_batches(
    config: TrainConfig,
    dataset: TrainingSet,
    blueprint: Blueprint,
    tokenizer: Any,
    *,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Batches:
    """The loader that a configuration means."""
    preprocess = blueprint.preprocess_cfg
    transform = TrainTransform(
        size=blueprint.image_size, mean=tuple(preprocess["mean"]), std=tuple(preprocess["std"]),
        scale=(config.crop, 1.0), flip=config.flip, interpolation=preprocess["interpolation"],
    )  # fmt: skip
    return Batches(
        dataset, batch_size=config.batch_size // world_size, transform=transform, tokenize=tokenizer,
        seed=config.seed, rank=rank, world_size=world_size, workers=config.workers, pin_memory=pin_memory,
        rewritten_share=config.rewritten_share, max_corrupt=config.max_corrupt,
    )  # fmt: skip


def _best_metric(config: TrainConfig, evaluators: Mapping[str, Evaluator]) -> str | None:
    """Which metric says what checkpoint is the best; None where nothing is measured."""
    names = [f"{name}/{metric}" for name, evaluator in evaluators.items() for metric in evaluator.metrics]
    best = config.best_metric
    if best is None:
        return names[0] if names else None
    if not names:
        raise HeadwordError(f"best_metric {best!r} is not measured, nor is anything; give eval_data")
    if best not in names:
        known = f"{', '.join(names)}{near(best, names, n=1)}"
        raise HeadwordError(f"best_metric {best!r} is none of those measured: {known}")
    return best


def _initialise_token_head(
    config: TrainConfig, model: SuperCLIP, data: TrainingSet, blueprint: Blueprint, world_size: int
) -> None:
    """Words of the recycled backbone into the token head; the first process's first batch sets its bias."""
    from headword.model import load
    from headword.recycling import recycle
    from headword.training.prototypes import init_token_head

    backbone = str(config.backbone)
    dual = load(backbone, device="cpu") if is_saved_model(backbone) else recycle(backbone, device="cpu")
    options = config.replace(workers=0)
    batches = make_batches(options, data, blueprint, model.tokenizer, world_size=world_size)
    model.eval()
    with torch.no_grad():
        features = model(next(batches.epoch(0)).images)["token_features"]
    init_token_head(model, dual, features=features)
    model.train()


@contextmanager
def _computing(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """torch's own random numbers and its choice of algorithms are afterwards as they were."""
    before = torch.are_deterministic_algorithms_enabled()
    cuda = [device] if device.type == "cuda" else []
    if config.deterministic and cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS asks
    with torch.random.fork_rng(devices=cuda):
        torch.use_deterministic_algorithms(config.deterministic or before)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
