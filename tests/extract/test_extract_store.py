"""The feature store under what can go wrong: kills, full disks, broken and odd files, two writers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from headword.data.items import file_item
from headword.errors import HeadwordError
from headword.extract import Shared, extract_features
from headword.extract import store as store_module
from headword.extract.job import Job
from headword.extract.store import HEADER, StoreWriter, read_header, read_status
from headword.extract.vectors import StoredFeatures, read_vectors
from support.extraction import draw, draw_many, tiny_vision


@pytest.fixture(scope="module")
def vision():
    return tiny_vision()


@pytest.fixture(scope="module")
def pictures_200(tmp_path_factory) -> Path:
    return draw_many(tmp_path_factory.mktemp("pictures"), 200)


def rows_of(store: Path) -> dict[str, tuple[str, tuple[float, ...] | None]]:
    """Status and embedding by id; fails if an id is there twice."""
    table = pq.read_table(sorted(store.glob("part-*.parquet"))).to_pylist()
    rows = {row["id"]: (row["status"], row["embedding"] and tuple(row["embedding"])) for row in table}
    assert len(rows) == len(table)
    return rows


def test_store_has_the_agreed_format(vision, pictures_200, tmp_path):
    done = extract_features(vision, pictures_200, tmp_path / "store")
    assert (done.rows, done.ok, done.unreadable, done.resumed) == (200, 200, 0, 0)
    table = pq.read_table(tmp_path / "store" / "part-000000.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("id", "string"),
        ("path", "string"),
        ("embedding", "fixed_size_list<element: float>[16]"),
        ("status", "string"),
    ]
    header = read_header(tmp_path / "store")
    assert header["counts"] == {"rows": 200, "ok": 200, "unreadable": 0}
    assert header["complete"]
    assert header["weights"] == vision.fingerprint
    assert header["space"] == "features"
    assert (header["engine"], header["precision"]) == ("torch", "float32")
    vectors = read_vectors(tmp_path / "store")
    assert vectors.ids[:2] == ("0000.jpg", "0001.jpg")
    one = vision.encode(vision.preprocess([__import__("PIL.Image").Image.open(pictures_200 / "0000.jpg")]))
    torch.testing.assert_close(vectors.values[:1], one)


def test_float16_and_shared_space(vision, pictures_200, tmp_path):
    shared = Shared(lambda features: features[:, :3] * 2, 3, "a hash")
    extract_features(vision, pictures_200, tmp_path / "half", shared=shared, store_dtype="float16")
    extract_features(vision, pictures_200, tmp_path / "full")
    half, full = read_vectors(tmp_path / "half"), read_vectors(tmp_path / "full")
    assert half.values.shape == (200, 3)
    torch.testing.assert_close(half.values, full.values[:, :3] * 2, rtol=1e-3, atol=1e-3)
    assert read_header(tmp_path / "half")["space"] == "shared"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_killed_ten_times_then_resumed_equals_unbroken(tmp_path):
    script, pictures = Path(__file__).parents[1] / "support" / "killed_runs.py", tmp_path / "pictures"
    said = subprocess.run(
        [sys.executable, script, draw_many(pictures, 100), tmp_path / "store", "10", "7"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    result = json.loads(said.stdout)
    assert result["status"] == 0
    assert result["rows"] == sorted(result["rows"])
    assert len(set(result["rows"])) > 3  # the kills met it at work
    assert rows_of(tmp_path / "store") == rows_of(tmp_path / "store-unbroken")
    assert read_header(tmp_path / "store")["counts"] == {"rows": 100, "ok": 100, "unreadable": 0}
    assert not list((tmp_path / "store").glob("*.tmp"))


def test_interrupted_run_keeps_what_it_did(vision, pictures_200, tmp_path):
    def stop(done: int, _total: int) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(vision, pictures_200, tmp_path / "store", progress=stop)
    header = read_header(tmp_path / "store")
    assert not header["complete"]
    assert header["counts"]["rows"] == 64
    done = extract_features(vision, pictures_200, tmp_path / "store")
    assert (done.resumed, done.rows) == (64, 200)
    extract_features(vision, pictures_200, tmp_path / "whole")
    assert rows_of(tmp_path / "store") == rows_of(tmp_path / "whole")


def test_new_images_are_added_and_old_ones_left(vision, tmp_path):
    folder = draw_many(tmp_path / "images", 5)
    extract_features(vision, folder, tmp_path / "store")
    draw(folder / "new.jpg", 99)
    done = extract_features(vision, folder, tmp_path / "store")
    assert (done.resumed, done.rows) == (5, 6)
    assert extract_features(vision, folder, tmp_path / "store").images_per_second == 0


def test_one_percent_broken_files(vision, pictures_200, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in pictures_200.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "0003.jpg").write_bytes(b"not a picture")
    (folder / "0100.jpg").write_bytes((folder / "0100.jpg").read_bytes()[:300])
    (folder / "0101.jpg").write_bytes(b"")
    (folder / "link.jpg").symlink_to("nowhere")
    done = extract_features(vision, folder, tmp_path / "store")
    assert (done.rows, done.ok, done.unreadable) == (200, 197, 3)
    assert done.notes == ("1 link was not followed, leading out of the folder or nowhere: link.jpg",)
    rows = rows_of(tmp_path / "store")
    broken = {name for name, (status, embedding) in rows.items() if embedding is None}
    assert broken == {"0003.jpg", "0100.jpg", "0101.jpg"}
    assert "is empty" in rows["0101.jpg"][0]
    assert "\n" not in "".join(status for status, _ in rows.values())
    assert len(read_vectors(tmp_path / "store").values) == 197
    extract_features(vision, pictures_200, tmp_path / "sound")
    sound = rows_of(tmp_path / "sound")
    for name in rows.keys() - broken:
        assert rows[name][1] == pytest.approx(sound[name][1], rel=1e-4, abs=1e-5)


def test_nothing_readable_is_a_store_all_the_same(vision, tmp_path):
    (tmp_path / "images").mkdir()
    for n in range(3):
        (tmp_path / "images" / f"{n}.png").write_bytes(b"?")
    done = extract_features(vision, tmp_path / "images", tmp_path / "store")
    assert (done.rows, done.ok, done.unreadable) == (3, 0, 3)
    assert extract_features(vision, tmp_path / "images", tmp_path / "store").resumed == 3


def test_odd_names_and_deep_folders(vision, tmp_path):
    folder = tmp_path / "images"
    names = ["ä ö ü.jpg", "two  spaces.jpg", "new\nline.jpg", "猫/犬.jpg", "tab\t'quote\".jpg", "%41&#?.jpg"]
    names.append("/".join(["deep folder " + "x" * 30] * 40) + "/x.jpg")  # 1,700 characters
    for seed, name in enumerate(names):
        draw(folder / name, seed)
    not_unicode = os.fsencode(folder) + b"/\xff\xfe.jpg"
    try:
        Path(os.fsdecode(not_unicode)).write_bytes((folder / names[0]).read_bytes())
        names.append("\\xff\\xfe.jpg")
    except OSError:  # a file system that wants Unicode
        pass
    done = extract_features(vision, folder, tmp_path / "store")
    assert (done.ok, done.unreadable) == (len(names), 0)
    assert set(rows_of(tmp_path / "store")) == set(names)
    assert extract_features(vision, folder, tmp_path / "store").resumed == len(names)


def test_files_that_vanish_or_change_while_read(vision, tmp_path):
    folder = draw_many(tmp_path / "images", 60)
    seen = []

    def meddle(done: int, _total: int) -> None:
        if not seen:
            (folder / "0050.jpg").unlink()
            (folder / "0051.jpg").write_bytes((folder / "0051.jpg").read_bytes()[:200])
            draw(folder / "0052.jpg", 1234)
        seen.append(done)

    done = extract_features(vision, folder, tmp_path / "store", batch_size=4, progress=meddle)
    assert (done.rows, done.unreadable) == (60, 2)
    rows = rows_of(tmp_path / "store")
    assert "no image file" in rows["0050.jpg"][0]
    assert "is damaged" in rows["0051.jpg"][0]
    assert rows["0052.jpg"][0] == "ok"


def test_vanishes_between_look_and_open(vision, tmp_path, monkeypatch):
    folder = draw_many(tmp_path / "images", 2)
    opened = os.open

    def gone(path, *args, **kwargs):
        if str(path).endswith("0001.jpg"):
            raise FileNotFoundError(2, "No such file or directory")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", gone)
    done = extract_features(vision, folder, tmp_path / "store")
    assert (done.ok, done.unreadable) == (1, 1)


def test_second_writer_is_refused_and_the_first_goes_on(vision, pictures_200, tmp_path):
    """The system holds the lock, for another process as for another writer of this one."""
    refused = []

    def second(_done: int, _total: int) -> None:
        with pytest.raises(HeadwordError, match="another process is writing"):
            StoreWriter(tmp_path / "store", {})
        refused.append(1)

    done = extract_features(vision, pictures_200, tmp_path / "store", progress=second)
    assert refused
    assert done.rows == 200


def test_reading_while_it_is_written(vision, pictures_200, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "PART_SECONDS", 0.0)
    sizes = []

    def read(_done: int, _total: int) -> None:
        sizes.append(len(read_vectors(tmp_path / "store").values))

    extract_features(vision, pictures_200, tmp_path / "store", batch_size=32, progress=read)
    assert sizes == [32, 64, 96, 128, 160, 192, 200]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 96 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk(vision, pictures_200, small_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "PART_SECONDS", 0.0)
    with pytest.raises(HeadwordError, match=r"No space left on device; the [\d,]+ rows before it are safe"):
        extract_features(vision, pictures_200, small_disk / "store", batch_size=8)
    safe = len(read_vectors(small_disk / "store").values)
    assert 8 <= safe < 200
    assert read_header(small_disk / "store")["space"] == "features"
    assert len(list(read_status(small_disk / "store"))) == safe
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    done = extract_features(vision, pictures_200, small_disk / "store", batch_size=8)
    assert (done.resumed, done.rows) == (safe, 200)


def test_disk_error_without_a_small_disk(tmp_path, monkeypatch):
    """The same where nothing can be mounted: writing fails, the rows before are safe."""
    header = {"dim": 2, "dtype": "float32"}
    with StoreWriter(tmp_path / "store", header) as writer:
        writer.add(["a"], ["a"], ["ok"], torch.ones(1, 2))
        writer.flush()
        monkeypatch.setattr(
            os, "fsync", lambda _file: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        writer.add(["b"], ["b"], ["ok"], torch.ones(1, 2))
        with pytest.raises(HeadwordError, match="No space left on device; the 1 rows before it are safe"):
            writer.flush()
    assert [row[0] for row in read_status(tmp_path / "store")] == ["a"]


def test_other_settings_are_refused_by_name(vision, pictures_200, tmp_path):
    extract_features(vision, pictures_200, tmp_path / "store")
    with pytest.raises(HeadwordError, match=r'made with another dtype \("float32", now "float16"\)'):
        extract_features(vision, pictures_200, tmp_path / "store", store_dtype="float16")
    with pytest.raises(HeadwordError, match="made with another precision"):
        extract_features(vision, pictures_200, tmp_path / "store", dtype="bfloat16")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(HeadwordError, match="no feature store"):
        extract_features(vision, pictures_200, tmp_path / "other")
    with pytest.raises(HeadwordError, match="is a file"):
        extract_features(vision, pictures_200, tmp_path / "other" / "notes.txt")


def test_damaged_part_and_newer_format(vision, tmp_path):
    folder = draw_many(tmp_path / "images", 3)
    extract_features(vision, folder, tmp_path / "store")
    header = read_header(tmp_path / "store")
    (tmp_path / "store" / "part-000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(HeadwordError, match=r"part-000001.parquet is damaged"):
        extract_features(vision, folder, tmp_path / "store")
    (tmp_path / "store" / HEADER).write_text(json.dumps({**header, "format": 3}))
    with pytest.raises(HeadwordError, match=r"newer than this headword .* reads"):
        read_header(tmp_path / "store")
    with pytest.raises(HeadwordError, match="is no feature store"):
        read_header(tmp_path / "images")


def test_two_threads_into_two_stores(vision, pictures_200, tmp_path):
    runs = [
        threading.Thread(target=extract_features, args=(vision, pictures_200, tmp_path / str(n)))
        for n in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert rows_of(tmp_path / "0") == rows_of(tmp_path / "1")


def test_an_index_takes_what_was_stored(tmp_path):
    """All but files that changed since, and only features."""
    vision, folder = tiny_vision(), draw_many(tmp_path / "images", 4)
    (folder / "0002.jpg").write_bytes(b"no picture")
    extract_features(vision, folder, tmp_path / "store")
    time.sleep(0.05)
    draw(folder / "0001.jpg", 99)
    items = [file_item(folder / f"{n:04d}.jpg") for n in range(4)] + [file_item(tmp_path / "gone.jpg")]
    stored, rows = StoredFeatures(tmp_path / "store"), torch.zeros(5, vision.dim)
    assert stored(items, rows).tolist() == [True, False, False, True, False]
    expected = dict(zip(*read_vectors(tmp_path / "store")[::-1], strict=True))
    assert torch.equal(rows[3], expected["0003.jpg"])
    assert not rows[1].any()
    assert stored.key == Job(vision, 4).key
    shared = Shared(project=lambda x: x, dim=vision.dim, identity="x")
    extract_features(vision, folder, tmp_path / "shared", shared=shared)
    with pytest.raises(HeadwordError, match="not features"):
        StoredFeatures(tmp_path / "shared")
