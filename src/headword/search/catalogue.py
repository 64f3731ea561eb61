"""The images of one version of an index, their tags, and its state: one SQLite file, written once and whole.

`images`  a row for each image file, those that can be read first, by path: `place` is where one stands.
`tags`    the words that images have, or were said by hand not to have.
`state`   arrays by name, see `STATE`.

The manifest holds a sha256 of the file, and each row a CRC-32 (`seal`) of what it says, so that of a damaged
file the rows that are whole are kept. Readers copy it into memory, where filters run: they need no lock, keep
their version for as long as they like, and work in a folder that nobody may write in.

It may be a stranger's file. It is opened without its journals, and read only if it has these tables, in
these words, and nothing else (no view, no trigger), and is sound by SQLite's own check, which includes the
kinds of all values. Nothing that is asked of it takes longer than `SECONDS`.
"""

from __future__ import annotations

import builtins
import os
import sqlite3
import threading
import time
import zlib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headword.errors import HeadwordError
from headword.files import memory, open_file, sha256
from headword.search.filter import Condition
from headword.search.manifest import not_written
from headword.search.query import Tag
from headword.search.space import Indices

OK = "ok"
SECONDS = 60.0
STATE: dict[str, type[np.generic]] = {
    "slots": np.int64,  # the row of features of each place
    "sums": np.int64,  # their CRC-32
    "block_sums": np.int64,  # CRC-32 of the blocks of rounded rows
    "scales": np.float32,  # of each slot; this and the next as in `headword.search.rows`
    "distances": np.float32,
    "inverse_norms": np.float32,  # of each slot; this and the next two as in `headword.search.space`
    "centre": np.float32,
    "total": np.int64,  # the sum of the features of all images
    "taught": np.float32,  # weights and biases of the tags' classifier, where it is more than words
}

_KINDS = {
    "path": "text", "raw": "blob null", "bytes": "integer", "modified": "integer", "content": "blob null",
    "slot": "integer", "status": "text", "sum": "integer", "seal": "integer", "folder": "text",
    "tag": "text null", "tag_score": "real null",
}  # fmt: skip
_TAG_KINDS = {"place": "integer", "tag": "text", "score": "real", "hand": "integer"}


def _checked(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name} CHECK (instr('{kind}', typeof({name})))" for name, kind in kinds.items())


_SCHEMA = {
    "images": f"CREATE TABLE images (place INTEGER PRIMARY KEY, {_checked(_KINDS)})",
    "state": "CREATE TABLE state (name CHECK (typeof(name) = 'text'), value CHECK (typeof(value) = 'blob'))",
    "tags": f"CREATE TABLE tags ({_checked(_TAG_KINDS)}, PRIMARY KEY (place, tag)) WITHOUT ROWID",
}
_UNTAGGED = {name: _SCHEMA[name] for name in ("images", "state")}  # as it was while images had one tag each

BY_HAND, BY_MODEL, NOT_BY_HAND = 1, 0, -1
TagRow = tuple[str, float, int]
"""A tag, its probability, and who says so: `BY_MODEL`, `BY_HAND`; or, by hand, that the image has it not."""
Corrections = Mapping[str, int]
"""What was said by hand of an image: `BY_HAND` or `NOT_BY_HAND`, by tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image file."""

    path: str
    r"""Relative to the indexed folder, with "/"; bytes that are no UTF-8 as \xff."""
    raw: builtins.bytes | None  # the path's bytes, where they are no UTF-8
    bytes: int
    modified: int  # time of the last change in nanoseconds; -1 if it changed while it was read
    content: builtins.bytes | None  # A hash of the file; None if it changed while it was read
    slot: int  # its row of features; -1 if it cannot be read
    status: str  # "ok", or why it cannot be read
    sum: int  # CRC-32 of its features; -1 if it has none


def write_catalogue(
    path: Path,
    entries: Iterable[Entry],
    state: Mapping[str, NDArray[Any]],
    tags: Iterable[Sequence[TagRow]],
) -> None:
    """Write the images of one version, in the order of their places, with the tags of the first of them."""
    with _new(path) as database:
        for statement in _SCHEMA.values():
            database.execute(statement)
        rows = (
            (place, *facts, _seal(facts), facts[0].rpartition("/")[0], None, None)
            for place, facts in enumerate(map(_facts, entries))
        )
        database.executemany(f"INSERT INTO images VALUES ({', '.join('?' * (len(_KINDS) + 1))})", rows)
        arrays = ((name, np.asarray(state[name], kind).tobytes()) for name, kind in STATE.items())
        database.executemany("INSERT INTO state VALUES (?, ?)", arrays)
        _set_tags(database, tags)


