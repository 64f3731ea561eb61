"""A run's folder: `run.json` (what it is), `config.yaml`, `metrics.jsonl`, `checkpoints/`, `model/`."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headword.errors import HeadwordError
from headword.files import check_new_folder, expand, locked, read_json, remove_unfinished, write_text_atomic
from headword.results import environment
from headword.training import checkpoint
from headword.training.build import Blueprint
from headword.training.config import TrainConfig
from headword.training.logs import EVENTS, METRICS

MARKER, OPTIONS, MODEL = "run.json", "config.yaml", "model"
KNOWN = (OPTIONS, METRICS, EVENTS, MODEL, "checkpoints", "wandb")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is written, and where it goes on from."""

    folder: Path
    source: Path | None
    """The checkpoint's folder; None for a run from the start."""
    fresh: bool
    """Whether `folder` is still to be made (or emptied)."""


def find_place(
    out: str | os.PathLike[str],
    config: TrainConfig,
    fingerprint: str,
    *,
    resume: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Place:
    """Settle where a run is written and what it goes on from; nothing is changed on disk yet.

    Raises:
        HeadwordError: if `out` holds something and is neither resumed nor overwritten; if the checkpoint is
            not there, or of other options or data; if later checkpoints of its own run stand in the way.
    """
    folder = expand(out).absolute()
    here = (folder / MARKER).is_file()
    if resume is not None and overwrite:
        raise HeadwordError("a run is resumed or overwritten, not both; leave out --resume or --overwrite")
    if resume is None or (os.fspath(resume) == "auto" and not here):
        if here and not overwrite:
            raise HeadwordError(
                f"{folder} holds a run; go on with it (--resume auto), replace it (--overwrite), or give "
                "another --out"
            )
        check_new_folder(folder, overwrite=overwrite, marker=MARKER, known=KNOWN)
        return Place(folder, None, fresh=True)
    if os.fspath(resume) == "auto":
        checkpoint.check_resumable(_read_run(folder), folder, config, fingerprint)
        steps = checkpoint.steps_of(folder)
        source = checkpoint.folder_of(folder, steps[-1]) if steps else None
    else:
        source = expand(resume).absolute()
    if source is None:  # stopped before its first checkpoint
        return Place(folder, None, fresh=True)
    state = checkpoint.read_state(source)
    checkpoint.check_resumable(state, source, config, fingerprint)
    inside = source.parent.parent == folder
    if inside and checkpoint.steps_of(folder)[-1] > state["step"]:
        raise HeadwordError(
            f"{folder} has later checkpoints than step {state['step']}; go on from the last (--resume auto), "
            "or from this one into another --out"
        )
    if not inside:
        if here:
            raise HeadwordError(f"{folder} holds another run; give the resumed one a new --out")
        check_new_folder(folder)
    return Place(folder, source, fresh=not inside)


@contextmanager
def writing(out: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a run's folder, by a file beside it that is there for as long.

    Raises:
        HeadwordError: if another process trains into it.
    """
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
    """The checkpoint that a path means: itself, or the last of a run.

    Raises:
        HeadwordError: if it is neither, or the run has none yet.
    """
    folder = expand(path).absolute()
    if (folder / checkpoint.STATE).is_file():
        return folder
    if not (folder / MARKER).is_file():
        raise HeadwordError(
            f"{folder} is no run and no checkpoint; give a run's folder, or one of its checkpoints/step-…"
        )
    steps = checkpoint.steps_of(folder)
    if not steps:
        raise HeadwordError(f"{folder} has no checkpoint yet; {going_on(folder)}")
    return checkpoint.folder_of(folder, steps[-1])


def blueprint_of(source: Path) -> Blueprint:
    """How to build the model of a checkpoint, which its run says.

    Raises:
        HeadwordError: if the checkpoint lies outside its run, or that is of another format or damaged.
    """
    run = source.parent.parent
    if not (run / MARKER).is_file():
        raise HeadwordError(f"{source} lies outside its run: there is no {run / MARKER}; put it back")
    try:
        return Blueprint.from_json(_read_run(run)["model"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise HeadwordError(f"{run / MARKER} is damaged: it does not say what the model is") from error


def going_on(folder: Path) -> str:
    """What an interrupted run has kept, and how to go on with it."""
    steps = checkpoint.steps_of(folder)
    kept = f"step {steps[-1]:,} is kept" if steps else "no step was kept"
    headword, processes = "headword", os.environ.get("LOCAL_WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ and processes != "1":
        headword = f"torchrun --nproc-per-node {processes} -m headword"
    return f"{kept}; go on with: {headword} train --resume auto --out {shlex.quote(str(folder))}"


def begin(place: Place, config: TrainConfig, blueprint: Blueprint, fingerprint: str) -> None:
    """Make a new run's folder, or write down the options that a resumed one goes on with."""
    if place.fresh and place.folder.exists():
        shutil.rmtree(place.folder)
    checkpoints = place.folder / "checkpoints"
    remove_unfinished(place.folder, checkpoints, *checkpoints.glob("step-*"))
    said = {
        "format": checkpoint.FORMAT,
        "config": config.as_dict(),
        "data_fingerprint": fingerprint,
        "model": blueprint.as_json(),
        "resumed_from": str(place.source) if place.source else None,
        "environment": environment(),
    }
    write_text_atomic(place.folder / MARKER, json.dumps(said, indent=2) + "\n")
    write_text_atomic(place.folder / OPTIONS, config.as_yaml())


def _read_run(folder: Path) -> dict[str, Any]:
    said = read_json(folder / MARKER)
    if not isinstance(said, dict) or said.get("format") != checkpoint.FORMAT:
        raise HeadwordError(
            f"{folder / MARKER} is not of format {checkpoint.FORMAT}; another headword wrote it"
        )
    return said
