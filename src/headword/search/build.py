"""Making an index, and bringing it up to date with its folder."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headword.data.folders import Found, Scan, scan
from headword.encoders.vision import Vision
from headword.errors import HeadwordError
from headword.extract import Progress
from headword.extract.engines import LONG, choose
from headword.extract.job import Job
from headword.extract.torch_engine import Choice
from headword.files import expand, printable
from headword.model import DualEncoder
from headword.search.commit import Draft, commit, is_ours
from headword.search.embedding import Embedder, how_of
from headword.search.identity import describe, encoder_identity, plain
from headword.search.journal import Journal
from headword.search.lock import writing
from headword.search.manifest import NAME, Manifest
from headword.search.rows import UNKNOWN, Rows, append_rows, blank_rows, rows_there
from headword.search.space import Floats
from headword.search.table import Entry, entries_of, read_table

CENTRES = ("collection", "none")


@dataclass(frozen=True, slots=True)
class Changes:
    """What `build_index` found and did."""

    images: int
    """Images in the index now: added + changed + unchanged."""
    added: int
    changed: int
    removed: int
    """Images that the index had and has no more."""
    unchanged: int
    unreadable: dict[str, str] = field(default_factory=dict)
    """Files of the folder that cannot be read, and why; none of the images."""
    outside: list[str] = field(default_factory=list)
    """Links that lead out of the folder or nowhere, which were not followed."""
    mended: int = 0
    """Images whose features in the index were damaged, and were computed anew."""
    notes: tuple[str, ...] = ()
    """What else was left out, for people."""

    def as_json(self) -> dict[str, Any]:
        """All of it by name."""
        return asdict(self)


def build_index(
    model: DualEncoder | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    vision: Vision | None = None,
    centre_on: str | None = None,
    engine: str = "auto",
    dtype: str = "auto",
    batch_size: int = 32,
    workers: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Changes:
    """Index a folder of images, or bring an index up to date with it.

    Only new and changed files are embedded, and what a run that was interrupted did is not done again. The
    index is replaced in one step at the end; until then, and if anything goes wrong, it is what it was. What
    it finds then depends on the folder, the model and these settings alone, not on how it came to hold its
    images. Another model of the same classifier takes the old one's place without embedding anything.

    Args:
        model: a saved model's folder, or a model.
        folder: the images, subfolders included.
        out: the index's folder; may lie in `folder`.
        vision: the classifier of a model that is given by its folder, as in `headword.load`.
        centre_on: "collection" centres on the mean of all images of the index, "none" takes the model's own
            centre; when not given, as the index was made, or "collection" for a recycled model and "none" for
            one that was trained in one space.
        engine: "auto", "torch" or "openvino"; an index goes on as it began.
        dtype: "auto", "float32" or "bfloat16"; likewise.
        batch_size: images that go through the model together.
        workers: how many decode at once; None for as many as there are processors.
        device: where a model that is given by its folder computes.
        progress: called with (done, all) of the new and changed files.

    Raises:
        HeadwordError: if the folder is missing or has no readable image, `out` is the index of another folder
            or classifier, or another process is writing it; or if it cannot be written. Images that cannot be
            read are counted, not raised.
    """
    root, target = expand(folder).resolve(), expand(out).resolve()
    if centre_on not in (None, *CENTRES):
        raise HeadwordError(f"unknown centre {centre_on!r}; choose {' or '.join(CENTRES)}")
    _check_place(root, target)
    files = scan(root, leave_out=target)
    saved = None if isinstance(model, DualEncoder) else expand(model).resolve()
    if not isinstance(model, DualEncoder):
        from headword.model import load

        model = load(model, vision=vision, device=device)
    with writing(target):
        before = Manifest.read(target, older=True) if (target / NAME).is_file() else None
        described = _described(model, saved, before)
        old = [] if before is None else _entries(target, before)
        start = _start(target, root, model, before, old, len(files.files), engine, dtype)
        job = Job.of(
            model.vision,
            len(files.files),
            engine=engine,
            dtype=dtype,
            batch_size=batch_size,
            workers=workers,
            like=start.like,
            exact=start.exact,
        )
        entries, fresh = _known(files, start)
        embedder = Embedder(
            folder=target,
            root=root,
            job=job,
            journal=start.journal,
            rows=start.rows,
            slots=start.slots + start.journal.rows,
            old=start.old,
            values=start.values,
            progress=progress,
        )
        entries.update((entry.path, entry) for entry in embedder.run(fresh))
        changes = _changes(files, list(entries.values()), old, start.damaged)
        if not changes.images:
            why = next(iter(changes.unreadable.values()), "none of its files is an image by its ending")
            raise HeadwordError("; ".join([f"there is nothing to index in {root}: {why}", *changes.notes]))
        draft = Draft(
            target=target,
            root=root,
            model=model,
            described=described,
            space={**plain(encoder_identity(model.vision)), **how_of(job)},
            before=before,
            entries=list(entries.values()),
            rows=start.rows,
            slots=embedder.slots,
            halves=start.halves,
            centre=centre_on or (before.centre["kind"] if before else CENTRES[model.one_space]),
        )
        gone = {entry.path for entry in old} - entries.keys()
        if fresh or start.journal.entries or gone or draft.differs():
            commit(draft)
        start.journal.remove()
        return changes


def _check_place(root: Path, target: Path) -> None:
    if root == target:
        raise HeadwordError(f"{target} holds the images; give another folder for the index (--out)")
    if target.exists() and not target.is_dir():
        raise HeadwordError(f"{target} is a file; give the name of a folder")
    if not target.is_dir() or (target / NAME).exists():
        return
    strange = [entry.name for entry in target.iterdir() if not is_ours(entry.name)]
    if strange:
        raise HeadwordError(f"{target} holds something that is no index ({min(strange)}); give a new folder")


@dataclass(slots=True, kw_only=True)
class _Start:
    """What a run begins with."""

    rows: str
    """Name of the files of rows it adds to."""
    slots: int
    """Rows that the last version has in them."""
    values: Floats
    """These rows."""
    halves: NDArray[np.int64] | None
    """See `Draft`."""
    old: dict[str, Entry]
    """Entries of these rows, by path, and of files that cannot be read."""
    damaged: set[str]
    """Paths whose rows are damaged."""
    journal: Journal
    like: Choice | None
    """What the rows were computed on; None if nothing was yet."""
    exact: bool | None


def _start(
    target: Path,
    root: Path,
    model: DualEncoder,
    before: Manifest | None,
    old: list[Entry],
    count: int,
    engine: str,
    dtype: str,
) -> _Start:
    """Check that the run fits to what is there, and whether features that are there can stay.

    A small index is exact. When it has become large, all of it takes the fast engine.
    """
    identity = plain(encoder_identity(model.vision))
    if before is not None:
        _check_same(target, root, model, before, identity)
    outgrown = before is not None and before.space["exact"] and count >= LONG and engine == "auto"
    how: dict[str, Any] = {}
    if before is None or outgrown:
        rows, slots, old = f"rows-{1 if before is None else before.generation + 1:06d}", 0, []
    else:
        rows, slots, how = before.rows, before.slots, before.space
        if engine not in ("auto", how["engine"]) or dtype not in ("auto", how["precision"]):
            raise HeadwordError(
                f"{target} was made on {how['engine']} in {how['precision']}: leave out --engine and --dtype "
                "or give another --out"
            )
    base = {"rows": rows, "slots": slots, "root": str(root), "asked": [engine, dtype], "long": count >= LONG}
    values = rows_there(target, rows, model.vision.dim)
    if len(values) < slots:  # cut short: what is added comes after them all the same
        append_rows(target, rows, slots, np.empty((0, model.vision.dim), np.float32))

    def sound(entry: Entry) -> bool:
        slot = entry.slot
        return slot < 0 or (slot < len(values) and zlib.crc32(values[slot]) == entry.sum)

    damaged = [entry for entry in old if not sound(entry)]
    if damaged:
        blank_rows(target, rows, (entry.slot for entry in damaged), model.vision.dim)
    journal = Journal(target, {**base, **identity}, sound)
    how = journal.how or how
    like = Choice(how["engine"], how["precision"]) if how else None
    if like is not None:
        choose(model.vision, None, engine=like.engine, dtype=like.dtype)  # it may not be installed here
    return _Start(
        rows=rows,
        slots=slots,
        values=values,
        halves=None if before is None or outgrown or damaged else _halves(target, before),
        old={entry.path: entry for entry in old if sound(entry)},
        damaged={entry.path for entry in damaged},
        journal=journal,
        like=like,
        exact=how.get("exact"),
    )


def _entries(target: Path, before: Manifest) -> list[Entry]:
    """The last version's entries; none if their table is damaged: then all is computed anew."""
    try:
        entries = entries_of(read_table(before.table_file(target)))
    except HeadwordError:
        return []
    if before.format > 1:
        return entries
    values = rows_there(target, before.rows, before.dim)

    def checksum(slot: int) -> int:
        """That of format 1 is what there is, if it may be a feature."""
        unit = 0 <= slot < len(values) and abs(np.linalg.norm(values[slot].astype(float)) - 1) < 1e-3
        return zlib.crc32(values[slot]) if unit else UNKNOWN

    return [replace(entry, sum=checksum(entry.slot)) for entry in entries]


