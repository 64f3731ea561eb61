"""The images of an index by name: an Arrow file that is memory-mapped, and a LanceDB table for filters."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headword.errors import HeadwordError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa

DATABASE = "lance"

COLUMNS = ("path", "folder", "bytes", "modified", "tag", "tag_score")
"""What a filter may name."""


def write_table(folder: Path, name: str, table: pa.Table) -> None:
    """Write the images of one version: `name.arrow`, and a table of this name in the database.

    Args:
        folder: the index.
        name: a name that no version had yet.
        table: see `headword.search.build`.

    Raises:
        HeadwordError: if the disk is full or fails.
    """
    import pyarrow as pa

    path = folder / f"{name}.arrow"
    try:
        with path.open("wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        _connect(folder).create_table(name, _filterable(table), mode="overwrite")
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
        raise HeadwordError(f"{path} is missing or damaged: {_line(error)}; index the folder again") from error


def drop_tables(folder: Path, but: Sequence[str]) -> None:
    """Remove the tables of all versions but these."""
    for path in folder.glob("images-*.arrow"):
        if path.stem not in but:
            path.unlink(missing_ok=True)
    database = _connect(folder)
    for path in (folder / DATABASE).glob("images-*.lance"):
        if path.stem not in but:
            database.drop_table(path.stem, ignore_missing=True)


@dataclass(frozen=True, slots=True)
class Filter:
    """The LanceDB table of one version."""

    folder: Path
    name: str

    def places(self, where: str) -> NDArray[np.int64]:
        """Which images satisfy an SQL condition, by their places in the table, ascending.

        Raises:
            HeadwordError: if the condition is not understood, with what LanceDB says.
        """
        if not where.strip():
            raise HeadwordError("the filter is empty; write it like: tag = 'dog' and tag_score > 0.5")
        table = _connect(self.folder).open_table(self.name)
        try:
            # Parentheses, lest what follows a semicolon be ignored.
            found = table.search().where(f"({where}\n)").select(["place"]).limit(None).to_arrow()
        except (ValueError, RuntimeError, OSError) as error:
            raise HeadwordError(
                f"the filter {where!r} is not understood: {_reason(error)}; columns are {', '.join(COLUMNS)}"
            ) from error
        return np.sort(found["place"].to_numpy())


def _filterable(table: pa.Table) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = table.filter(pc.greater_equal(table["slot"], 0))
    folders = [path.rpartition("/")[0] for path in table["path"].to_pylist()]
    modified = pc.divide(table["modified"], 1000).cast(pa.timestamp("us"))
    columns: dict[str, Any] = {
        "place": pa.array(np.arange(len(table), dtype=np.int64)),
        "path": table["path"],
        "folder": pa.array(folders, pa.string()),
        "bytes": table["bytes"],
        "modified": modified,
        "tag": table["tag"],
        "tag_score": table["tag_score"],
    }
    return pa.table(columns)


def _connect(folder: Path) -> Any:
    try:
        import lancedb
    except ModuleNotFoundError:
        raise MissingExtraError("LanceDB, which filters and approximate search use,", "search") from None
    return lancedb.connect(str(folder / DATABASE))


def _reason(error: BaseException) -> str:
    return _line(error).removeprefix("Invalid input, ").removeprefix("Invalid input, ")


def _line(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:300]
