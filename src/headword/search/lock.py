"""One writer of an index at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from headword.files import locked

NAME = ".lock"


def writing(folder: Path) -> AbstractContextManager[None]:
    """Hold an index for writing; readers go on.

    Raises:
        HeadwordError: if another process, or another thread of this one, is writing, or the folder cannot be
            written.
    """
    return locked(folder / NAME, f"another process is changing {folder}; wait for it and run this again")
