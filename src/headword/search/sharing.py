"""Tags where other programs read them: XMP sidecars beside the pictures, or one table of all.

A sidecar of `beach.jpg` is `beach.jpg.xmp`, as darktable, digiKam and immich have it; the picture itself is
never written to. Tags are keywords (`dc:subject`). Those that headword added are listed in its own
namespace too, so that the next writing replaces, and `remove_sidecars` takes out, these alone: whatever else
a sidecar holds stays.
"""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from headword.errors import HeadwordError
from headword.files import open_file, write_text_atomic
from headword.search.query import Hit

if TYPE_CHECKING:
    from headword.extract import Progress
    from headword.search.index import Index

MAX_SIDECAR = 16_000_000
"""Bytes that a sidecar may have to be read."""

_X = "adobe:ns:meta/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_OURS = "urn:x-headword:xmp:1/"
_PREFIXES = {"x": _X, "rdf": _RDF, "dc": _DC, "headword": _OURS}
_SUBJECT, _ADDED = f"{{{_DC}}}subject", f"{{{_OURS}}}added"
_BAG, _ITEM, _DESCRIPTION = f"{{{_RDF}}}Bag", f"{{{_RDF}}}li", f"{{{_RDF}}}Description"
_MADE_BY = f"{{{_X}}}xmptk"

for _prefix, _name in _PREFIXES.items():
    ET.register_namespace(_prefix, _name)

_AT_ONCE = 1000  # pictures that are read from the index


@dataclass(frozen=True, slots=True)
class SharedTags:
    """What was written."""

    pictures: int
    """Those that have a tag, or had one that was taken out."""
    failed: dict[str, str] = field(default_factory=dict)
    """Pictures whose sidecar was left as it is, and why."""


def write_sidecars(index: Index, *, progress: Progress | None = None) -> SharedTags:
    """Write the tags of each image of an index into its sidecar, in place of those written before."""
    return _each(index, lambda hit: [tag.tag for tag in hit.tags], progress)


def remove_sidecars(index: Index, *, progress: Progress | None = None) -> SharedTags:
    """Take out of the images' sidecars what `write_sidecars` put there; files that it made, go."""
    return _each(index, lambda _: [], progress)


def write_table(index: Index, out: Path, *, progress: Progress | None = None) -> SharedTags:
    """Write all tags into a file: JSON if it ends on .json, else CSV with a row a tag."""
    hits = list(_hits(index, progress))
    if out.suffix.lower() == ".json":
        rows = [{"path": hit.path, "tags": [asdict(tag) for tag in hit.tags]} for hit in hits]
        text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    else:
        content = io.StringIO(newline="")
        table = csv.writer(content, lineterminator="\n")
        table.writerow(["path", "tag", "score", "by_hand"])
        for hit in hits:
            table.writerows([hit.path, tag.tag, tag.score, tag.by_hand] for tag in hit.tags)
        text = content.getvalue()
    write_text_atomic(out, text)
    return SharedTags(sum(bool(hit.tags) for hit in hits))


def _hits(index: Index, progress: Progress | None) -> Iterator[Hit]:
    for start in range(0, len(index), _AT_ONCE):
        yield from index.browse(k=_AT_ONCE, offset=start)
        if progress is not None:
            progress(min(start + _AT_ONCE, len(index)), len(index))


def _each(index: Index, words: Callable[[Hit], list[str]], progress: Progress | None) -> SharedTags:
    changed, failed = 0, {}
    for hit in _hits(index, progress):
        try:
            changed += set_keywords(index.file(hit.path), words(hit))
        except HeadwordError as error:
            failed[hit.path] = str(error)
    return SharedTags(changed, failed)


def set_keywords(picture: Path, words: Sequence[str]) -> bool:
    """Make these the keywords that a picture's sidecar has from headword; returns whether it has or had any.

    Raises:
        HeadwordError: if the sidecar is a link, cannot be read as XMP, or cannot be written.
    """
    sidecar = picture.with_name(f"{picture.name}.xmp")
    if sidecar.is_symlink():
        raise HeadwordError(f"{sidecar} is a link, which is not written through")
    there = sidecar.exists()
    if not there and not words:
        return False
    root = _read(sidecar) if there else _new()
    described = list(root.iter(_DESCRIPTION))
    before = _take_bag(described, _ADDED)
    keywords = [word for word in _take_bag(described, _SUBJECT) if word not in before]
    if not words and not before:
        return False
    shown = ["".join(c if c.isprintable() else " " for c in word) for word in words]
    added = [word for word in dict.fromkeys(shown) if word not in keywords]
    _put_bag(described[0], _SUBJECT, [*keywords, *added])
    _put_bag(described[0], _ADDED, added)
    if root.get(_MADE_BY) == "headword" and not any(len(element) for element in described):
        try:
            sidecar.unlink()
        except OSError as error:
            raise HeadwordError(f"cannot remove {sidecar}: {error.strerror}") from error
        return True
    text = ET.tostring(root, encoding="unicode")
    write_text_atomic(sidecar, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n')
    return True


def _new() -> ET.Element:
    root = ET.Element(f"{{{_X}}}xmpmeta", {_MADE_BY: "headword"})
    ET.SubElement(ET.SubElement(root, f"{{{_RDF}}}RDF"), _DESCRIPTION, {f"{{{_RDF}}}about": ""})
    return root


def _read(sidecar: Path) -> ET.Element:
    """A sidecar, which may be a stranger's: of bounded size, and without a document type to expand."""
    with open_file(sidecar) as file:
        content = file.read(MAX_SIDECAR + 1)
    plain = content.replace(b"\0", b"")  # also of UTF-16
    if len(content) > MAX_SIDECAR or b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
        raise HeadwordError(f"{sidecar} is no XMP that is read here: too large, or with a document type")
    try:
        for _, (prefix, name) in ET.iterparse(io.BytesIO(content), ["start-ns"]):
            taken = prefix in ("", *_PREFIXES) or re.fullmatch(r"ns\d+", prefix)
            if not taken and name not in _PREFIXES.values():
                ET.register_namespace(prefix, name)  # as it was written
        parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True, insert_pis=True))
        root: ET.Element = ET.fromstring(content, parser)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise HeadwordError(f"{sidecar} is damaged: {error}; move it away, or mend it") from error
    if next(root.iter(_DESCRIPTION), None) is None:
        raise HeadwordError(f"{sidecar} is no XMP: it describes nothing; move it away")
    return root


def _take_bag(described: Sequence[ET.Element], name: str) -> list[str]:
    """The words of a property, taken out of the descriptions."""
    words = []
    for description in described:
        for bag in description.findall(name):
            words += [item.text or "" for item in bag.iter(_ITEM)]
            description.remove(bag)
    return words


def _put_bag(description: ET.Element, name: str, words: Sequence[str]) -> None:
    if words:
        bag = ET.SubElement(ET.SubElement(description, name), _BAG)
        for word in words:
            ET.SubElement(bag, _ITEM).text = word
