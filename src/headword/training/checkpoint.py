"""Checkpoints: a folder a step, whole or not there, of safetensors and JSON.

`model.safetensors`      the model, and the loss with its word counts
`optimizer.safetensors`  AdamW's moments and step counts, by the names of their parameters
`state.json`             step, options, the data's fingerprint, the loader's state, the best metric so far

Random numbers need no place: each step's are a function of (seed, step, process, piece).
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from headword.errors import HeadwordError
from headword.files import load_tensors, new_folder, read_json, save_tensors, write_text_atomic
from headword.training.config import TrainConfig

FORMAT = 1
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint so far."""

    step: int
    metric: str
    value: float


def full_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's whole state, gathered from its shards; every process must call it."""
    return {name: whole(tensor) for name, tensor in module.state_dict().items()}


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as "exp_avg/NAME", …, gathered likewise."""
    return {
        f"{moment}/{name}": whole(optimizer.state[parameter][moment])
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
        for moment in MOMENTS
    }


def save(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    *,
    write: bool = True,
) -> None:
    """Write a checkpoint. Every process must call it; the one with `write` writes."""
    tensors, moments = full_tensors(module), optimizer_tensors(module, optimizer)
    if not write:
        return
    with new_folder(folder, overwrite=True, marker=STATE) as target:
        save_tensors(target / MODEL, tensors)
        save_tensors(target / OPTIMIZER, moments)
        write_state(target, state)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state.json`, or replace it."""
    write_text_atomic(folder / STATE, json.dumps({"format": FORMAT, **state}, indent=2) + "\n")


def restore(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's tensors into a module and its optimiser, sharded as they are.

    Raises:
        HeadwordError: if a file is missing or damaged, or is of another model.
    """
    tensors, moments = load_tensors(folder / MODEL), load_tensors(folder / OPTIMIZER)
    own = module.state_dict()
    if own.keys() != tensors.keys() or any(own[n].numel() != t.numel() for n, t in tensors.items()):
        raise HeadwordError(f"{folder / MODEL} is of another model than the options name")
    with torch.no_grad():
        for name, value in tensors.items():
            _put(own[name], value)
        for name, parameter in module.named_parameters():
            if f"step/{name}" not in moments:
                continue
            state = {moment: torch.zeros_like(parameter) for moment in MOMENTS[:2]}
            for moment, target in state.items():
                _put(target, moments[f"{moment}/{name}"])
            # Fused AdamW counts steps on the parameter's device.
            state["step"] = moments[f"step/{name}"].to(parameter.device)
            optimizer.state[parameter] = state


def read_state(folder: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint.

    Raises:
        HeadwordError: if there is none, or a newer headword wrote it.
    """
    if not (folder / STATE).is_file():
        raise HeadwordError(f"{folder} is no checkpoint: it has no {STATE}")
    state = read_json(folder / STATE)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise HeadwordError(f"{folder / STATE} is not of format {FORMAT}; another headword wrote it")
    return state


def check_resumable(state: dict[str, Any], folder: Path, config: TrainConfig, fingerprint: str) -> None:
    """Refuse to go on from a checkpoint with other options or other data.

    Raises:
        HeadwordError: with the names of the options that differ.
    """
    before = TrainConfig(**state["config"])
    names = before.differences(config)
    if names:
        said = ", ".join(f"{n} {getattr(before, n)!r} (now {getattr(config, n)!r})" for n in names)
        raise HeadwordError(
            f"{folder} was trained with other options: {said}; give the same, or another --out"
        )
    if state["data_fingerprint"] != fingerprint:
        raise HeadwordError(
            f"{folder} was trained on other data: {config.data} has changed since; give another --out"
        )


def folder_of(run: Path, step: int) -> Path:
    """Where a run's checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def steps_of(run: Path) -> list[int]:
    """The steps of a run's checkpoints, ascending."""
    found = (re.fullmatch(r"step-(\d+)", entry.name) for entry in (run / "checkpoints").glob("step-*"))
    return sorted(int(match[1]) for match in found if match)


def prune(run: Path, keep_last: int, best: Best | None) -> None:
    """Remove all checkpoints but the last few and the best."""
    steps = steps_of(run)
    kept = {*steps[-keep_last:], best.step if best else -1}
    for step in steps:
        if step not in kept:
            shutil.rmtree(folder_of(run, step))


def whole(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, gathered from its shards; every process must call it."""
    full: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu()


def _put(target: Tensor, value: Tensor) -> None:
    value = value.reshape(target.shape).to(target.device)
    if isinstance(target, DTensor):
        value = distribute_tensor(value, target.device_mesh, target.placements)
    target.copy_(value)
