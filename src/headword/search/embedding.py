"""New and changed files → rows of features and entries: a block at a time, each safe before the next."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from headword.data.folders import Found
from headword.data.items import Item, file_item
from headword.extract import Progress
from headword.extract.features import known_features
from headword.extract.job import Job
from headword.extract.machine import available_cpus
from headword.files import open_regular, printable
from headword.search.catalogue import OK, Entry
from headword.search.draft import Draft
from headword.search.rows import UNKNOWN, append_rows
from headword.search.space import Floats

BLOCK_FILES = 512
"""Files between two writes: the most work that a kill can cost."""

Known = Callable[[Sequence[Item], Tensor], Tensor]
"""Fills the rows `[N, d]` of items whose features are known, and says which these are, bool `[N]`."""


@dataclass(slots=True)
class Embedder:
    """Puts files behind the rows of a draft.

    Files whose content is known already keep its features: those of which only the time changed, copies, and
    renamed ones. A feature store and the cache are asked for others; nothing is put into the cache, as the
    index itself keeps them.
    """

    draft: Draft
    job: Job
    stored: Known | None = None
    progress: Progress | None = None
    interrupted: bool = field(default=False, init=False)
    """Whether Ctrl-C came; the block that was being embedded is then kept as far as it went."""

    def run(self, files: Sequence[Found]) -> Iterator[Entry]:
        """Their entries; files that vanished have none."""
        draft, done = self.draft, len(self.draft.journal.entries)
        by_content = {
            entry.content: entry.slot for entry in draft.kept.values() if entry.content and entry.slot >= 0
        }
        for start in range(0, len(files), BLOCK_FILES):
            block = files[start : start + BLOCK_FILES]

            def tell(count: int, start: int = start) -> None:
                if self.progress is not None:
                    self.progress(start + count, len(files))

            entries = self._block(block, by_content, tell)
            done += len(entries)
            if self.interrupted:
                raise KeyboardInterrupt(
                    f"{done:,} embedded images are kept, and an index that was there is what it was; the "
                    "same command goes on from there"
                )
            yield from entries
            tell(len(block))

    def _block(
        self, files: Sequence[Found], by_content: dict[bytes, int], tell: Callable[[int], None]
    ) -> list[Entry]:
        draft, root = self.draft, self.draft.root
        with ThreadPoolExecutor(available_cpus()) as threads:
            contents = list(threads.map(lambda file: _content(root / file.path, root), files))
        entries: dict[int, Entry] = {}  # by place in the block, as are the next two
        units: dict[int, Floats] = {}
        fresh = []
        for n, (file, content) in enumerate(zip(files, contents, strict=True)):
            before = draft.kept.get(printable(file.path))
            if content is None:
                continue
            if before is not None and before.content == content:
                entries[n] = replace(before, bytes=file.bytes, modified=file.modified)
            elif content in by_content:
                units[n] = np.asarray(draft.values[by_content[content]])
            else:
                fresh.append(n)
        failed = self._embed(files, fresh, units, tell)
        placed = sorted(units)
        if placed:
            rows = np.stack([units[n] for n in placed])
            sums = append_rows(draft.folder, draft.rows, draft.slots, rows)
            for slot, (n, checksum) in enumerate(zip(placed, sums, strict=True), start=draft.slots):
                entries[n] = _entry(root, files[n], contents[n], slot, checksum)
            draft.slots += len(placed)
        for n, why in failed.items():
            if (root / files[n].path).exists():
                entries[n] = _entry(root, files[n], contents[n], -1, UNKNOWN, printable(why))
        done = [entries[n] for n in sorted(entries)]
        draft.journal.write(done, self.job.key)
        return done

    def _embed(
        self, files: Sequence[Found], fresh: list[int], units: dict[int, Floats], tell: Callable[[int], None]
    ) -> dict[int, str]:
        """Put the features of the files at these places into `units`; returns why others have none."""
        items = [file_item(self.draft.root / files[n].path, inside=self.draft.root) for n in fresh]
        if not items:
            return {}
        rows = torch.empty(len(items), self.job.vision.dim)
        have = known_features(self.job, items, rows) if self.stored is None else self.stored(items, rows)
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


def _entry(
    root: Path, file: Found, content: bytes | None, slot: int, checksum: int, status: str = OK
) -> Entry:
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
