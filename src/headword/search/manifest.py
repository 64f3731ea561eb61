"""What an index says of itself: `index.json`, which names the files of one whole version.

Replaced in one step when a change is complete. A reader opens what it names, so it sees one version, old or
new; whatever else lies in the folder is a version that was, or one that was never finished. It is sealed with
a sha256, and holds that of each file that is read whole; rows have checksums of their own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headword.errors import HeadwordError
from headword.files import expand, load_tensors, read_json, sealed, sha256, write_text_atomic

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 2
"""1 had no checksums."""
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
    tags: dict[str, Any] | None
    """What `headword tag` was asked for."""
    files: dict[str, str]
    """sha256 of the files of table and state, by name."""
    format: int = field(default=FORMAT)

    def write(self, folder: Path) -> None:
        """Make this the version of the index.

        Raises:
            HeadwordError: if it cannot be written; the index is then what it was.
        """
        text = json.dumps(sealed(asdict(self)), indent=2, ensure_ascii=False)
        write_text_atomic(folder / NAME, text + "\n")

    def file(self, folder: Path, name: str) -> Path:
        """One of the `files`, checked.

        Raises:
            HeadwordError: if it is missing or damaged.
        """
        path = folder / name
        if not path.is_file():
            raise HeadwordError(f"{path} is missing; index the folder again")
        if self.format > 1 and sha256(path) != self.files.get(name):
            raise HeadwordError(f"{path} is damaged; index the folder again")
        return path

    def table_file(self, folder: Path) -> Path:
        """The table of images, checked as `file`."""
        return self.file(folder, f"{self.table}.arrow")

    def read_state(self, folder: Path) -> dict[str, NDArray[Any]]:
        """The centre, norms and checksums, as `file`; copied, for tensors of a file are maps of it."""
        tensors = load_tensors(self.file(folder, f"{self.state}.safetensors"))
        return {name: tensor.numpy().copy() for name, tensor in tensors.items()}

    @classmethod
    def read(cls, folder: Path, *, older: bool = False) -> Manifest:
        """The version an index has now.

        Args:
            folder: the index.
            older: read an index of format 1 too, which has no `files`; otherwise it is refused.

        Raises:
            HeadwordError: if the folder is no index, one of another format, or a damaged one.
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
        damaged = f"{folder / NAME} was edited or is damaged; remove it and index the folder again"
        if written == FORMAT and said != sealed(said):
            raise HeadwordError(damaged)
        said.pop("sha256", None)
        if written == 1 and said.pop("approximate", 0) != 0:
            said["files"] = {}
        kinds: dict[str, Any] = {
            "int": int,
            "str": str,
            "float": float,
            "dict[str, Any] | None": (dict, type(None)),
        }
        wanted = {entry.name: kinds.get(str(entry.type), dict) for entry in fields(cls)}
        if set(said) != set(wanted) or not all(isinstance(said[name], wanted[name]) for name in said):
            raise HeadwordError(damaged)
        if written == 1 and not older:
            model = said["model"]["folder"] or "MODEL"
            raise HeadwordError(
                f"{folder} has format 1, without checksums; bring it up to date, which embeds nothing again: "
                f"headword index {model} {said['root']} --out {folder}"
            )
        return cls(**said)


def read_version(folder: str | Path) -> str:
    """Which version an index has now; another for every change to it. Reads one small file.

    Raises:
        HeadwordError: as `Manifest.read`.
    """
    return Manifest.read(expand(folder)).version
