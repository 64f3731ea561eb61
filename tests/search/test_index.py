"""Making and refreshing an index: what is embedded and what is not, and what goes wrong."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headword.data.folders import scan
from headword.errors import HeadwordError
from headword.extract.job import Job
from headword.search import (
    Changes,
    Index,
    build_index,
    building,
    catalogue,
    draft,
    embedding,
    read_version,
    tagging,
)
from headword.search.manifest import Manifest, writing
from support.extraction import draw, draw_many
from support.indexing import QUERIES, found, tiny_model, tree


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = draw_many(tmp_path / "photos", 20)
    draw(folder / "trips" / "sea.png", 100)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


def open_index(folder: Path, model) -> Index:
    return Index.open(folder, model=model)


# ---- the first time, and again


def test_first_and_again(tiny, photos, tmp_path, embedded_files):
    changes = build_index(tiny, photos, tmp_path / "ix")
    assert (changes.images, changes.added, changes.changed, changes.removed) == (21, 21, 0, 0)
    assert list(changes.unreadable) == ["broken.jpg"]
    assert "broken.jpg" in changes.unreadable["broken.jpg"]
    index = open_index(tmp_path / "ix", tiny)
    assert len(index) == 21
    assert [hit.path for hit in index.browse(k=3)] == ["0000.jpg", "0001.jpg", "0002.jpg"]
    assert "trips/sea.png" in index
    assert "broken.jpg" not in index
    version = read_version(tmp_path / "ix")
    embedded_files.clear()
    again = build_index(tiny, photos, tmp_path / "ix")
    assert (again.images, again.unchanged, again.added, again.changed) == (21, 21, 0, 0)
    assert embedded_files == []  # not even the unreadable one
    assert read_version(tmp_path / "ix") == version == index.version


def test_scores_are_the_models(tiny, photos, tmp_path):
    """Cosines of images and texts in the model's space, centred on the collection."""
    build_index(tiny, photos, tmp_path / "ix")
    index = open_index(tmp_path / "ix", tiny)
    hits = index.browse(k=100)
    features = tiny.image_features([index.file(hit.path) for hit in hits])
    aligner = tiny_model().aligner.centre_on(features)
    texts = tiny.encode_text([query.text for query in QUERIES])
    cosines = (aligner.image(features) @ texts.T).numpy()
    for query, right in zip(QUERIES, cosines.T, strict=True):
        got = {hit.path: hit.score for hit in index.search(query, k=100)}
        np.testing.assert_allclose([got[hit.path] for hit in hits], right, atol=1e-5)


def test_centre_on_none_takes_the_models_centre(tiny, photos, tmp_path):
    build_index(tiny, photos, tmp_path / "ix", centre_on="none")
    index = open_index(tmp_path / "ix", tiny)
    assert index.about()["centre"] == {"kind": "none", "images": 21}
    hits = index.search(QUERIES[0], k=100)
    cosines = tiny.cosines([index.file(hit.path) for hit in hits], [QUERIES[0].text], templates="{}")
    np.testing.assert_allclose([hit.score for hit in hits], cosines[:, 0].numpy(), atol=1e-5)
    draw(photos / "new.jpg", 7)
    build_index(tiny, photos, tmp_path / "ix")  # goes on as it began
    assert Index.open(tmp_path / "ix").about()["centre"]["kind"] == "none"
    build_index(tiny, photos, tmp_path / "ix", centre_on="collection")
    assert Index.open(tmp_path / "ix").about()["centre"] == {"kind": "collection", "images": 22}


def test_only_what_is_new_is_embedded(tiny, photos, tmp_path, embedded_files):
    build_index(tiny, photos, tmp_path / "ix")
    embedded_files.clear()
    draw(photos / "0003.jpg", 333)  # changed
    os.utime(photos / "0004.jpg", (1, 1))  # only its time
    (photos / "0005.jpg").rename(photos / "renamed.jpg")
    shutil.copy(photos / "0006.jpg", photos / "trips" / "copy.jpg")
    (photos / "0007.jpg").unlink()
    draw(photos / "new.jpg", 500)
    shutil.copy(photos / "0008.jpg", photos / "broken.jpg")  # mended
    changes = build_index(tiny, photos, tmp_path / "ix")
    assert sorted(embedded_files) == ["0003.jpg", "new.jpg"]
    assert changes == Changes(images=23, added=4, changed=1, removed=2, unchanged=18)
    assert build_index(tiny, photos, tmp_path / "once").images == 23
    assert found(open_index(tmp_path / "ix", tiny)) == found(open_index(tmp_path / "once", tiny))


