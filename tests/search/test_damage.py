"""Damaged files: a flipped bit changes nothing that is printed, or is refused with the file's name."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headword
from headword.errors import HeadwordError
from headword.extract import extract_features
from headword.extract.job import Job
from headword.extract.store import HEADER, read_header, read_status
from headword.extract.vectors import read_vectors
from headword.files import sealed
from headword.search import Index, build_index
from headword.search import exact as exact_module
from headword.search.manifest import Manifest
from headword.search.rows import BLOCK
from support.extraction import draw, draw_many, tiny_vision
from support.indexing import QUERIES, found, tiny_model

FLIPS = 100


@pytest.fixture(scope="module")
def tiny():
    return tiny_model()


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
    for name in {path.name for path in out.glob("images-*")} - {f"{Manifest.read(out).table}.arrow"}:
        (out / name).unlink()  # of the version before
    return out


@pytest.fixture(autouse=True)
def first_pass(monkeypatch):
    """Searches read rows as those of large collections do."""
    monkeypatch.setattr(exact_module, "DIRECT", 8)
    monkeypatch.setattr(exact_module, "_bfloat16_is_sound", lambda: True)


@pytest.fixture
def embedded_files(monkeypatch) -> list[str]:
    """Names of the files that are embedded from now on."""
    names: list[str] = []
    run = Job.run

    def spy(self, items, places):
        names.extend(Path(items[place].path).name for place in places)
        return run(self, items, places)

    monkeypatch.setattr(Job, "run", spy)
    return names


def flip(path: Path, rng: random.Random) -> bytes:
    """Turn one bit of a file over; returns what it was."""
    whole = path.read_bytes()
    bit = rng.randrange(8 * len(whole))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    return whole


def flip_everywhere(
    folder: Path, answer: Callable[[], Any], *, silent: tuple[str, ...] = ()
) -> dict[str, int]:
    """Flip bits of all files, each in turn; returns how many were refused, by file."""
    rng, right = random.Random(0), answer()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    refused = dict.fromkeys((path.name for path in files), 0)
    for n in range(FLIPS):
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
    unused = "rows-000001.bf16"  # of whose last block most is filling, which nobody reads
    assert 0 < refused.pop(unused) < FLIPS // 5
    assert set(refused.values()) == {FLIPS // 5}


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

    assert sum(flip_everywhere(folder, answer).values()) == FLIPS


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
    [("rows-*.bf16", 0), ("state-*", 0), ("images-*", BLOCK + 14), ("rows-*.f32", BLOCK + 13)],
)
@pytest.mark.parametrize("how", ["flipped", "half", "gone"])
def test_every_file_is_mended(tiny, photos, tagged, tmp_path, embedded_files, pattern, again, how):
    index = shutil.copytree(tagged, tmp_path / "ix")
    right = found(Index.open(index, model=tiny))
    (path,) = index.glob(pattern)
    whole = path.read_bytes()
    damage(path, len(whole) // 3)
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
    assert len(embedded_files) == again
    assert found(Index.open(index, model=tiny)) == right
    Index.open(index).check()


def test_a_journal_with_a_flipped_bit_is_followed_up_to_it(
    tiny, photos, tmp_path, monkeypatch, embedded_files
):
    from headword.search import commit, embedding

    monkeypatch.setattr(embedding, "BLOCK_FILES", 10)
    rng = random.Random(1)
    build_index(tiny, photos, tmp_path / "once")
    right = found(Index.open(tmp_path / "once", model=tiny))
    with monkeypatch.context() as patch:
        patch.setattr(commit, "write_table", lambda *_: 1 / 0)
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


def as_format_1(index: Path) -> None:
    """An index as it was before checksums."""
    import pyarrow as pa

    from headword.files import load_tensors, save_tensors

    said = json.loads((index / "index.json").read_text())
    table = index / f"{said['table']}.arrow"
    read = pa.ipc.open_file(table.read_bytes()).read_all().drop_columns(["sum"])
    with table.open("wb") as file, pa.ipc.new_file(file, read.schema) as writer:
        writer.write_table(read)
    state = index / f"{said['state']}.safetensors"
    save_tensors(state, {name: t for name, t in load_tensors(state).items() if name != "block_sums"})
    (index / "lance" / "images-000001.lance").mkdir(parents=True)
    del said["files"], said["sha256"]
    (index / "index.json").write_text(json.dumps({**said, "format": 1, "approximate": None}))


def test_an_index_of_format_1_is_brought_up_to_date(tiny, photos, tagged, tmp_path, embedded_files):
    index = shutil.copytree(tagged, tmp_path / "ix")
    right = found(Index.open(index, model=tiny))
    as_format_1(index)
    for use in (lambda: Index.open(index, model=tiny), lambda: headword.search.read_version(index)):
        with pytest.raises(HeadwordError, match=r"format 1.*embeds nothing again: headword index MODEL"):
            use()
    rows = np.memmap(index / "rows-000001.f32", np.float32, "r+").reshape(-1, 16)
    rows[7] = 9.5e35  # what no feature is
    rows.flush()
    assert build_index(tiny, photos, index).mended == 1
    assert embedded_files == ["0007.jpg"]
    assert found(Index.open(index, model=tiny)) == right
    assert not (index / "lance").exists()


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
        {"files": None},
        {"files": {}},
        {"dim": -5},
    ):
        (index / "index.json").write_text(json.dumps(sealed({**said, **change})))
        with pytest.raises(HeadwordError, match=r"index\.json|cut short|is damaged"):
            Index.open(index)


def test_a_file_that_is_cut_short_under_an_open_index(tiny, photos, tagged, tmp_path):
    """Reading what is no longer there of a mapped file would end the process."""
    index = shutil.copytree(tagged, tmp_path / "ix")
    opened = Index.open(index, model=tiny)
    right = found(opened)
    for pattern in ("rows-*.f32", "rows-*.bf16"):
        (path,) = index.glob(pattern)
        whole = path.read_bytes()
        os.truncate(path, 100)
        with pytest.raises(HeadwordError, match=rf"{path.name} is cut short \(100 bytes\); index the folder"):
            opened.search(QUERIES[0], k=1000)
        path.write_bytes(whole)
    for pattern in ("images-*", "state-*"):  # in memory
        (path,) = index.glob(pattern)
        os.truncate(path, 100)
    assert found(opened) == right
