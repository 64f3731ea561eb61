"""Tags where other programs read them: sidecars, read back by exiftool, and tables."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from headword.errors import HeadwordError
from headword.search import Index, build_index
from headword.search.sharing import (
    remove_sidecars,
    set_keywords,
    write_sidecars,
    write_table,
)  # fmt: skip
from support.extraction import draw_many

DARKTABLE = """<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:darktable="http://darktable.sf.net/"
   xmp:Rating="4" darktable:history_end="3">
   <dc:subject><rdf:Seq><rdf:li>holiday</rdf:li><rdf:li>an ant</rdf:li></rdf:Seq></dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""


@pytest.fixture
def index(tiny, tmp_path) -> Index:
    build_index(tiny, draw_many(tmp_path / "photos", 6), tmp_path / "ix")
    opened = Index.open(tmp_path / "ix", model=tiny)
    opened.tag(["an ant", "a bee"], multi_label=True)
    first = opened.browse()[0].path
    opened.correct({first: {"Käfer & <b>": True}})
    return opened


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_back(path: Path) -> dict[str, object]:
    exiftool = shutil.which("exiftool")
    if exiftool is None:
        pytest.skip("there is no exiftool; on Debian: apt-get install libimage-exiftool-perl")
    said = subprocess.run([exiftool, "-json", path], capture_output=True, check=True).stdout
    (facts,) = json.loads(said)
    return facts


def subjects(path: Path) -> list[str]:
    said = read_back(path).get("Subject", [])
    return [str(said)] if isinstance(said, str) else [str(one) for one in said]


def test_sidecars_say_the_tags_and_go_again(index):
    before = contents(index.root)
    tagged = [hit for hit in index.browse() if hit.tags]
    assert write_sidecars(index).pictures == len(tagged) > 1
    for hit in tagged:
        sidecar = index.root / f"{hit.path}.xmp"
        assert subjects(sidecar) == [tag.tag for tag in hit.tags]
    assert "Käfer & <b>" in subjects(index.root / f"{tagged[0].path}.xmp")
    after = contents(index.root)
    assert {name: after[name] for name in before} == before, "pictures are untouched"
    write_sidecars(index)
    assert contents(index.root) == after
    index.tag(["something else"])
    write_sidecars(index)
    assert subjects(index.root / f"{tagged[1].path}.xmp") == ["something else"]
    remove_sidecars(index)
    assert contents(index.root) == before


def test_what_other_programs_wrote_stays(index):
    hit = index.browse()[0]
    sidecar = index.root / f"{hit.path}.xmp"
    sidecar.write_text(DARKTABLE, "utf-8")
    untouched = read_back(sidecar)
    set_keywords(index.file(hit.path), ["an ant", "a bee"])
    assert subjects(sidecar) == ["holiday", "an ant", "a bee"]
    assert read_back(sidecar)["Rating"] == 4
    assert "darktable:history_end" in sidecar.read_text("utf-8")
    set_keywords(index.file(hit.path), [])
    volatile = {"FileSize", "FileModifyDate", "FileAccessDate", "FileInodeChangeDate", "FilePermissions"}
    now = read_back(sidecar)
    assert {k: v for k, v in now.items() if k not in volatile} == {
        k: v for k, v in untouched.items() if k not in volatile
    }


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"no XML", "damaged"),
        (b"<a/>", "describes nothing"),
        (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "document type"),
        ('<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a><a/>'.encode("utf-16"), "document type"),
        (b" " * 16_000_001, "too large"),
    ],
)
def test_odd_sidecars_are_left_alone(index, content, match):
    hit = index.browse()[0]
    sidecar = index.root / f"{hit.path}.xmp"
    sidecar.write_bytes(content)
    shared = write_sidecars(index)
    assert list(shared.failed) == [hit.path]
    with pytest.raises(HeadwordError, match=match):
        set_keywords(index.file(hit.path), ["a bee"])
    assert sidecar.read_bytes() == content


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_links_are_not_written_through(index, tmp_path):
    hit = index.browse()[0]
    (tmp_path / "mine.txt").write_text("mine")
    (index.root / f"{hit.path}.xmp").symlink_to(tmp_path / "mine.txt")
    assert "is a link" in write_sidecars(index).failed[hit.path]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_tables(index, tmp_path):
    hits = index.browse()
    write_table(index, tmp_path / "tags.json")
    rows = json.loads((tmp_path / "tags.json").read_text("utf-8"))
    assert {row["path"]: [tag["tag"] for tag in row["tags"]] for row in rows} == {
        hit.path: [tag.tag for tag in hit.tags] for hit in hits
    }
    write_table(index, tmp_path / "tags.csv")
    with (tmp_path / "tags.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["path"], row["tag"]) for row in table] == [
        (hit.path, tag.tag) for hit in hits for tag in hit.tags
    ]
    assert table[0]["by_hand"] == "True"
