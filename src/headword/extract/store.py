"""The feature store: a folder of `part-*.parquet` files and `_headword.json`.

Columns: `id` (string), `path` (string), `embedding` (fixed-size list of float32 or float16; null where the
image could not be read) and `status` ("ok", else why not, in one line).
`headword.extract.vectors.read_vectors` reads the rows that have an embedding.

Parts appear whole, after their bytes are on the disk, and are never changed. So whatever stops a writer,
the store is what was finished, and the next writer goes on from the ids that are there. The header is sealed,
and holds a sha256 of each part from before it appears; whoever reads a part checks it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from headword.errors import HeadwordError
from headword.files import expand, locked, read_json, sealed, sha256, write_text_atomic

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

FORMAT = 2
"""1 had no checksums."""
_LOCK = ".lock"
HEADER = "_headword.json"
OK = "ok"

PART_ROWS = 8192
"""Rows of a full part."""
PART_SECONDS = 30.0
"""Age at which a part is written though it is not full: the most work that a kill can cost."""

KEY = ("encoder", "weights", "head", "transform", "engine", "precision", "exact", "draft")
"""The `FeatureKey` of the rows, by name."""

_IDENTITY = ("space", "dim", "dtype", *KEY[1:], "model")
"""What must be equal for rows to belong into one store; weights say more than the encoder's name."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of a store."""

    rows: int
    ok: int

    @property
    def unreadable(self) -> int:
        """Rows without an embedding."""
        return self.rows - self.ok

    def as_json(self) -> dict[str, int]:
        """The counts by name."""
        return {"rows": self.rows, "ok": self.ok, "unreadable": self.unreadable}


def read_header(folder: str | Path) -> dict[str, Any]:
    """What `_headword.json` of a store says.

    Raises:
        HeadwordError: if the folder is no store, one of a newer format, or the header was changed.
    """
    folder = expand(folder)
    if not (folder / HEADER).is_file():
        raise HeadwordError(f"{folder} is no feature store: it has no {HEADER}; make one with headword embed")
    header = read_json(folder / HEADER)
    written = header.get("format") if isinstance(header, dict) else None
    if not isinstance(written, int) or written < 1:
        raise HeadwordError(f"{folder / HEADER} does not say its format; it was edited, or is not headword's")
    if written > FORMAT:
        raise HeadwordError(
            f"{folder} has format {written}, newer than this headword reads; upgrade headword"
        )
    if written == FORMAT and header != sealed(header):
        raise HeadwordError(
            f"{folder / HEADER} was edited or is damaged; remove {folder} and run headword embed again"
        )
    return {name: value for name, value in header.items() if name != "sha256"}


def checked_parts(folder: str | Path) -> Iterator[Path]:
    """The parts of a store, each checked when it is asked for.

    Raises:
        HeadwordError: if the header or a part is damaged, or a part of a complete store is missing.
    """
    folder = expand(folder)
    parts = _parts(folder)
    if not parts and not (folder / HEADER).is_file():
        return
    header = read_header(folder)
    files = header.get("files")
    if files is None:  # of format 1
        yield from parts
        return
    missing = sorted(set(files) - {path.name for path in parts})
    if missing and header["complete"]:
        raise HeadwordError(
            f"{folder / missing[0]} is missing; run headword embed again, which makes its rows"
        )
    for path in parts:
        if sha256(path) != files.get(path.name):
            raise HeadwordError(
                f"{path} is damaged; remove it and run headword embed again, which makes only its rows anew"
            )
        yield path


def read_status(folder: str | Path) -> Iterator[tuple[str, str, str]]:
    """(id, path, status) of every row of a store, part after part.

    Raises:
        HeadwordError: as `checked_parts`.
    """
    for _, table in tables(folder, ["id", "path", "status"]):
        yield from zip(*(table[name].to_pylist() for name in ("id", "path", "status")), strict=True)


