"""Damaged files: a flipped bit changes nothing that is printed, or is refused with the file's name."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import headword
from headword.errors import HeadwordError
from headword.extract import extract_features
from headword.extract.store import HEADER, read_header, read_status
from headword.extract.vectors import read_vectors
from headword.files import sealed, sha256
from headword.search import Index, build_index
from headword.search import exact as exact_module
from headword.search.manifest import Manifest
from headword.search.rows import BLOCK
from support.extraction import draw, draw_many, tiny_vision
from support.indexing import QUERIES, found

FLIPS = 100


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = draw_many(tmp_path_factory.mktemp("damage") / "photos", BLOCK + 12)
    draw(folder / "trips" / "sea.png", 1000)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


@pytest.fixture(scope="module")
def tagged(tiny, photos) -> Path:
    """An index of two blocks of rows, with tags."""
    out = photos.parent / "ix"
    build_index(tiny, photos, out)
    Index.open(out, model=tiny).tag(["ant", "bee"])
    for name in {path.name for path in out.glob("images-*")} - {Manifest.read(out).catalogue}:
        (out / name).unlink()  # of the version before
    return out


@pytest.fixture(autouse=True)
def first_pass(monkeypatch):
    """Searches read rows as those of large collections do."""
    monkeypatch.setattr(exact_module, "DIRECT", 8)


def flip(path: Path, rng: random.Random) -> bytes:
    """Turn one bit of a file over; returns what it was."""
    whole = path.read_bytes()
    bit = rng.randrange(8 * len(whole))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    return whole


def flip_everywhere(folder: Path, answer: Callable[[], Any], *, flips: int = FLIPS) -> dict[str, int]:
    """Flip bits of all files, each in turn; returns how many were refused, by file."""
    rng, right = random.Random(0), answer()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    refused = dict.fromkeys((path.name for path in files), 0)
    for n in range(flips):
        path = files[n % len(files)]
        whole = flip(path, rng)
        try:
            same, line = answer() == right, ""
        except HeadwordError as error:
            same, line = False, str(error)
        path.write_bytes(whole)
        assert same or str(path) in line, f"{path}: {line or 'another answer'}"
        assert "\n" not in line
        refused[path.name] += bool(line)
    return refused


@pytest.mark.attack
def test_flipped_bits_of_an_index(tiny, tagged):
    refused = flip_everywhere(tagged, lambda: found(Index.open(tagged, model=tiny)))
    assert set(refused.values()) == {FLIPS // 4}


@pytest.mark.attack
def test_flipped_bits_of_a_store(photos):
    store = photos.parent / "store"
    extract_features(tiny_vision(), photos, store)

    def answer() -> tuple[Any, ...]:
        vectors = read_vectors(store)
        return vectors.values.tolist(), vectors.ids, list(read_status(store))

    assert sum(flip_everywhere(store, answer).values()) == FLIPS


@pytest.mark.attack
def test_flipped_bits_of_a_model(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")

    def answer() -> Any:
        model = headword.load(folder, device="cpu")
        return model.provenance(), model.encode_text(["a cat"]).tolist()

    assert sum(flip_everywhere(folder, answer, flips=32).values()) == 32  # each loads the model


# ---- an index is mended by indexing again


def damage(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 64]))


def test_what_is_damaged_alone_is_embedded_again(tiny, photos, tagged, tmp_path, embedded_files):
    index, width = shutil.copytree(tagged, tmp_path / "ix"), 16 * 4
    right = found(Index.open(index, model=tiny))
    for slot in (3, 130):
        damage(index / "rows-000001.f32", slot * width + 3)
    opened = Index.open(index, model=tiny)
    for use in (lambda: opened.search(QUERIES[0], k=1000), opened.check, lambda: opened.tag(["ant"])):
        with pytest.raises(
            HeadwordError, match=r"rows-000001\.f32 is damaged \(row 3\); index the folder again"
        ):
            use()
    changes = build_index(tiny, photos, index)
    assert (changes.mended, changes.added, changes.changed) == (2, 0, 0)
    assert embedded_files == ["0003.jpg", "0130.jpg"]
    assert found(Index.open(index, model=tiny)) == right
    Index.open(index).check()


@pytest.mark.parametrize(
    ("pattern", "again"),
    [("rows-*.i8", 0), ("images-*", BLOCK + 14), ("rows-*.f32", BLOCK + 13)],
)
@pytest.mark.parametrize("how", ["flipped", "half", "gone"])
def test_every_file_is_mended(tiny, photos, tagged, tmp_path, embedded_files, pattern, again, how):
    index = shutil.copytree(tagged, tmp_path / "ix")
    right = found(Index.open(index, model=tiny))
    (path,) = index.glob(pattern)
    whole = path.read_bytes()
    damage(path, whole.index(b"0100.jpg") if pattern == "images-*" else len(whole) // 3)
    if how != "flipped":
        path.write_bytes(whole[: len(whole) // 2])
    if how == "gone":
        path.unlink()
    with pytest.raises(HeadwordError, match=path.name) as caught:
        Index.open(index, model=tiny).check()
    assert "index the folder again" in str(caught.value)
    build_index(tiny, photos, index)
    if pattern == "rows-*.f32":
        again = {"flipped": 1, "half": (BLOCK + 13) // 2 + 1, "gone": again}[how]
    if pattern == "images-*" and how == "flipped":
        again = 1  # the others say, each for itself, that they are whole
    assert len(embedded_files) == again
    assert found(Index.open(index, model=tiny)) == right
    Index.open(index).check()


def test_a_damaged_state_is_made_from_the_rows(tiny, photos, tagged, tmp_path, embedded_files):
    index = shutil.copytree(tagged, tmp_path / "ix")
    right = found(Index.open(index, model=tiny))
    (path,) = index.glob("images-*")
    damage(path, path.read_bytes().index(b"inverse_norms") + 100)
    with pytest.raises(HeadwordError, match=rf"{path.name} is damaged; index the folder again"):
        Index.open(index, model=tiny)
    build_index(tiny, photos, index)
    assert embedded_files == []
    assert found(Index.open(index, model=tiny)) == right


def test_a_journal_with_a_flipped_bit_is_followed_up_to_it(
    tiny, photos, tmp_path, monkeypatch, embedded_files
):
    from headword.search import building, embedding

    monkeypatch.setattr(embedding, "BLOCK_FILES", 10)
    rng = random.Random(1)
    build_index(tiny, photos, tmp_path / "once")
    right = found(Index.open(tmp_path / "once", model=tiny))
    with monkeypatch.context() as patch:
        patch.setattr(building, "write_catalogue", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_index(tiny, photos, tmp_path / "ix")
    for n in range(8):
        index = shutil.copytree(tmp_path / "ix", tmp_path / f"ix{n}")
        flip(index / ("journal.jsonl" if n % 2 else "rows-000001.f32"), rng)
        embedded_files.clear()
        build_index(tiny, photos, index)
        assert embedded_files  # the damaged one, and what came after it
        assert found(Index.open(index, model=tiny)) == right


# ---- formats of before


@pytest.mark.parametrize("older", [1, 2])
def test_an_index_of_an_older_format_is_refused_and_made_again(tiny, photos, tagged, tmp_path, older):
    """By one command, in its place, of which the files of that format go."""
    index = shutil.copytree(tagged, tmp_path / "ix")
    said = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps({**said, "format": older}))
    for name in ("images-000009.arrow", "state-000009.safetensors", "lance/images-000001.lance"):
        (index / name).parent.mkdir(exist_ok=True)
        (index / name).write_text("older")
    line = rf"has format {older}.*build it again: headword index MODEL {photos} --out {index}$"
    for use in (lambda: Index.open(index, model=tiny), lambda: headword.search.read_version(index)):
        with pytest.raises(HeadwordError, match=line):
            use()
    assert build_index(tiny, photos, index).added == BLOCK + 13
    build_index(tiny, photos, tmp_path / "once")
    assert found(Index.open(index, model=tiny)) == found(Index.open(tmp_path / "once", model=tiny))
    assert {path.name for path in index.iterdir()} == {path.name for path in (tmp_path / "once").iterdir()}


def test_the_features_of_an_index_of_format_3_stay(tiny, photos, tagged, tmp_path, embedded_files):
    """Its rows in bfloat16 go, and what is new of format 4 is made of its features."""
    index = shutil.copytree(tagged, tmp_path / "ix")
    right = found(Index.open(index, model=tiny))
    said = json.loads((index / "index.json").read_text())
    (index / "rows-000001.i8").rename(index / "rows-000001.bf16")
    catalogue = index / Manifest.read(index).catalogue
    with closing(sqlite3.connect(catalogue)) as database:
        database.execute("DELETE FROM state WHERE name IN ('scales', 'distances')")
        database.commit()
    said |= {"format": 3, "rounding": 0.002, "catalogue_sha256": sha256(catalogue)}
    (index / "index.json").write_text(json.dumps(sealed(said)))
    with pytest.raises(
        HeadwordError, match=rf"has format 3.*build it again: headword index .* --out {index}$"
    ):
        Index.open(index, model=tiny)
    assert build_index(tiny, photos, index).unchanged == BLOCK + 13
    assert embedded_files == []
    assert found(Index.open(index, model=tiny)) == right
    assert not list(index.glob("*.bf16"))


# ---- a catalogue that is a stranger's


def resealed(index: Path) -> None:
    """A seal has no key: who edits the catalogue can seal it."""
    said = json.loads((index / "index.json").read_text())
    path = index / Manifest.read(index).catalogue
    said["catalogue_sha256"] = sha256(path)
    (index / "index.json").write_text(json.dumps(sealed(said)))


HOSTILE = {
    "a view": "CREATE VIEW more AS SELECT * FROM images",
    "a trigger": "CREATE TRIGGER t AFTER DELETE ON images BEGIN DELETE FROM state; END",
    "an index with an expression": "CREATE INDEX i ON images (zeroblob(1000))",
    "images as a view": "ALTER TABLE images RENAME TO x; CREATE VIEW images AS WITH RECURSIVE c(x) AS "
    "(SELECT 1 UNION ALL SELECT x FROM c) SELECT x AS place FROM c",
    "a virtual table": "DROP TABLE state; CREATE VIRTUAL TABLE state USING fts4(name, value)",
    "other columns": "ALTER TABLE images ADD COLUMN more",
    "no state": "DELETE FROM state",
    "a short state": "UPDATE state SET value = x'00' WHERE name = 'slots'",
    "no number": "UPDATE state SET value = x'0011' WHERE name = 'centre'",
    "slots far away": "UPDATE state SET value = CAST(replace(hex(zeroblob(length(value) / 2)), '0', 'z') "
    "AS BLOB) WHERE name = 'slots'",
    "other kinds": "PRAGMA ignore_check_constraints = ON; UPDATE images SET path = 5",
    "half a character": "UPDATE images SET path = CAST(x'ff' AS TEXT) WHERE place = 0",
}


@pytest.mark.attack
@pytest.mark.parametrize("attack", HOSTILE)
def test_a_catalogue_of_a_stranger(tiny, tagged, tmp_path, attack):
    """Sealed by who edited it; refused in one line that names it, and mended by indexing again."""
    index = shutil.copytree(tagged, tmp_path / "ix")
    path = index / Manifest.read(index).catalogue
    with closing(sqlite3.connect(path)) as database:
        database.executescript(HOSTILE[attack])
        database.commit()
    resealed(index)
    with pytest.raises(HeadwordError, match=r"images-000002\.sqlite|index\.json") as caught:
        Index.open(index, model=tiny).browse(k=1000)
    assert "\n" not in str(caught.value)


@pytest.mark.attack
def test_journals_of_strangers_beside_the_catalogue(tiny, photos, tagged, tmp_path):
    """SQLite would roll them back, into the file and others that they name."""
    index = shutil.copytree(tagged, tmp_path / "ix")
    right = found(Index.open(index, model=tiny))
    for n in range(1, 5):
        for ending in ("-journal", "-wal", "-shm"):
            (index / f"images-{n:06d}.sqlite{ending}").write_bytes(
                b"\xd9\xd5\x05\xf9 \xa1c\xd7" + bytes(4096)
            )
    assert found(Index.open(index, model=tiny)) == right
    Index.open(index, model=tiny).tag(["ant", "bee"])
    assert found(Index.open(index, model=tiny)) == right


@pytest.mark.attack
def test_pages_that_point_in_circles(tiny, tagged, tmp_path):
    """A tree that is its own child would be walked for ever."""
    index = shutil.copytree(tagged, tmp_path / "ix")
    path = index / Manifest.read(index).catalogue
    with closing(sqlite3.connect(path)) as database:
        ((root,), (size,)) = (
            database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'images'").fetchone(),
            database.execute("PRAGMA page_size").fetchone(),
        )
    whole = bytearray(path.read_bytes())
    page = (root - 1) * size
    assert whole[page] == 5  # an interior page of a table
    whole[page + 8 : page + 12] = root.to_bytes(4, "big")  # its last child
    path.write_bytes(whole)
    resealed(index)
    with pytest.raises(HeadwordError, match=r"images-000002\.sqlite is damaged"):
        Index.open(index, model=tiny)
    path.write_bytes(bytes(whole[: 3 * size]))
    resealed(index)
    with pytest.raises(HeadwordError, match=r"images-000002\.sqlite is damaged"):
        Index.open(index, model=tiny)


def test_a_store_of_format_1_goes_on(photos, tmp_path):
    vision = tiny_vision()
    extract_features(vision, photos, tmp_path / "store")
    before = read_vectors(tmp_path / "store")
    header = json.loads((tmp_path / "store" / HEADER).read_text())
    del header["files"], header["sha256"]
    (tmp_path / "store" / HEADER).write_text(json.dumps({**header, "format": 1}))
    assert torch.equal(read_vectors(tmp_path / "store").values, before.values)
    extract_features(vision, photos, tmp_path / "store")
    assert set(read_header(tmp_path / "store")["files"]) == {"part-000000.parquet"}


def test_a_store_whose_part_was_removed_says_so_and_is_completed(photos, tmp_path):
    vision, store = tiny_vision(), tmp_path / "store"
    extract_features(vision, photos, store)
    before = read_vectors(store)
    damage(store / "part-000000.parquet", 500)
    with pytest.raises(HeadwordError, match=r"part-000000\.parquet is damaged; remove it and run"):
        read_vectors(store)
    (store / "part-000000.parquet").write_bytes(b"")
    with pytest.raises(HeadwordError, match=r"part-000000\.parquet is damaged; remove it and run"):
        extract_features(vision, photos, store)
    (store / "part-000000.parquet").unlink()
    extract_features(vision, photos, store)
    assert torch.equal(read_vectors(store).values, before.values)


def test_a_sealed_manifest_of_nonsense(tagged, tmp_path):
    """A seal has no key: who edits the manifest can seal it, and is told all the same."""
    index = shutil.copytree(tagged, tmp_path / "ix")
    said = json.loads((index / "index.json").read_text())
    for change in (
        {"slots": "many"},
        {"rows": 5},
        {"slots": 10**15},
        {"slots": -1},
        {"rows": "../rows-000001"},
        {"catalogue_sha256": None},
        {"catalogue_sha256": ""},
        {"generation": 10**9},
        {"images": 7},
        {"dim": -5},
    ):
        (index / "index.json").write_text(json.dumps(sealed({**said, **change})))
        with pytest.raises(HeadwordError, match=r"index\.json|cut short|is damaged|is missing"):
            Index.open(index)


def test_a_file_that_is_cut_short_under_an_open_index(tiny, photos, tagged, tmp_path):
    """Reading what is no longer there of a mapped file would end the process."""
    index = shutil.copytree(tagged, tmp_path / "ix")
    opened = Index.open(index, model=tiny)
    right = found(opened)
    for pattern in ("rows-*.f32", "rows-*.i8"):
        (path,) = index.glob(pattern)
        whole = path.read_bytes()
        os.truncate(path, 100)
        with pytest.raises(HeadwordError, match=rf"{path.name} is cut short \(100 bytes\); index the folder"):
            opened.search(QUERIES[0], k=1000)
        path.write_bytes(whole)
    (path,) = index.glob("images-*")  # in memory
    os.truncate(path, 100)
    assert found(opened) == right
