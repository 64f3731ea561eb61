"""What leaves the server names no absolute path of this machine: of a folder or a file, its last name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_ABSOLUTE = re.compile(
    r"(?:(?<=^)|(?<=[\s:=('\"\[]))"  # begins a word; not the middle of people/cat.png or of https://
    r"(?:[A-Za-z]:)?[\\/](?![\\/\s])"
    r"(?:[^\\/:;,+'\"\n]*[\\/])*"
)


def without_folders(text: str, folders: Iterable[str | Path] = ()) -> str:
    """A line without absolute paths.

    Args:
        text: the line.
        folders: what lies in these keeps its path within them, whatever characters are in it.
    """
    for folder in sorted(map(str, folders), key=len, reverse=True):
        name = Path(folder).name
        if name:
            text = text.replace(folder + os.sep, "").replace(folder, name)
    return _ABSOLUTE.sub("", text)


def outward(facts: Any, folders: Iterable[str | Path] = ()) -> Any:
    """JSON without absolute paths; see `without_folders`."""
    if isinstance(facts, dict):
        return {without_folders(str(key), folders): outward(value, folders) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [outward(value, folders) for value in facts]
    return without_folders(facts, folders) if isinstance(facts, str) else facts
