"""What an index says of itself: `index.json`, which names its model and the files of one whole version.

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
from headword.files import expand, format_of, locked, read_json, sealed, sha256, write_text_atomic

FORMAT = 4
"""1 had no checksums, 2 had Arrow files, 3 had rows in bfloat16."""
NAME = "index.json"

_KINDS = ("rows-", "images-", "state-")  # of files of versions; the last in format 2
_LANCE = "lance"  # a folder of format 1
_TYPES: dict[str, type] = {"int": int, "str": str, "dict[str, Any]": dict}


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
    images: int  # images that can be found
    unreadable: int  # files that could not be read
    catalogue_sha256: str  # of the file of images
    centre: dict[str, Any]  # `kind`: "collection" (the mean of the images) or "none"; and `images`
    tags: dict[str, Any] | None  # what `headword tag` was asked for
    format: int = FORMAT

    @property
    def catalogue(self) -> str:
        """Name of the file of images."""
        return f"images-{self.generation:06d}.sqlite"

    def write(self, folder: Path) -> None:
        """Make this the version of the index."""
        text = json.dumps(sealed(asdict(self)), indent=2, ensure_ascii=False)
        write_text_atomic(folder / NAME, text + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The version an index has now."""
        path = folder / NAME
        if not path.is_file():
            raise HeadwordError(
                f"{folder} is no index: it has no {NAME}; make one with: headword index MODEL FOLDER --out "
                f"{folder}"
            )
        content = read_json(path)
        written = format_of(content, path, FORMAT)
        if written < FORMAT:
            model = (content.get("model") or {}).get("folder") or "MODEL"
            raise HeadwordError(
                f"{folder} has format {written}, which this headword does not read; build it "
                f"again: headword index {model} {content.get('root')} --out {folder}"
            )
        return cls._checked(path, content)

    @classmethod
    def read_previous(cls, folder: Path) -> Self | None:
        """The version that a new one will follow, also one of format 3, whose features stay; or None."""
        path = folder / NAME
        content = read_json(path) if path.is_file() else {"format": 1}
        return cls._checked(path, content) if format_of(content, path, FORMAT) >= 3 else None

    @classmethod
    def _checked(cls, path: Path, content: dict[str, Any]) -> Self:
        sound = content == sealed(content)
        if content["format"] == 3:
            content = {**content, "format": FORMAT}
            content.pop("rounding", None)
        expected = {entry.name: _TYPES.get(str(entry.type), (dict, type(None))) for entry in fields(cls)}
        sound = sound and content.keys() == {*expected, "sha256"}
        sound = sound and all(isinstance(content[name], kind) for name, kind in expected.items())
        if not sound or not re.fullmatch(r"rows-\d{6,}", content["rows"]):  # a run adds to this file
            raise HeadwordError(f"{path} was edited or is damaged; remove it and index the folder again")
        return cls(**{name: content[name] for name in expected})


def publish(
    folder: Path, before: Manifest | None, write_catalogue: Callable[[Path], None], facts: Mapping[str, Any]
) -> Manifest:
    """Put a version in the place of another, whose files stay until the next one for those who read them.

    `facts` are the fields of its manifest that are other than before.
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
        left = path.name.partition(".")[0] not in kept or path.suffix == ".bf16"  # of format 3
        if path.name.startswith(_KINDS) and left:
            with suppress(OSError):  # Windows keeps what is being read; the next run removes it
                path.unlink()
    shutil.rmtree(folder / _LANCE, ignore_errors=True)
    return manifest


def is_ours(name: str) -> bool:
    """Whether a file or folder of this name may lie in an index that was never finished."""
    return name in (NAME, _LANCE) or name.startswith((*_KINDS, "journal.", "."))


def writing(folder: Path) -> AbstractContextManager[None]:
    """Hold an index for writing; readers go on."""
    return locked(folder / ".lock", f"another process is changing {folder}; wait for it and run this again")


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