def test_what_it_finds_does_not_depend_on_how_it_grew(tiny, photos, tmp_path, monkeypatch):
    """Also after most of its rows went, and the files of rows were written anew."""
    monkeypatch.setattr(building, "_SPARE", 4)
    draw_many(photos / "old", 30)
    build_index(tiny, photos, tmp_path / "ix")
    open_index(tmp_path / "ix", tiny).tag(["ant", "bee"])
    before = Manifest.read(tmp_path / "ix")
    shutil.rmtree(photos / "old")
    for n in range(8):
        (photos / f"{n:04d}.jpg").unlink()
    draw(photos / "last.jpg", 77)
    build_index(tiny, photos, tmp_path / "ix")
    after = Manifest.read(tmp_path / "ix")
    assert (before.rows, after.rows) == ("rows-000001", "rows-000002")
    assert after.slots == after.images == 14
    build_index(tiny, photos, tmp_path / "once")
    open_index(tmp_path / "once", tiny).tag(["ant", "bee"])
    assert found(open_index(tmp_path / "ix", tiny)) == found(open_index(tmp_path / "once", tiny))


def test_another_aligner_takes_over_without_embedding(tiny, photos, tmp_path, embedded_files):
    build_index(tiny, photos, tmp_path / "ix")
    embedded_files.clear()
    for aligner in ("cca", "ridge"):
        other = tiny_model(aligner=aligner)
        with pytest.raises(
            HeadwordError, match=r"was made with the model .*give that model, or index the folder"
        ):
            open_index(tmp_path / "ix", other)
        build_index(other, photos, tmp_path / "ix")
        build_index(other, photos, tmp_path / aligner)
        assert found(open_index(tmp_path / "ix", other)) == found(open_index(tmp_path / aligner, other))
    assert len(embedded_files) == 2 * 22  # for the two new ones
    with pytest.raises(HeadwordError, match="kernel-ridge"):
        open_index(tmp_path / "ix", tiny)


def test_a_large_index_takes_the_fast_engine(tiny, photos, tmp_path, embedded_files, monkeypatch):
    """Small ones are exact; when one has grown, all of it is embedded alike."""
    monkeypatch.setattr("headword.search.draft.LONG", 30)
    monkeypatch.setattr("headword.extract.job.LONG", 30)
    monkeypatch.setattr("headword.extract.engines.LONG", 30)
    monkeypatch.setattr("headword.extract.engines.is_x86", lambda: False)  # no OpenVINO
    build_index(tiny, photos, tmp_path / "ix")
    assert Index.open(tmp_path / "ix").about()["features"]["exact"]
    draw_many(photos / "more", 20)
    embedded_files.clear()
    build_index(tiny, photos, tmp_path / "ix")
    assert len(embedded_files) == 42
    assert not Index.open(tmp_path / "ix").about()["features"]["exact"]
    shutil.rmtree(photos / "more")
    embedded_files.clear()
    build_index(tiny, photos, tmp_path / "ix")
    assert embedded_files == []
    with pytest.raises(HeadwordError, match=r"was made on torch in .* leave out --engine and --dtype"):
        build_index(tiny, photos, tmp_path / "ix", engine="openvino")


def test_features_in_the_cache_are_used(tiny, photos, tmp_path, embedded_files, monkeypatch):
    monkeypatch.setattr(tiny.vision.source, "kind", "timm")  # a module of one's own is not cached
    monkeypatch.setattr("headword.extract.features.CACHE_FROM", 1)
    (photos / "broken.jpg").unlink()
    paths = sorted(photos.rglob("*.*"))
    tiny.image_features(paths)
    embedded_files.clear()
    build_index(tiny, photos, tmp_path / "ix")
    assert embedded_files == []
    monkeypatch.setenv("HEADWORD_CACHE_LIMIT", "0")
    build_index(tiny, photos, tmp_path / "computed")
    assert len(embedded_files) == 21
    assert found(open_index(tmp_path / "ix", tiny)) == found(open_index(tmp_path / "computed", tiny))