def _halves(target: Path, before: Manifest) -> NDArray[np.int64] | None:
    """Checksums of the last version's rounded rows; None if they are damaged, or have none."""
    try:
        sums = before.read_state(target)["block_sums"]
        rows = Rows.open(target, before.rows, before.slots, before.dim, before.rounding, block_sums=sums)
        rows.half(slice(None))
    except (HeadwordError, KeyError):
        return None
    return sums


def _check_same(
    target: Path, root: Path, model: DualEncoder, before: Manifest, identity: Mapping[str, Any]
) -> None:
    if before.root != str(root):
        raise HeadwordError(f"{target} is the index of {before.root}, not of {root}; give another --out")
    other = next((name for name, fact in identity.items() if before.space[name] != fact), None)
    if other is not None:
        now = model.vision.name if other == "encoder" else f"{model.vision.name} with another {other}"
        raise HeadwordError(
            f"{target} was made with the classifier {before.space['encoder']}, and this is {now}; give "
            "another --out"
        )


def _described(model: DualEncoder, saved: Path | None, before: Manifest | None) -> dict[str, Any]:
    """The model as the manifest names it; one that comes without its folder keeps the known one."""
    said = describe(model, saved)
    if before is None or saved is not None or before.model["fingerprint"] != said["fingerprint"]:
        return said
    return before.model


