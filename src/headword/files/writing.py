"""Files that are whole or not there: atomic writing, and reading that says what is wrong with a file.

Nothing here unpickles. `import headword.files` stays light: torch and safetensors are imported where used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headword.errors import HeadwordError
from headword.files.reading import expand, open_file, parse_json

if TYPE_CHECKING:
    from torch import Tensor

MARKER = "headword.json"
"""The file that shows a folder to be headword's own."""

# Safetensors keeps metadata in a hash map of random order; under one key, equal contents give equal bytes.
_METADATA_KEY = "headword"


@contextmanager
def new_folder(
    path: str | Path,
    *,
    overwrite: bool = False,
    marker: str = MARKER,
    known: Collection[str] | None = None,
) -> Iterator[Path]:
    """A folder that appears whole at `path`, or not at all.

    Yields a temporary sibling to write into. When the block ends well it is renamed to `path`; on any
    exception, Ctrl-C included, it is removed together with the parent folders that were made for it.

    Args:
        path: where the folder shall be; missing parents are made, an empty folder is replaced.
        overwrite: replace a folder that holds something, if it is headword's own.
        marker: the name of the file that must lie in a folder for it to be replaced.
        known: names that may lie beside the marker in a folder that is replaced; any, when not given.

    Raises:
        HeadwordError: before the block runs, if `path` is a file, holds something and may not be replaced, or
            cannot be made; after it, if another program filled `path` meanwhile; or if the folder or a file
            in it cannot be written.
    """
    target = expand(path).resolve()
    check_new_folder(target, overwrite=overwrite, marker=marker, known=known)
    made = _make_parents(target)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        try:
            temporary.mkdir()
        except OSError as error:
            raise HeadwordError(f"cannot write in {target.parent}: {error.strerror}") from error
        yield temporary
        # The block may have taken hours: another program can have filled the place.
        check_new_folder(target, overwrite=overwrite, marker=marker, known=known)
        _usual_permissions(temporary)
        _move_into_place(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(made)
        reason = _why_not_written(error, temporary, target)
        if reason is not None:
            raise HeadwordError(f"cannot write {target}: {reason}") from error
        raise


def check_new_folder(
    path: str | Path,
    *,
    overwrite: bool = False,
    marker: str = MARKER,
    known: Collection[str] | None = None,
) -> None:
    """Refuse a place that `new_folder` could not use, before long work is done for it.

    Raises:
        HeadwordError: if `path` is a file, holds something and may not be replaced, or lies where nothing can
            be written.
    """
    target = expand(path)
    try:
        _check_writable(target)
        if not target.exists():
            return
        if not target.is_dir():
            raise HeadwordError(f"{target} is a file; give the name of a new folder")
        entries = sorted(entry.name for entry in target.iterdir())
    except OSError as error:
        raise HeadwordError(f"cannot write {target}: {error.strerror}") from error
    if not entries:
        return
    if not overwrite:
        raise HeadwordError(
            f"{target} already exists; give another name, or overwrite it (--overwrite; in Python "
            "overwrite=True)"
        )
    if not (target / marker).is_file():
        raise HeadwordError(f"{target} is not overwritten: it has no {marker}, so it is not headword's own")
    strange = [name for name in entries if known is not None and name != marker and name not in known]
    if strange:
        raise HeadwordError(
            f"{target} is not overwritten: it holds {strange[0]!r}, which headword did not write; move it "
            f"away"
        )


def _check_writable(target: Path) -> None:
    """Refuse a place below a file, or below a folder in which nothing can be made."""
    above = next(parent for parent in target.absolute().parents if parent.exists())
    if not above.is_dir():
        raise HeadwordError(f"cannot write {target}: {above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise HeadwordError(f"cannot write {target}: no permission to write in {above}")


def _why_not_written(error: BaseException, temporary: Path, target: Path) -> str | None:
    """What kept `temporary` from being written or moved, where that is what the error says."""
    if isinstance(error, OSError):
        name = error.filename
        about = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else temporary
        ours = error.errno is not None and (about in (target, temporary) or temporary in about.parents)
        return (error.strerror or str(error)) if ours else None
    if type(error).__name__ == "SafetensorError":  # by name, since importing safetensors imports much
        return _one_line(error)
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _usual_permissions(folder: Path) -> None:
    """Give all in a new folder the permissions that new files have here: some writers make them private."""
    mode = stat.S_IMODE(folder.stat().st_mode)  # as the umask made it
    for entry in folder.rglob("*"):
        entry.chmod(mode if entry.is_dir() else mode & 0o666)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # not empty: someone else's by now
            folder.rmdir()


def _make_parents(target: Path) -> list[Path]:
    """Make the missing folders above `target`; returns them, the innermost first."""
    missing = []
    for parent in target.parents:
        if parent.exists():
            break
        missing.append(parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeadwordError(f"cannot make the folder {target.parent}: {error.strerror}") from error
    return missing


def _move_into_place(temporary: Path, target: Path) -> None:
    with suppress(OSError):  # only an empty folder goes
        target.rmdir()
    if not target.exists():
        temporary.rename(target)
        return
    aside = temporary.with_suffix(".old")
    target.rename(aside)
    try:
        temporary.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _new_file(path: str | Path) -> Iterator[Path]:
    """A temporary sibling that replaces `path` when the block ends well and is removed when it does not."""
    target = expand(path).resolve()
    if target.is_dir():
        raise HeadwordError(f"{target} is a folder; give the name of a file")
    made = _make_parents(target)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield temporary
        temporary.replace(target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _remove_empty(made)
        if isinstance(error, OSError):
            raise HeadwordError(f"cannot write {target}: {error.strerror or error}") from error
        raise


def remove_unfinished(*folders: Path) -> None:
    """Remove what writers that were killed left in these folders; nobody may be writing there."""
    for entry in [entry for folder in folders for entry in folder.glob(".*")]:
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.(tmp|old)", entry.name):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def write_text_atomic(path: str | Path, text: str, *, private: bool = False) -> None:
    """Write a UTF-8 text file that is whole or not there; missing parents are made, an old file is replaced.

    Args:
        path: the file.
        text: what it says.
        private: whether only its owner may read it.

    Raises:
        HeadwordError: if `path` is a folder or may not be written.
    """
    with _new_file(path) as temporary:
        if private:
            temporary.touch(0o600)
        temporary.write_text(text, encoding="utf-8", newline="\n")


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with a sha256 of all its other entries under "sha256", so that an edit is found."""
    kept = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return {**kept, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_text(path: str | Path, *, limit: int | None = None) -> str:
    """The text of a UTF-8 file, without a byte-order mark.

    Raises:
        HeadwordError: if the file is missing, may not be read, has more than `limit` bytes, or is not UTF-8
            (with the line).
    """
    path = expand(path)
    try:
        with open_file(path) as file:
            data = file.read() if limit is None else file.read(limit + 1)
        if limit is not None and len(data) > limit:
            raise HeadwordError(f"{path} has more than {limit:,} bytes, so it is not what is asked for here")
        return data.decode("utf-8-sig")
    except MemoryError:
        raise HeadwordError(f"{path} is not read: it does not fit in memory") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise HeadwordError(f"{path}:{line} is not UTF-8 text; save the file as UTF-8") from error


def read_json(path: str | Path) -> Any:
    """What a JSON file says.

    Raises:
        HeadwordError: if the file is missing, is not UTF-8, or is not JSON (with the line).
    """
    return parse_json(read_text(path), str(expand(path)))


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write tensors as one safetensors file, whole or not there; equal contents give equal bytes.

    Args:
        path: the file.
        tensors: by name; they may be on any device, views of each other, and not contiguous.
        metadata: what JSON can say; `read_metadata` gives it back.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Cloned because safetensors refuses tensors that share memory.
    owned = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    said = json.dumps(dict(metadata or {}), sort_keys=True)
    with _new_file(path) as temporary:
        temporary.touch()  # so that a missing permission is Python's error, not safetensors' own kind
        mode = stat.S_IMODE(temporary.stat().st_mode)
        try:
            save_file(owned, temporary, {_METADATA_KEY: said})
        except SafetensorError as error:
            raise HeadwordError(f"cannot write {expand(path)}: {_one_line(error)}") from error
        temporary.chmod(mode)  # safetensors makes its files private


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name, on the CPU.

    Raises:
        HeadwordError: if the file is missing, is a pickle (which is never opened), is cut short, or is no
            safetensors file.
    """
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
    """A safetensors file that is whole, by its header; returns its path.

    Raises:
        HeadwordError: as `load_tensors`.
    """
    path = expand(path)
    _safetensors_header(path)
    return path


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata `save_tensors` wrote, else the file's own as strings; empty when there is none.

    Raises:
        HeadwordError: as `load_tensors`.
    """
    path = expand(path)
    raw = _safetensors_header(path).get("__metadata__", {})
    if _METADATA_KEY not in raw:
        return dict(raw)
    try:
        said: dict[str, Any] = json.loads(raw[_METADATA_KEY])
    except json.JSONDecodeError as error:
        raise HeadwordError(f"{path} is damaged: its metadata is not valid JSON") from error
    return said


def _safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header. The file is: 8 bytes of its length (little-endian), the JSON, the tensors."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(64)
        length = int.from_bytes(start[:8], "little")
        # A header can begin with a pickle's or a zip's first bytes by chance, but then a brace follows.
        if start[8:9] != b"{" or not 2 <= length <= 100_000_000:
            raise HeadwordError(f"{path} {_what_instead(start)}")
        if length + 8 > size:
            raise HeadwordError(f"{path} is cut short ({size:,} bytes); copy or download it again")
        file.seek(8)
        raw = file.read(length)
    try:
        header: dict[str, Any] = json.loads(raw)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise HeadwordError(f"{path} is damaged: its safetensors header cannot be read") from error
    if 8 + length + max(ends, default=0) > size:
        raise HeadwordError(f"{path} is cut short ({size:,} bytes); copy or download it again")
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