# ---- files


def test_odd_names(tiny, tmp_path):
    folder = tmp_path / "photos"
    names = [
        "it's.jpg",
        'a "b".jpg',
        "ünï 猫.jpg",
        "two\nlines.jpg",
        "%_\\.jpg",
        "a;drop table.jpg",
        ".hidden.jpg",
    ]
    for n, name in enumerate(names):
        draw(folder / name, n)
    odd = os.fsencode(folder) + b"/\xff\xfe.jpg"
    shutil.copy(os.fsencode(folder / names[0]), odd)
    build_index(tiny, folder, tmp_path / "ix")
    index = open_index(tmp_path / "ix", tiny)
    paths = [hit.path for hit in index.browse(k=100)]
    assert set(paths) == {*names[:-1], r"\xff\xfe.jpg"}
    for path in paths:
        assert index.file(path).is_file()
        quoted = path.replace("'", "''")
        assert [hit.path for hit in index.browse(where=f"path = '{quoted}'")] == [path]
    assert os.fsencode(index.file(r"\xff\xfe.jpg")) == odd
    assert build_index(tiny, folder, tmp_path / "ix").unchanged == 7


def test_links(tiny, photos, tmp_path):
    outside = draw(tmp_path / "outside" / "secret.jpg", 1)
    (photos / "out.jpg").symlink_to(outside)
    (photos / "outfolder").symlink_to(outside.parent, target_is_directory=True)
    (photos / "within.jpg").symlink_to(photos / "0001.jpg")
    (photos / "trips" / "loop").symlink_to(photos, target_is_directory=True)
    (photos / "nowhere.jpg").symlink_to(photos / "gone.jpg")
    changes = build_index(tiny, photos, tmp_path / "ix")
    assert changes.outside == ["nowhere.jpg", "out.jpg", "outfolder"]
    assert "3 links were not followed, leading out of the folder or nowhere" in changes.notes[0]
    assert changes.images == 22
    index = open_index(tmp_path / "ix", tiny)
    assert index.file("within.jpg") == photos / "0001.jpg"
    # Put in the place of an image after it was indexed:
    (photos / "0002.jpg").unlink()
    (photos / "0002.jpg").symlink_to(outside)
    with pytest.raises(HeadwordError, match="lies outside"):
        index.file("0002.jpg")


@pytest.mark.parametrize(
    "path", ["../outside/secret.jpg", "/etc/passwd", "trips/../0001.jpg", "", ".", "0001.JPG"]
)
def test_only_files_of_the_index_are_named(tiny, photos, tmp_path, path):
    build_index(tiny, photos, tmp_path / "ix")
    with pytest.raises(HeadwordError, match="not in the index"):
        open_index(tmp_path / "ix", tiny).file(path)


def test_an_index_in_the_folder_is_not_its_own_image(tiny, photos):
    build_index(tiny, photos, photos / "index")
    draw(photos / "index" / "thumb.jpg", 1)
    assert build_index(tiny, photos, photos / "index").images == 21


def test_files_that_change_or_vanish_meanwhile(tiny, photos, tmp_path, monkeypatch):
    run = Job.run

    def busy(self, items, places):
        draw(photos / "0001.jpg", 999)
        (photos / "0002.jpg").unlink(missing_ok=True)
        return run(self, items, places)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "run", busy)
        changes = build_index(tiny, photos, tmp_path / "ix")
    assert changes.images == 20  # one went
    assert "0002.jpg" not in changes.unreadable
    changes = build_index(tiny, photos, tmp_path / "ix")
    assert (changes.added, changes.removed, changes.images) == (0, 0, 20)
    build_index(tiny, photos, tmp_path / "once")
    assert found(open_index(tmp_path / "ix", tiny)) == found(open_index(tmp_path / "once", tiny))


