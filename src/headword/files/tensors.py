"""Tensors in safetensors files, which hold nothing that could run. Nothing here unpickles."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headword.errors import HeadwordError
from headword.files.reading import expand, open_file
from headword.files.writing import new_file

if TYPE_CHECKING:
    from torch import Tensor

# Safetensors keeps metadata in a hash map of random order; under one key, equal contents give equal bytes.
_METADATA_KEY = "headword"


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write tensors as one safetensors file, whole or not there; equal contents give equal bytes."""
    import torch
    from safetensors.torch import save_file

    # Cloned because safetensors refuses tensors that share memory.
    owned = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with new_file(path) as temporary:
        temporary.touch()  # so that a missing permission is Python's error, not safetensors' own kind
        mode = stat.S_IMODE(temporary.stat().st_mode)
        save_file(owned, temporary, {_METADATA_KEY: json.dumps(dict(metadata or {}), sort_keys=True)})
        temporary.chmod(mode)  # safetensors makes its files private


def sha256_of(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """A hash of what JSON can say and of tensors by name, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """A safetensors file's tensors by name, on the CPU; refused unopened if a pickle, and if cut short."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = check_tensors(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError) as error:
        if not path.exists():  # removed since it was checked; torch says that as a RuntimeError
            raise HeadwordError(f"{path} is not there any more") from error
        raise HeadwordError(f"{path} is damaged and cannot be read as safetensors: {error}") from error


def check_tensors(path: str | Path) -> Path:
    """The path of a safetensors file that is whole, by its header; refused as by `load_tensors`."""
    path = expand(path)
    _header(path)
    return path


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata `save_tensors` wrote, else the file's own as strings; refused as by `load_tensors`."""
    path = expand(path)
    raw: dict[str, Any] = _header(path).get("__metadata__", {})
    try:
        metadata: dict[str, Any] = json.loads(raw[_METADATA_KEY]) if _METADATA_KEY in raw else dict(raw)
    except json.JSONDecodeError as error:
        raise HeadwordError(f"{path} is damaged: its metadata is not valid JSON") from error
    return metadata


def _header(path: Path) -> dict[str, Any]:
    """The JSON header. The file is: 8 bytes of its length (little-endian), the JSON, the tensors."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(64)
        length = int.from_bytes(start[:8], "little")
        # A header can begin with a pickle's or a zip's first bytes by chance, but then a brace follows.
        if start[8:9] != b"{" or not 2 <= length <= 100_000_000:
            raise HeadwordError(f"{path} {_what_instead(start)}")
        file.seek(8)
        raw = file.read(length)
    cut_short = HeadwordError(f"{path} is cut short ({size:,} bytes); copy or download it again")
    if length + 8 > size:
        raise cut_short
    try:
        header: dict[str, Any] = json.loads(raw)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise HeadwordError(f"{path} is damaged: its safetensors header cannot be read") from error
    if 8 + length + max(ends, default=0) > size:
        raise cut_short
    return header


def _what_instead(start: bytes) -> str:
    if not start:
        return "is empty (0 bytes); copy or download it again"
    if start.startswith(b"PK\x03\x04") or (start[0] == 0x80 and start[1:2] in b"\x01\x02\x03\x04\x05"):
        return (
            "is a pickle (a PyTorch checkpoint), which can run code when opened, so it is not read; "
            "convert it with safetensors.torch.save_file"
        )
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; fetch it with: git lfs pull"
    return "is not a safetensors file"
