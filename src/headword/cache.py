"""What is kept between runs: vectors of images and texts, and whatever else takes long to make again.

Where it is larger than the limit, what was not used for longest goes. A cache that cannot be written (a full
disk, no permission) is as good as none, no error.

A vector is found again only by the same *space* (encoder weights, transform, engine, precision, …) and key.
Vectors lie in *segments*: files of sorted 16-byte keys beside a matrix, one written by each call that
computed something, merged when there are many. A segment appears whole or not at all and is never changed,
so any number of processes may read and write at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import sys
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from headword.errors import HeadwordError
from headword.files import expand, load_tensors, locked, read_metadata, save_tensors, write_text_atomic

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = "np.ndarray[Any, Any]"

DEFAULT_LIMIT = 4_000_000_000
"""Bytes the cache may take, unless `HEADWORD_CACHE_LIMIT` says otherwise."""

MERGE_FROM = 16
"""Segments of one space from which they are merged."""

MERGED_BYTES = 256_000_000
"""Segments larger than this are left as they are."""

_ABOUT = "space.json"
_log = logging.getLogger("headword")


def cache_folder() -> Path:
    """`$HEADWORD_CACHE`, else the platform's folder for caches; made when something is written."""
    import platformdirs

    chosen = os.environ.get("HEADWORD_CACHE")
    return expand(chosen) if chosen else Path(platformdirs.user_cache_dir("headword"))


def cache_limit() -> int:
    """Bytes the cache may take: `$HEADWORD_CACHE_LIMIT`, as in "500MB" or "20GB"; "0" switches it off."""
    limit = os.environ.get("HEADWORD_CACHE_LIMIT", str(DEFAULT_LIMIT))
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)B?\s*", limit, re.IGNORECASE)
    if match is None:
        raise HeadwordError(
            f"HEADWORD_CACHE_LIMIT={limit!r} is no size; write it as 500MB or 20GB, or 0 for none"
        )
    return int(float(match[1]) * 1000 ** " kmgt".index(match[2].lower() or " "))


