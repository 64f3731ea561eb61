"""Making an index, and bringing it up to date with its folder."""

from __future__ import annotations

import datetime
import hashlib
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headword import __version__
from headword.dual_encoder import DualEncoder
from headword.errors import HeadwordError
from headword.extract import Progress, image_features
from headword.files import expand, save_tensors
from headword.search.identity import describe, encoder_identity
from headword.search.lock import writing
from headword.search.manifest import NAME, Manifest
from headword.search.rows import append_rows, open_rows
from headword.search.scan import Found, scan
from headword.search.space import Space, exact_sum, mean_of
from headword.search.table import drop_tables, read_table, write_table

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Changes:
    """What `build_index` found and did."""

    images: int
    """Images in the index now."""
    added: int
    changed: int
    removed: int
    unchanged: int
    unreadable: dict[str, str] = field(default_factory=dict)
    """Files that could not be read, and why."""
    outside: list[str] = field(default_factory=list)
    """Links that lead out of the folder, which were not followed."""

    def as_json(self) -> dict[str, Any]:
        """All of it by name."""
        return asdict(self)


def build_index(
    model: DualEncoder | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    calibrate: str = "collection",
    progress: Progress | None = None,
) -> Changes:
    """Index a folder of images, or bring an index up to date with it.

    Args:
        model: a saved model's folder, or a model.
        folder: the images.
        out: the index's folder.
        calibrate: "collection" centres on the mean of all its images, "none" takes the model's own centre.
        progress: called with (done, all) of the images to embed.

    Raises:
        HeadwordError: in one line.
    """
    root, target = expand(folder).resolve(), expand(out).resolve()
    saved = None if isinstance(model, DualEncoder) else expand(model).resolve()
    if not isinstance(model, DualEncoder):
        from headword.saved_model import load

        model = load(model)
    with writing(target):
        before = Manifest.read(target) if (target / NAME).is_file() else None
        files = scan(root, leave_out=target)
        old = {} if before is None else {row["path"]: row for row in read_table(target, before.table).to_pylist()}
        rows: list[dict[str, Any]] = []
        fresh: list[Found] = []
        for file in files.files:
            known = old.get(_shown(file.path))
            if known is not None and (known["bytes"], known["modified"]) == (file.bytes, file.modified):
                rows.append(known)
            else:
                fresh.append(file)
        slots = 0 if before is None else before.slots
        generation = 1 if before is None else before.generation + 1
        unreadable: dict[str, str] = {row["path"]: row["status"] for row in rows if row["slot"] < 0}
        name = "rows-000001" if before is None else before.rows
        for n, file in enumerate(fresh):
            slot, status = -1, "ok"
            try:
                unit = torch.nn.functional.normalize(image_features(model.vision, [root / file.path]), dim=1)
                append_rows(target, name, slots, unit.numpy())
                slot, slots = slots, slots + 1
            except HeadwordError as error:
                status = unreadable[_shown(file.path)] = str(error)
            rows.append(_row(file, slot, status))
            if progress is not None:
                progress(n + 1, len(fresh))
        rows.sort(key=lambda row: row["path"])
        alive = [row["slot"] for row in rows if row["slot"] >= 0]
        if not alive:
            raise HeadwordError(f"there are no readable images in {root}")
        units = open_rows(target, name, slots, model.vision.dim)
        total = exact_sum(units[alive])
        centre = mean_of(total, len(alive)) if calibrate == "collection" else model.aligner.centre_.cpu().numpy()
        space = Space.of(model.aligner, centre)
        state = f"state-{generation:06d}"
        save_tensors(
            target / f"{state}.safetensors",
            {
                "centre": torch.from_numpy(centre),
                "sum": torch.from_numpy(total),
                "inverse_norms": torch.from_numpy(space.inverse_norms(units)),
            },
        )
        table = f"images-{generation:06d}"
        write_table(target, table, _table(rows))
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        Manifest(
            version=f"{generation}-{uuid.uuid4().hex[:8]}",
            generation=generation,
            headword=__version__,
            created=now if before is None else before.created,
            updated=now,
            root=str(root),
            model=describe(model, saved),
            space=encoder_identity(model.vision),
            dim=model.vision.dim,
            rows=name,
            slots=slots,
            table=table,
            state=state,
            images=len(alive),
            unreadable=len(unreadable),
            centre={"kind": "collection" if calibrate == "collection" else "model", "images": len(alive)},
        ).write(target)
        kept = [table] if before is None else [table, before.table]
        drop_tables(target, kept)
    now_there = {row["path"] for row in rows}
    added = [file for file in fresh if _shown(file.path) not in old]
    return Changes(
        images=len(alive),
        added=len(added),
        changed=len(fresh) - len(added),
        removed=sum(path not in now_there for path in old),
        unchanged=len(rows) - len(fresh),
        unreadable=unreadable,
        outside=files.outside,
    )


def _shown(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _row(file: Found, slot: int, status: str) -> dict[str, Any]:
    shown = _shown(file.path)
    return {
        "path": shown,
        "raw": None if shown == file.path else os.fsencode(file.path),
        "bytes": file.bytes,
        "modified": file.modified,
        "content": hashlib.blake2b(digest_size=16).digest(),
        "slot": slot,
        "status": status,
        "tag": None,
        "tag_score": None,
    }


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    schema = pa.schema(
        [
            ("path", pa.string()),
            ("raw", pa.binary()),
            ("bytes", pa.int64()),
            ("modified", pa.int64()),
            ("content", pa.binary(16)),
            ("slot", pa.int64()),
            ("status", pa.string()),
            ("tag", pa.string()),
            ("tag_score", pa.float32()),
        ]
    )
    return pa.Table.from_pylist(list(rows), schema=schema)
