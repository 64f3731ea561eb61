"""What an unfinished run has done already: `journal.jsonl`, a line an image, below what they depend on.

A block's features are on the disk before its lines are, so a run that was killed goes on after the last whole
line. Each line begins with its CRC-32, and says that of its features; what comes behind a damaged one is done
again. When the run is complete its manifest says all of it, and the journal goes.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headword.errors import HeadwordError
from headword.search.table import Entry

NAME = "journal.jsonl"


class Journal:
    """The journal of one run.

    Args:
        folder: the index.
        base: what the run starts from; lines behind another base belong to another run and are dropped.
        sound: whether the features of an entry are on the disk as they were written.
    """

    def __init__(self, folder: Path, base: Mapping[str, Any], sound: Callable[[Entry], bool]) -> None:
        self.path = folder / NAME
        self.base = dict(base)
        self.how: dict[str, Any] = {}
        """On what features were computed, once that is known."""
        self.entries: dict[str, Entry] = {}
        """What an earlier run did, by path."""
        self.rows = 0
        """Rows it wrote."""
        self._read(sound)

    def _read(self, sound: Callable[[Entry], bool]) -> None:
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        first = _said(lines[0]) if lines else None
        if first is None or first.get("base") != json.loads(json.dumps(self.base)):
            self.path.unlink(missing_ok=True)
            return
        self.how, whole = first["how"], len(lines[0])
        for line in lines[1:]:
            entry = _entry(_said(line))
            if entry is None or not sound(entry):
                break
            self.rows += entry.slot >= self.base["slots"]
            self.entries[entry.path] = entry
            whole += len(line)
        os.truncate(self.path, whole)

    def write(self, entries: Iterable[Entry], how: Mapping[str, Any]) -> None:
        """Add a block that is on the disk.

        Raises:
            HeadwordError: if the disk is full or fails.
        """
        lines: list[dict[str, Any]] = [] if self.path.exists() else [{"base": self.base, "how": dict(how)}]
        for entry in entries:
            said = asdict(entry)
            lines.append({**said, **{name: said[name] and said[name].hex() for name in ("raw", "content")}})
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(map(_line, lines)))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise HeadwordError(
                f"cannot write {self.path}: {error.strerror}; the index is what it was: make room and run "
                "the same command again"
            ) from error

    def remove(self) -> None:
        """The run is complete."""
        self.path.unlink(missing_ok=True)


def _line(said: Mapping[str, Any]) -> bytes:
    text = json.dumps(said).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _said(line: bytes) -> dict[str, Any] | None:
    """What a line says; None if it was cut short by a kill or a full disk, or is damaged."""
    text = line[9:-1]
    if line != b"%08x %s\n" % (zlib.crc32(text), text):
        return None
    said: dict[str, Any] = json.loads(text)
    return said


def _entry(said: dict[str, Any] | None) -> Entry | None:
    if said is None:
        return None
    hashed = {name: said[name] and bytes.fromhex(said[name]) for name in ("raw", "content")}
    return Entry(**{**said, **hashed})
