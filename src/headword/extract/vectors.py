"""Matrices on disk: features and embeddings that users bring or headword stores, and pairs.

Nothing here unpickles. Reading gives float32, or float64 where the file has it.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headword.aligners.pairs import Pairs
from headword.data.items import Item
from headword.data.tables import open_parquet
from headword.errors import HeadwordError
from headword.extract.store import HEADER, KEY, checked_parts, read_header
from headword.files import expand, load_tensors, memory, open_file, read_json, read_metadata, save_tensors

PAIRS_FORMAT = 1


class Vectors(NamedTuple):
    """Rows of a matrix, and what each row is of."""

    values: Tensor
    """`[N, D]`, float32 or float64, all finite."""
    ids: tuple[str, ...] | None
    """N names of the rows, where the file has them."""


def read_vectors(path: str | Path, *, key: str | None = None) -> Vectors:
    """A matrix and, where the file has them, its rows' names.

    | file | matrix | names |
    |---|---|---|
    | `.npy` | the array | – |
    | `.npz` | `key`, else its only matrix of numbers | a text array `ids` or `id` |
    | `.safetensors` | `key`, else its only matrix | – |
    | `.parquet`, or a folder of `part-*.parquet` | column `key`, else `embedding`, of lists | column `id` |

    In a feature store (a table with a column `status`) rows without an embedding, the failed ones, are left
    out.

    Raises:
        HeadwordError: in one line: missing or damaged file, pickled objects (which are never opened), a name
            that is not there (with those that are), no matrix of numbers, a NaN or infinite value.
    """
    path = expand(path)
    kind = path.suffix.lower()
    if path.is_dir():
        values, ids = _read_parts(path, key or "embedding")
    elif kind == ".parquet":
        values, ids = _read_parquet(path, key or "embedding")
    elif kind == ".safetensors":
        values, ids = _tensor(_only(load_tensors(path), path, key), path), None
    elif kind in (".npz", ".npy"):
        values, ids = _read_numpy(path, kind, key)
    else:
        raise HeadwordError(
            f"{path} holds no vectors by its ending; known are .npy, .npz, .safetensors, "
            ".parquet, or a folder of part-*.parquet"
        )
    if not values.numel():
        raise HeadwordError(f"{path} holds no numbers: its matrix is {list(values.shape)}")
    if ids is not None and len(ids) != len(values):
        raise HeadwordError(f"{path} has {len(values):,} rows and {len(ids):,} ids")
    bad = (~values.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        named = "" if ids is None else f" ({ids[bad[0]]!r})"
        raise HeadwordError(
            f"{path}: {len(bad):,} of {len(values):,} rows have a NaN or infinite value, the first is row "
            f"{bad[0]}{named}"
        )
    return Vectors(values, ids)


class StoredFeatures:
    """The features that `headword embed` stored, by the files they are of: an index takes them as they are.

    Called with items and rows `[N, d]`, it fills the rows of files that did not change since and says which
    these are, bool `[N]`, as `headword.extract.features.known_features` does.
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
        """What the features depend on; see `headword.extract.job.Job.key`."""
        self._rows: dict[str, tuple[Any, int]] = {}  # by path: the features, and when they were written
        for part in checked_parts(self.folder):
            with open_parquet(part) as file:
                table = file.read(columns=["path", "embedding"], use_threads=False)
            table = table.filter(table["embedding"].is_valid())
            values = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            rows = values.reshape(len(table), int(header["dim"]))
            written, paths = part.stat().st_mtime_ns, table["path"].to_pylist()
            self._rows |= {path: (row, written) for path, row in zip(paths, rows, strict=True)}

    def __call__(self, items: Sequence[Item], rows: Tensor) -> Tensor:
        """See the class."""
        known = torch.zeros(len(items), dtype=torch.bool)
        for place, item in enumerate(items):
            row, written = self._rows.get(item.path, (None, 0))
            if row is not None and item.file is not None and _changed(item.file) < written:
                rows[place], known[place] = torch.from_numpy(row.astype("float32")), True
        return known


