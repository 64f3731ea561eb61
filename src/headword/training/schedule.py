"""The optimiser and its learning rate: AdamW in groups, linear warm-up, a cosine to 0."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from headword.training.config import TrainConfig

TRUNK = "model.clip.visual.trunk."
"""How names of a trained backbone's parameters begin in a `TrainingModule`."""


def parameter_groups(module: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Parameters by what they get: weight decay or not (`open_clip`'s rule: none for vectors and scalars,
    that is biases, norms, class tokens and logit scale), and the trained backbone's factor or 1.

    Parameters without gradient are left out. Each group carries its highest rate as "peak_lr".
    """
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
    """What the highest learning rate is multiplied by in step `step` (from 0) of `steps`.

    (step + 1) / warmup while warming up, then ½ (1 + cos π t), t from 0 to 1 over the other steps.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give each group its highest rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