def salvaged(path: Path) -> tuple[list[Entry], dict[str, dict[str, int]]]:
    """Of a damaged file the entries that are as they were written, and what was said by hand; none, if it is
    that bad.
    """
    entries: list[Entry] = []
    corrections: dict[str, dict[str, int]] = {}
    try:
        with closing(_in_memory(path)) as database:
            most = path.stat().st_size // 64
            for *facts, seal in database.execute(f"SELECT {_FACTS}, seal FROM images LIMIT ?", (most,)):
                if _seal(facts) == seal:
                    entries.append(_entry(facts))
            corrections = _corrections(database.execute(_SAID))
    except (sqlite3.Error, OSError, HeadwordError):
        pass
    return entries, corrections


class Catalogue:
    """A version's images, in memory: `count` that can be read, of a file with this sha256. Thread-safe."""

    def __init__(self, path: Path, count: int, digest: str | None = None) -> None:
        self._path = path
        self._count = count
        self._lock = threading.Lock()
        if not path.is_file():
            raise HeadwordError(f"{path} is missing; index the folder again")
        if digest is not None and sha256(path) != digest:
            raise HeadwordError(f"{path} is damaged; index the folder again")
        try:
            self._database = _in_memory(path)
            tables = self._database.execute("SELECT name, sql FROM sqlite_master LIMIT 4").fetchall()
            if sorted(tables) == sorted(_UNTAGGED.items()):
                _give_tags(self._database)
            elif sorted(tables) != sorted(_SCHEMA.items()):
                raise _damaged(path, "it has other tables than an index")
            for (line,) in self._database.execute("PRAGMA quick_check(1)"):
                if line != "ok":
                    raise _damaged(path, line)
            arrays = self._database.execute("SELECT name, value FROM state LIMIT 12").fetchall()
            # An index from before there were taught classifiers has none.
            self.state: dict[str, NDArray[Any]] = {"taught": np.empty(0, np.float32)}
            self.state |= {name: np.frombuffer(value, STATE[name]).copy() for name, value in arrays}
            """The arrays of `STATE`."""
            sizes = {len(self.state[name]) for name in ("slots", "sums")}
        except (sqlite3.Error, LookupError, ValueError) as error:
            raise _damaged(path, str(error)) from error
        if sizes != {count} or self.state.keys() != STATE.keys():
            raise _damaged(path, "it does not fit the manifest")

    def image(self, place: int) -> tuple[str, str | None, float | None]:
        """Path, tag, and the tag's probability."""
        row: tuple[str, str | None, float | None]
        (row,) = self._ask("SELECT path, tag, tag_score FROM images WHERE place = ?", place)
        return row

    def file_name(self, path: str) -> str | None:
        """What the system calls the file of a path; None where there is no such path."""
        place = self.place_of(path)
        if place is None:
            return None
        raw: bytes | None = self._ask("SELECT raw FROM images WHERE place = ?", place)[0][0]
        return path if raw is None else os.fsdecode(raw)

    def place_of(self, path: str) -> int | None:
        """Where a path stands."""
        place = bisect_left(range(self._count), path, key=lambda place: self.image(place)[0])
        return place if place < self._count and self.image(place)[0] == path else None

    def places(self, condition: Condition) -> Indices:
        """Where those stand that satisfy a condition, ascending: for which it is true, not null."""
        rows = self._ask(
            f"SELECT place FROM images WHERE place < ? AND {condition.sql} ORDER BY place",
            self._count,
            *condition.values,
        )
        return np.fromiter((row[0] for row in rows), np.int64, len(rows))

    def tags(self) -> dict[str, int]:
        """How many images have each tag, the most frequent first."""
        by_tag = f"SELECT tag, count(*) FROM tags WHERE hand >= {BY_MODEL} GROUP BY tag ORDER BY 2 DESC, 1"
        return dict(self._ask(by_tag))

    def tags_of(self, place: int) -> tuple[Tag, ...]:
        """The tags of an image, those given by hand first, then the likeliest first."""
        rows = self._ask(f"SELECT tag, score, hand FROM tags WHERE place = ? AND {_IN_ORDER}", place)
        return tuple(Tag(tag, score, hand == BY_HAND) for tag, score, hand in rows)

    def corrections(self) -> dict[str, dict[str, int]]:
        """What was said by hand, by path."""
        return _corrections(self._ask(_SAID))

    def folders(self) -> dict[str, int]:
        """How many images lie in each folder, subfolders not counted, in the order of their paths."""
        by_folder = "SELECT folder, count(*) FROM images WHERE place < ? GROUP BY folder ORDER BY folder"
        return dict(self._ask(by_folder, self._count))

    def entries(self) -> list[Entry]:
        """All of them, those that cannot be read last."""
        return [_entry(row) for row in self._ask(f"SELECT {_FACTS} FROM images ORDER BY place")]

    def write(self, path: Path) -> None:
        """Write it into a file, as it is."""
        with _new(path) as database:
            self._database.backup(database)

    def write_retagged(
        self, path: Path, tags: Iterable[Sequence[TagRow]], taught: NDArray[np.float32]
    ) -> None:
        """Write the same images with other tags, and what their classifier was taught; as
        `write_catalogue`.
        """
        with _new(path) as database:
            self._database.backup(database)
            database.execute("DELETE FROM state WHERE name = 'taught'")
            database.execute("INSERT INTO state VALUES ('taught', ?)", (taught.tobytes(),))
            _set_tags(database, tags)

    def write_corrected(
        self, path: Path, said: Mapping[int, Corrections], one_of: Collection[str] = ()
    ) -> None:
        """Write the same images with what was said by hand of some of them, by place.

        An image has one of the tags `one_of` at most: where one of these is given by hand, the model's goes.
        """
        with _new(path) as database:
            self._database.backup(database)
            for place, corrections in said.items():
                if any(tag in one_of for tag, hand in corrections.items() if hand == BY_HAND):
                    database.execute("DELETE FROM tags WHERE place = ? AND hand = ?", (place, BY_MODEL))
                rows = [(place, tag, float(hand == BY_HAND), hand) for tag, hand in corrections.items()]
                database.executemany("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?)", rows)
            _name_first(database)

    def _ask(self, query: str, *values: object) -> list[Any]:
        with self._lock:
            _set_deadline(self._database)
            try:
                return self._database.execute(query, values).fetchall()
            except sqlite3.Error as error:
                if str(error) == "interrupted":
                    raise HeadwordError(f"the filter takes more than {SECONDS:.0f} s; ask for less") from None
                raise _damaged(self._path, str(error)) from error


