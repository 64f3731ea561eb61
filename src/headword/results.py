"""The result JSON (schema 1) that every command and every evaluation writes, and the machine in it."""

from __future__ import annotations

import html
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from headword import __version__

if TYPE_CHECKING:
    import pyarrow as pa


def result_json(command: str, **parts: Any) -> dict[str, Any]:
    """A result: `parts` beside what every result has; `results`, if there, come first."""
    first = {"results": parts.pop("results")} if "results" in parts else {}
    always: dict[str, Any] = {"model": {}, "protocol": {}, "metrics": {}, "seed": None, "environment": None}
    common = {name: parts.pop(name, default) for name, default in always.items()}
    common["environment"] = common["environment"] or environment()
    return {"schema": 1, "headword": __version__, "command": command, **first, **common, **parts}


def versions() -> dict[str, str]:
    """Versions of headword and of the libraries its numbers depend on."""
    libraries = ("torch", "torchvision", "timm", "transformers", "sentence-transformers", "open_clip_torch")
    return {"headword": __version__, **{name: importlib.metadata.version(name) for name in libraries}}


def environment() -> dict[str, Any]:
    """Versions and machine, as results carry them."""
    import torch

    return {
        **versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def html_table(title: str, rows: Iterable[Sequence[object]]) -> str:
    """A table for notebooks, whatever names hold."""
    cells = ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><caption>{html.escape(title)}</caption>{body}</table>"


def columns_of(kind: type[Any], rows: Iterable[Any]) -> dict[str, list[Any]]:
    """A column for each field of a dataclass, of rows that are some."""
    rows = list(rows)
    return {field.name: [getattr(row, field.name) for row in rows] for field in fields(kind)}


class Table:
    """What notebooks show as a table, and pyarrow takes as one."""

    def columns(self) -> dict[str, list[Any]]:
        """The columns, by name, all of one length."""
        raise NotImplementedError

    def to_arrow(self) -> pa.Table:
        """The columns as pyarrow's table, of which pandas and polars make their own."""
        import pyarrow as pa

        return pa.table(self.columns())

    def _repr_html_(self) -> str:
        columns = self.columns()
        rows = zip(*columns.values(), strict=True)
        cells = [[f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in rows]
        return html_table(type(self).__name__, [list(columns), *cells])
