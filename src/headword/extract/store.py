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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from headword.data.tables import open_parquet
from headword.errors import HeadwordError
from headword.files import (
    expand,
    format_of,
    locked,
    read_json,
    remove_unfinished,
    sealed,
    sha256,
    write_text_atomic,
)
from headword.files.writing import new_file

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
"""What the rows depend on, by name; see `headword.extract.job.Job.key`."""

_IDENTITY = ("space", "dim", "dtype", *KEY[1:], "model")
"""What must be equal for rows to belong into one store; weights say more than the encoder's name."""


def read_header(folder: str | Path) -> dict[str, Any]:
    """What `_headword.json` of a store says, unless it was changed or is of a newer format."""
    folder = expand(folder)
    if not (folder / HEADER).is_file():
        raise HeadwordError(f"{folder} is no feature store: it has no {HEADER}; make one with headword embed")
    header = read_json(folder / HEADER)
    if format_of(header, folder / HEADER, FORMAT) == FORMAT and header != sealed(header):
        raise HeadwordError(
            f"{folder / HEADER} was edited or is damaged; remove {folder} and run headword embed again"
        )
    return {name: value for name, value in header.items() if name != "sha256"}


def checked_parts(folder: str | Path) -> Iterator[Path]:
    """The parts of a store, each checked when it is asked for; one that is damaged or lost is an error."""
    folder = expand(folder)
    parts = _parts(folder)
    if not parts and not (folder / HEADER).is_file():
        return
    header = read_header(folder)
    files = header.get("files")  # format 1 has none
    missing = sorted(set(files or ()) - {path.name for path in parts})
    if missing and header["complete"]:
        raise HeadwordError(
            f"{folder / missing[0]} is missing; run headword embed again, which makes its rows"
        )
    for path in parts:
        if files is not None and sha256(path) != files.get(path.name):
            raise HeadwordError(
                f"{path} is damaged; remove it and run headword embed again, which makes only its rows anew"
            )
        yield path


def read_status(folder: str | Path) -> Iterator[tuple[str, str, str]]:
    """(id, path, status) of every row of a store, part after part."""
    columns = ["id", "path", "status"]
    for part in checked_parts(folder):
        with open_parquet(part) as file:
            table = file.read(columns=columns, use_threads=False)
        yield from zip(*(table[name].to_pylist() for name in columns), strict=True)


