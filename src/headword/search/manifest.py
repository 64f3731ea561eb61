"""What an index says of itself: `index.json`, which names the files of one whole version.

Replaced in one step when a change is complete. A reader opens what it names, so it sees one version, old or
new; whatever else lies in the folder is a version that was, or one that was never finished. It is sealed with
a sha256, and holds that of the images; rows have checksums of their own.
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from typing_extensions import Self

from headword import __version__
from headword.errors import HeadwordError
from headword.files import expand, locked, read_json, sealed, sha256, write_text_atomic

FORMAT = 3
"""1 had no checksums, 2 had Arrow files."""
NAME = "index.json"

_LOCK = ".lock"
_KINDS = ("rows-", "images-", "state-")  # of files of versions; the last in format 2
_LANCE = "lance"  # a folder of format 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version of an index."""

    version: str  # another for every change
    generation: int  # how many versions there were
    headword: str  # the release of headword that wrote it
    created: str
    updated: str
    root: str  # the indexed folder, absolute
    model: dict[str, Any]  # `folder` (None for a model that was not saved), `fingerprint`, `provenance`
    space: dict[str, Any]  # all that features depend on: weights, head, transform, engine, …
    dim: int  # width d of the features
    rows: str  # name of the files of features
    slots: int  # rows in these files, those of removed images included
    rounding: float  # see `headword.search.rows.Rows`
    images: int  # images that can be found
    unreadable: int  # files that could not be read
    catalogue_sha256: str  # of the file of images
    centre: dict[str, Any]
    """`kind`: "collection" (the mean of all images of the index) or "none" (what the model brings), and
    `images`."""
    tags: dict[str, Any] | None  # what `headword tag` was asked for
    format: int = FORMAT

    @property
    def catalogue(self) -> str:
        """Name of the file of images."""
        return f"images-{self.generation:06d}.sqlite"

    def write(self, folder: Path) -> None:
        """Make this the version of the index.

        Raises:
            HeadwordError: if it cannot be written; the index is then what it was.
        """
        text = json.dumps(sealed(asdict(self)), indent=2, ensure_ascii=False)
        write_text_atomic(folder / NAME, text + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The version an index has now.

        Raises:
            HeadwordError: if the folder is no index, one of another format, or a damaged one.
        """
        content, written = _content(folder)
        if written is None:
            raise HeadwordError(
                f"{folder} is no index: it has no {NAME}; make one with: headword index MODEL FOLDER --out "
                f"{folder}"
            )
        if written < FORMAT:
            model = (content.get("model") or {}).get("folder") or "MODEL"
            raise HeadwordError(
                f"{folder} has format {written}, which this headword does not read; build it again: "
                f"headword index {model} {content.get('root')} --out {folder}"
            )
        sound = content == sealed(content)
        content.pop("sha256", None)
        kinds: dict[str, Any] = {"int": int, "str": str, "float": float, "dict[str, Any]": dict}
        expected = {entry.name: kinds.get(str(entry.type), (dict, type(None))) for entry in fields(cls)}
        sound = sound and content.keys() == expected.keys()
        sound = sound and all(isinstance(content[name], kind) for name, kind in expected.items())
        if not sound or not re.fullmatch(r"rows-\d{6,}", content["rows"]):  # a run adds to this file
            raise HeadwordError(
                f"{folder / NAME} was edited or is damaged; remove it and index the folder again"
            )
        return cls(**content)

    @classmethod
    def read_previous(cls, folder: Path) -> Self | None:
        """The version that a new one will follow; None where there is none, or one of an older format.

        Raises:
            HeadwordError: as `read`.
        """
        written = _content(folder)[1]
        return None if written is None or written < FORMAT else cls.read(folder)


def publish(
    folder: Path, before: Manifest | None, write_catalogue: Callable[[Path], None], facts: Mapping[str, Any]
) -> None:
    """Put a version in the place of another, whose files stay until the next one for those who read them.

    `facts` are the fields of its manifest that are other than before.

    Raises:
        HeadwordError: if it cannot be written; the index is then what it was.
    """
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    generation = 1 if before is None else before.generation + 1
    fresh = {
        "created": now,
        **({} if before is None else asdict(before)),
        **facts,
        "version": f"{generation}-{uuid.uuid4().hex[:8]}",
        "generation": generation,
        "headword": __version__,
        "updated": now,
        "catalogue_sha256": "",
    }
    manifest = Manifest(**fresh)
    path = folder / manifest.catalogue
    write_catalogue(path)
    manifest = replace(manifest, catalogue_sha256=sha256(path))
    manifest.write(folder)
    kept = {name for one in (manifest, before) if one for name in (one.rows, Path(one.catalogue).stem)}
    for path in folder.iterdir():
        if path.name.startswith(_KINDS) and path.name.partition(".")[0] not in kept:
            with suppress(OSError):  # Windows keeps what is being read; the next run removes it
                path.unlink()
    shutil.rmtree(folder / _LANCE, ignore_errors=True)


def _content(folder: Path) -> tuple[dict[str, Any], int | None]:
    """What the manifest says, and its format; None where there is no manifest."""
    path = folder / NAME
    if not path.is_file():
        return {}, None
    content = read_json(path)
    written = content.get("format") if isinstance(content, dict) else None
    if type(written) is not int or written < 1:
        raise HeadwordError(f"{path} does not say its format; it was edited, or is not headword's")
    if written > FORMAT:
        raise HeadwordError(
            f"{folder} has format {written}, newer than this headword reads; upgrade headword"
        )
    return content, written


def is_ours(name: str) -> bool:
    """Whether a file or folder of this name may lie in an index that was never finished."""
    return name in (NAME, _LANCE) or name.startswith((*_KINDS, "journal.", "."))


def writing(folder: Path) -> AbstractContextManager[None]:
    """Hold an index for writing; readers go on.

    Raises:
        HeadwordError: if another process, or another thread of this one, is writing, or the folder cannot be
            written.
    """
    return locked(folder / _LOCK, f"another process is changing {folder}; wait for it and run this again")


def not_written(path: Path, error: Exception) -> HeadwordError:
    """What to say where a file of the next version cannot be written."""
    why = " ".join(str(getattr(error, "strerror", None) or error).split())[:300]
    return HeadwordError(
        f"cannot write {path}: {why}; the index is what it was: make room and run the same command again"
    )


def read_version(folder: str | Path) -> str:
    """Which version an index has now; another for every change to it. Reads one small file.

    Raises:
        HeadwordError: as `Manifest.read`.
    """
    return Manifest.read(expand(folder)).version
