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
from headword.files import save_tensors, sha256
from headword.model import DualEncoder
from headword.search import journal, lock, manifest
from headword.search.manifest import Manifest
from headword.search.rows import BLOCK, Rows, append_rows, rows_there, write_halves
from headword.search.space import Floats, Space, exact_sum, mean_of
from headword.search.table import Entry, table_of, with_tags, write_table
from headword.search.tagging import Labels, label_all

_SPARE = 1024
"""Rows of removed images that may stay however few the others are."""

_COPIED = 4096  # rows at a time

_KINDS = ("rows-", "images-", "state-")
_LANCE = "lance"  # a folder of indices of format 1


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
    halves: NDArray[np.int64] | None
    """Checksums of the blocks of rounded rows that the version before has in these files; None if these, and
    the sum of all features, are to be made anew."""
    centre: str
    """"collection" or "none"."""

    def differs(self) -> bool:
        """Whether it differs from the version that is there though the images are the same."""
        before = self.before
        if before is None or self.halves is None:
            return True
        return (before.model, before.centre["kind"]) != (self.described, self.centre)


def is_ours(name: str) -> bool:
    """Whether a file or folder of this name may lie in an index that was never finished."""
    known = (lock.NAME, journal.NAME, manifest.NAME, _LANCE)
    return name in known or name.startswith((*_KINDS, "."))


def commit(draft: Draft) -> Manifest:
    """Make a draft the version of its index.

    Raises:
        HeadwordError: if the disk is full or fails; the index is then what it was.
    """
    before, folder = draft.before, draft.target
    generation = 1 if before is None else before.generation + 1
    _compact(draft, generation)
    block_sums, rounding = _round(draft)
    rows = Rows.open(folder, draft.rows, draft.slots, draft.model.vision.dim, rounding)
    slots = np.array(sorted(entry.slot for entry in draft.entries if entry.slot >= 0), np.int64)
    total = _sum(draft, rows.values, slots)
    own = draft.model.aligner.centre_.detach().cpu().float().numpy()
    centre = mean_of(total, len(slots)) if draft.centre == "collection" else own
    space = Space.of(draft.model.aligner, centre)
    r = space.inverse_norms(rows.values)
    state = f"state-{generation:06d}"
    tensors = {"centre": centre, "sum": total, "slots": slots, "inverse_norms": r, "block_sums": block_sums}
    save_tensors(
        folder / f"{state}.safetensors", {name: torch.from_numpy(array) for name, array in tensors.items()}
    )
    images = table_of(draft.entries)
    tags = None if before is None else before.tags
    if tags is not None:
        labels = Labels(**tags)
        classifier = draft.model.classifier(
            labels.labels, templates=labels.template, none_of_these=labels.none_of_these
        )
        images = with_tags(images, *label_all(classifier, images, rows, r, space))
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
        rounding=rounding,
        table=name,
        state=state,
        images=len(slots),
        unreadable=len(draft.entries) - len(slots),
        centre={"kind": draft.centre, "images": len(slots)},
        tags=tags,
        files={f: sha256(folder / f) for f in (f"{name}.arrow", f"{state}.safetensors")},
    )
    publish(folder, fresh, before)
    return fresh


def publish(folder: Path, fresh: Manifest, before: Manifest | None) -> None:
    """Put a version in the old one's place, whose files stay until the next one for those who read them."""
    fresh.write(folder)
    kept = {name for said in (fresh, before) if said for name in (said.rows, said.table, said.state)}
    for path in folder.iterdir():
        if path.name.startswith(_KINDS) and path.name.partition(".")[0] not in kept:
            with suppress(OSError):  # Windows keeps what is being read; the next run removes it
                path.unlink()
    shutil.rmtree(folder / _LANCE, ignore_errors=True)


def version_of(generation: int) -> str:
    """A version's name, unlike any other's."""
    return f"{generation}-{uuid.uuid4().hex[:8]}"


def _round(draft: Draft) -> tuple[NDArray[np.int64], float]:
    """Write rounded rows for those that have none yet: checksums of all blocks, and the greatest rounding."""
    before, halves = draft.before, draft.halves
    values = rows_there(draft.target, draft.rows, draft.model.vision.dim)[: draft.slots]
    if before is None or halves is None:
        halves, slots, rounding = np.empty(0, np.int64), 0, 0.0
    else:
        slots, rounding = before.slots, before.rounding
        if slots == draft.slots:
            return halves, rounding
    first = slots // BLOCK  # the last one, if it was not full
    sums, more = write_halves(draft.target, draft.rows, values, first)
    return np.concatenate([halves[:first], np.array(sums, np.int64)]), max(rounding, more)


def _sum(draft: Draft, values: Floats, slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Σ of the features of all images: the old version's, with what came and without what went."""
    before = draft.before
    if before is None or before.rows != draft.rows or draft.halves is None:
        return exact_sum(values, slots)
    state = before.read_state(draft.target)
    then = state["slots"]
    came, went = np.setdiff1d(slots, then), np.setdiff1d(then, slots)
    total: NDArray[np.int64] = state["sum"] + exact_sum(values, came) - exact_sum(values, went)
    return total


def _compact(draft: Draft, generation: int) -> None:
    """Write the rows anew where most of them belong to images that are gone."""
    alive = sorted((entry.slot, n) for n, entry in enumerate(draft.entries) if entry.slot >= 0)
    if draft.slots - len(alive) <= max(_SPARE, len(alive)):
        return
    values = rows_there(draft.target, draft.rows, draft.model.vision.dim)
    draft.rows, draft.slots, draft.halves = f"rows-{generation:06d}", 0, None
    for start in range(0, len(alive), _COPIED):
        part = alive[start : start + _COPIED]
        append_rows(draft.target, draft.rows, draft.slots, values[[slot for slot, _ in part]])
        for place, (_, n) in enumerate(part):
            draft.entries[n] = replace(draft.entries[n], slot=draft.slots + place)
        draft.slots += len(part)