def test_a_file_that_may_not_be_read(tiny, photos, tmp_path, monkeypatch):
    opened = os.open

    def refuse(path, *args, **options):
        if str(path).endswith("0003.jpg"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        changes = build_index(tiny, photos, tmp_path / "ix")
    assert set(changes.unreadable) == {"broken.jpg", "0003.jpg"}
    assert "permission denied" in changes.unreadable["0003.jpg"]


# ---- what users get wrong


def test_mistakes(tiny, photos, tmp_path):
    def refused(match: str, *args, **options):
        with pytest.raises(HeadwordError, match=match):
            build_index(*args, **options)

    refused("there is no folder", tiny, tmp_path / "none", tmp_path / "ix")
    refused("nothing to index", tiny, (tmp_path / "empty").mkdir() or tmp_path / "empty", tmp_path / "ix0")
    refused("holds the images", tiny, photos, photos)
    refused("unknown centre", tiny, photos, tmp_path / "ix", centre_on="mean")
    (tmp_path / "file").touch()
    refused("is a file", tiny, photos, tmp_path / "file")
    refused("holds something that is no index", tiny, photos, tmp_path)
    build_index(tiny, photos, tmp_path / "ix")
    other = draw_many(tmp_path / "other", 2)
    refused("is the index of .*photos, not of .*other", tiny, other, tmp_path / "ix")
    stranger = tiny_model()
    with torch.no_grad():
        stranger.vision.source.model.body[0].weight[0, 0, 0, 0] += 1
    stranger.vision._fingerprint = ""
    refused("with another weights; give another --out", stranger, photos, tmp_path / "ix")
    with pytest.raises(HeadwordError, match=r"is no index: it has no index\.json"):
        Index.open(tmp_path)
    with pytest.raises(HeadwordError, match="a model that was not saved; give it"):
        Index.open(tmp_path / "ix").search(QUERIES[0])


def test_manifests_of_others(tiny, photos, tmp_path):
    build_index(tiny, photos, tmp_path / "ix")
    path = tmp_path / "ix" / "index.json"
    text = path.read_text()
    for old, new, match in [
        ('"format": 4', '"format": 5', "newer than this headword"),
        ('"format": 4', '"format": "x"', "does not say its format"),
        ('"slots"', '"slotz"', "was edited"),
        ("{", "", "not valid JSON"),
    ]:
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(HeadwordError, match=match):
            Index.open(tmp_path / "ix")
    path.write_text(text)
    for damaged in [next((tmp_path / "ix").glob(p)) for p in ("images-*.sqlite", "rows-*.i8", "rows-*.f32")]:
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(HeadwordError):
            Index.open(tmp_path / "ix")
        damaged.write_bytes(whole)
    Index.open(tmp_path / "ix")


# ---- what breaks


class Killed(BaseException):
    """The process is gone."""


def kill_at(patch, where: str, owner, name: str, *, times: int = 1, late: bool = False) -> None:
    """Die at the n-th call of something, before it or after."""
    whole, calls = getattr(owner, name), [0]

    def dying(*args, **options):
        calls[0] += 1
        if calls[0] == times and not late:
            raise Killed(where)
        result = whole(*args, **options)
        if calls[0] == times:
            raise Killed(where)
        return result

    patch.setattr(owner, name, dying)


STAGES = {
    "before the first block": (embedding, "append_rows", {}),
    "rows without a journal": (draft.Journal, "write", {"times": 2}),
    "after a block": (draft.Journal, "write", {"late": True}),
    "before the rounded rows": (building, "write_rounded", {}),
    "before the catalogue": (building, "write_catalogue", {}),
    "in the catalogue": (catalogue, "_set_tags", {}),
    "after the catalogue": (building, "write_catalogue", {"late": True}),
    "before the manifest": (Manifest, "write", {}),
    "after the manifest": (Manifest, "write", {"late": True}),
    "before the journal went": (draft.Journal, "remove", {}),
}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_anywhere_and_run_again(tiny, photos, tmp_path, monkeypatch, stage):
    monkeypatch.setattr(embedding, "BLOCK_FILES", 6)
    (photos / "0000.jpg").rename(tmp_path / "later.jpg")
    build_index(tiny, photos, tmp_path / "ix")
    open_index(tmp_path / "ix", tiny).tag(["ant", "bee"])
    before = found(open_index(tmp_path / "ix", tiny))
    shutil.copy(tmp_path / "later.jpg", photos / "zz.jpg")
    draw_many(photos / "more", 15)
    (photos / "0009.jpg").unlink()
    owner, name, how = STAGES[stage]
    with monkeypatch.context() as patch:
        kill_at(patch, stage, owner, name, **how)
        with pytest.raises(Killed):
            build_index(tiny, photos, tmp_path / "ix")
    if stage not in ("after the manifest", "before the journal went"):
        assert found(open_index(tmp_path / "ix", tiny)) == before
    build_index(tiny, photos, tmp_path / "ix")
    build_index(tiny, photos, tmp_path / "once")
    open_index(tmp_path / "once", tiny).tag(["ant", "bee"])
    assert found(open_index(tmp_path / "ix", tiny)) == found(open_index(tmp_path / "once", tiny))
    assert not (tmp_path / "ix" / "journal.jsonl").exists()


def test_what_was_done_is_not_done_again(tiny, photos, tmp_path, monkeypatch, embedded_files):
    monkeypatch.setattr(embedding, "BLOCK_FILES", 6)
    with monkeypatch.context() as patch:
        kill_at(patch, "after three blocks", draft.Journal, "write", times=3, late=True)
        with pytest.raises(Killed):
            build_index(tiny, photos, tmp_path / "ix")
    assert len(embedded_files) == 18
    with (tmp_path / "ix" / "journal.jsonl").open("ab") as file:
        file.write(b'{"path": "half a line')  # as a kill or a full disk may leave it
    embedded_files.clear()
    build_index(tiny, photos, tmp_path / "ix")
    assert len(embedded_files) == 4
    build_index(tiny, photos, tmp_path / "once")
    rows = Manifest.read(tmp_path / "ix").rows
    for file in (f"{rows}.f32", f"{rows}.i8"):
        assert (tmp_path / "ix" / file).read_bytes() == (tmp_path / "once" / file).read_bytes()
    assert found(open_index(tmp_path / "ix", tiny)) == found(open_index(tmp_path / "once", tiny))


def killed(photos: Path, folder: Path, *how: object) -> list[int]:
    """See killed_indexing.py; what it printed."""
    script = Path(__file__).parents[1] / "support" / "killed_indexing.py"
    result = subprocess.run(
        [sys.executable, *map(str, (script, photos, folder, *how))],
        check=True,
        timeout=300,
        stdout=subprocess.PIPE,
        text=True,
    )
    tiny = tiny_model()
    build_index(tiny, photos, folder / "once")
    open_index(folder / "once", tiny).tag(["ant", "bee"])
    ours, theirs = open_index(folder / "ix", tiny), open_index(folder / "once", tiny)
    assert found(ours) == found(theirs)
    ours.check()
    return [int(line) for line in result.stdout.split()]


def test_really_killed(tmp_path):
    """kill -9 at work, while indexing and while tagging."""
    killed(draw_many(tmp_path / "photos", 60), tmp_path)


@pytest.mark.attack
def test_killed_at_random_moments(tmp_path):
    """More pictures than a short call's, so that the fast engine takes them, also when it goes on."""
    photos = draw_many(tmp_path / "photos", 20)
    for n in range(20, 600):
        whole = (photos / f"{n % 20:04d}.jpg").read_bytes()
        (photos / f"{n:04d}.jpg").write_bytes(whole + b"%d" % n)  # other bytes, and quick to make
    journals = killed(photos, tmp_path, 12, 3)
    assert len(journals) == 12
    assert len(set(journals)) > 3  # it was killed with the journal at several lengths


@pytest.mark.attack
def test_ten_thousand_files_in_one_folder(tiny, tmp_path):
    """Most are copies, so that it is the index that is tried and not the model."""
    photos = draw_many(tmp_path / "photos", 3)
    for n in range(3, 10_000):
        os.link(photos / f"{n % 3:04d}.jpg", photos / f"{n:04d}.jpg")
    build_index(tiny, photos, tmp_path / "ix")
    index = open_index(tmp_path / "ix", tiny)
    index.check()
    assert (len(index), index.count("path like '99__.jpg'")) == (10_000, 100)
    assert len(index.search(QUERIES[0], k=20_000)) == 10_000
    (photos / "5000.jpg").unlink()
    assert build_index(tiny, photos, tmp_path / "ix").removed == 1


@pytest.mark.parametrize("what", ["rows-", "i8", "journal", "images-", "index.json"])
def test_a_full_disk(tiny, photos, tmp_path, monkeypatch, what):
    """One line, the old index as it was, and all is well when there is room again."""
    build_index(tiny, photos, tmp_path / "ix")
    index = open_index(tmp_path / "ix", tiny)
    before = found(index)
    draw_many(photos / "more", 3)

    def full_if(whole):
        def full(self, *args, **options):
            writes = "rb" not in (*args, *options.values())
            if writes and what in self.name and photos not in self.parents:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return whole(self, *args, **options)

        return full

    def small(path, **options):
        database = connect(path, **options)
        if what in str(path) and "mode=ro" not in str(path):
            database.execute("PRAGMA max_page_count = 2")
        return database

    connect = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full_if(Path.open))
        patch.setattr(Path, "replace", full_if(Path.replace))
        patch.setattr(sqlite3, "connect", small)
        with pytest.raises(HeadwordError, match=r"No space left on device|disk is full") as caught:
            build_index(tiny, photos, tmp_path / "ix")
    assert "\n" not in str(caught.value)
    assert found(index) == before
    assert found(open_index(tmp_path / "ix", tiny)) == before
    assert build_index(tiny, photos, tmp_path / "ix").added == 3


