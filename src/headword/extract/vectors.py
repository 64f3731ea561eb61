"""Matrices on disk: features and embeddings that users bring or headword stores, and pairs.

Nothing here unpickles. Reading gives float32, or float64 where the file has it.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from headword.data.tables import open_parquet
from headword.errors import HeadwordError
from headword.files import expand, load_tensors, memory, open_file, read_json, read_metadata, save_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from headword.aligners.pairs import Pairs

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
        vectors = _read_parts(path, key or "embedding")
    elif kind == ".parquet":
        vectors = _read_parquet(path, key or "embedding")
    elif kind == ".safetensors":
        vectors = Vectors(_tensor(_only(load_tensors(path), path, key), path), None)
    elif kind == ".npz":
        vectors = _read_npz(path, key)
    elif kind == ".npy":
        vectors = _read_npy(path)
    else:
        raise HeadwordError(
            f"{path} holds no vectors by its ending; known are .npy, .npz, .safetensors, "
            ".parquet, or a folder of part-*.parquet"
        )
    _check(vectors, path)
    return vectors


def save_pairs(pairs: Pairs, path: str | Path) -> None:
    """Write pairs as one safetensors file, whole or not there.

    Names and sources are JSON in a tensor of bytes, not metadata: a safetensors header holds 100 MB at most.
    """
    import torch

    said = json.dumps({"names": pairs.names, "source": pairs.source}).encode()
    texts = torch.frombuffer(bytearray(said), dtype=torch.uint8)
    tensors = {"image": pairs.image, "text": pairs.text, "weight": pairs.weight, "texts": texts}
    save_tensors(path, tensors, {"kind": "pairs", "format": PAIRS_FORMAT})


def load_pairs(path: str | Path) -> Pairs:
    """The pairs `save_pairs` wrote, bit-equal, on the CPU.

    Raises:
        HeadwordError: if the file is missing, damaged, of a newer format, or holds no pairs.
    """
    from headword.aligners.pairs import Pairs

    tensors, metadata = load_tensors(path), read_metadata(path)
    if metadata.get("kind") != "pairs":
        raise HeadwordError(f"{path} holds no pairs; it has {', '.join(sorted(tensors)) or 'nothing'}")
    if metadata.get("format") != PAIRS_FORMAT:
        raise HeadwordError(
            f"{path} has pairs of format {metadata.get('format')}, but this headword reads format "
            f"{PAIRS_FORMAT}; update headword"
        )
    try:
        texts = json.loads(tensors["texts"].numpy().tobytes())
        return Pairs(
            tensors["image"],
            tensors["text"],
            tuple(texts["names"]),
            tuple(texts["source"]),
            tensors["weight"],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise HeadwordError(f"{path} is damaged: its pairs cannot be read ({error})") from error


def pairs_from_files(
    image_path: str | Path, text_path: str | Path, names: Sequence[str] | None = None
) -> Pairs:
    """Pairs of a user's own feature matrices, which any reader of `read_vectors` reads.

    Where both files name their rows, each text row is paired with the image row of its name, so an image may
    have several texts; else row i goes with row i. The wider of the two precisions is used for both.

    Args:
        image_path: the image side.
        text_path: the text side.
        names: a text for each row; the text file's names when not given.

    Raises:
        HeadwordError: as `read_vectors`, and if the rows cannot be matched.
    """
    import torch

    from headword.aligners.pairs import Pairs

    image, text = read_vectors(image_path), read_vectors(text_path)
    values = image.values
    if image.ids is not None and text.ids is not None:
        values = values[_matching_rows(image.ids, text.ids, image_path, text_path)]
    elif len(image.values) != len(text.values):
        raise HeadwordError(
            f"{image_path} has {len(image.values):,} rows and {text_path} {len(text.values):,}; "
            "give equally many, or names (ids) for the rows of both"
        )
    dtype = torch.promote_types(values.dtype, text.values.dtype)
    said = names if names is not None else text.ids or ()
    return Pairs(values.to(dtype), text.values.to(dtype), tuple(said))


def _matching_rows(
    image_ids: Sequence[str], text_ids: Sequence[str], image_path: str | Path, text_path: str | Path
) -> list[int]:
    twice = [name for name, count in Counter(image_ids).items() if count > 1]
    if twice:
        raise HeadwordError(f"{image_path} has {len(twice)} ids more than once, the first is {twice[0]!r}")
    row_of = {name: row for row, name in enumerate(image_ids)}
    lost = [name for name in text_ids if name not in row_of]
    if lost:
        raise HeadwordError(
            f"{len(lost):,} of {len(text_ids):,} ids of {text_path} are not in {image_path}, "
            f"the first is {lost[0]!r}"
        )
    return [row_of[name] for name in text_ids]


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


def _read_npy(path: Path) -> Vectors:
    array = _load_numpy(path)
    if isinstance(array, dict):
        raise HeadwordError(f"{path} is a .npz file by its content; name it .npz")
    return Vectors(_tensor(array, path), None)


def _read_npz(path: Path, key: str | None) -> Vectors:
    arrays = _load_numpy(path)
    if not isinstance(arrays, dict):
        raise HeadwordError(f"{path} is a .npy file by its content; name it .npy")
    ids = next((arrays[name] for name in ("ids", "id") if name in arrays), None)
    if ids is not None and (ids.ndim != 1 or ids.dtype.kind not in "US"):
        raise HeadwordError(f"{path}: ids must be a list of texts, not {ids.dtype} {list(ids.shape)}")
    names = None if ids is None else tuple(str(name) for name in ids.astype(np.str_))
    return Vectors(_tensor(_only(arrays, path, key), path), names)


def _only(arrays: dict[str, Any], path: Path, key: str | None) -> Any:
    """The array of a name, or the only matrix there is."""
    said = ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(arrays.items())) or "nothing"
    if key is not None:
        if key not in arrays:
            raise HeadwordError(f"{path} has no array {key!r}; it has {said}")
        return arrays[key]
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    if len(matrices) != 1:
        raise HeadwordError(f"{path} must hold one matrix, or be told which by its name (key); it has {said}")
    return arrays[matrices[0]]


def _read_parts(folder: Path, column: str) -> Vectors:
    import torch

    from headword.extract.store import HEADER, checked_parts

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
        there = file.schema_arrow.names
        if column not in there:
            raise HeadwordError(f"{path} has no column {column!r}; it has {', '.join(there)}")
        wanted = [column, *(["id"] if "id" in there else [])]
        _check_fits(_parquet_bytes(file.metadata, wanted))
        table = file.read(columns=wanted)
    lists = table[column].combine_chunks()
    if lists.null_count and "status" not in there:
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
    ids = tuple(map(str, table["id"].to_pylist())) if "id" in there else None
    return Vectors(values, ids)


def _parquet_bytes(metadata: Any, columns: Sequence[str]) -> int:
    """What columns take in memory at least: repeated values take nearly no room in the file."""
    size = 0
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(place)
            if chunk.path_in_schema.partition(".")[0] in columns:
                size += max(chunk.num_values * 4, chunk.total_uncompressed_size)
    return size


def _tensor(array: Any, path: Path) -> Tensor:
    """A float32 or float64 matrix of an array or tensor of any numbers."""
    import torch

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


def _check(vectors: Vectors, path: Path) -> None:
    values, ids = vectors
    if not values.numel():
        raise HeadwordError(f"{path} holds no numbers: its matrix is {list(values.shape)}")
    if ids is not None and len(ids) != len(values):
        raise HeadwordError(f"{path} has {len(values):,} rows and {len(ids):,} ids")
    bad = (~values.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        named = f" ({ids[bad[0]]!r})" if ids is not None else ""
        raise HeadwordError(
            f"{path}: {len(bad):,} of {len(values):,} rows have a NaN or infinite value, the first is row "
            f"{bad[0]}{named}"
        )
