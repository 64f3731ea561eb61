"""What the tests of training share: the smallest run that has all its parts."""

from __future__ import annotations

from typing import Any

from headword.training.config import TrainConfig

TINY: dict[str, Any] = {
    "data": "shapes:images=64,size=32",
    "image_size": 32,
    "vision_width": 32,
    "vision_layers": 1,
    "text_width": 32,
    "text_layers": 1,
    "embed_dim": 16,
    "batch_size": 8,
    "steps": 12,
    "warmup": 2,
    "log_every": 1,
    "checkpoint_every": 4,
    "device": "cpu",
    "tensorboard": False,
}
"""Eight steps an epoch."""


def tiny(**options: Any) -> TrainConfig:
    """`TINY` with other options."""
    return TrainConfig(**{**TINY, **options})