class StoreWriter:
    """Writes a store, or goes on with one that was made with the same settings; one writer at a time.

    Use it as a context manager. The header says what the rows depend on (see `_IDENTITY`), and what else
    shall be said of them.
    """

    def __init__(self, folder: str | Path, header: Mapping[str, Any]) -> None:
        self.folder = expand(folder)
        self.done: set[str] = set()
        """Ids that have a row."""
        self.rows = self.ok = 0
        """Rows on the disk, and those of them that have an embedding."""
        self._header = {"format": FORMAT, **header}
        self._files: dict[str, str] = {}
        self._forget()
        if self.folder.exists() and not self.folder.is_dir():
            raise HeadwordError(f"{self.folder} is a file; give the name of a folder")
        try:
            present = {entry.name for entry in self.folder.iterdir()} if self.folder.exists() else set()
        except OSError as error:
            raise HeadwordError(f"cannot write in {self.folder}: {error.strerror}") from error
        strange = (name for name in present if name != _LOCK and not name.startswith(f".{HEADER}"))
        if HEADER not in present and any(strange):
            raise HeadwordError(f"{self.folder} holds something that is no feature store; give a new folder")
        refusal = f"another process is writing {self.folder}; wait for it, or give another folder"
        with ExitStack() as held:
            held.enter_context(locked(self.folder / _LOCK, refusal))
            self._begin()
            self._held = held.pop_all()

    def _begin(self) -> None:
        parts = _parts(self.folder)
        if (self.folder / HEADER).exists() and parts:
            before = read_header(self.folder)
            _check_same(before, self._header, self.folder)
            known = before.get("files", {path.name: sha256(path) for path in parts})  # format 1 has none
            # Those that are gone were never finished, or were damaged and removed.
            self._files = {path.name: known[path.name] for path in parts if path.name in known}
        remove_unfinished(self.folder)  # of a writer that was killed
        self._write_header(complete=False)
        for name, _, status in read_status(self.folder):
            self.done.add(name)
            self.ok += status == OK
        self.rows = len(self.done)
        numbers = [int(match[1]) for path in parts if (match := re.fullmatch(r"part-(\d+)", path.stem))]
        self._next = max(numbers, default=-1) + 1
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
        """Say what is known only now that the first rows are there."""
        if any(self._header.get(name) != fact for name, fact in facts.items()):
            self._header.update(facts)
            self._write_header(complete=False)

    def add(
        self, ids: Sequence[str], paths: Sequence[str], status: Sequence[str], embeddings: Tensor
    ) -> None:
        """Add N rows with new ids; they are on the disk after the next `flush`.

        A status is "ok", or why there is no embedding; `[M, dim]` are those of the M rows that are "ok".
        """
        self._pending += zip(ids, paths, status, strict=True)
        self._embeddings.append(embeddings)
        if len(self._pending) >= PART_ROWS or time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Put the rows so far on the disk, as one part; if that fails, the parts before it are safe."""
        from pyarrow import parquet

        if not self._pending:
            return
        path, table = self.folder / f"part-{self._next:06d}.parquet", self._table()
        # Random numbers do not compress; names do.
        compression = dict.fromkeys(("id", "path", "status"), "zstd")
        try:
            with new_file(path) as temporary:
                with temporary.open("wb") as file:
                    parquet.write_table(table, file, compression=compression, use_dictionary=["status"])
                    file.flush()
                    os.fsync(file.fileno())
                self._files[path.name] = sha256(temporary)
                self._write_header(complete=False)
        except (OSError, HeadwordError) as error:
            self._files.pop(path.name, None)
            self._forget()
            raise HeadwordError(
                f"{error}; the {self.rows:,} rows before it are safe: make room and run the same command "
                "again"
            ) from error
        self.rows += len(self._pending)
        self.ok += sum(status == OK for _, _, status in self._pending)
        self._next += 1
        self._forget()

    def _forget(self) -> None:
        self._pending: list[tuple[str, str, str]] = []
        self._embeddings: list[Tensor] = []
        self._since = time.monotonic()

    def _table(self) -> pa.Table:
        import numpy as np
        import pyarrow as pa
        import torch

        ids, paths, status = zip(*self._pending, strict=True)
        failed = np.array([one != OK for one in status])
        dim = int(self._header["dim"])
        values = np.zeros((len(failed), dim), str(self._header["dtype"]))
        values[~failed] = torch.cat(self._embeddings).numpy()
        embeddings = pa.FixedSizeListArray.from_arrays(
            pa.array(values.reshape(-1)), dim, mask=pa.array(failed)
        )
        return pa.table({"id": ids, "path": paths, "embedding": embeddings, "status": status})

    def _write_header(self, *, complete: bool) -> None:
        counts = {"rows": self.rows, "ok": self.ok, "unreadable": self.rows - self.ok}
        content = {**self._header, "complete": complete, "counts": counts, "files": self._files}
        text = json.dumps(sealed(content), indent=2, ensure_ascii=False) + "\n"
        write_text_atomic(self.folder / HEADER, text)


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    for name in _IDENTITY:
        texts = [json.dumps(header.get(name), ensure_ascii=False) for header in (before, now)]
        if json.loads(texts[0]) != json.loads(texts[1]):
            old, new = (text if len(text) <= 60 else f"{text[:57]}…" for text in texts)
            raise HeadwordError(
                f"{folder} was made with another {name} ({old}, now {new}); give the same options, or "
                "another folder"
            )


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))
