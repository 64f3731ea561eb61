"""What `headword embed` wrote, as an index takes it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headword.data.items import Item
from headword.errors import HeadwordError
from headword.extract.store import KEY, read_header, tables
from headword.files import expand


class StoredFeatures:
    """The features that `headword embed` stored, by the files they are of: an index takes them as they are.

    Called with items and rows `[N, d]`, it fills the rows of files that did not change since and says which
    these are, bool `[N]`, as `headword.extract.features.known_features` does.

    Args:
        folder: the store.

    Raises:
        HeadwordError: if it is no store, is damaged, or holds embeddings in a model's shared space.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = expand(folder)
        header = read_header(self.folder)
        if header["space"] != "features":
            raise HeadwordError(
                f"{folder} holds embeddings in a model's shared space, not features; make one with headword "
                "embed --space features"
            )
        self.key = {name: header[name] for name in KEY}
        """What the features depend on; see `headword.extract.job.FeatureKey`."""
        self._rows: dict[str, tuple[int, int, int]] = {}  # by path: part, row, when it was written
        self._parts: list[Any] = []
        for path, table in tables(self.folder, ["path", "embedding", "status"]):
            table = table.filter(table["embedding"].is_valid())
            values = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            self._parts.append(values.reshape(len(table), int(header["dim"])))
            written = path.stat().st_mtime_ns
            for row, name in enumerate(table["path"].to_pylist()):
                self._rows[name] = (len(self._parts) - 1, row, written)

    def __call__(self, items: Sequence[Item], rows: Tensor) -> Tensor:
        """See the class."""
        known = torch.zeros(len(items), dtype=torch.bool)
        for place, item in enumerate(items):
            part, row, written = self._rows.get(item.path, (-1, -1, 0))
            if part >= 0 and item.file is not None and _changed(item.file) < written:
                rows[place] = torch.from_numpy(self._parts[part][row].astype("float32"))
                known[place] = True
        return known


def _changed(file: str) -> float:
    """When a file, or its name, changed last; never, if it is not there."""
    try:
        status = os.stat(file)  # noqa: PTH116  # a Path costs ten times as much
    except OSError:
        return math.inf
    return max(status.st_mtime_ns, status.st_ctime_ns)
