"""The images of an index by name: an Arrow file, and what filters find in it."""

from __future__ import annotations

import builtins
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headword.errors import HeadwordError
from headword.search.filter import COLUMNS, Compare, Condition, Every, IsNull, Like, Not, Some
from headword.search.rows import UNKNOWN
from headword.search.space import Floats

if TYPE_CHECKING:
    import pyarrow as pa

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
    sum: int
    """CRC-32 of its features; -1 if it has none."""


def table_of(entries: Sequence[Entry]) -> pa.Table:
    """Entries in the order of their paths, without tags."""
    import pyarrow as pa

    ordered = sorted(entries, key=lambda entry: entry.path)
    fields = [field for field in _schema() if field.name in Entry.__slots__]
    arrays = {field.name: pa.array([getattr(e, field.name) for e in ordered], field.type) for field in fields}
    return with_tags(pa.table(arrays), None, None)


def _schema() -> pa.Schema:
    import pyarrow as pa

    columns = {
        "path": pa.string(), "raw": pa.binary(), "bytes": pa.int64(), "modified": pa.int64(),
        "content": pa.binary(16), "slot": pa.int64(), "status": pa.string(), "sum": pa.int64(),
        "tag": pa.string(), "tag_score": pa.float32(),
    }  # fmt: skip
    return pa.schema(list(columns.items()))


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
    """Write the images of one version, `name.arrow`.

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
    except (OSError, pa.ArrowException) as error:
        raise HeadwordError(
            f"cannot write {path}: {_line(error)}; the index is what it was: make room and run the same "
            "command again"
        ) from error


def read_table(path: Path) -> pa.Table:
    """The images of one version, in memory.

    Raises:
        HeadwordError: if the file is no such table.
    """
    import pyarrow as pa

    try:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        table.validate(full=True)
        if "sum" not in table.column_names:  # of format 1
            table = table.append_column("sum", pa.array([UNKNOWN] * len(table), pa.int64()))
        return table.select(_schema().names).cast(_schema())
    except (OSError, LookupError, ValueError, pa.ArrowException) as error:
        raise HeadwordError(f"{path} is damaged: {_line(error)}; index the folder again") from error


def integers(table: pa.Table, column: str) -> NDArray[np.int64]:
    """A column of integers `[N]`; `to_numpy()` would import pandas."""
    values: NDArray[Any] = np.from_dlpack(table[column].combine_chunks())
    return values


def row_sums(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Slots that have features `[N]`, and the checksums of these `[N]`."""
    slots, sums = integers(table, "slot"), integers(table, "sum")
    return slots[slots >= 0], sums[slots >= 0]


def columns_of(table: pa.Table) -> dict[str, pa.Array]:
    """What a filter may name, of the images of a table."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {name: table[name].combine_chunks() for name in COLUMNS if name != "folder"}
    columns["folder"] = pc.replace_substring_regex(columns["path"], r"/?[^/]*\z", "")
    columns["tag_score"] = columns["tag_score"].cast(pa.float64())
    return columns


def places_where(columns: Mapping[str, pa.Array], condition: Condition) -> NDArray[np.int64]:
    """Which images satisfy a condition, by their places, ascending: for which it is true, not null."""
    true = _holds(columns, condition).fill_null(False).to_numpy(zero_copy_only=False)
    return np.flatnonzero(true)


def _holds(columns: Mapping[str, pa.Array], condition: Condition) -> pa.BooleanArray:
    """Whether it holds for each image: true, false or null, as in SQL."""
    import pyarrow as pa
    import pyarrow.compute as pc

    match condition:
        case Compare(column, operator, value):
            number = pa.float64() if isinstance(value, float) else None
            return pc.call_function(_FUNCTIONS[operator], [columns[column], pa.scalar(value, number)])
        case Like(column, pattern, escape):
            return pc.match_substring_regex(columns[column], regex_of(pattern, escape))
        case IsNull(column):
            return pc.is_null(columns[column])
        case Not(inner):
            return pc.invert(_holds(columns, inner))
        case Every(conditions):
            return reduce(pc.and_kleene, (_holds(columns, inner) for inner in conditions))
        case Some(conditions):
            return reduce(pc.or_kleene, (_holds(columns, inner) for inner in conditions))


_FUNCTIONS = {
    "=": "equal", "<>": "not_equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal",
}  # fmt: skip


def regex_of(pattern: str, escape: str) -> str:
    """A LIKE pattern for RE2, which takes a time linear in the length of a text."""
    characters = re.findall(f"{re.escape(escape)}.|." if escape else ".", pattern, re.DOTALL)
    wildcards = {"%": ".*", "_": "."}
    return r"(?s)\A" + "".join(wildcards.get(c) or re.escape(c[-1]) for c in characters) + r"\z"


def _line(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:300]