def _changed(file: str) -> float:
    """When a file, or its name, changed last; never, if it is not there."""
    try:
        status = os.stat(file)  # noqa: PTH116  # a Path costs ten times as much
    except OSError:
        return math.inf
    return max(status.st_mtime_ns, status.st_ctime_ns)


def save_pairs(pairs: Pairs, path: str | Path) -> None:
    """Write pairs as one safetensors file, whole or not there.

    Names and sources are JSON in a tensor of bytes, not metadata: a safetensors header holds 100 MB at most.
    """
    texts = json.dumps({"names": pairs.names, "source": pairs.source}).encode()
    tensors = {"image": pairs.image, "text": pairs.text, "weight": pairs.weight}
    tensors["texts"] = torch.frombuffer(bytearray(texts), dtype=torch.uint8)
    save_tensors(path, tensors, {"kind": "pairs", "format": PAIRS_FORMAT})


def load_pairs(path: str | Path) -> Pairs:
    """The pairs `save_pairs` wrote, bit-equal, on the CPU."""
    tensors, metadata = load_tensors(path), read_metadata(path)
    if metadata.get("kind") != "pairs":
        raise HeadwordError(f"{path} holds no pairs; it has {', '.join(sorted(tensors)) or 'nothing'}")
    if metadata.get("format") != PAIRS_FORMAT:
        raise HeadwordError(
            f"{path} has pairs of format {metadata.get('format')}, but this headword reads format "
            f"{PAIRS_FORMAT}; update headword"
        )
    try:
        texts = json.loads(tensors.pop("texts").numpy().tobytes())
        return Pairs(names=tuple(texts["names"]), source=tuple(texts["source"]), **tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise HeadwordError(f"{path} is damaged: its pairs cannot be read ({error})") from error


def _read_numpy(path: Path, kind: str, key: str | None) -> Vectors:
    content = _load_numpy(path)
    actual = ".npz" if isinstance(content, dict) else ".npy"
    if kind != actual:
        raise HeadwordError(f"{path} is a {actual} file by its content; name it {actual}")
    if actual == ".npy":
        return Vectors(_tensor(content, path), None)
    ids = next((content[name] for name in ("ids", "id") if name in content), None)
    if ids is not None and (ids.ndim != 1 or ids.dtype.kind not in "US"):
        raise HeadwordError(f"{path}: ids must be a list of texts, not {ids.dtype} {list(ids.shape)}")
    names = None if ids is None else tuple(str(name) for name in ids.astype(np.str_))
    return Vectors(_tensor(_only(content, path, key), path), names)


def _load_numpy(path: Path) -> Any:
    """An array of a `.npy`, or the arrays of a `.npz` by name."""
    with open_file(path) as file:
        try:
            _check_fits(_numpy_bytes(file))
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.lib.npyio.NpzFile):
                arrays = {name: content[name] for name in content.files}
                return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
            return content
        except Exception as error:  # what NumPy and zipfile raise on damaged files is of many kinds
            if "allow_pickle" in str(error):  # an object array, or a bare pickle under this ending
                raise HeadwordError(
                    f"{path} is or holds a pickle, which can run code when opened, so it is not read; "
                    "save plain arrays of numbers"
                ) from error
            raise HeadwordError(f"{path} is damaged or no NumPy file: {error}".splitlines()[0]) from error


def _numpy_bytes(file: BinaryIO) -> int:
    """What the arrays of a file take in memory, by what it says of itself."""
    if zipfile.is_zipfile(file):
        size = sum(member.file_size for member in zipfile.ZipFile(file).infolist())
    else:
        size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _check_fits(size: int) -> None:
    if size > memory():
        raise ValueError(f"it holds {size:,} bytes, more than fit in memory ({memory():,})")