def test_one_writer_at_a_time_and_readers_go_on(tiny, photos, tmp_path):
    build_index(tiny, photos, tmp_path / "ix")
    reader = open_index(tmp_path / "ix", tiny)
    before = found(reader)
    with writing(tmp_path / "ix"):
        for change in (
            lambda: build_index(tiny, photos, tmp_path / "ix"),
            lambda: reader.tag(["ant", "bee"]),
        ):
            with pytest.raises(HeadwordError, match="another process is changing"):
                change()
        assert found(open_index(tmp_path / "ix", tiny)) == before
    draw_many(photos / "more", 9)
    build_index(tiny, photos, tmp_path / "ix")
    assert found(reader) == before  # the version it opened
    assert reader.reload()
    assert not reader.reload()
    assert len(reader) == 30


def test_a_reader_of_a_version_that_is_gone(tiny, photos, tmp_path):
    """Its hits and its filters are still there; other files in the folder are left alone."""
    build_index(tiny, photos, tmp_path / "ix")
    (tmp_path / "ix" / "server.json").write_text("{}")
    reader = open_index(tmp_path / "ix", tiny)
    hits = reader.search(QUERIES[0])
    for n in range(2):
        draw(photos / f"new{n}.jpg", n)
        build_index(tiny, photos, tmp_path / "ix")
    assert reader.search(QUERIES[0]) == hits
    assert reader.count("bytes > 0") == 21
    assert reader.reload()
    assert reader.count("bytes > 0") == 23
    assert (tmp_path / "ix" / "server.json").exists()


