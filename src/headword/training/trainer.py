"""The trainer: optimiser steps, evaluations and checkpoints, from any checkpoint on to the end of a run."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headword.errors import HeadwordError
from headword.training import checkpoint
from headword.training.build import Blueprint
from headword.training.checkpoint import Best
from headword.training.config import TrainConfig
from headword.training.data import Batches, ahead
from headword.training.gradcache import backward
from headword.training.logs import Interval, Logs
from headword.training.objective import TrainingTask, frozen_parts, make_task
from headword.training.processes import Processes, Stop, whole
from headword.training.superclip import SuperCLIP

BatchNorm = nn.modules.batchnorm._BatchNorm

MakeTask = Callable[[SuperCLIP, TrainConfig], TrainingTask]
TRUNK = "model.clip.visual.trunk."  # how names of a trained backbone's parameters begin in a task


@dataclass(frozen=True, slots=True)
class Evaluator:
    """What a model is measured by as it is trained."""

    metrics: tuple[str, ...]  # names of what it measures; the first counts where `best_metric` names none
    measure: Callable[[SuperCLIP], Mapping[str, float]]  # by name, higher being better


class Trainer:
    """A model, its losses and their optimiser; the step they have reached; what is read, logged, evaluated
    and kept on the way. Each of the processes has one; `best_metric` says which checkpoint is the best.
    """

    def __init__(
        self,
        config: TrainConfig,
        processes: Processes,
        model: SuperCLIP,
        blueprint: Blueprint,
        batches: Batches,
        *,
        folder: Path,
        fingerprint: str = "",
        evaluators: Mapping[str, Evaluator] | None = None,
        best_metric: str | None = None,
        task: MakeTask = make_task,
    ) -> None:
        self.config, self.processes, self.blueprint, self.batches = config, processes, blueprint, batches
        self.folder, self.fingerprint = folder, fingerprint
        self.evaluators, self.best_metric = evaluators or {}, best_metric
        self.steps = config.epochs * batches.steps_per_epoch if config.epochs else config.steps  # of all
        self.step = 0  # optimiser steps done
        self.metrics: dict[str, float] = {}  # of the last evaluation
        self.evaluated: int | None = None  # the step that `metrics` are of
        self.best: Best | None = None
        self.seconds = 0.0  # spent on steps, waiting for batches included
        divided = config.accumulate > 1 or processes.world_size > 1
        freeze = config.freeze_batch_norm
        self._frozen_norms = config.backbone is not None and divided if freeze is None else freeze
        if config.accumulate > 1 and not self._frozen_norms and has_batch_norm(model):
            raise HeadwordError(
                "batch normalisation looks at a whole batch, which cached gradients never hold; say "
                "freeze_batch_norm=true, or accumulate=1"
            )
        self.frozen = frozen_parts(model)  # parts of the model that are not trained
        if processes.sharded:  # FSDP2 shards no scalars
            for name in ("logit_scale", "logit_bias"):
                if (scalar := getattr(model.clip, name)) is not None:
                    setattr(model.clip, name, nn.Parameter(scalar.detach().reshape(1)))
        # Convolutions are faster with channels last; FSDP2 takes contiguous parameters alone.
        self._format = torch.contiguous_format if processes.sharded else torch.channels_last
        model.to(processes.device, memory_format=self._format)  # type: ignore[call-overload]
        self.task = task(model, config)  # model and losses; its parameters are this process's shards
        if config.ema is not None:
            self.task.keep_average()
        self._module = processes.wrap(self.task)
        self.optimizer = make_optimizer(self.task, config, processes.device)
        self.train()

    def train(self) -> None:
        """Training mode, frozen batch norms staying as in evaluation."""
        self._module.train()
        if self.task.average is not None:
            self.task.average.eval()
        if self._frozen_norms:
            for part in self.task.modules():
                if isinstance(part, BatchNorm):
                    part.eval()

    def advance(self, images: Tensor, texts: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """One optimiser step on this process's share: the losses, and the gradient's norm before clipping."""
        config, device = self.config, self.processes.device
        warmup = min(config.warmup, self.steps // 5)  # a fifth of the run at most
        factor = rate(self.step, self.steps, warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        images = images.to(device, non_blocking=True).to(memory_format=self._format)
        losses = backward(
            self.task,
            {"images": images, "texts": texts.to(device, non_blocking=True)},
            pieces=config.accumulate,
            module=self._forward,
            seed=self._seed,
            unsynchronised=partial(self.processes.unsynchronised, self._module),
        )
        norm = None
        if config.clip_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            norm = whole(nn.utils.clip_grad_norm_(parameters, config.clip_norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.task.model.clamp_logit_scale_(config.max_logit_scale)
        self.step += 1
        if config.ema is not None:
            self.task.update_average(self.step, config.ema)
        return losses, norm

    def run(self, logs: Logs | None, stop: Stop) -> None:
        """All steps that are left; KeyboardInterrupt when asked to stop, after a checkpoint."""
        config = self.config
        if self.evaluation_is_due:  # stopped in the middle of one
            self._evaluate(logs)
        interval = Interval(self.processes)
        with closing(ahead(partial(self.batches.steps, self.step, self.steps))) as feed:
            begun = time.perf_counter()
            for batch in feed:
                waited = time.perf_counter() - begun
                losses, norm = self.advance(batch.images, batch.texts)
                stopping = interval.add(self.step, batch, losses, norm, waited, stop.asked)
                last = self.step == self.steps
                writes = last or self.step % config.log_every == 0
                keeps = last or stopping or self.step % config.checkpoint_every == 0
                keeps = keeps or self.evaluation_is_due  # an evaluation that fails shall lose nothing
                if writes or keeps:
                    interval.check()
                spent = time.perf_counter() - begun
                self.seconds += spent
                interval.seconds += spent
                if writes:
                    self._log(logs, interval)
                if keeps:
                    self.save()
                if stopping:
                    raise KeyboardInterrupt
                if self.evaluation_is_due:
                    self._evaluate(logs)
                if keeps and self.processes.first:
                    checkpoint.prune(self.folder, config.keep_last, self.best)
                begun = time.perf_counter()
        if stop.asked and self.processes.world_size == 1:
            raise KeyboardInterrupt

    @property
    def evaluation_is_due(self) -> bool:
        """Whether the step that is done is to be evaluated, and was not."""
        step, every = self.step, self.config.eval_every
        due = step == self.steps or (every and step and step % every == 0)
        return bool(self.evaluators and due and self.evaluated != step)

    def save(self) -> None:
        """Write a checkpoint; every process must call it."""
        target = checkpoint.folder_of(self.folder, self.step)
        checkpoint.save(target, self.task, self.optimizer, self._state(), write=self.processes.first)
        self.processes.wait()

    def restore(self, source: Path) -> None:
        """Go on where a checkpoint was written."""
        state = checkpoint.read_state(source)
        checkpoint.restore(source, self.task, self.optimizer)
        self.step = int(state["step"])
        if self.step > self.steps:
            raise HeadwordError(
                f"{source} is already past the {self.steps:,} steps that the run shall have; give more than "
                f"{self.step:,}"
            )
        self.batches.load_state_dict(state["loader"])
        before = TrainConfig(**state["config"])
        same = (before.eval_data, before.eval_split) == (self.config.eval_data, self.config.eval_split)
        if same:  # else nothing of it compares
            self.metrics, self.evaluated = state["metrics"], state.get("evaluated", self.step)
        if same and state["best"] and state["best"]["metric"] == self.best_metric:
            self.best = Best(**state["best"])

    def whole_model(self) -> SuperCLIP | None:
        """The model for evaluation, in the first process, else None. Collective; then `train` again."""
        if not self.processes.sharded:
            model = self.task.average or self.task.model
            return model.eval() if self.processes.first else None
        tensors = checkpoint.gathered(self.task)
        return self.blueprint.filled(tensors).to(self.processes.device) if self.processes.first else None

    def _forward(self, *inputs: Any) -> Any:
        with self.processes.autocast():
            return self._module(*inputs)

    def _seed(self, piece: int) -> None:
        """Dropout's random numbers, drawn alike in both passes of a piece; so no checkpoint need keep any."""
        key = f"{self.config.seed} {self.step} {self.processes.rank} {piece}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "little"))

    def _log(self, logs: Logs | None, interval: Interval) -> None:
        record = {
            "step": self.step,
            "epoch": self.step / self.batches.steps_per_epoch,
            **interval.take(self.config.batch_size),
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
            "logit_scale": float(whole(self.task.model.clip.logit_scale).exp()),
            "corrupt": self.batches.corrupt,
        }
        if logs is not None:
            logs.write(record)

    def _evaluate(self, logs: Logs | None) -> None:
        """Run the evaluators on the step that is done, and write what they say into its checkpoint."""
        model = self.whole_model()
        if model is not None:
            try:
                with torch.no_grad():
                    self.metrics = {
                        f"{name}/{metric}": float(value)
                        for name, evaluator in self.evaluators.items()
                        for metric, value in evaluator.measure(model).items()
                    }
            except HeadwordError as error:
                raise HeadwordError(f"{error}; {checkpoint.going_on(self.folder)}") from error
        self.metrics = self.processes.from_first(self.metrics)
        self.evaluated = self.step
        self.train()
        value = self.metrics.get(self.best_metric or "")
        if value is not None and (self.best is None or value > self.best.value):
            self.best = Best(self.step, str(self.best_metric), value)
        if logs is not None:
            logs.write({"step": self.step, **self.metrics})
            kept = checkpoint.folder_of(self.folder, self.step)
            if kept.is_dir():
                checkpoint.write_state(kept, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "config": self.config.as_dict(),
            "data_fingerprint": self.fingerprint,
            "steps_per_epoch": self.batches.steps_per_epoch,
            "loader": self.batches.state_dict(),
            "metrics": self.metrics,
            "evaluated": self.evaluated,
            "best": asdict(self.best) if self.best else None,
        }


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a model normalises over its batch."""
    return any(isinstance(part, BatchNorm) for part in model.modules())


def parameter_groups(module: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Parameters with gradient by weight decay (open_clip's rule: none for vectors and scalars) and rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.ndim < 2 else config.weight_decay
        factor = config.backbone_lr_factor if config.backbone and name.startswith(TRUNK) else 1.0
        groups.setdefault((decay, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr": 0.0, "peak_lr": config.lr * factor}
        for (decay, factor), parameters in groups.items()
    ]


def make_optimizer(module: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, fused where there is such a kernel."""
    return torch.optim.AdamW(
        parameter_groups(module, config),
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=device.type in ("cpu", "cuda"),
    )


def rate(step: int, steps: int, warmup: int) -> float:
    """The learning rate's factor: (step + 1) / warmup, then ½ (1 + cos π t), t from 0 to 1 over the rest."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