def _only(arrays: dict[str, Any], path: Path, key: str | None) -> Any:
    """The array of a name, or the only matrix there is."""
    shown = ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(arrays.items())) or "nothing"
    if key is not None:
        if key not in arrays:
            raise HeadwordError(f"{path} has no array {key!r}; it has {shown}")
        return arrays[key]
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    if len(matrices) != 1:
        raise HeadwordError(
            f"{path} must hold one matrix, or be told which by its name (key); it has {shown}"
        )
    return arrays[matrices[0]]


def _read_parts(folder: Path, column: str) -> Vectors:
    ours = (folder / HEADER).is_file() and read_json(folder / HEADER)
    files = checked_parts(folder) if ours else sorted(folder.glob("part-*.parquet"))
    parts = [_read_parquet(path, column) for path in files]
    if not parts:
        raise HeadwordError(f"{folder} has no part-*.parquet files in it")
    widths = {part.values.shape[1] for part in parts if len(part.values)}
    if len(widths) > 1:
        raise HeadwordError(f"the parts of {folder} differ in width: {', '.join(map(str, sorted(widths)))}")
    parts = [part for part in parts if len(part.values)] or parts[:1]
    values = torch.cat([part.values for part in parts])
    if any(part.ids is None for part in parts):
        return Vectors(values, None)
    return Vectors(values, tuple(name for part in parts for name in part.ids or ()))


def _read_parquet(path: Path, column: str) -> Vectors:
    import pyarrow as pa

    with open_parquet(path) as file:
        columns = file.schema_arrow.names
        if column not in columns:
            raise HeadwordError(f"{path} has no column {column!r}; it has {', '.join(columns)}")
        wanted = [column, *(["id"] if "id" in columns else [])]
        _check_fits(_parquet_bytes(file.metadata, wanted))
        table = file.read(columns=wanted)
    lists = table[column].combine_chunks()
    if lists.null_count and "status" not in columns:
        raise HeadwordError(f"{path}: {lists.null_count:,} of {len(lists):,} rows have no {column}")
    table = table.filter(lists.is_valid())
    lists = table[column].combine_chunks()
    list_types = (pa.types.is_list, pa.types.is_fixed_size_list, pa.types.is_large_list)
    if not any(is_such(lists.type) for is_such in list_types):
        raise HeadwordError(f"{path}: the column {column} holds {lists.type}, not lists of numbers")
    lengths = lists.value_lengths().unique().to_pylist()
    if len(lengths) > 1:
        raise HeadwordError(f"{path}: the lists in {column} differ in length: {lengths[0]} and {lengths[1]}")
    numbers = lists.flatten().to_numpy(zero_copy_only=False)
    width = lengths[0] if lengths else getattr(lists.type, "list_size", 0)
    values = _tensor(numbers.reshape(len(lists), width), path)
    ids = tuple(map(str, table["id"].to_pylist())) if "id" in columns else None
    return Vectors(values, ids)


def _parquet_bytes(metadata: Any, columns: Sequence[str]) -> int:
    """What columns take in memory at least: repeated values take nearly no room in the file."""
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    chunks = [group.column(place) for group in groups for place in range(metadata.num_columns)]
    return sum(
        max(chunk.num_values * 4, chunk.total_uncompressed_size)
        for chunk in chunks
        if chunk.path_in_schema.partition(".")[0] in columns
    )


def _tensor(array: Any, path: Path) -> Tensor:
    """A float32 or float64 matrix of an array or tensor of any numbers."""
    if isinstance(array, np.ndarray):
        if array.dtype.kind not in "fiu":
            raise HeadwordError(f"{path} holds {array.dtype} {list(array.shape)}, not a matrix of numbers")
        precision = np.float64 if array.dtype == np.float64 else np.float32
        array = torch.from_numpy(np.require(array, precision, ["C", "W"]))
    if array.ndim != 2 or array.dtype.is_complex or array.dtype == torch.bool:
        kind = str(array.dtype).removeprefix("torch.")
        raise HeadwordError(f"{path} holds {kind} {list(array.shape)}, not a matrix of numbers")
    tensor: Tensor = array if array.dtype == torch.float64 else array.float()
    return tensor
