"""What an unfinished run has done already: `journal.jsonl`, a line an image, below what they depend on.

A block's features are on the disk before its lines are, so a run that was killed goes on after the last whole
line. Each line begins with its CRC-32, and says that of its features; what comes behind a damaged one is done
again. When the run is complete the catalogue says all of it, and the journal goes. It is text, and no SQLite
file: one that is written to has a journal of its own, in which a stranger can name any file to be removed.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headword.search.catalogue import Entry
from headword.search.manifest import not_written

_BYTES = ("raw", "content")  # of an entry, in hexadecimal digits


class Journal:
    """The journal of one run.

    Lines behind another `base` (what a run starts from) belong to another run and are dropped. `sound` says
    whether the features of an entry are on the disk as they were written.
    """

    def __init__(self, folder: Path, base: Mapping[str, Any], sound: Callable[[Entry], bool]) -> None:
        self.path = folder / "journal.jsonl"
        self.base = json.loads(json.dumps(base))
        self.how: dict[str, Any] = {}  # on what features were computed, once that is known
        self.entries: dict[str, Entry] = {}  # what an earlier run did, by path
        self.rows = 0  # that it wrote
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        first = _content(lines[0]) if lines else None
        if first is None or first.get("base") != self.base:
            self.remove()
            return
        self.how, whole = first["how"], len(lines[0])
        for line in lines[1:]:
            content = _content(line)
            if content is None:
                break
            entry = Entry(
                **content | {name: content[name] and bytes.fromhex(content[name]) for name in _BYTES}
            )
            if not sound(entry):
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
        for fields in map(asdict, entries):
            lines.append(fields | {name: fields[name] and fields[name].hex() for name in _BYTES})
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(map(_line, lines)))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise not_written(self.path, error) from error

    def remove(self) -> None:
        """The run is complete."""
        self.path.unlink(missing_ok=True)


def _line(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _content(line: bytes) -> dict[str, Any] | None:
    """What a line says; None if it was cut short by a kill or a full disk, or is damaged."""
    text = line[9:-1]
    if line != b"%08x %s\n" % (zlib.crc32(text), text):
        return None
    content: dict[str, Any] = json.loads(text)
    return content
