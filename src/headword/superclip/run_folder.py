"""A run's folder: `run.json` (what it is), `config.yaml`, `metrics.jsonl`, `checkpoints/`, `model/`."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from headword.errors import HeadwordError
from headword.files import check_new_folder, expand, read_json, write_text_atomic
from headword.results import environment
from headword.superclip import checkpoint
from headword.superclip.build import Blueprint
from headword.superclip.config import TrainConfig
from headword.superclip.logs import EVENTS, METRICS

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


def begin(place: Place, config: TrainConfig, blueprint: Blueprint, fingerprint: str) -> None:
    """Make a new run's folder, or write down the options that a resumed one goes on with."""
    if place.fresh and place.folder.exists():
        shutil.rmtree(place.folder)
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


def _read_run(folder: Path) -> dict[str, object]:
    said = read_json(folder / MARKER)
    if not isinstance(said, dict) or said.get("format") != checkpoint.FORMAT:
        raise HeadwordError(
            f"{folder / MARKER} is not of format {checkpoint.FORMAT}; another headword wrote it"
        )
    return said