_IN_ORDER = f"hand >= {BY_MODEL} ORDER BY hand DESC, score DESC, tags.tag"
_SAID = f"SELECT path, tags.tag, hand FROM tags JOIN images USING (place) WHERE hand <> {BY_MODEL}"
_FACTS = ", ".join(Entry.__slots__)
_facts = attrgetter(*Entry.__slots__)


def _corrections(rows: Iterable[tuple[str, str, int]]) -> dict[str, dict[str, int]]:
    corrections: dict[str, dict[str, int]] = {}
    for path, tag, hand in rows:
        corrections.setdefault(path, {})[tag] = hand
    return corrections


def _entry(facts: Iterable[Any]) -> Entry:
    return Entry(**dict(zip(Entry.__slots__, facts, strict=True)))


def _seal(facts: Iterable[object]) -> int:
    return zlib.crc32(ascii(tuple(facts)).encode())


def _in_memory(path: Path) -> sqlite3.Connection:
    """A copy of a file in memory, from which nothing else can be reached."""
    with open_file(path) as file:  # a regular one
        size = os.fstat(file.fileno()).st_size
    if size > memory() // 2:
        raise HeadwordError(f"{path} does not fit in memory ({size:,} bytes)")
    database = sqlite3.connect(":memory:", check_same_thread=False)
    _set_deadline(database)
    # Immutable: neither a journal beside it nor a lock is looked at.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as source:
        source.backup(database)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "query_only = ON"):
        database.execute(f"PRAGMA {pragma}")
    return database


def _set_deadline(database: sqlite3.Connection) -> None:
    """What is asked next ends with an error after `SECONDS`."""
    end = time.monotonic() + SECONDS
    database.set_progress_handler(lambda: time.monotonic() > end, 10_000)


@contextmanager
def _new(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as database:
            for pragma in ("journal_mode = OFF", "synchronous = OFF"):  # nobody reads it before it is whole
                database.execute(f"PRAGMA {pragma}")
            yield database
            database.commit()
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    except (OSError, sqlite3.Error) as error:
        raise not_written(path, error) from error


def _set_tags(database: sqlite3.Connection, tags: Iterable[Sequence[TagRow]]) -> None:
    database.execute("DELETE FROM tags")
    rows = ((place, *row) for place, rows in enumerate(tags) for row in rows)
    database.executemany("INSERT INTO tags VALUES (?, ?, ?, ?)", rows)
    _name_first(database)


def _name_first(database: sqlite3.Connection) -> None:
    """Put the first tag of each image beside it, for filters."""
    first = f"SELECT tags.tag, score FROM tags WHERE tags.place = images.place AND {_IN_ORDER} LIMIT 1"
    database.execute(f"UPDATE images SET (tag, tag_score) = ({first})")


def _give_tags(database: sqlite3.Connection) -> None:
    """The table of tags, from the one that each image has."""
    database.execute("PRAGMA query_only = OFF")
    database.execute(_SCHEMA["tags"])
    database.execute(
        f"INSERT INTO tags SELECT place, tag, tag_score, {BY_MODEL} FROM images WHERE tag IS NOT NULL"
    )
    database.commit()
    database.execute("PRAGMA query_only = ON")


def _damaged(path: Path, why: str) -> HeadwordError:
    return HeadwordError(f"{path} is damaged: {' '.join(why.split())[:200]}; index the folder again")
