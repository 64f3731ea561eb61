"""The processes of a run, one or those that `torchrun` started: what they share, and how they are stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from headword.encoders.base import resolve_device
from headword.errors import HeadwordError
from headword.training.config import TrainConfig

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # what a terminal, a batch system and torchrun send

TOLD = b"\r\x1b[Kheadword: ending this step and keeping it; Ctrl-C again stops at once\n"


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of a run; all must call the methods that are told to be collective."""

    rank: int
    world_size: int
    device: torch.device
    dtype: torch.dtype  # of the towers' arithmetic; weights stay float32
    sharded: bool  # whether each process holds a part of every parameter (FSDP2), or all of them (DDP)

    @classmethod
    def join(cls, config: TrainConfig) -> Processes:
        """Meet the other processes, if `torchrun` started this one."""
        world = int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1
        if config.batch_size % (world * config.accumulate):
            raise HeadwordError(
                f"batch_size {config.batch_size} cannot be divided among {world} processes × "
                f"{config.accumulate} pieces (accumulate); choose a multiple of their product"
            )
        device = resolve_device(config.device)
        if world > 1 and device.type == "mps":
            raise HeadwordError("several processes cannot share MPS; use one, or device=cpu")
        sharded = config.strategy == "fsdp"
        if sharded and world == 1:
            start = "torchrun --nproc-per-node N -m headword train"
            raise HeadwordError(f"fsdp shards over several processes; start them with: {start}")
        automatic = torch.bfloat16 if device.type == "cuda" else torch.float32
        dtype = automatic if config.dtype == "auto" else getattr(torch, config.dtype)
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) if world > 1 else device.index or 0)
            torch.cuda.set_device(device)
        if world == 1:
            return cls(0, 1, device, dtype, sharded)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        # open_clip's losses gather by it; nothing a user could mend.
        warnings.filterwarnings("ignore", ".*nn.functional.all_gather is deprecated", FutureWarning)
        return cls(dist.get_rank(), world, device, dtype, sharded)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """A module on its device → what is called in its place; FSDP shards it in place. Collective."""
        if self.world_size == 1:
            return module
        if not self.sharded:  # no parameter is without a gradient: `freeze_unreached`
            return nn.parallel.DistributedDataParallel(module)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.world_size,))
        # Each transformer block is a unit, children first, and all else, model and loss together, one more.
        for part in reversed(list(module.modules())):
            if isinstance(part, nn.ModuleList | nn.Sequential) and _is_stack(part):
                for block in part:
                    fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module

    def unsynchronised(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """A context in which gradients of what `wrap` gave stay in their process."""
        if isinstance(wrapped, nn.parallel.DistributedDataParallel):
            return wrapped.no_sync()
        return _unsharded_gradients(wrapped) if self.world_size > 1 else nullcontext()

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which the towers compute in `dtype`."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def mean(self, tensor: Tensor) -> Tensor:
        """Over all processes. Collective."""
        return self._reduced(tensor, dist.ReduceOp.SUM) / self.world_size

    def maximum(self, tensor: Tensor) -> Tensor:
        """Over all processes. Collective."""
        return self._reduced(tensor, dist.ReduceOp.MAX)

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        if self.world_size > 1:
            dist.all_reduce(tensor := tensor.clone(), op=operation)
        return tensor

    def wait(self) -> None:
        """Until all have come this far. Collective."""
        if self.world_size > 1:
            dist.barrier()

    def from_first(self, value: T) -> T:
        """What the first process holds. Collective."""
        values = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values, device=self.device)
        return values[0]


def whole(tensor: Tensor) -> Tensor:
    """A tensor gathered from its shards, if it has such. Collective."""
    full: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach()


class Stop:
    """Whether a signal asked a run to stop."""

    asked: bool = False


@contextmanager
def stoppable(*, alone: bool) -> Iterator[Stop]:
    """Remember the first of `SIGNALS`; `alone`, the second does as before, while torchrun kills by itself."""
    stop = Stop()
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def remember(*_: object) -> None:
        stop.asked = True
        if alone:
            restore()
            if sys.stderr is not None and sys.stderr.isatty():
                os.write(2, TOLD)  # print is not for signal handlers

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):  # nohup stays nohup
                before[number] = signal.signal(number, remember)
    try:
        yield stop
    finally:
        restore()


@contextmanager
def _unsharded_gradients(module: Any) -> Iterator[None]:
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)


def _is_stack(part: nn.Module) -> bool:
    """Whether all children are of one class and have parts of their own: a tower's blocks."""
    children = list(part.children())
    return len(children) > 1 and len({*map(type, children)}) == 1 and bool([*children[0].children()])
