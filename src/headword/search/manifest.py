"""What an index says of itself: `index.json`, which names the files of one whole version.

Replaced in one step when a change is complete. A reader opens what it names, so it sees one version, old or
new; whatever else lies in the folder is a version that was, or one that was never finished.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from headword.errors import HeadwordError
from headword.files import expand, read_json, write_text_atomic

FORMAT = 1
NAME = "index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version of an index."""

    version: str
    """Another for every change."""
    generation: int
    """How many versions there were."""
    headword: str
    """The release of headword that wrote it."""
    created: str
    updated: str
    root: str
    """The indexed folder, absolute."""
    model: dict[str, Any]
    """`folder` (None for a model that was not saved), `fingerprint`, `provenance`."""
    space: dict[str, Any]
    """All that features depend on: weights, head, transform, engine, …"""
    dim: int
    """Width d of the features."""
    rows: str
    """Name of the files of features."""
    slots: int
    """Rows in these files, those of removed images included."""
    rounding: float
    """See `headword.search.rows.Rows`."""
    table: str
    """Name of the table of images."""
    state: str
    """Name of the file of centre and norms."""
    images: int
    """Images that can be found."""
    unreadable: int
    """Files that could not be read."""
    centre: dict[str, Any]
    """`kind`: "collection" (the mean of all images of the index) or "none" (what the model brings), and
    `images`."""
    tags: dict[str, Any] | None = None
    """What `headword tag` was asked for."""
    approximate: dict[str, Any] | None = None
    """How the approximate index was built, and what it measured."""
    format: int = field(default=FORMAT)

    @property
    def engine(self) -> str:
        """What a search without a condition runs on: "exact", or "approximate" with its recall."""
        near = self.approximate
        return "exact" if near is None else f"approximate (recall {near['recall']:.1%})"

    def write(self, folder: Path) -> None:
        """Make this the version of the index.

        Raises:
            HeadwordError: if it cannot be written; the index is then what it was.
        """
        write_text_atomic(folder / NAME, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The version an index has now.

        Raises:
            HeadwordError: if the folder is no index, or one of a newer format.
        """
        if not (folder / NAME).is_file():
            mend = f"make one with: headword index MODEL FOLDER --out {folder}"
            raise HeadwordError(f"{folder} is no index: it has no {NAME}; {mend}")
        said = read_json(folder / NAME)
        written = said.get("format") if isinstance(said, dict) else None
        if type(written) is not int or written < 1:
            raise HeadwordError(
                f"{folder / NAME} does not say its format; it was edited, or is not headword's"
            )
        if written > FORMAT:
            raise HeadwordError(
                f"{folder} has format {written}, newer than this headword reads; upgrade headword"
            )
        wanted = {entry.name for entry in fields(cls)}
        if set(said) != wanted:
            odd = min(set(said) ^ wanted)
            raise HeadwordError(f"{folder / NAME} was edited: the entry {odd!r}; index the folder again")
        return cls(**said)


def read_version(folder: str | Path) -> str:
    """Which version an index has now; another for every change to it. Reads one small file.

    Raises:
        HeadwordError: as `Manifest.read`.
    """
    return Manifest.read(expand(folder)).version
