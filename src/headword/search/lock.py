"""One writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headword.errors import HeadwordError

NAME = ".lock"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold an index for writing; readers go on. The system lets go of it when the process ends, however.

    Raises:
        HeadwordError: if another process, or another thread of this one, is writing, or the folder cannot be
            written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / NAME)
        lock.acquire(timeout=0)
    except Timeout:
        raise HeadwordError(f"another process is changing {folder}; wait for it and run this again") from None
    except OSError as error:
        raise HeadwordError(f"cannot write in {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
