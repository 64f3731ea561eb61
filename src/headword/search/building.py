"""Making an index, and bringing it up to date with its folder: the run, and its last step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headword.data.folders import Found, Scan, scan
from headword.data.photo import have_more_frames
from headword.encoders.fingerprint import describe, encoder_identity
from headword.encoders.vision import Vision
from headword.errors import HeadwordError
from headword.extract import Progress
from headword.extract.engines import Choice, choose
from headword.extract.job import Job
from headword.extract.store import HEADER, read_status
from headword.extract.vectors import StoredFeatures
from headword.files import expand, printable
from headword.model import DualEncoder
from headword.search.catalogue import Entry, write_catalogue
from headword.search.draft import Draft, begin
from headword.search.embedding import Embedder
from headword.search.manifest import NAME, Manifest, is_ours, publish, writing
from headword.search.rows import BLOCK, ROUNDED, Rows, append_rows, next_rows, present_rows, write_rounded
from headword.search.space import Floats, Indices, Space, exact_sum, mean_of
from headword.search.tagging import label_all, tagger

CENTRES = ("collection", "none")

_SPARE = 1024
"""Rows of removed images that may stay however few the others are."""

_COPIED = 4096  # rows at a time


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
        folder: the images, subfolders included; or a feature store that `headword embed` made of such a
            folder, whose features are then taken.
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
    stored = StoredFeatures(root) if (root / HEADER).is_file() else None
    root = root if stored is None else _stored_root(root)
    if centre_on not in (None, *CENTRES):
        raise HeadwordError(f"unknown centre {centre_on!r}; choose {' or '.join(CENTRES)}")
    _check_place(root, target)
    files = scan(root, leave_out=target)
    saved = None if isinstance(model, DualEncoder) else expand(model).resolve()
    if not isinstance(model, DualEncoder):
        from headword.model import load

        model = load(model, vision=vision, device=device)
    with writing(target):
        before = Manifest.read_previous(target)
        described = describe(model, saved)
        if before is not None and saved is None and before.model["fingerprint"] == described["fingerprint"]:
            described = before.model  # which may know its folder
        draft = begin(target, root, model, before, len(files.files), engine, dtype)
        space = draft.space
        if stored is not None:
            space = _space_of_stored(stored, encoder_identity(model.vision), space)
        like = Choice(space["engine"], space["precision"]) if space else None
        if like is not None:
            choose(model.vision, None, engine=like.engine, dtype=like.dtype)  # it may not be installed here
        job = Job(
            model.vision,
            len(files.files),
            engine=engine,
            dtype=dtype,
            batch_size=batch_size,
            workers=workers,
            like=like,
            exact=space.get("exact"),
        )
        entries, fresh = _known(files, draft)
        embedder = Embedder(draft, job, stored, progress)
        entries.update((entry.path, entry) for entry in embedder.run(fresh))
        changes = _changes(files, entries, draft, _frames_left_out(root, fresh))
        if not changes.images:
            why = next(iter(changes.unreadable.values()), "none of its files is an image by its ending")
            raise HeadwordError("; ".join([f"there is nothing to index in {root}: {why}", *changes.notes]))
        centre = centre_on or (before.centre["kind"] if before else CENTRES[model.one_space])
        same = (
            draft.state is not None
            and before is not None
            and (before.model, before.centre["kind"]) == (described, centre)
            and not (fresh or draft.journal.entries or draft.previous.keys() - entries.keys())
        )
        if not same:
            commit(draft, entries.values(), model=described, space=job.key, centre=centre)
        draft.journal.remove()
        return changes


def _stored_root(store: Path) -> Path:
    """The folder whose pictures a store of `headword embed` is of."""
    roots = {path.removesuffix(f"/{name}") for name, path, _ in read_status(store)}
    if len(roots) != 1 or not (root := Path(roots.pop())).is_dir():
        raise HeadwordError(
            f"{store} is not of one folder of pictures, which an index is of; give headword embed the "
            "folder, or index it by itself"
        )
    return root.resolve()


def _space_of_stored(
    features: StoredFeatures, identity: Mapping[str, Any], space: Mapping[str, Any]
) -> dict[str, Any]:
    """On what a store was computed; refused where that differs from what the index was, if it was yet."""
    key = features.key
    other = next((part for part in ("weights", "head", "transform") if key[part] != identity[part]), None)
    if other is not None:
        raise HeadwordError(
            f"{features.folder} was made with the classifier {key['encoder']}, and this is "
            f"{identity['encoder']}, with another {other}; give that model"
        )
    own = {name: key[name] for name in ("engine", "precision", "exact", "draft")}
    expected = {name: space[name] for name in own} if space else {**own, "draft": not own["exact"]}
    if own != expected:
        raise HeadwordError(
            f"{features.folder} was computed in another way ({own}) than the index ({expected}); leave the "
            "store out: headword index MODEL FOLDER"
        )
    return own


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


def _known(files: Scan, draft: Draft) -> tuple[dict[str, Entry], list[Found]]:
    """Entries of files that did not change since they were embedded, by path, and the other files."""
    entries: dict[str, Entry] = {}
    fresh: dict[str, Found] = {}  # two names may read the same, where bytes are no UTF-8: the first counts
    for file in files.files:
        path = printable(file.path)
        known = draft.journal.entries.get(path) or draft.kept.get(path)
        if known is not None and (known.bytes, known.modified) == (file.bytes, file.modified):
            entries[path] = known
        else:
            fresh.setdefault(path, file)
    return entries, [file for path, file in fresh.items() if path not in entries]


def _frames_left_out(root: Path, fresh: list[Found]) -> list[str]:
    """What to say of new pictures that have more frames than the first."""
    found = have_more_frames((root / file.path for file in fresh), inside=root)
    if not found:
        return []
    name, more = found[0].relative_to(root), len(found) - 1
    which = f"{name} and {more:,} more have" if more else f"{name} has"
    return [f"{which} several frames or pages, of which the first alone is searched"]


def _changes(files: Scan, entries: dict[str, Entry], draft: Draft, notes: list[str]) -> Changes:
    """What is different now, by the content of the files that can be read."""
    before = {path: entry.content for path, entry in draft.previous.items() if entry.slot >= 0}
    now = {path: entry.content for path, entry in entries.items() if entry.slot >= 0}
    kept = before.keys() & now.keys()
    same = sum(now[path] is not None and before[path] == now[path] for path in kept)
    return Changes(
        images=len(now),
        added=len(now) - len(kept),
        changed=len(kept) - same,
        removed=len(before) - len(kept),
        unchanged=same,
        unreadable={path: entry.status for path, entry in entries.items() if entry.slot < 0},
        outside=[printable(path) for path in files.outside],
        mended=len(draft.damaged & now.keys()),
        notes=tuple(printable(note) for note in (*files.notes, *notes)),
    )


# ---- the last step: what belongs to all rows, the catalogue, and the manifest that names them


def commit(
    draft: Draft, entries: Iterable[Entry], *, model: dict[str, Any], space: dict[str, Any], centre: str
) -> None:
    """Make a draft, whose rows are on the disk, the version of its index; facts are as in its manifest."""
    before, folder, aligner, dim = draft.before, draft.folder, draft.model.aligner, draft.model.vision.dim
    taught: Floats = np.empty(0, np.float32) if draft.state is None else draft.state["taught"]
    entries = _compacted(draft, list(entries))
    read = sorted((entry for entry in entries if entry.slot >= 0), key=lambda entry: entry.path)
    unreadable = [entry for entry in entries if entry.slot < 0]
    slots = np.array([entry.slot for entry in read], np.int64)
    of_rounded = _round(draft)
    rows = Rows.open(folder, draft.rows, dim, of_rounded["scales"], of_rounded["distances"])
    total = _total(draft, rows.values, slots)
    shared = Space.of(aligner, mean_of(total, len(slots)) if centre == "collection" else None)
    state: dict[str, NDArray[Any]] = {
        "slots": slots,
        "sums": np.array([entry.sum for entry in read], np.int64),
        **of_rounded,
        "inverse_norms": shared.inverse_norms(rows.values),
        "centre": shared.centre,
        "total": total,
        "taught": taught,
    }
    tags = None if before is None else before.tags
    classifier = None if tags is None else tagger(draft.model, tags, taught)
    said = {
        n: draft.corrections[entry.path] for n, entry in enumerate(read) if entry.path in draft.corrections
    }
    labelled = label_all(classifier, slots, rows, state["inverse_norms"], shared, said)
    facts = {
        "root": str(draft.root),
        "model": model,
        "space": space,
        "dim": dim,
        "rows": draft.rows,
        "slots": draft.slots,
        "images": len(read),
        "unreadable": len(unreadable),
        "centre": {"kind": centre, "images": len(read)},
        "tags": tags,
    }
    publish(folder, before, lambda path: write_catalogue(path, [*read, *unreadable], state, labelled), facts)


def _round(draft: Draft) -> dict[str, NDArray[Any]]:
    """Write rounded rows for those that have none yet; what is to be known of all of them."""
    known: dict[str, NDArray[Any]] = {}
    slots = 0
    if draft.before is not None and draft.state is not None:
        known, slots = {name: draft.state[name] for name in ROUNDED}, draft.before.slots
        if slots == draft.slots:
            return known
    values = present_rows(draft.folder, draft.rows, draft.model.vision.dim)[: draft.slots]
    blocks = slots // BLOCK  # that are full; the last one may not be
    fresh = write_rounded(draft.folder, draft.rows, values, blocks * BLOCK)
    first = {"scales": blocks * BLOCK, "distances": blocks * BLOCK, "block_sums": blocks}
    return {name: np.concatenate([known.get(name, new)[: first[name]], new]) for name, new in fresh.items()}


def _total(draft: Draft, values: Floats, slots: Indices) -> Indices:
    """Σ of the features of all images: the old version's, with what came and without what went."""
    if draft.state is None:
        return exact_sum(values, slots)
    before = draft.state["slots"]
    came, went = np.setdiff1d(slots, before), np.setdiff1d(before, slots)
    total: Indices = draft.state["total"] + exact_sum(values, came) - exact_sum(values, went)
    return total


def _compacted(draft: Draft, entries: list[Entry]) -> list[Entry]:
    """The entries; where most rows belong to images that are gone, the rows are written anew."""
    alive = sorted((entry for entry in entries if entry.slot >= 0), key=lambda entry: entry.slot)
    if draft.slots - len(alive) <= max(_SPARE, len(alive)):
        return entries
    values = present_rows(draft.folder, draft.rows, draft.model.vision.dim)
    draft.rows, draft.slots, draft.state = next_rows(draft.rows), len(alive), None
    for start in range(0, len(alive), _COPIED):
        part = [entry.slot for entry in alive[start : start + _COPIED]]
        append_rows(draft.folder, draft.rows, start, values[part])
    moved = [replace(entry, slot=slot) for slot, entry in enumerate(alive)]
    return moved + [entry for entry in entries if entry.slot < 0]
