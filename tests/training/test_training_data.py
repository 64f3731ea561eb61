"""Training sets: what they read, what they refuse, and that they can be told apart."""

from __future__ import annotations

import io
import json
import pickle
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headword import cache
from headword.data.captions import read_captions
from headword.errors import HeadwordError
from headword.training.data import open_training_set
from headword.training.data import sources as module
from headword.training.data.sources import PackedStrings, Shards


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWORD_CACHE", str(tmp_path / "cache"))


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 255 - shade)).save(file, "PNG")
    return file.getvalue()


def shade_of(sample) -> int:
    return sample.image.getpixel((0, 0))[0]


def write_tar(path, members: dict[str, bytes]):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_files(folder, names) -> None:
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(shade))


@given(st.lists(st.lists(st.text(), max_size=4), max_size=6))
@settings(deadline=None)
def test_packed_strings_are_the_strings(groups):
    packed = PackedStrings(groups)
    assert len(packed) == len(groups)
    assert [packed[i] for i in range(len(groups))] == [tuple(group) for group in groups]


def captions_file(folder, rows):
    path = folder / "captions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_caption_file_with_rewritten_captions(tmp_path):
    write_files(tmp_path, ["a.png", "b.png", "c.png"])
    rows = [
        {"image": "a.png", "captions": ["one", "two"], "rewritten": "long one", "split": "train"},
        {"image": "b.png", "caption": "three", "split": "train"},
        {"image": "c.png", "caption": "four", "split": "test"},
    ]
    path = captions_file(tmp_path, rows)
    data = open_training_set(str(path))
    assert len(data) == 2, "the split train is taken where there is one"
    assert [(s.captions, s.rewritten) for s in (data[0], data[1])] == [
        (("one", "two"), ("long one",)),
        (("three",), ()),
    ]
    assert data[0].id == str(tmp_path / "a.png")
    assert shade_of(data[1]) == 1
    assert len(open_training_set(str(path), split="train+test")) == 3
    assert open_training_set(str(path), split="test")[0].captions == ("four",)
    assert pickle.loads(pickle.dumps(data))[1].captions == ("three",)
    with pytest.raises(HeadwordError, match=r"no split 'val'; its splits are test, train"):
        open_training_set(str(path), split="val")


def test_second_file_of_rewritten_captions(tmp_path):
    write_files(tmp_path, ["a.png", "b.png"])
    path = captions_file(
        tmp_path, [{"image": n, "caption": n, "rewritten": "own"} for n in ("a.png", "b.png")]
    )
    other = tmp_path / "again.csv"
    other.write_text("image,caption\nb.png,at length\nb.png,at greater length\ngone.png,x\n")
    data = open_training_set(str(path), rewritten=str(other))
    assert data[0].rewritten == ("own",)
    assert data[1].rewritten == ("own", "at length", "at greater length")
    other.write_text("image,caption\nelsewhere/a.png,x\n")
    with pytest.raises(HeadwordError, match=r"1 of 1 images are missing"):
        open_training_set(str(path), rewritten=str(other))
    (tmp_path / "c.png").write_bytes(picture(9))
    other.write_text("image,caption\nc.png,x\n")
    with pytest.raises(HeadwordError, match=r"again\.csv has captions for none"):
        open_training_set(str(path), rewritten=str(other))


def test_rewritten_must_be_text(tmp_path):
    write_files(tmp_path, ["a.png"])
    path = captions_file(tmp_path, [{"image": "a.png", "caption": "x", "rewritten": [3]}])
    with pytest.raises(HeadwordError, match=r"jsonl:1: a caption must be a string"):
        read_captions(path)


def test_fingerprint_follows_content_and_not_the_place(tmp_path):
    prints = []
    for place, caption, shade in (("x", "one", 1), ("y", "one", 1), ("z", "two", 1)):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "a.png").write_bytes(picture(shade))
        path = captions_file(folder, [{"image": "a.png", "caption": caption}])
        prints.append(open_training_set(str(path)).fingerprint)
    assert prints[0] == prints[1] != prints[2]
    (tmp_path / "x" / "a.png").write_bytes(picture(1) + b"more")
    assert open_training_set(str(tmp_path / "x" / "captions.jsonl")).fingerprint != prints[0]


