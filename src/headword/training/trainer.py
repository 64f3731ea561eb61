"""A model in training: one optimiser step after another, on one process or many; kept and restored."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from headword.errors import HeadwordError
from headword.training import checkpoint
from headword.training.build import Blueprint
from headword.training.config import TrainConfig
from headword.training.frozen import frozen_parts
from headword.training.gradcache import TrainingModule, backward
from headword.training.objective import SuperCLIPLosses
from headword.training.schedule import make_optimizer, rate, set_learning_rate
from headword.training.superclip import SuperCLIP

WARMUP_SHARE = 5
"""Warm-up is at most one of so many parts of a run."""

BatchNorm = nn.modules.batchnorm._BatchNorm


class Trainer:
    """Model, loss and optimiser, set up by Fabric, and the step they have reached.

    Args:
        fabric: launched.
        config: all options.
        model: to be trained; it is moved to Fabric's device, and sharded if its strategy does that.
        steps: of the whole run, for the schedule.

    Raises:
        HeadwordError: if the model's batch norms do not go with cached gradients.
    """

    def __init__(self, fabric: Any, config: TrainConfig, model: SuperCLIP, steps: int) -> None:
        self.fabric, self.config, self.steps = fabric, config, steps
        self.step = 0
        """Optimiser steps done."""
        self._frozen_norms = freezes_batch_norm(config, fabric.world_size)
        if config.accumulate > 1 and not self._frozen_norms and has_batch_norm(model):
            raise HeadwordError(
                "batch normalisation looks at a whole batch, which cached gradients never hold; say "
                "freeze_batch_norm=true, or accumulate=1"
            )
        self.frozen = frozen_parts(model)
        """Parts of the model that are not trained."""
        if config.strategy == "fsdp":  # FSDP2 shards no scalars
            for name in ("logit_scale", "logit_bias"):
                scalar = getattr(model.clip, name)
                if scalar is not None:
                    setattr(model.clip, name, nn.Parameter(scalar.detach().reshape(1)))
        # Convolutions are faster with channels last; FSDP2 takes contiguous parameters alone.
        self._format = torch.contiguous_format if config.strategy == "fsdp" else torch.channels_last
        model.to(fabric.device, memory_format=self._format)  # type: ignore[call-overload]
        loss = model.loss(
            contrastive_weight=0.0 if config.method == "superclass" else 1.0,
            weight=0.0 if config.method == "clip" else config.token_weight,
            uniform=config.token_targets == "uniform",
            reference_counting=config.token_targets == "reference",
        )
        self.plain = TrainingModule(model, loss, contrastive=config.method != "superclass")
        """As it is called within this process; its parameters are this process's shards."""
        self.module = fabric.setup_module(self.plain)
        self.optimizer = fabric.setup_optimizers(make_optimizer(self.plain, config, fabric.device))
        self.train()

    def train(self) -> None:
        """Training mode, frozen batch norms staying as in evaluation."""
        self.module.train()
        if self._frozen_norms:
            for part in self.plain.modules():
                if isinstance(part, BatchNorm):
                    part.eval()

    def advance(self, images: Tensor, texts: Tensor) -> tuple[SuperCLIPLosses, Tensor | None]:
        """One optimiser step on this process's share of a batch; returns its losses and the gradient's norm
        before clipping, where it is clipped.
        """
        config, fabric = self.config, self.fabric
        warmup = min(config.warmup, self.steps // WARMUP_SHARE)
        set_learning_rate(self.optimizer, rate(self.step, self.steps, warmup))
        several = fabric.world_size > 1
        losses = backward(
            self.module,
            images.to(memory_format=self._format),
            texts,
            pieces=config.accumulate,
            seed=self._seed,
            differentiate=fabric.backward,
            **({"unsynchronised": lambda: fabric.no_backward_sync(self.module)} if several else {}),
        )
        norm = None
        if config.clip_norm is not None:
            norm = fabric.clip_gradients(
                self.module, self.optimizer, max_norm=config.clip_norm, error_if_nonfinite=False
            )
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.plain.model.clamp_logit_scale_(config.max_logit_scale)
        self.step += 1
        return losses, norm

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Write a checkpoint; every process must call it."""
        first = self.fabric.is_global_zero
        checkpoint.save(folder, self.plain, self.optimizer.optimizer, state, write=first)

    def restore(self, folder: Path) -> dict[str, Any]:
        """Go on from a checkpoint; returns its state."""
        state = checkpoint.read_state(folder)
        checkpoint.restore(folder, self.plain, self.optimizer.optimizer)
        self.step = int(state["step"])
        return state

    def whole_model(self, blueprint: Blueprint) -> SuperCLIP | None:
        """The model for evaluation and saving, in the first process; None in the others, which must call it
        too. Call `train` before the next step.
        """
        if self.config.strategy != "fsdp":
            return self.plain.model.eval() if self.fabric.is_global_zero else None
        tensors = checkpoint.full_tensors(self.plain.model)
        if not self.fabric.is_global_zero:
            return None
        return blueprint.filled(tensors).to(self.fabric.device)

    def _seed(self, piece: int) -> None:
        """Dropout's random numbers: a function of (seed, step, process, piece), so that a checkpoint need not
        keep any, and both passes of a piece draw the same.
        """
        said = f"{self.config.seed} {self.step} {self.fabric.global_rank} {piece}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(said.encode()).digest()[:7], "little"))


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a model normalises over its batch."""
    return any(isinstance(part, BatchNorm) for part in model.modules())


def freezes_batch_norm(config: TrainConfig, world_size: int) -> bool:
    """Whether statistics of batch norms stay as they are."""
    if config.freeze_batch_norm is not None:
        return config.freeze_batch_norm
    return config.backbone is not None and (config.accumulate > 1 or world_size > 1)
