"""New and changed files → rows of features and entries: a block at a time, each safe before the next."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from headword.data.folders import Found
from headword.data.items import file_item
from headword.extract import Progress
from headword.extract.features import known_features
from headword.extract.job import Job
from headword.extract.machine import available_cpus
from headword.files import open_regular, printable
from headword.search.journal import Journal
from headword.search.rows import UNKNOWN, append_rows
from headword.search.space import Floats
from headword.search.table import OK, Entry

BLOCK_FILES = 512
"""Files between two writes: the most work that a kill can cost."""


@dataclass(slots=True, kw_only=True)
class Embedder:
    """Puts files behind the rows of an index.

    Files whose content is known already keep its features: those of which only the time changed, copies, and
    renamed ones. The cache is asked for others; nothing is put into it, as the index itself keeps them.
    """

    folder: Path
    """The index."""
    root: Path
    job: Job
    journal: Journal
    rows: str
    """Name of the files of rows."""
    slots: int
    """Rows in them."""
    old: dict[str, Entry]
    """What the index knew, by path."""
    values: Floats
    """The rows it had."""
    progress: Progress | None = None
    interrupted: bool = False
    """Whether Ctrl-C came; the block that was being embedded is then kept as far as it went."""
    kept: int = 0
    """Files whose entries are in the journal."""

    def run(self, files: Sequence[Found]) -> Iterator[Entry]:
        """Their entries; files that vanished have none."""
        by_content: dict[bytes | None, int] = {
            entry.content: entry.slot for entry in self.old.values() if entry.content and entry.slot >= 0
        }
        for start in range(0, len(files), BLOCK_FILES):
            block = files[start : start + BLOCK_FILES]

            def tell(done: int, start: int = start) -> None:
                if self.progress is not None:
                    self.progress(start + done, len(files))

            entries = self._block(block, by_content, tell)
            self.kept += len(entries)
            if self.interrupted:
                raise KeyboardInterrupt(
                    f"{self.kept + len(self.journal.entries):,} embedded images are kept, and an index that "
                    "was there is what it was; the same command goes on from there"
                )
            yield from entries
            tell(len(block))

    def _block(
        self, files: Sequence[Found], by_content: dict[bytes | None, int], tell: Callable[[int], None]
    ) -> list[Entry]:
        with ThreadPoolExecutor(available_cpus()) as threads:
            contents = list(threads.map(lambda file: _content(self.root / file.path, self.root), files))
        entries: list[Entry | None] = [None] * len(files)
        units: dict[int, Floats] = {}  # by place in the block
        fresh = []
        for n, (file, content) in enumerate(zip(files, contents, strict=True)):
            before = self.old.get(printable(file.path))
            if before is not None and content is not None and before.content == content:
                entries[n] = replace(before, bytes=file.bytes, modified=file.modified)
            elif content in by_content:
                units[n] = np.asarray(self.values[by_content[content]])
            elif content is not None:
                fresh.append(n)
        failed = self._embed(files, fresh, units, tell)
        placed = sorted(units)
        if placed:
            sums = append_rows(self.folder, self.rows, self.slots, np.stack([units[n] for n in placed]))
            for n, checksum in zip(placed, sums, strict=True):
                entries[n] = _entry(files[n], contents[n], self.slots, OK, checksum, self.root)
                self.slots += 1
        for n, why in failed.items():
            if (self.root / files[n].path).exists():
                entries[n] = _entry(files[n], contents[n], -1, why, UNKNOWN, self.root)
        done = [entry for entry in entries if entry is not None]
        self.journal.write(done, how_of(self.job))
        return done

    def _embed(
        self,
        files: Sequence[Found],
        fresh: list[int],
        units: dict[int, Floats],
        tell: Callable[[int], None],
    ) -> dict[int, str]:
        """Put the features of the files at these places into `units`; returns why others have none."""
        items = [file_item(self.root / files[n].path, inside=self.root) for n in fresh]
        if not items:
            return {}
        rows = torch.empty(len(items), self.job.vision.dim)
        have = known_features(self.job, items, rows)
        missing = (~have).nonzero().flatten().tolist()
        failed: dict[int, str] = {}
        done = 0
        try:
            for computed in self.job.run(items, missing):
                rows[computed.read] = computed.features
                broken = [place for place in computed.read if not bool(rows[place].isfinite().all())]
                failed |= {fresh[place]: why for place, why in computed.errors.items()}
                failed |= {fresh[place]: "its features are not finite" for place in broken}
                done += len(computed.places)
                tell(len(files) - len(missing) + done)
        except KeyboardInterrupt:
            self.interrupted = True
        unit = F.normalize(rows, dim=1).numpy()
        left = set(missing[done:])  # where it was interrupted
        units |= {n: unit[place] for place, n in enumerate(fresh) if n not in failed and place not in left}
        return failed


def how_of(job: Job) -> dict[str, object]:
    """What features depend on besides the encoder and the picture."""
    return {
        "engine": job.choice.engine,
        "precision": job.choice.dtype,
        "exact": job.plan is None,
        "draft": job.draft,
    }


def _entry(file: Found, content: bytes | None, slot: int, status: str, checksum: int, root: Path) -> Entry:
    name = printable(file.path)
    try:
        after = (root / file.path).stat()
        steady = (after.st_size, after.st_mtime_ns) == (file.bytes, file.modified)
    except OSError:
        steady = False
    # One that changed while it was read is looked at again next time, whatever its time says then.
    return Entry(
        path=name,
        raw=None if name == file.path else os.fsencode(file.path),
        bytes=file.bytes,
        modified=file.modified if steady else -1,
        content=content if steady else None,
        slot=slot,
        status=status,
        sum=checksum,
    )


def _content(path: Path, root: Path) -> bytes | None:
    """A hash of a file's bytes; None if it is not there, and of one that cannot be read a hash of why."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open_regular(path, inside=root) as file:
            left = os.fstat(file.fileno()).st_size  # and no more: another program may write on for ever
            while part := file.read(min(left, 1 << 20)):
                digest.update(part)
                left -= len(part)
    except FileNotFoundError:
        return None
    except OSError as error:
        digest.update(f"{path}: {error.strerror}".encode("utf-8", "surrogateescape"))
    return digest.digest()
