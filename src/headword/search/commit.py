"""The last step of a run: what belongs to all rows, the catalogue, and the manifest that names them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headword.search.catalogue import Entry, Indices, Tag, write_catalogue
from headword.search.draft import Draft
from headword.search.manifest import publish
from headword.search.rows import BLOCK, Rows, append_rows, next_rows, present_rows, write_halves
from headword.search.space import Floats, Space, exact_sum, mean_of
from headword.search.tagging import TagLabels, label_all

_SPARE = 1024
"""Rows of removed images that may stay however few the others are."""

_COPIED = 4096  # rows at a time


def commit(
    draft: Draft, entries: Sequence[Entry], *, model: dict[str, Any], how: dict[str, Any], centre: str
) -> None:
    """Make a draft, whose rows are on the disk, the version of its index; facts are as in its manifest.

    Raises:
        HeadwordError: if the disk is full or fails; the index is then what it was.
    """
    before, folder, aligner = draft.before, draft.folder, draft.model.aligner
    entries = _compacted(draft, entries)
    read = sorted((entry for entry in entries if entry.slot >= 0), key=lambda entry: entry.path)
    slots = np.array([entry.slot for entry in read], np.int64)
    block_sums, rounding = _round(draft)
    rows = Rows.open(folder, draft.rows, draft.slots, draft.model.vision.dim, rounding)
    total = _total(draft, rows.values, slots)
    own: Floats = aligner.centre_.detach().cpu().float().numpy()
    space = Space.of(aligner, mean_of(total, len(slots)) if centre == "collection" else own)
    state: dict[str, NDArray[Any]] = {
        "slots": slots,
        "sums": np.array([entry.sum for entry in read], np.int64),
        "block_sums": block_sums,
        "inverse_norms": space.inverse_norms(rows.values),
        "centre": space.centre,
        "total": total,
    }
    tags = None if before is None else before.tags
    labelled: Iterable[Tag] = ()
    if tags is not None:
        labels = TagLabels(**tags)
        classifier = draft.model.classifier(
            labels.labels, templates=labels.template, none_of_these=labels.none_of_these
        )
        labelled = label_all(classifier, slots, rows, state["inverse_norms"], space)
    unreadable = [entry for entry in entries if entry.slot < 0]
    facts = {
        "root": str(draft.root),
        "model": model,
        "space": how,
        "dim": draft.model.vision.dim,
        "rows": draft.rows,
        "slots": draft.slots,
        "rounding": rounding,
        "images": len(read),
        "unreadable": len(unreadable),
        "centre": {"kind": centre, "images": len(read)},
        "tags": tags,
    }
    publish(folder, before, lambda path: write_catalogue(path, [*read, *unreadable], state, labelled), facts)


def _round(draft: Draft) -> tuple[Indices, float]:
    """Write rounded rows for those that have none yet: checksums of all blocks, and the greatest rounding."""
    sums, slots, rounding = np.empty(0, np.int64), 0, 0.0
    if draft.before is not None and draft.state is not None:
        sums, slots, rounding = draft.state["block_sums"], draft.before.slots, draft.before.rounding
        if slots == draft.slots:
            return sums, rounding
    values = present_rows(draft.folder, draft.rows, draft.model.vision.dim)[: draft.slots]
    first = slots // BLOCK  # the last one, if it was not full
    fresh, greatest = write_halves(draft.folder, draft.rows, values, first)
    return np.concatenate([sums[:first], np.array(fresh, np.int64)]), max(rounding, greatest)


def _total(draft: Draft, values: Floats, slots: Indices) -> Indices:
    """Σ of the features of all images: the old version's, with what came and without what went."""
    if draft.state is None:
        return exact_sum(values, slots)
    before = draft.state["slots"]
    came, went = np.setdiff1d(slots, before), np.setdiff1d(before, slots)
    total: Indices = draft.state["total"] + exact_sum(values, came) - exact_sum(values, went)
    return total


def _compacted(draft: Draft, entries: Sequence[Entry]) -> list[Entry]:
    """The entries; where most rows belong to images that are gone, the rows are written anew."""
    alive = sorted((entry for entry in entries if entry.slot >= 0), key=lambda entry: entry.slot)
    if draft.slots - len(alive) <= max(_SPARE, len(alive)):
        return list(entries)
    values = present_rows(draft.folder, draft.rows, draft.model.vision.dim)
    draft.rows, draft.slots, draft.state = next_rows(draft.rows), len(alive), None
    for start in range(0, len(alive), _COPIED):
        part = [entry.slot for entry in alive[start : start + _COPIED]]
        append_rows(draft.folder, draft.rows, start, values[part])
    moved = [replace(entry, slot=slot) for slot, entry in enumerate(alive)]
    return moved + [entry for entry in entries if entry.slot < 0]
