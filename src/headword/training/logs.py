"""What a run says of itself: means between two lines, `metrics.jsonl`, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from headword.errors import HeadwordError, MissingExtraError
from headword.files import write_text_atomic
from headword.training.config import TrainConfig
from headword.training.data import Batch
from headword.training.processes import Processes

Record = Mapping[str, float]
METRICS, EVENTS = "metrics.jsonl", "tensorboard"


class Logs:
    """Where records go, `watch` included. Lines of an earlier attempt past `step` are dropped."""

    def __init__(
        self, run: Path, config: TrainConfig, step: int, watch: Callable[[Record], None] | None = None
    ) -> None:
        self._watch = watch
        self._tensorboard = _tensorboard(run / EVENTS, step) if config.tensorboard else None
        self._wandb = _wandb(run, config) if config.wandb else None
        path = run / METRICS
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            write_text_atomic(path, "".join(f"{line}\n" for line in lines if _step(line) <= step))
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        """Log numbers by name; "step" is one of them."""
        self._file.write(json.dumps(dict(record)) + "\n")
        self._file.flush()
        step = int(record["step"])
        values = {name: value for name, value in record.items() if name != "step"}
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name if "/" in name else f"train/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)
        if self._watch is not None:
            self._watch(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


class Interval:
    """Sums between two lines of the log, kept on the device: what is not finite is noticed one step later."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._pending: tuple[int, Batch, Tensor, torch.cuda.Event | None] | None = None
        self._stopping = False
        self._sums: dict[str, Any] = {}
        self._steps, self._norm = 0, torch.zeros(())
        self._waited = self.seconds = 0.0

    def add(
        self,
        step: int,
        batch: Batch,
        losses: Mapping[str, Tensor],
        norm: Tensor | None,
        waited: float,
        stop: bool = False,
    ) -> bool:
        """Count a step, which waited `waited` seconds for its batch; returns whether to end with it.

        All processes end with the same step: alone when `stop` says so, several a step after one was told to.
        """
        self.check()
        total = losses["loss"]
        norm = torch.zeros_like(total) if norm is None else norm
        told = self._processes.maximum(torch.tensor(float(stop), device=total.device))
        # Copied now: asked for later, the value would wait for the step that is then under way.
        values = torch.stack([total, norm.to(total), told]).to("cpu", non_blocking=True)
        event = torch.cuda.Event() if total.is_cuda else None  # type: ignore[no-untyped-call]
        if event is not None:
            event.record()
        self._pending = (step, batch, values, event)
        self._sums = {name: self._sums.get(name, 0) + loss.float() for name, loss in losses.items()}
        self._norm = norm
        self._steps += 1
        self._waited += waited
        return stop if self._processes.world_size == 1 else self._stopping

    def check(self) -> None:
        """Refuse a last step whose loss or gradient's norm is not finite."""
        if self._pending is None:
            return
        step, batch, values, event = self._pending
        self._pending = None
        if event is not None:
            event.synchronize()
        loss, norm, told = values.tolist()
        self._stopping = bool(told)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            shown = ", ".join(batch.ids[:8]) + (", …" if len(batch.ids) > 8 else "")
            raise HeadwordError(
                f"the loss is {loss}, its gradient's norm {norm} in step {step}, samples {shown}; lower lr, "
                "or train in float32; checkpoints are from before"
            )

    def take(self, batch_size: int) -> dict[str, float]:
        """Means over the interval and all processes, which must all call it; and a new interval."""
        sums = self._processes.mean(torch.stack(list(self._sums.values())))
        means = dict(zip(self._sums, (sums / self._steps).tolist(), strict=True))
        means["n_empty"] = means.get("n_empty", 0.0) * self._processes.world_size
        record = {
            **dict.fromkeys(("loss", "contrastive", "token"), 0.0),
            **means,
            "grad_norm": float(self._norm),
            "images_per_second": batch_size * self._steps / self.seconds,
            "data_wait": self._waited / self.seconds,
        }
        self._sums, self._steps = {}, 0
        self._waited = self.seconds = 0.0
        return record


def _step(line: str) -> float:
    """The step of a record; a line that a killed run did not finish has none that counts."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise MissingExtraError("TensorBoard (else say tensorboard=false)", "train") from None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _wandb(run: Path, config: TrainConfig) -> Any:
    try:
        import wandb
    except ModuleNotFoundError:
        raise MissingExtraError("Weights & Biases", "wandb") from None
    return wandb.init(project=config.wandb, name=run.name, dir=str(run), config=config.as_dict())
