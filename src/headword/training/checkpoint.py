"""A run's folder and the checkpoints in it, whole or not there, of safetensors and JSON.

A checkpoint holds the task (model and word counts), AdamW's moments, and `state.json`: step, options, the
data's fingerprint, the loader's state, the best metric so far. Random numbers need no place: each step's are
a function of (seed, step, process, piece).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from headword.errors import HeadwordError
from headword.files.reading import expand, read_json
from headword.files.tensors import load_tensors, save_tensors
from headword.files.writing import check_new_folder, locked, new_folder, remove_unfinished, write_text_atomic
from headword.results import environment
from headword.training.build import Blueprint
from headword.training.config import TrainConfig
from headword.training.logs import EVENTS, METRICS

FORMAT = 1
RUN, OPTIONS, TRAINED = "run.json", "config.yaml", "model"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
KNOWN = (OPTIONS, METRICS, EVENTS, TRAINED, "checkpoints", "wandb")
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)  # in the first process alone


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint so far."""

    step: int
    metric: str
    value: float


def gathered(task: nn.Module) -> dict[str, Any]:
    """A task's whole state on the CPU, in the first process; every process must call it."""
    return get_model_state_dict(task, options=WHOLE)


def save(
    folder: Path, task: nn.Module, optimizer: Optimizer, state: dict[str, Any], *, write: bool = True
) -> None:
    """Write a checkpoint. Every process must call it; the first, with `write`, writes."""
    tensors = gathered(task)
    present: Any = get_optimizer_state_dict(task, optimizer, options=WHOLE)
    if not write:
        return
    moments = present["state"]
    with new_folder(folder, overwrite=True, marker=STATE) as target:
        save_tensors(target / MODEL, tensors)
        by_name = {f"{kind}/{name}": moments[name][kind] for name in moments for kind in MOMENTS}
        save_tensors(target / OPTIMIZER, by_name)
        write_state(target, state)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state.json`, or replace it."""
    write_text_atomic(folder / STATE, json.dumps({"format": FORMAT, **state}, indent=2) + "\n")


def restore(folder: Path, task: nn.Module, optimizer: Optimizer) -> None:
    """Put a checkpoint's tensors into a task and its optimiser, sharded as they are."""
    tensors, moments = load_tensors(folder / MODEL), load_tensors(folder / OPTIMIZER)
    sizes = {name: tensor.shape for name, tensor in task.state_dict().items()}
    for name in tensors.keys() - sizes.keys():
        if name.startswith("loss."):  # the counts of a loss that the method does not have
            del tensors[name]
    if sizes.keys() != tensors.keys() or any(sizes[n].numel() != t.numel() for n, t in tensors.items()):
        raise HeadwordError(f"{folder / MODEL} is of another model than the options name")
    with torch.no_grad():
        for name, tensor in task.state_dict().items():
            tensor.copy_(_sharded(tensors[name], tensor))
    for name, parameter in task.named_parameters():
        if (step := moments.get(f"step/{name}")) is not None:  # which fused AdamW counts on the device
            state = {kind: _sharded(moments[f"{kind}/{name}"], parameter) for kind in MOMENTS[:2]}
            optimizer.state[parameter] = {**state, "step": step.to(parameter.device)}


def _sharded(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as this process holds it; laid out in memory as `like`, which fused AdamW relies on."""
    value = value.reshape(like.shape).to(like.device)  # FSDP2 has no scalars
    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements)
    return torch.empty_like(like).copy_(value)


def read_state(folder: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint."""
    if not (folder / STATE).is_file():
        raise HeadwordError(f"{folder} is no checkpoint: it has no {STATE}")
    return _read(folder / STATE)


def _check_resumable(state: dict[str, Any], folder: Path, config: TrainConfig, fingerprint: str) -> None:
    """Refuse to go on from a checkpoint with other options or other data, by what differs."""
    before = TrainConfig(**state["config"])
    names = before.differences(config)
    if names:
        changes = ", ".join(f"{n} {getattr(before, n)!r} (now {getattr(config, n)!r})" for n in names)
        raise HeadwordError(
            f"{folder} was trained with other options: {changes}; give the same, or another --out"
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
    folders = (run / "checkpoints").glob("step-*")
    return sorted(int(match[1]) for entry in folders if (match := re.fullmatch(r"step-(\d+)", entry.name)))


def prune(run: Path, keep_last: int, best: Best | None) -> None:
    """Remove all checkpoints but the last few and the best."""
    steps = steps_of(run)
    kept = {*steps[-keep_last:], best.step if best else -1}
    for step in steps:
        if step not in kept:
            shutil.rmtree(folder_of(run, step))


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a run is written, and where it goes on from."""

    folder: Path
    source: Path | None  # the checkpoint's folder; None for a run from the start
    fresh: bool  # whether `folder` is still to be made (or emptied)


def find_place(
    out: str | os.PathLike[str],
    config: TrainConfig,
    fingerprint: str,
    resume: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> RunPlace:
    """Settle where a run is written and what it goes on from; nothing is changed on disk yet."""
    folder = expand(out).absolute()
    here = (folder / RUN).is_file()
    if resume is not None and overwrite:
        raise HeadwordError("a run is resumed or overwritten, not both; leave out --resume or --overwrite")
    if resume is None or (os.fspath(resume) == "auto" and not here):
        if here and not overwrite:
            ways = "go on with it (--resume auto), replace it (--overwrite), or give another --out"
            raise HeadwordError(f"{folder} holds a run; {ways}")
        check_new_folder(folder, overwrite=overwrite, marker=RUN, known=KNOWN)
        return RunPlace(folder, None, fresh=True)
    if os.fspath(resume) == "auto":
        _check_resumable(_read(folder / RUN), folder, config, fingerprint)
        steps = steps_of(folder)
        source = folder_of(folder, steps[-1]) if steps else None
    else:
        source = expand(resume).absolute()
    if source is None:  # stopped before its first checkpoint
        return RunPlace(folder, None, fresh=True)
    state = read_state(source)
    _check_resumable(state, source, config, fingerprint)
    inside = source.parent.parent == folder
    if inside and steps_of(folder)[-1] > state["step"]:
        raise HeadwordError(
            f"{folder} has later checkpoints than step {state['step']}; go on from the last (--resume auto), "
            "or from this one into another --out"
        )
    if not inside:
        if here:
            raise HeadwordError(f"{folder} holds another run; give the resumed one a new --out")
        check_new_folder(folder)
    return RunPlace(folder, source, fresh=not inside)


@contextmanager
def writing(out: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a run's folder, by a file beside it that is there for as long."""
    folder = expand(out).resolve()
    file = folder.with_name(f".{folder.name}.lock")
    refusal = f"another process is training into {folder}; wait for it, or give another --out"
    with locked(file, refusal):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file
                file.unlink()


def options_of(out: str | os.PathLike[str], resume: str) -> Path | None:
    """The options of the run that `--resume` goes on with, where they are there."""
    run = expand(out) if resume == "auto" else expand(resume).absolute().parent.parent
    return run / OPTIONS if (run / OPTIONS).is_file() else None


def checkpoint_at(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that a path means: itself, or the last of a run."""
    folder = expand(path).absolute()
    if (folder / STATE).is_file():
        return folder
    if not (folder / RUN).is_file():
        raise HeadwordError(
            f"{folder} is no run and no checkpoint; give a run's folder, or one of its checkpoints/step-…"
        )
    steps = steps_of(folder)
    if not steps:
        raise HeadwordError(f"{folder} has no checkpoint yet; {going_on(folder)}")
    return folder_of(folder, steps[-1])


def blueprint_of(source: Path) -> Blueprint:
    """How to build the model of a checkpoint, which its run says."""
    run = source.parent.parent
    if not (run / RUN).is_file():
        raise HeadwordError(f"{source} lies outside its run: there is no {run / RUN}; put it back")
    try:
        return Blueprint.from_json(_read(run / RUN)["model"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise HeadwordError(f"{run / RUN} is damaged: it does not say what the model is") from error


def going_on(folder: Path) -> str:
    """What an interrupted run has kept, and how to go on with it."""
    steps = steps_of(folder)
    kept = f"step {steps[-1]:,} is kept" if steps else "no step was kept"
    headword, processes = "headword", os.environ.get("LOCAL_WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ and processes != "1":
        headword = f"torchrun --nproc-per-node {processes} -m headword"
    return f"{kept}; go on with: {headword} train --resume auto --out {shlex.quote(str(folder))}"


def begin(place: RunPlace, config: TrainConfig, blueprint: Blueprint, fingerprint: str) -> None:
    """Make a new run's folder, or write down the options that a resumed one goes on with."""
    if place.fresh and place.folder.exists():
        shutil.rmtree(place.folder)
    checkpoints = place.folder / "checkpoints"
    remove_unfinished(place.folder, checkpoints, *checkpoints.glob("step-*"))
    content = {
        "format": FORMAT,
        "config": config.as_dict(),
        "data_fingerprint": fingerprint,
        "model": blueprint.as_json(),
        "resumed_from": str(place.source) if place.source else None,
        "environment": environment(),
    }
    write_text_atomic(place.folder / RUN, json.dumps(content, indent=2) + "\n")
    write_text_atomic(place.folder / OPTIONS, config.as_yaml())


def _read(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise HeadwordError(f"{file} is not of format {FORMAT}; another headword wrote it")
    return content