def key_of(*parts: str | bytes | int) -> bytes:
    """16 bytes that stand for the parts; no two lists of parts run into each other."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


class VectorCache:
    """The vectors of one space, which is everything that they depend on besides their keys, as JSON."""

    def __init__(self, space: Mapping[str, Any], dim: int) -> None:
        self._about = json.dumps({**space, "dim": dim}, sort_keys=True)
        self._dim = dim
        self.folder = cache_folder() / "vectors" / hashlib.sha256(self._about.encode()).hexdigest()[:32]
        self.on = cache_limit() > 0

    def get(self, keys: Sequence[bytes], out: Tensor) -> Tensor:
        """Fill the rows of `out` `[N, dim]` whose keys are known; returns which they are, bool `[N]`."""
        import torch

        known, rows, packed = np.zeros(len(keys), dtype=bool), out.numpy(), _pack(keys)
        for _ in range(3):  # again if another process merged segments while they were being read
            segments = _segments(self.folder) if self.on and keys else []
            present = [self._fill(path, packed, known, rows) for path in segments if not known.all()]
            if all(present):
                break
        return torch.from_numpy(known)

    def _fill(self, path: Path, packed: Array, known: Array, rows: Array) -> bool:
        """Take from a segment what is not known yet; False if it is gone. A damaged one is removed."""
        if (segment := self._open(path)) is None:
            return False
        keys, vectors, sums = segment
        missing = np.flatnonzero(~known)
        places = np.searchsorted(keys[:, 0], packed[missing, 0]).clip(max=len(keys) - 1)
        hit = (keys[places] == packed[missing]).all(axis=1)
        places, missing = places[hit], missing[hit]
        if not np.array_equal(_sums(keys[places], vectors[places]), sums[places]):
            path.unlink(missing_ok=True)  # damaged: what it held is computed anew
        elif len(missing):
            rows[missing], known[missing] = vectors[places], True
            with suppress(OSError):
                os.utime(path)  # used now: the last to go
        return True

    def put(self, keys: Sequence[bytes], vectors: Tensor) -> None:
        """Keep float32 vectors `[N, dim]` under their keys."""
        if not self.on or not len(keys):
            return
        with _harmless():
            if not (self.folder / _ABOUT).is_file():
                write_text_atomic(self.folder / _ABOUT, self._about + "\n")
            self._write(_pack(keys), vectors.float().numpy())
            evict()
            small = [path for path in _segments(self.folder) if _size(path) < MERGED_BYTES]
            if len(small) >= MERGE_FROM:
                with locked(self.folder / "merge.lock", "another process merges them"):
                    self._merge(small)

    def _open(self, path: Path) -> tuple[Array, Array, Array] | None:
        try:
            tensors = {name: tensor.numpy() for name, tensor in load_tensors(path).items()}
            keys, vectors, sums = tensors["keys"].view("<u8"), tensors["vectors"], tensors["sums"]
        except (HeadwordError, KeyError, TypeError, ValueError):  # evicted a moment ago, or damaged
            path.unlink(missing_ok=True)
            return None
        count = len(keys)
        shapes: tuple[object, ...] = (keys.shape, vectors.shape, sums.shape, vectors.dtype)
        if not count or shapes != ((count, 2), (count, self._dim), (count,), np.float32):
            path.unlink(missing_ok=True)
            return None
        return keys, vectors, sums

    def _write(self, packed: Array, vectors: Array) -> None:
        import torch

        order = np.lexsort((packed[:, 1], packed[:, 0]))
        keys, vectors = packed[order], vectors[order]
        arrays = {"keys": keys.view(np.uint8), "vectors": vectors, "sums": _sums(keys, vectors)}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        save_tensors(self.folder / f"{uuid.uuid4().hex}.safetensors", tensors, {"vectors": len(keys)})

    def _merge(self, small: list[Path]) -> None:
        """Many small segments into one."""
        segments = [segment for path in small if (segment := self._open(path)) is not None]
        if segments:
            keys, vectors, sums = (np.concatenate(parts) for parts in zip(*segments, strict=True))
            first = np.unique(keys, axis=0, return_index=True)[1]
            first = first[_sums(keys[first], vectors[first]) == sums[first]]
            self._write(keys[first], vectors[first])
        for path in small:
            path.unlink(missing_ok=True)


@contextmanager
def keeping(
    put: Callable[[list[int]], None] | None, every: int, kept: Callable[[], str]
) -> Iterator[Callable[[Iterable[int]], None]]:
    """Rows that were computed are put into a cache `every` so many, and at the end, whatever ends the work.

    Where `put` is None nothing is; else an interrupt says what is `kept`.
    """
    waiting: list[int] = []

    def add(rows: Iterable[int], least: int = every) -> None:
        waiting.extend(rows)
        if put is not None and waiting and len(waiting) >= least:
            put(waiting)
            waiting.clear()

    try:
        yield add
    except KeyboardInterrupt:
        if put is None:
            raise
        raise KeyboardInterrupt(f"{kept()}; the same command goes on from there") from None
    finally:  # an interrupted call has not worked for nothing
        add([], 0)


KINDS = ("vectors", "openvino", "shards", "fits", "datasets", "benchmarks", "evaluation")
"""Folders of the cache: vectors, converted models, where samples lie in tar files, fitted mappings,
downloaded data sets, what benchmarks keep, and features as an older headword kept them. What is not in one of
them is not the cache's, and never removed.
"""

_in_use: set[Path] = set()  # by this process, which therefore does not remove it


def place(kind: str, name: str) -> Path:
    """Where something of a kind is, or shall be, kept; it counts as used now."""
    path = cache_folder() / kind / name
    _in_use.add(path)
    with suppress(OSError):
        os.utime(path)
    return path


def once(kind: str, name: str, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Tensors that are kept under a name, which stands for all they depend on; made where they are not."""
    file = place(kind, f"{name}.safetensors")
    if file.is_file() and cache_limit() > 0:
        try:
            return load_tensors(file)
        except HeadwordError:  # damaged, or removed a moment ago
            file.unlink(missing_ok=True)
    tensors = make()
    if cache_limit() > 0:
        with _harmless():
            save_tensors(file, tensors)
            evict()
    return tensors


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One part of the cache, as `headword cache info` shows it."""

    kind: str
    """"image" or "text" for vectors, "other" for ones that are not understood; else one of `KINDS`."""
    name: str
    """What it was computed with."""
    vectors: int
    bytes: int


def entries() -> list[CacheEntry]:
    """What the cache holds, the largest first."""
    return sorted((_entry(kind, path) for kind, path in _held()), key=lambda entry: -entry.bytes)


def clear() -> int:
    """Remove everything from the cache; returns how many bytes that freed."""
    return sum(_remove(path) for _, path in list(_held()))


def evict(limit: int | None = None) -> None:
    """Remove what was not used for longest, and is not in use here, until at most `limit` bytes are left.

    Where none is given it is the cache's own; if that is 0, nothing is kept and nothing removed.
    """
    limit = cache_limit() or sys.maxsize if limit is None else limit
    parts = [part for kind, path in _held() for part in (_segments(path) if kind == "vectors" else [path])]
    total = sum(map(_size, parts))
    for part in sorted(set(parts) - _in_use, key=_last_used):
        if total <= limit:
            return
        total -= _remove(part)


def _held() -> Iterator[tuple[str, Path]]:
    """Each thing in the cache with its kind; hidden ones are being written."""
    for kind in KINDS:
        with suppress(OSError):
            paths = (cache_folder() / kind).iterdir()
            yield from ((kind, path) for path in paths if not path.name.startswith("."))


def _entry(kind: str, path: Path) -> CacheEntry:
    if kind != "vectors":
        return CacheEntry(kind, path.stem, 0, _size(path))
    segments = _segments(path)
    size = sum(map(_size, segments))
    try:
        about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
        vectors = sum(int(read_metadata(segment).get("vectors", 0)) for segment in segments)
        return CacheEntry(str(about.get("kind", "other")), str(about.get("encoder", "?")), vectors, size)
    except (OSError, ValueError, HeadwordError):
        return CacheEntry("other", "?", 0, size)


def _segments(folder: Path) -> list[Path]:
    """Of a space, the newest first."""
    return sorted(folder.glob("*.safetensors"), key=_last_used, reverse=True)


def _remove(path: Path) -> int:
    """Remove a file or folder; returns the bytes it had."""
    size = _size(path)
    with suppress(OSError):  # Windows keeps a file that is being read
        path.unlink() if path.is_file() else shutil.rmtree(path)
    return size


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 if it vanished."""
    try:
        if path.is_dir():
            return sum(_size(entry) for entry in path.iterdir())
        return path.stat().st_size
    except OSError:
        return 0


def _last_used(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _sums(keys: Array, vectors: Array) -> Array:
    """CRC-32 of each key with its vector, its bits as int32 `[N]`."""
    rows = zip(keys, vectors, strict=True)
    return np.array([zlib.crc32(row, zlib.crc32(key)) for key, row in rows], np.uint32).view(np.int32)


def _pack(keys: Sequence[bytes]) -> Array:
    """Keys as pairs of integers `[N, 2]`: found by the first, told apart by both."""
    return np.frombuffer(b"".join(keys), dtype="<u8").reshape(len(keys), 2)


@contextmanager
def _harmless() -> Iterator[None]:
    """Not being able to keep something is no reason to fail."""
    try:
        yield
    except (OSError, HeadwordError) as error:
        _log.info("nothing was cached: %s", error)