def test_class_folders_are_captioned_by_templates(tmp_path):
    write_files(tmp_path / "train", ["sea_lion/1.png", "tench/1.png", "tench/2.png"])
    write_files(tmp_path / "val", ["tench/3.png"])
    data = open_training_set(str(tmp_path), templates=["a photo of a {}", "{}"])
    assert [data[i].captions for i in range(len(data))] == [
        ("a photo of a sea lion", "sea lion"),
        ("a photo of a tench", "tench"),
        ("a photo of a tench", "tench"),
    ]
    assert len(open_training_set(str(tmp_path), split="val")) == 1
    assert open_training_set(str(tmp_path / "val"))[0].captions == ("a photo of a tench",)
    with pytest.raises(HeadwordError, match="no split 'test'"):
        open_training_set(str(tmp_path), split="test")
    with pytest.raises(HeadwordError, match="exactly one"):
        open_training_set(str(tmp_path), templates=["a photo"])


@pytest.fixture
def shard_files(tmp_path):
    first = {
        "s/000.png": picture(0), "s/000.txt": b"red\n",
        "s/001.jpg": picture(1), "s/001.json": b'{"caption": "blue", "rewritten": ["a", "b"]}',
        "s/002.png": picture(2),
        "s/003.txt": b"no picture",
        "s/004.png": picture(4), "s/004.txt": b"",
    }  # fmt: skip
    second = {
        "005.seg.png": picture(9), "005.png": picture(5), "005.cls": b"7", "005.txt": b"5", "005.json": b"{}",
        "006.json": b'{"text": ["six", " ", "seis"]}', "006.png": picture(6),
    }  # fmt: skip
    write_tar(tmp_path / "x-000.tar", first)
    write_tar(tmp_path / "x-001.tar", second)
    return tmp_path


@pytest.mark.parametrize("pattern", ["x-{000..001}.tar", "x-*.tar", ""], ids=["span", "glob", "folder"])
def test_shards_are_read_at_any_place(shard_files, pattern):
    data = open_training_set(f"wds:{shard_files / pattern}")
    assert isinstance(data, Shards)
    assert (len(data), data.blocks, data.incomplete) == (4, [2, 2], 3)
    samples = [data[i] for i in (3, 0, 2, 1)]
    assert [s.captions for s in samples] == [("six", "seis"), ("red",), ("5",), ("blue",)]
    assert [shade_of(s) for s in samples] == [6, 0, 5, 1]
    assert samples[3].rewritten == ("a", "b")
    assert samples[0].id == f"{shard_files / 'x-001.tar'}::006"
    assert pickle.loads(pickle.dumps(data))[3].captions == ("six", "seis")
    with pytest.raises(IndexError):
        data[4]


def test_shard_is_scanned_once_until_it_changes(shard_files, monkeypatch):
    scanned = []
    scan = module.scan
    monkeypatch.setattr(module, "scan", lambda file: scanned.append(file) or scan(file))
    path = shard_files / "x-000.tar"
    before = open_training_set(str(path)).fingerprint
    assert open_training_set(str(path)).fingerprint == before
    assert len(scanned) == 1
    write_tar(path, {"1.png": picture(1), "1.txt": b"new"})
    assert open_training_set(str(path)).fingerprint != before
    assert len(scanned) == 2
    kept = list((shard_files / "cache" / "shards").glob("*.safetensors"))
    assert len(kept) == 2
    assert [(e.kind, e.bytes > 0) for e in cache.entries()] == [("shards", True)] * 2
    for file in kept:
        file.write_bytes(b"damaged")
    assert open_training_set(str(path))[0].captions == ("new",)
    cache.clear()
    assert not any(file.exists() for file in kept)
    monkeypatch.setenv("HEADWORD_CACHE_LIMIT", "0")
    assert open_training_set(str(path))[0].captions == ("new",)
    assert not any(file.exists() for file in kept)


