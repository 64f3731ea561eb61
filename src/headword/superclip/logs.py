"""What a run says of itself: `metrics.jsonl`, TensorBoard's event files, Weights & Biases."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import Self

from headword.errors import MissingExtraError
from headword.files import write_text_atomic
from headword.superclip.config import TrainConfig

Record = Mapping[str, float]
METRICS, EVENTS = "metrics.jsonl", "tensorboard"


class Logs:
    """Where records go. Lines of an earlier attempt past `step` are dropped, so that there is one of each.

    Args:
        run: the run's folder.
        config: says which there are.
        step: the run goes on after this one.
        watch: called with each record, too.

    Raises:
        MissingExtraError: if TensorBoard or W&B is asked for and not installed.
    """

    def __init__(
        self, run: Path, config: TrainConfig, step: int, watch: Callable[[Record], None] | None = None
    ) -> None:
        self._watch = watch
        self._tensorboard = _tensorboard(run / EVENTS, step) if config.tensorboard else None
        self._wandb = _wandb(run, config) if config.wandb else None
        path = run / METRICS
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) <= step]
            write_text_atomic(path, "".join(f"{line}\n" for line in kept))
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
