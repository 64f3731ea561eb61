"""One writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headword.errors import HeadwordError


@contextmanager
def locked(file: Path, refusal: str) -> Iterator[None]:
    """Hold a lock; the system lets go of it when the process ends, however.

    Args:
        file: the lock; it and the folders above it are made where they are missing.
        refusal: what to say where another process, or another thread of this one, holds it.

    Raises:
        HeadwordError: with `refusal`, or if the file cannot be written.
    """
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
