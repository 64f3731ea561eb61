"""What an unfinished run has done already: `journal.jsonl`, a line an image, behind a line of what it depends on.

A block's features are on the disk before its lines are, so a run that was killed goes on after the last whole
line. When the run is complete its manifest says all of it, and the journal goes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
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
    """

    def __init__(self, folder: Path, base: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        self.base = dict(base)
        self.how: dict[str, Any] = {}
        """On what features were computed, once that is known."""
        self.entries: dict[str, Entry] = {}
        """What an earlier run did, by path."""
        self.rows = 0
        """Rows it wrote."""
        self.rounding = 0.0
        self._read()

    def _read(self) -> None:
        whole = 0
        lines: list[dict[str, Any]] = []
        if self.path.is_file():
            for line in self.path.read_bytes().splitlines(keepends=True):
                try:
                    lines.append(json.loads(line))
                except ValueError:  # cut short by a kill or a full disk
                    break
                if not line.endswith(b"\n"):
                    lines.pop()
                    break
                whole += len(line)
        if not lines or lines[0].get("base") != json.loads(json.dumps(self.base)):
            self.path.unlink(missing_ok=True)
            return
        os.truncate(self.path, whole)
        self.how, self.rounding = lines[0]["how"], 0.0
        for said in lines[1:]:
            self.rounding = max(self.rounding, said.pop("rounding"))
            for name in ("raw", "content"):
                said[name] = None if said[name] is None else bytes.fromhex(said[name])
            entry = Entry(**said)
            self.rows += entry.slot >= self.base["slots"]
            self.entries[entry.path] = entry

    def write(self, entries: Iterable[Entry], how: Mapping[str, Any], rounding: float) -> None:
        """Add a block that is on the disk.

        Raises:
            HeadwordError: if the disk is full or fails.
        """
        self.rounding = max(self.rounding, rounding)
        lines: list[dict[str, Any]] = [] if self.path.exists() else [{"base": self.base, "how": dict(how)}]
        for entry in entries:
            said = asdict(entry)
            for name in ("raw", "content"):
                said[name] = None if said[name] is None else said[name].hex()
            lines.append({**said, "rounding": rounding})
        try:
            with self.path.open("ab") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise HeadwordError(
                f"cannot write {self.path}: {error.strerror}; the index is what it was: make room and run the "
                "same command again"
            ) from error

    def remove(self) -> None:
        """The run is complete."""
        self.path.unlink(missing_ok=True)
