"""The last step of every change: files of a new version beside the old one's, then the manifest."""

from __future__ import annotations

import datetime
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headword import __version__
from headword.dual_encoder import DualEncoder
from headword.files import load_tensors, save_tensors
from headword.search import journal, lock, manifest, table
from headword.search.manifest import Manifest
from headword.search.rows import Rows, append_rows
from headword.search.space import Floats, Space, exact_sum, mean_of
from headword.search.table import Entry, table_of, with_tags, write_table
from headword.search.tagging import Labels, label_all

_SPARE = 1024
"""Rows of removed images that may stay however few the others are."""

_COPIED = 4096  # rows at a time

_KINDS = ("rows-", "images-", "state-", "neighbours-")


@dataclass(slots=True, kw_only=True)
class Draft:
    """All that makes a version of an index, whose rows are on the disk already."""

    target: Path
    root: Path
    model: DualEncoder
    described: dict[str, Any]
    space: dict[str, Any]
    before: Manifest | None
    entries: list[Entry]
    rows: str
    slots: int
    rounding: float
    centre: str
    """"collection" or "none"."""
    approximate: bool | None

    def differs(self) -> bool:
        """Whether it differs from the version that is there though the images are the same."""
        before = self.before
        return before is None or (before.model, before.centre["kind"]) != (self.described, self.centre)


def is_ours(name: str) -> bool:
    """Whether a file or folder of this name may lie in an index that was never finished."""
    known = (lock.NAME, journal.NAME, manifest.NAME, table.DATABASE)
    return name in known or name.startswith((*_KINDS, "."))


def commit(draft: Draft) -> Manifest:
    """Make a draft the version of its index.

    Raises:
        HeadwordError: if the disk is full or fails; the index is then what it was.
    """
    before, folder = draft.before, draft.target
    generation = 1 if before is None else before.generation + 1
    _compact(draft, generation)
    rows = Rows.open(folder, draft.rows, draft.slots, draft.model.vision.dim, draft.rounding)
    slots = np.array(sorted(entry.slot for entry in draft.entries if entry.slot >= 0), np.int64)
    total = _sum(draft, rows.values, slots)
    own = draft.model.aligner.centre_.detach().cpu().float().numpy()
    centre = mean_of(total, len(slots)) if draft.centre == "collection" else own
    space = Space.of(draft.model.aligner, centre)
    r = space.inverse_norms(rows.values)
    state = f"state-{generation:06d}"
    tensors = {"centre": centre, "sum": total, "slots": slots, "inverse_norms": r}
    save_tensors(
        folder / f"{state}.safetensors", {name: torch.from_numpy(array) for name, array in tensors.items()}
    )
    images = table_of(draft.entries)
    tags = None
    if before is not None and before.tags is not None:
        labels = Labels(**before.tags)
        images = with_tags(images, *label_all(draft.model, labels, images, rows.values, r, space))
        tags = before.tags
    name = f"images-{generation:06d}"
    write_table(folder, name, images)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    fresh = Manifest(
        version=version_of(generation),
        generation=generation,
        headword=__version__,
        created=now if before is None else before.created,
        updated=now,
        root=str(draft.root),
        model=draft.described,
        space=draft.space,
        dim=draft.model.vision.dim,
        rows=draft.rows,
        slots=draft.slots,
        rounding=draft.rounding,
        table=name,
        state=state,
        images=len(slots),
        unreadable=len(draft.entries) - len(slots),
        centre={"kind": draft.centre, "images": len(slots)},
        tags=tags,
    )
    publish(folder, fresh, before)
    return fresh


def publish(folder: Path, fresh: Manifest, before: Manifest | None) -> None:
    """Put a version in the old one's place, whose files stay until the next one for those who read them."""
    fresh.write(folder)
    kept = {name for said in (fresh, before) if said for name in (said.rows, said.table, said.state)}
    for path in [*folder.iterdir(), *(folder / table.DATABASE).glob("*")]:
        if path.name.startswith(_KINDS) and path.name.partition(".")[0] not in kept:
            with suppress(OSError):  # Windows keeps what is being read; the next run removes it
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def version_of(generation: int) -> str:
    """A version's name, unlike any other's."""
    return f"{generation}-{uuid.uuid4().hex[:8]}"


def _sum(draft: Draft, values: Floats, slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Σ of the features of all images: the old version's, with what came and without what went."""
    before = draft.before
    if before is None or before.rows != draft.rows:
        return exact_sum(values, slots)
    state = load_tensors(draft.target / f"{before.state}.safetensors")
    then = state["slots"].numpy()
    came, went = np.setdiff1d(slots, then), np.setdiff1d(then, slots)
    total: NDArray[np.int64] = state["sum"].numpy() + exact_sum(values, came) - exact_sum(values, went)
    return total


def _compact(draft: Draft, generation: int) -> None:
    """Write the rows anew where most of them belong to images that are gone."""
    alive = sorted((entry.slot, n) for n, entry in enumerate(draft.entries) if entry.slot >= 0)
    if draft.slots - len(alive) <= max(_SPARE, len(alive)):
        return
    old = Rows.open(draft.target, draft.rows, draft.slots, draft.model.vision.dim, draft.rounding)
    draft.rows, draft.slots, draft.rounding = f"rows-{generation:06d}", 0, 0.0
    for start in range(0, len(alive), _COPIED):
        part = alive[start : start + _COPIED]
        units = old.values[[slot for slot, _ in part]]
        rounding = append_rows(draft.target, draft.rows, draft.slots, units)
        draft.rounding = max(draft.rounding, rounding)
        for place, (_, n) in enumerate(part):
            draft.entries[n] = replace(draft.entries[n], slot=draft.slots + place)
        draft.slots += len(part)