def _known(files: Scan, start: _Start) -> tuple[dict[str, Entry], list[Found]]:
    """Entries of files that did not change since they were embedded, by path, and the other files."""
    entries: dict[str, Entry] = {}
    fresh: dict[str, Found] = {}  # two names may read the same, where bytes are no UTF-8: the first counts
    for file in files.files:
        path = printable(file.path)
        known = start.journal.entries.get(path) or start.old.get(path)
        if known is not None and (known.bytes, known.modified) == (file.bytes, file.modified):
            entries[path] = known
        else:
            fresh.setdefault(path, file)
    return entries, [file for path, file in fresh.items() if path not in entries]


def _changes(files: Scan, entries: list[Entry], old: list[Entry], damaged: set[str]) -> Changes:
    """What is different now, by the content of the files that can be read."""
    before = {entry.path: entry.content for entry in old if entry.slot >= 0}
    now = {entry.path: entry.content for entry in entries if entry.slot >= 0}
    kept = before.keys() & now.keys()
    same = sum(now[path] is not None and before[path] == now[path] for path in kept)
    return Changes(
        images=len(now),
        added=len(now) - len(kept),
        changed=len(kept) - same,
        removed=len(before) - len(kept),
        unchanged=same,
        unreadable={entry.path: entry.status for entry in entries if entry.slot < 0},
        outside=[printable(path) for path in files.outside],
        mended=sum(path in now for path in damaged),
        notes=tuple(printable(note) for note in files.notes),
    )
