"""The next version of an index while it is made: what there is already, where new rows go, the journal."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headword.encoders.fingerprint import encoder_identity
from headword.errors import HeadwordError
from headword.extract.engines import LONG
from headword.model import DualEncoder
from headword.search.catalogue import Corrections, Entry, salvaged
from headword.search.manifest import Manifest, not_written
from headword.search.rows import append_rows, blank_rows, next_rows, present_rows
from headword.search.space import Floats
from headword.search.version import Version

_IN_HEX = ("raw", "content")  # bytes of an entry, in the journal


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
    corrections: Mapping[str, Corrections]  # what was said by hand of its images, by path
    journal: Journal
    space: dict[str, Any]  # on what the rows were computed, as in the manifest; empty if nothing was yet


def begin(
    folder: Path, root: Path, model: DualEncoder, before: Manifest | None, count: int, engine: str, dtype: str
) -> Draft:
    """What a run starts from, checked to be of the same images and classifier.

    A small index is exact. When it has become large (`count` files), all of it takes the fast engine.
    """
    identity, dim = encoder_identity(model.vision), model.vision.dim
    entries: list[Entry] = []
    kept: list[Entry] = []
    state = None
    corrections: Mapping[str, Corrections] = {}
    space: dict[str, Any] = {}
    rows, slots = "rows-000001", 0
    if before is not None:
        _check_same(folder, root, model, before, identity)
        entries, state, corrections = _previous(folder, before)
        if before.space["exact"] and count >= LONG and engine == "auto":
            state, rows = None, next_rows(before.rows)  # it has outgrown its engine
        else:
            kept, rows, slots, space = entries, before.rows, before.slots, before.space
            if engine not in ("auto", space["engine"]) or dtype not in ("auto", space["precision"]):
                raise HeadwordError(
                    f"{folder} was made on {space['engine']} in {space['precision']}: leave out --engine and "
                    "--dtype or give another --out"
                )
    values = present_rows(folder, rows, dim)
    if len(values) < slots:  # cut short: what is added comes after them all the same
        append_rows(folder, rows, slots, np.empty((0, dim), np.float32))

    def sound(entry: Entry) -> bool:
        slot = entry.slot
        return slot < 0 or (slot < len(values) and zlib.crc32(values[slot]) == entry.sum)

    damaged = [entry for entry in kept if not sound(entry)]
    if damaged:
        state = None
        blank_rows(folder, rows, (entry.slot for entry in damaged), dim)
    run = {"rows": rows, "slots": slots, "root": str(root), "options": [engine, dtype], "long": count >= LONG}
    journal = Journal(folder, {**run, **identity}, sound)
    return Draft(
        folder=folder,
        root=root,
        model=model,
        before=before,
        state=state,
        rows=rows,
        slots=slots + journal.rows,
        values=values,
        previous={entry.path: entry for entry in entries},
        kept={entry.path: entry for entry in kept if sound(entry)},
        damaged={entry.path for entry in damaged},
        corrections=corrections,
        journal=journal,
        space=journal.space or space,
    )


def _previous(
    folder: Path, before: Manifest
) -> tuple[list[Entry], Mapping[str, NDArray[Any]] | None, Mapping[str, Corrections]]:
    """The last version's entries, its state, and what was said by hand; where anything is damaged, what is
    whole.
    """
    try:
        version = Version.open(folder, before)
        version.rows.integers(0, before.slots)
    except HeadwordError:
        entries, corrections = salvaged(folder / before.catalogue)
        return entries, None, corrections
    return version.catalogue.entries(), version.catalogue.state, version.catalogue.corrections()


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


class Journal:
    """What an unfinished run has done already: `journal.jsonl`, a line an image, below what they depend on.

    A block's features are on the disk before its lines are, so a run that was killed goes on after the last
    whole line. Each line begins with its CRC-32, and says that of its features; what comes behind a damaged
    one is done again. When the run is complete the catalogue says all of it, and the journal goes. It is
    text, and no SQLite file: one that is written to has a journal of its own, in which a stranger can name
    any file to be removed.

    Lines behind another `base` (what a run starts from) belong to another run and are dropped. `sound` says
    whether the features of an entry are on the disk as they were written.
    """

    def __init__(self, folder: Path, base: Mapping[str, Any], sound: Callable[[Entry], bool]) -> None:
        self.path = folder / "journal.jsonl"
        self.base = base
        self.space: dict[str, Any] = {}  # on what features were computed, once that is known
        self.entries: dict[str, Entry] = {}  # what an earlier run did, by path
        self.rows = 0  # that it wrote
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        first = _content(lines[0]) if lines else None
        if first is None or first.get("base") != base:
            self.remove()
            return
        self.space, whole = first["space"], len(lines[0])
        for line in lines[1:]:
            content = _content(line)
            if content is None:
                break
            content |= {name: content[name] and bytes.fromhex(content[name]) for name in _IN_HEX}
            entry = Entry(**content)
            if not sound(entry):
                break
            self.rows += entry.slot >= base["slots"]
            self.entries[entry.path] = entry
            whole += len(line)
        os.truncate(self.path, whole)

    def write(self, entries: Iterable[Entry], space: Mapping[str, Any]) -> None:
        """Add a block that is on the disk."""
        lines: list[dict[str, Any]] = [] if self.path.exists() else [{"base": self.base, "space": space}]
        for content in map(asdict, entries):
            lines.append(content | {name: content[name] and content[name].hex() for name in _IN_HEX})
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(map(_line, lines)))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise not_written(self.path, error) from error

    def remove(self) -> None:
        """The run is complete."""
        self.path.unlink(missing_ok=True)


def _line(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _content(line: bytes) -> dict[str, Any] | None:
    """What a line says; None if it was cut short by a kill or a full disk, or is damaged."""
    text = line[9:-1]
    if line != b"%08x %s\n" % (zlib.crc32(text), text):
        return None
    content: dict[str, Any] = json.loads(text)
    return content