def test_another_model_meanwhile(tiny, photos, tmp_path):
    """Tags never mix a model's words with another's index."""
    build_index(tiny, photos, tmp_path / "ix")
    reader = open_index(tmp_path / "ix", tiny)
    build_index(tiny_model(aligner="ridge"), photos, tmp_path / "ix")
    with pytest.raises(HeadwordError, match="not saved; give it"):
        reader.tag(["ant", "bee"])
    with pytest.raises(HeadwordError, match="was made with the model"):
        tagging.tag_index(tmp_path / "ix", tiny, tiny.classifier(["ant", "bee"]))


def test_progress_counts_files(tiny, photos, tmp_path):
    seen: list[tuple[int, int]] = []
    build_index(tiny, photos, tmp_path / "ix", batch_size=8, progress=lambda *at: seen.append(at))
    assert seen[-1] == (22, 22)
    assert seen == sorted(seen)
    assert len(seen) >= 3


def test_refresh_takes_up_what_changed(tiny, photos, tmp_path):
    build_index(tiny, photos, tmp_path / "ix")
    index = open_index(tmp_path / "ix", tiny)
    Image.new("RGB", (40, 40), "red").save(photos / "red.png")
    assert index.refresh().added == 1
    assert "red.png" in index
    assert tree(tmp_path / "ix").keys() >= {"index.json", "rows-000001.f32", "rows-000001.i8"}
    assert len(list((tmp_path / "ix").glob("images-*.sqlite"))) == 2  # this version's and the one before
    assert scan(photos).files[-1].path == "trips/sea.png"
