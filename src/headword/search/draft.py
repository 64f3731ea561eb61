"""The next version of an index while it is made: what there is already, and where new rows go."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headword.errors import HeadwordError
from headword.extract.engines import LONG
from headword.model import DualEncoder
from headword.search.catalogue import Entry, salvaged
from headword.search.encoder_identity import encoder_identity
from headword.search.journal import Journal
from headword.search.manifest import Manifest
from headword.search.rows import append_rows, blank_rows, next_rows, present_rows
from headword.search.space import Floats
from headword.search.version import Version


@dataclass(slots=True, kw_only=True)
class Draft:
    """All that the steps of a run share; made by `begin`."""

    folder: Path  # the index
    root: Path  # its images
    model: DualEncoder
    before: Manifest | None
    state: Mapping[str, NDArray[Any]] | None
    """Of the version before; None if it is damaged or belongs to other rows, and so is to be made anew."""
    rows: str  # name of the files of rows
    slots: int  # rows in them
    values: Floats  # the rows of the version before
    previous: dict[str, Entry]  # its entries, by path
    kept: dict[str, Entry]  # those of them whose features stay
    damaged: set[str]  # paths of those whose rows are damaged
    journal: Journal
    how: dict[str, Any]  # on what the rows were computed; empty if nothing was yet


def begin(
    folder: Path, root: Path, model: DualEncoder, before: Manifest | None, count: int, engine: str, dtype: str
) -> Draft:
    """What a run starts from, checked to be of the same images and classifier.

    A small index is exact. When it has become large (`count` files), all of it takes the fast engine.

    Raises:
        HeadwordError: if the index is of other images, another classifier, or another engine.
    """
    identity = encoder_identity(model.vision)
    entries: list[Entry] = []
    state = None
    how: dict[str, Any] = {}
    rows, slots = "rows-000001", 0
    if before is not None:
        _check_same(folder, root, model, before, identity)
        entries, state = _previous(folder, before)
    previous = {entry.path: entry for entry in entries}
    if before is not None and before.space["exact"] and count >= LONG and engine == "auto":
        entries, state, rows = [], None, next_rows(before.rows)  # it has outgrown its engine
    elif before is not None:
        rows, slots, how = before.rows, before.slots, before.space
        if engine not in ("auto", how["engine"]) or dtype not in ("auto", how["precision"]):
            raise HeadwordError(
                f"{folder} was made on {how['engine']} in {how['precision']}: leave out --engine and --dtype "
                "or give another --out"
            )
    values = present_rows(folder, rows, model.vision.dim)
    if len(values) < slots:  # cut short: what is added comes after them all the same
        append_rows(folder, rows, slots, np.empty((0, model.vision.dim), np.float32))

    def sound(entry: Entry) -> bool:
        slot = entry.slot
        return slot < 0 or (slot < len(values) and zlib.crc32(values[slot]) == entry.sum)

    damaged = [entry for entry in entries if not sound(entry)]
    if damaged:
        state = None
        blank_rows(folder, rows, (entry.slot for entry in damaged), model.vision.dim)
    base = {
        "rows": rows,
        "slots": slots,
        "root": str(root),
        "options": [engine, dtype],
        "long": count >= LONG,
    }
    journal = Journal(folder, {**base, **identity}, sound)
    return Draft(
        folder=folder,
        root=root,
        model=model,
        before=before,
        state=state,
        rows=rows,
        slots=slots + journal.rows,
        values=values,
        previous=previous,
        kept={entry.path: entry for entry in entries if sound(entry)},
        damaged={entry.path for entry in damaged},
        journal=journal,
        how=journal.how or how,
    )


def _previous(folder: Path, before: Manifest) -> tuple[list[Entry], Mapping[str, NDArray[Any]] | None]:
    """The last version's entries, and its state; where anything is damaged, those that are whole."""
    try:
        version = Version.open(folder, before)
        version.rows.half(slice(None))
    except HeadwordError:
        return salvaged(folder / before.catalogue), None
    return version.catalogue.entries(), version.catalogue.state


def _check_same(
    folder: Path, root: Path, model: DualEncoder, before: Manifest, identity: Mapping[str, Any]
) -> None:
    if before.root != str(root):
        raise HeadwordError(f"{folder} is the index of {before.root}, not of {root}; give another --out")
    other = next((name for name, fact in identity.items() if before.space[name] != fact), None)
    if other is not None:
        now = model.vision.name if other == "encoder" else f"{model.vision.name} with another {other}"
        raise HeadwordError(
            f"{folder} was made with the classifier {before.space['encoder']}, and this is {now}; give "
            "another --out"
        )
