"""Files and folders that are whole or not there, and one writer at a time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from headword.errors import HeadwordError
from headword.files.reading import expand

MARKER = "headword.json"  # the file that shows a folder to be headword's own

_THERE = "{} already exists; give another name, or overwrite it (--overwrite; in Python overwrite=True)"


@contextmanager
def new_folder(
    path: str | Path, *, overwrite: bool = False, marker: str = MARKER, known: Collection[str] | None = None
) -> Iterator[Path]:
    """A folder that appears whole at `path` when the block ends well, or not at all.

    Yields a temporary sibling, which is removed on any exception, with the parents made for it. `overwrite`
    replaces a folder that holds the file `marker` and beside it nothing but `known` names.
    """
    target = expand(path).resolve()
    check = partial(check_new_folder, target, overwrite=overwrite, marker=marker, known=known)
    check()

    def move(temporary: Path) -> None:
        check()  # the block may have taken hours: another program can have filled the place
        mode = stat.S_IMODE(temporary.stat().st_mode)  # as the umask made it; some writers make files private
        for entry in temporary.rglob("*"):
            entry.chmod(mode if entry.is_dir() else mode & 0o666)
        _move_into_place(temporary, target)

    with _whole(target, move) as temporary:
        temporary.mkdir()
        yield temporary


def check_new_folder(
    path: str | Path, *, overwrite: bool = False, marker: str = MARKER, known: Collection[str] | None = None
) -> None:
    """Refuse a place that `new_folder` could not use, before long work is done for it."""
    target = expand(path)
    try:
        _check_writable(target)
        if target.exists() and not target.is_dir():
            raise HeadwordError(f"{target} is a file; give the name of a new folder")
        entries = sorted(entry.name for entry in target.iterdir()) if target.exists() else []
    except OSError as error:
        raise HeadwordError(f"cannot write {target}: {error.strerror}") from error
    if not entries:
        return
    if not overwrite:
        raise HeadwordError(_THERE.format(target))
    if not (target / marker).is_file():
        raise HeadwordError(f"{target} is not overwritten: it has no {marker}, so it is not headword's own")
    strange = [name for name in entries if known is not None and name != marker and name not in known]
    if strange:
        raise HeadwordError(
            f"{target} is not overwritten: it holds {strange[0]!r}, which headword did not write; "
            "move it away"
        )


def check_new_file(path: str | Path, *, overwrite: bool = False) -> Path:
    """Refuse a place that a new file could not take, before long work is done for it; returns its path.

    Raises:
        HeadwordError: if `path` is a folder, is there already and may not be replaced, or lies where nothing
            can be written.
    """
    target = expand(path)
    try:
        _check_writable(target)
        if target.is_dir():
            raise HeadwordError(f"{target} is a folder; give the name of a file")
        if target.exists() and not overwrite:
            raise HeadwordError(_THERE.format(target))
    except OSError as error:
        raise HeadwordError(f"cannot write {target}: {error.strerror}") from error
    return target


def _check_writable(target: Path) -> None:
    """Refuse a place below a file, or below a folder in which nothing can be made."""
    above = next(parent for parent in target.absolute().parents if parent.exists())
    if not above.is_dir():
        raise HeadwordError(f"cannot write {target}: {above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise HeadwordError(f"cannot write {target}: no permission to write in {above}")


def write_text_atomic(path: str | Path, text: str, *, private: bool = False) -> None:
    """Write a UTF-8 text file that is whole or not there, for its owner alone if `private`."""
    with new_file(path) as temporary:
        if private:
            temporary.touch(0o600)
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A temporary sibling that replaces `path` when the block ends well, and is removed when it does not."""
    target = expand(path).resolve()
    if target.is_dir():
        raise HeadwordError(f"{target} is a folder; give the name of a file")
    with _whole(target, lambda temporary: temporary.replace(target)) as temporary:
        yield temporary


@contextmanager
def _whole(target: Path, move: Callable[[Path], object]) -> Iterator[Path]:
    """A temporary sibling, which `move` puts into place; whatever fails, nothing is left of it."""
    missing = [parent for parent in target.parents if not parent.exists()]  # the innermost first
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeadwordError(f"cannot make the folder {target.parent}: {error.strerror}") from error
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield temporary
        move(temporary)
    except BaseException as error:
        with suppress(OSError):
            _remove(temporary)
        for folder in missing:
            with suppress(OSError):  # not empty: someone else's by now
                folder.rmdir()
        reason = _why_not_written(error, temporary, target)
        if reason is not None:
            raise HeadwordError(f"cannot write {target}: {reason}") from error
        raise


def remove_unfinished(*folders: Path) -> None:
    """Remove what writers that were killed left in these folders; nobody may be writing there."""
    for entry in [entry for folder in folders for entry in folder.glob(".*")]:
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.(tmp|old)", entry.name):
            _remove(entry)


def _remove(entry: Path) -> None:
    shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()


def _why_not_written(error: BaseException, temporary: Path, target: Path) -> str | None:
    """What kept `temporary` from being written or moved, where that is what the error says."""
    if isinstance(error, OSError):
        name = error.filename
        about = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else temporary
        ours = error.errno is not None and (about in (target, temporary) or temporary in about.parents)
        return (error.strerror or str(error)) if ours else None
    if type(error).__name__ == "SafetensorError":  # by name, since importing safetensors imports much
        return " ".join(str(error).split())
    return None


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


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with a sha256 of all its other entries under "sha256", so that an edit is found."""
    kept = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return {**kept, "sha256": hashlib.sha256(text.encode()).hexdigest()}


@contextmanager
def locked(file: Path, refusal: str) -> Iterator[None]:
    """Hold a lock, which the system lets go of when the process ends; `refusal` says who else holds it."""
    from filelock import FileLock, Timeout

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file)
        lock.acquire(timeout=0)
    except Timeout:
        raise HeadwordError(refusal) from None
    except OSError as error:
        raise HeadwordError(f"cannot write in {file.parent}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