def test_damaged_shards_are_refused_by_name(shard_files, tmp_path):
    whole = (shard_files / "x-000.tar").read_bytes()
    bad = tmp_path / "bad.tar"
    for data in (
        whole[:1300],
        whole[:1536],
        whole[:2048],
        b"nothing at all",
        whole[:1536] + b"#" * 4096,
        b"",
    ):
        bad.write_bytes(data)
        with pytest.raises(HeadwordError, match=r"the shard .*bad\.tar is cut short"):
            open_training_set(str(bad))
    with tarfile.open(bad, "w:gz") as tar:
        tar.add(shard_files / "x-000.tar")
    with pytest.raises(HeadwordError, match=r"bad\.tar is cut short, damaged, compressed, or no tar file"):
        open_training_set(str(bad))
    with pytest.raises(HeadwordError, match=r"there is no shard .*x-002\.tar"):
        open_training_set(f"wds:{shard_files}/x-{{001..002}}.tar")
    with pytest.raises(HeadwordError, match="download"):
        open_training_set("wds:https://example.org/x.tar")
    write_tar(bad, {"1.png": picture(1)})
    with pytest.raises(HeadwordError, match="no captioned images"):
        open_training_set(str(bad))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"1.png": b"no picture", "1.txt": b"x"}, "no format that is|not an image"),
        ({"1.png": picture(1)[:50], "1.txt": b"x"}, "damaged or cut short"),
        ({"1.png": picture(1), "1.txt": b"\xff\xfe"}, "caption cannot be read"),
        ({"1.png": picture(1), "1.json": b"{"}, "is not valid JSON"),
        ({"1.png": picture(1), "1.json": b"[1]"}, "is no object"),
        ({"1.png": picture(1), "1.json": b'{"caption": " "}'}, "has no caption"),
    ],
)
def test_damaged_samples_are_one_line_with_their_name(tmp_path, members, said):
    data = open_training_set(str(write_tar(tmp_path / "x.tar", members)))
    with pytest.raises(HeadwordError, match=rf"x\.tar::1.*({said})") as caught:
        data[0]
    assert "\n" not in str(caught.value)


def test_splits_of_shards_are_folders(shard_files):
    (shard_files / "train").mkdir()
    (shard_files / "x-000.tar").rename(shard_files / "train" / "x.tar")
    assert len(open_training_set(f"wds:{shard_files}")) == 2
    with pytest.raises(HeadwordError, match="no split 'val'"):
        open_training_set(f"wds:{shard_files}", split="val")


def test_shapes_by_name():
    data = open_training_set("shapes:images=5,size=32,seed=3", seed=1)
    assert len(data) == 5
    assert data[4].image.size == (32, 32)
    assert data.text(4) == (data[4].captions, data[4].rewritten, "shapes/train/4")
    assert len(data[4].captions) == 3
    prints = {open_training_set(name).fingerprint for name in ("shapes", "shapes:size=32", "shapes:seed=1")}
    assert len(prints) == 3
    assert open_training_set("shapes:seed=1").fingerprint == open_training_set("shapes", seed=1).fingerprint
    with pytest.raises(HeadwordError, match=r"no setting 'image'; did you mean 'images'\?"):
        open_training_set("shapes:image=5")
    with pytest.raises(HeadwordError, match="must be a whole number, got 'many'"):
        open_training_set("shapes:images=many")


def test_what_is_no_training_set(tmp_path):
    with pytest.raises(HeadwordError, match="there is no training set 'pictures'"):
        open_training_set("pictures")
    with pytest.raises(HeadwordError, match="goes with a caption file"):
        open_training_set("shapes", rewritten="x.jsonl")
    with pytest.raises(HeadwordError, match="no class folders"):
        open_training_set(str(tmp_path))
