"""Lightning Fabric, set up for one process or for those that `torchrun` started."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import nn

from headword.encoders.base import resolve_device
from headword.errors import HeadwordError, MissingExtraError
from headword.training.config import TrainConfig


def make_fabric(config: TrainConfig) -> Any:
    """A launched `lightning_fabric.Fabric`: processes know each other, and this one its device.

    Args:
        config: device, dtype and strategy count here, and what the batch is divided by.

    Raises:
        HeadwordError: if the batch cannot be divided evenly, a device is not there, or the strategy does not
            go with the number of processes.
        MissingExtraError: if Lightning Fabric is not installed.
    """
    try:
        from lightning_fabric import Fabric
    except ModuleNotFoundError:
        raise MissingExtraError("training (Lightning Fabric)", "train") from None
    world = int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world)) if world > 1 else 1
    if config.batch_size % (world * config.accumulate):
        raise HeadwordError(
            f"batch_size {config.batch_size} cannot be divided among {world} processes × {config.accumulate} "
            "pieces (accumulate); choose a multiple of their product"
        )
    device = resolve_device(config.device)
    if world > 1 and device.type == "mps":
        raise HeadwordError("several processes cannot share MPS; use one, or device=cpu")
    if config.strategy == "fsdp" and world == 1:
        raise HeadwordError(
            "fsdp shards over several processes; start them with: torchrun --nproc-per-node N -m headword "
            "train"
        )
    fabric = Fabric(
        accelerator=device.type,
        devices=local,
        num_nodes=world // local,
        strategy=_strategy(config, world),
        precision="bf16-mixed" if training_dtype(config, device) == torch.bfloat16 else "32-true",
    )
    fabric.launch()
    return fabric


def training_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """The precision of the towers' arithmetic."""
    if config.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32


def _strategy(config: TrainConfig, world: int) -> Any:
    if world == 1:
        return "auto"
    from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy

    # open_clip's losses gather by it; nothing a user could mend.
    warnings.filterwarnings("ignore", ".*nn.functional.all_gather is deprecated", FutureWarning)

    if config.strategy == "fsdp":
        return ModelParallelStrategy(_shard, data_parallel_size=world, tensor_parallel_size=1)
    return DDPStrategy()  # `freeze_unreached` leaves no parameter without a gradient


def _shard(module: nn.Module, mesh: Any) -> nn.Module:
    """FSDP2: each transformer block a unit, and all else, model and loss together, one more."""
    from torch.distributed.fsdp import fully_shard

    ranks = mesh["data_parallel"]
    for part in reversed(list(module.modules())):  # children before the parts that hold them
        if isinstance(part, nn.ModuleList | nn.Sequential) and _is_stack(part):
            for block in part:
                fully_shard(block, mesh=ranks)
    fully_shard(module, mesh=ranks)
    return module


def _is_stack(part: nn.Module) -> bool:
    """Whether all children are of one class and have parts of their own: a tower's blocks."""
    children = list(part.children())
    kinds = {type(child) for child in children}
    return len(children) > 1 and len(kinds) == 1 and any(True for _ in children[0].children())
