"""The images of an index by name: an Arrow file that is memory-mapped, and a LanceDB table for filters.

A filter is what LanceDB is for; the names of a million images are there at once by the Arrow file, where
importing LanceDB alone takes a second or two.
"""

from __future__ import annotations

import builtins
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headword.errors import HeadwordError, MissingExtraError
from headword.search.space import Floats

if TYPE_CHECKING:
    import pyarrow as pa

DATABASE = "lance"

COLUMNS = ("path", "folder", "bytes", "modified", "tag", "tag_score")
"""What a filter may name."""

OK = "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image file."""

    path: str
    r"""Relative to the indexed folder, with "/"; bytes that are no UTF-8 as \xff."""
    raw: builtins.bytes | None
    """The path's bytes, where they are no UTF-8."""
    bytes: int
    modified: int
    """Time of the last change in nanoseconds; -1 if it changed while it was read."""
    content: builtins.bytes | None
    """A hash of the file; None if it changed while it was read."""
    slot: int
    """Its row of features; -1 if it cannot be read."""
    status: str
    """"ok", or why it cannot be read."""


def table_of(entries: Sequence[Entry]) -> pa.Table:
    """Entries in the order of their paths, without tags."""
    import pyarrow as pa

    columns = {
        "path": pa.string(), "raw": pa.binary(), "bytes": pa.int64(), "modified": pa.int64(),
        "content": pa.binary(16), "slot": pa.int64(), "status": pa.string(),
    }  # fmt: skip
    ordered = sorted(entries, key=lambda entry: entry.path)
    arrays = {
        name: pa.array([getattr(entry, name) for entry in ordered], kind) for name, kind in columns.items()
    }
    return with_tags(pa.table(arrays), None, None)


def with_tags(table: pa.Table, tags: Sequence[str | None] | None, scores: Floats | None) -> pa.Table:
    """A table with other tags, or with none."""
    import pyarrow as pa

    empty = pa.nulls(len(table), pa.string())
    table = table.drop_columns([name for name in ("tag", "tag_score") if name in table.column_names])
    table = table.append_column("tag", empty if tags is None else pa.array(tags, pa.string()))
    absent = np.ones(len(table), bool) if tags is None else np.array([tag is None for tag in tags])
    values = np.zeros(len(table), np.float32) if scores is None else scores
    return table.append_column("tag_score", pa.array(values, pa.float32(), mask=absent))


def entries_of(table: pa.Table) -> list[Entry]:
    """The entries of a table."""
    names = list(Entry.__slots__)
    columns = [table[name].to_pylist() for name in names]
    return [Entry(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


def write_table(folder: Path, name: str, table: pa.Table) -> None:
    """Write the images of one version: `name.arrow`, and a table of this name in the database.

    Raises:
        HeadwordError: if the disk is full or fails.
    """
    import pyarrow as pa

    path = folder / f"{name}.arrow"
    try:
        with path.open("wb") as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(folder / DATABASE / f"{name}.lance", ignore_errors=True)  # of a run that was killed
        connect(folder).create_table(name, _filterable(table))
    except (OSError, RuntimeError, pa.ArrowException) as error:
        raise HeadwordError(
            f"cannot write {path}: {_line(error)}; the index is what it was: make room and run the same "
            "command again"
        ) from error


def read_table(folder: Path, name: str) -> pa.Table:
    """The images of one version, mapped.

    Raises:
        HeadwordError: if the file is missing or damaged.
    """
    import pyarrow as pa

    path = folder / f"{name}.arrow"
    try:
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file).read_all()
    except (OSError, pa.ArrowException) as error:
        raise HeadwordError(
            f"{path} is missing or damaged: {_line(error)}; index the folder again"
        ) from error


@dataclass(frozen=True, slots=True)
class Filter:
    """The LanceDB table of one version."""

    folder: Path
    name: str

    def places(self, where: str) -> NDArray[np.int64]:
        """Which images satisfy an SQL condition, by their places among the readable ones, ascending.

        Raises:
            HeadwordError: if the condition is not understood, with what LanceDB says.
        """
        if not where.strip():
            raise HeadwordError("the filter is empty; write it like: tag = 'dog' and tag_score > 0.5")
        try:
            table = connect(self.folder).open_table(self.name)
        except (ValueError, RuntimeError, OSError) as error:
            raise HeadwordError(
                f"{self.folder} was changed twice since it was opened, this version is gone; open it again"
            ) from error
        try:
            # In parentheses, lest what follows a semicolon be left out in silence.
            found = table.search().where(f"({where}\n)").select(["place"]).limit(None).to_arrow()
        except (ValueError, RuntimeError, OSError) as error:
            raise HeadwordError(
                f"the filter {where!r} is not understood: {_line(error)}; columns are {', '.join(COLUMNS)}"
            ) from error
        return np.sort(found["place"].to_numpy())


def connect(folder: Path) -> Any:
    """The database of an index.

    Raises:
        MissingExtraError: without the extra `search`.
    """
    try:
        import lancedb
    except ModuleNotFoundError:
        raise MissingExtraError("LanceDB, which an index is kept with,", "search") from None
    return lancedb.connect(str(folder / DATABASE))


def _filterable(table: pa.Table) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = table.filter(pc.greater_equal(table["slot"], 0))
    folders = [path.rpartition("/")[0] for path in table["path"].to_pylist()]
    modified = pc.divide(table["modified"], 1000).cast(pa.timestamp("us"))
    return pa.table(
        {
            "place": pa.array(np.arange(len(table), dtype=np.int64)),
            "path": table["path"],
            "folder": pa.array(folders, pa.string()),
            "bytes": table["bytes"],
            "modified": modified,
            "tag": table["tag"],
            "tag_score": table["tag_score"],
        }
    )


def _line(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text.removeprefix("Invalid input, ").removeprefix("Invalid input, ")[:300]