def tables(folder: str | Path, columns: list[str]) -> Iterator[tuple[Path, pa.Table]]:
    """The parts of a store, each with these columns.

    Raises:
        HeadwordError: as `checked_parts`.
    """
    import pyarrow as pa
    from pyarrow import parquet

    for path in checked_parts(folder):
        try:
            yield path, parquet.read_table(path, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise HeadwordError(
                f"{path} is damaged; remove it and run again: {error}".splitlines()[0]
            ) from error


class StoreWriter:
    """Writes a store, or goes on with one; one writer at a time. Use it as a context manager.

    Args:
        folder: the store.
        header: what its rows depend on (see `_IDENTITY`) and what else shall be said of them.

    Raises:
        HeadwordError: if another process is writing it, it holds something else, it was made with other
            settings, or it cannot be written.
    """

    def __init__(self, folder: str | Path, header: Mapping[str, Any]) -> None:
        self.folder = expand(folder)
        self._header = {"format": FORMAT, **header}
        if self.folder.exists() and not self.folder.is_dir():
            raise HeadwordError(f"{self.folder} is a file; give the name of a folder")
        try:
            there = {entry.name for entry in self.folder.iterdir()} if self.folder.exists() else set()
        except OSError as error:
            raise HeadwordError(f"cannot write in {self.folder}: {error.strerror}") from error
        if HEADER not in there and any(name != _LOCK and not name.startswith(f".{HEADER}") for name in there):
            raise HeadwordError(f"{self.folder} holds something that is no feature store; give a new folder")
        self._held = ExitStack()
        refusal = f"another process is writing {self.folder}; wait for it, or give another folder"
        self._held.enter_context(locked(self.folder / _LOCK, refusal))
        try:
            self._begin()
        except BaseException:
            self._held.close()
            raise

    def _begin(self) -> None:
        parts = _parts(self.folder)
        self._files: dict[str, str] = {}
        if (self.folder / HEADER).exists() and parts:
            before = read_header(self.folder)
            _check_same(before, self._header, self.folder)
            known = before.get("files", {path.name: sha256(path) for path in parts})  # format 1 has none
            # Those that are gone were never finished, or were damaged and removed.
            self._files = {path.name: known[path.name] for path in parts if path.name in known}
        for left in self.folder.glob(".*.tmp"):  # of a writer that was killed
            left.unlink()
        ok = 0
        self.done: set[str] = set()
        """Ids that have a row."""
        self.counts = Counts(0, 0)
        self._write_header(complete=False)
        for name, _, status in read_status(self.folder):
            self.done.add(name)
            ok += status == OK
        self.counts = Counts(len(self.done), ok)
        numbers = [int(match[1]) for path in parts if (match := _number(path))]
        self._next = max(numbers, default=-1) + 1
        self._ids: list[str] = []
        self._paths: list[str] = []
        self._status: list[str] = []
        self._embeddings: list[Tensor] = []
        self._since = time.monotonic()
        self._write_header(complete=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what is there, also after Ctrl-C; after an error of its own there is nothing to write."""
        try:
            if kind is None or not issubclass(kind, HeadwordError):
                self.flush()
            self._write_header(complete=kind is None)
        except HeadwordError:
            if kind is None:
                raise
        finally:
            self._held.close()

    def describe(self, **facts: object) -> None:
        """Say what is known only now that the first rows are there.

        Raises:
            HeadwordError: if the header cannot be written.
        """
        if any(self._header.get(name) != fact for name, fact in facts.items()):
            self._header.update(facts)
            self._write_header(complete=False)

    def add(
        self, ids: Sequence[str], paths: Sequence[str], status: Sequence[str], embeddings: Tensor
    ) -> None:
        """Add rows; they are on the disk after the next `flush`.

        Args:
            ids: N ids that have no row yet.
            paths: where each image is.
            status: "ok" or why there is no embedding.
            embeddings: `[M, dim]`, of the M rows that are "ok", in their order.

        Raises:
            HeadwordError: if a full part cannot be written.
        """
        self._ids += ids
        self._paths += paths
        self._status += status
        self._embeddings.append(embeddings)
        if len(self._ids) >= PART_ROWS or time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Put the rows so far on the disk, as one part.

        Raises:
            HeadwordError: if the disk is full or fails; parts before this one are safe.
        """
        import pyarrow as pa
        from pyarrow import parquet

        self._since = time.monotonic()
        if not self._ids:
            return
        path = self.folder / f"part-{self._next:06d}.parquet"
        temporary = self.folder / f".{path.name}.tmp"
        try:
            try:
                with temporary.open("wb") as file:
                    # Random numbers do not compress; names do.
                    compression = {"id": "zstd", "path": "zstd", "status": "zstd"}
                    parquet.write_table(
                        self._table(), file, compression=compression, use_dictionary=["status"]
                    )
                    file.flush()
                    os.fsync(file.fileno())
                self._files[path.name] = sha256(temporary)
                self._write_header(complete=False)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except (OSError, pa.ArrowException, HeadwordError) as error:
            self._files.pop(path.name, None)
            self._forget()
            why = getattr(error, "strerror", None) or str(error)
            raise HeadwordError(
                f"cannot write {path}: {why}; the {self.counts.rows:,} rows before it are safe: make room "
                "and run the same command again"
            ) from error
        self.counts = Counts(
            self.counts.rows + len(self._ids), self.counts.ok + sum(status == OK for status in self._status)
        )
        self._next += 1
        self._forget()

    def _forget(self) -> None:
        self._ids, self._paths, self._status, self._embeddings = [], [], [], []

    def _table(self) -> pa.Table:
        import numpy as np
        import pyarrow as pa
        import torch

        dim, dtype = int(self._header["dim"]), str(self._header["dtype"])
        ok = [status == OK for status in self._status]
        values = np.zeros((len(ok), dim), dtype)
        values[ok] = torch.cat(self._embeddings).numpy()
        flat = pa.array(values.reshape(-1))
        null = pa.array([not there for there in ok], pa.bool_())
        return pa.table(
            {
                "id": pa.array(self._ids, pa.string()),
                "path": pa.array(self._paths, pa.string()),
                "embedding": pa.FixedSizeListArray.from_arrays(flat, dim, mask=null),
                "status": pa.array(self._status, pa.string()),
            }
        )

    def _write_header(self, *, complete: bool) -> None:
        said = {**self._header, "complete": complete, "counts": self.counts.as_json(), "files": self._files}
        text = json.dumps(sealed(said), indent=2, ensure_ascii=False) + "\n"
        write_text_atomic(self.folder / HEADER, text)


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    for name in _IDENTITY:
        # Through JSON, where a tuple is a list.
        if before.get(name) != json.loads(json.dumps(now.get(name))):
            raise HeadwordError(
                f"{folder} was made with another {name} ({_short(before.get(name))}, now "
                f"{_short(now.get(name))}); give the same options, or another folder"
            )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def _number(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"part-(\d+)\.parquet", path.name)
