"""The cache: found by everything that matters, bounded, safe for two processes, never a reason to fail."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import headword.cache as cache_module
from headword.cache import VectorCache, cache_folder, clear, entries, evict, key_of, once, place
from headword.cli import app
from headword.encoders import TextEncoder, TextSource
from headword.errors import HeadwordError
from headword.extract import extract, image_features
from headword.extract import features as features_module
from support.extraction import draw, tiny_vision


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HEADWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HEADWORD_CACHE_LIMIT", raising=False)
    return tmp_path / "cache"


def keys(*names: object) -> list[bytes]:
    return [key_of(str(name)) for name in names]


def got(cache: VectorCache, names: list[object]) -> list[float | None]:
    out = torch.zeros(len(names), 2)
    found = cache.get(keys(*names), out)
    return [float(row[0]) if there else None for row, there in zip(out, found.tolist(), strict=True)]


def vectors(*values: float) -> torch.Tensor:
    return torch.tensor([[value, -value] for value in values])


def test_put_and_get():
    cache = VectorCache({"kind": "text"}, 2)
    assert got(cache, ["a", "b"]) == [None, None]
    cache.put(keys("a", "b"), vectors(1, 2))
    cache.put(keys("c"), vectors(3))
    assert got(cache, ["c", "x", "a", "b", "a"]) == [3, None, 1, 2, 1]
    assert got(VectorCache({"kind": "image"}, 2), ["a"]) == [None]
    assert got(VectorCache({"kind": "text"}, 2), ["a"]) == [1]


def test_keys_do_not_run_together():
    assert key_of("ab", "c") != key_of("a", "bc")
    assert key_of(1, 23) != key_of(12, 3)
    assert key_of("\udcff") != key_of("?")  # a file name that is no Unicode


def test_many_small_segments_are_merged():
    cache = VectorCache({}, 2)
    for n in range(40):
        cache.put(keys(n % 30), vectors(n % 30))
    assert len(list(cache.folder.glob("*.safetensors"))) < cache_module.MERGE_FROM
    assert got(cache, list(range(30))) == list(range(30))


def test_damaged_segment_is_dropped():
    cache = VectorCache({}, 2)
    cache.put(keys("a"), vectors(1))
    (segment,) = cache.folder.glob("*.safetensors")
    segment.write_bytes(segment.read_bytes()[:50])
    assert got(cache, ["a"]) == [None]
    assert not segment.exists()
    cache.put(keys("a"), vectors(2))
    assert got(cache, ["a"]) == [2]


def test_least_recently_used_goes_first(monkeypatch):
    caches = [VectorCache({"n": n}, 2) for n in range(4)]
    for n, cache in enumerate(caches):
        cache.put(keys(*range(1000)), torch.full((1000, 2), float(n)))
        for segment in cache.folder.glob("*.safetensors"):
            os.utime(segment, (n, n))
    got(caches[0], [1])  # used just now
    evict(63_000)  # two of 28 kB each
    assert [got(cache, [1]) != [None] for cache in caches] == [True, False, False, True]
    monkeypatch.setenv("HEADWORD_CACHE_LIMIT", "34kB")
    caches[1].put(keys("new"), vectors(5))
    assert sum(entry.bytes for entry in entries()) <= 34_000


def test_every_kind_is_listed_bounded_and_cleared(own_cache):
    """Not vectors alone: mappings, tar indices, data sets, models."""
    made: list[int] = []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"x": torch.zeros(1000)}

    for kind in ("fits", "shards"):
        assert torch.equal(once(kind, "name", make)["x"], once(kind, "name", make)["x"])
    assert len(made) == 2
    for kind, name in (("datasets", "cifar10"), ("openvino", "model")):
        place(kind, name).mkdir(parents=True)
        (place(kind, name) / "data").write_bytes(bytes(5000))
    (own_cache / "mine").mkdir()  # nobody else's folder is touched
    VectorCache({"kind": "text", "encoder": "e"}, 2).put(keys("a"), vectors(1))
    assert {(entry.kind, entry.name) for entry in entries()} == {
        ("fits", "name"), ("shards", "name"), ("datasets", "cifar10"), ("openvino", "model"), ("text", "e")
    }  # fmt: skip
    evict(0)
    assert {entry.kind for entry in entries() if entry.bytes} == {"fits", "shards", "datasets", "openvino"}
    cache_module._in_use.clear()  # as another process sees it
    os.utime(own_cache / "datasets" / "cifar10", (1, 1))
    evict(sum(entry.bytes for entry in entries()) - 1)
    assert {entry.kind for entry in entries() if entry.bytes} == {"fits", "shards", "openvino"}
    (own_cache / "fits" / "name.safetensors").write_bytes(b"damaged")
    assert len(once("fits", "name", make)["x"]) == 1000
    assert clear() > 8000
    assert entries() == []
    assert (own_cache / "mine").is_dir()


@pytest.mark.parametrize(
    ("said", "limit"), [("0", 0), ("500MB", 500_000_000), ("1.5 G", 1_500_000_000), ("7k", 7000), ("12", 12)]
)
def test_limit(said, limit, monkeypatch):
    monkeypatch.setenv("HEADWORD_CACHE_LIMIT", said)
    assert cache_module.cache_limit() == limit


def test_limit_that_is_no_size(monkeypatch):
    monkeypatch.setenv("HEADWORD_CACHE_LIMIT", "plenty")
    with pytest.raises(HeadwordError, match="no size"):
        cache_module.cache_limit()


def test_limit_of_nothing_switches_it_off(monkeypatch, own_cache):
    monkeypatch.setenv("HEADWORD_CACHE_LIMIT", "0")
    cache = VectorCache({}, 2)
    cache.put(keys("a"), vectors(1))
    assert got(cache, ["a"]) == [None]
    assert not own_cache.exists()


def test_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADWORD_CACHE", str(tmp_path / "file"))
    VectorCache({}, 2).put(keys("a"), vectors(1))
    assert got(VectorCache({}, 2), ["a"]) == [None]
    assert entries() == []


def test_two_processes_at_once():
    """Another one and this, from when the other begins to write until it ends."""
    script = (
        "import torch; from headword.cache import VectorCache, key_of\n"
        "cache = VectorCache({'kind': 'text'}, 2)\n"
        "for n in range(60):\n"
        "    cache.put([key_of(f'other {n}')], torch.full((1, 2), float(n)))\n"
        "    out = torch.zeros(1, 2)\n"
        "    assert cache.get([key_of(f'other {n}')], out).all() and out[0, 0] == n\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    cache, n = VectorCache({"kind": "text"}, 2), 0
    while other.poll() is None and not cache.folder.is_dir():
        time.sleep(0.01)
    while other.poll() is None or n < 60:
        cache.put(keys(f"own {n}"), vectors(n))
        assert got(cache, [f"own {n}"]) == [n]
        n += 1
    assert other.communicate()[1] == ""
    assert got(cache, [f"other {n}" for n in range(60)]) == [*range(60)]
    assert got(cache, [f"own {place}" for place in range(n)]) == [*range(n)]


def test_segment_that_goes_while_it_is_opened_is_read_where_it_went(monkeypatch):
    """Another process merges while safetensors has the file open and torch is about to map it."""
    writer = VectorCache({"kind": "text"}, 2)
    writer.put(keys("a"), vectors(1))
    load = safetensors.torch.load_file

    def merged_meanwhile(path):
        monkeypatch.setattr(safetensors.torch, "load_file", load)
        path.rename(path.with_stem("merged"))
        torch.UntypedStorage.from_file(str(path), False, 8)

    monkeypatch.setattr(safetensors.torch, "load_file", merged_meanwhile)
    assert got(VectorCache({"kind": "text"}, 2), ["a"]) == [1]


def counted_text(calls: list[int], **changes: object) -> TextEncoder:
    """A text encoder that says how many texts it was given."""

    def embed(texts: list[str]) -> torch.Tensor:
        calls.append(len(texts))
        return torch.tensor([[float(len(text)), float(sum(map(ord, text)))] for text in texts])

    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, 1)
    torch.nn.init.constant_(model.bias, 1)
    source = TextSource(kind="own", id="counted", model=model, embed=embed)
    return TextEncoder(dataclasses.replace(source, **changes), torch.device("cpu"), 2)


def test_texts_are_embedded_once():
    calls: list[int] = []
    texts = [f"a picture of number {n}" for n in range(300)]
    first = counted_text(calls).encode(texts)
    assert sum(calls) == 300
    assert torch.equal(counted_text(calls).encode(texts[::-1]), first.flip(0))
    assert sum(calls) == 300
    counted_text(calls).encode([*texts, "one more"])
    assert sum(calls) == 301
    counted_text(calls).encode(texts[:255])  # a short call does without
    assert sum(calls) == 556
    counted_text(calls, revision="2").encode(texts)
    assert sum(calls) == 856
    counted_text(calls).encode(texts, cache=False)
    assert sum(calls) == 1156


def test_other_weights_are_another_space():
    calls: list[int] = []
    texts = [str(n) for n in range(300)]
    counted_text(calls).encode(texts)
    other = counted_text(calls)
    torch.nn.init.constant_(other.source.model.bias, 2)
    other.encode(texts)
    assert sum(calls) == 600


@pytest.fixture
def counting(monkeypatch):
    """A vision encoder as of a library, and how many images went through it."""
    vision = tiny_vision()
    vision.source.kind = "timm"  # what a user's own module computes is not cached
    monkeypatch.setattr(features_module, "CACHE_FROM", 4)
    seen = []
    run = features_module.Job.run

    def counted(self, items, places):
        seen.append(len(places))
        return run(self, items, places)

    monkeypatch.setattr(features_module.Job, "run", counted)
    return vision, seen


def test_images_are_known_by_path_size_and_time(counting, tmp_path):
    vision, seen = counting
    paths = [draw(tmp_path / "images" / f"{n}.jpg", n) for n in range(8)]
    first = image_features(vision, paths)
    assert torch.equal(image_features(vision, [str(path) for path in paths]), first)
    os.utime(paths[2])
    draw(paths[5], 77, (60, 60))
    again = image_features(vision, paths)
    assert seen == [8, 0, 2]
    assert torch.equal(again[:5], first[:5])
    assert not torch.allclose(again[5], first[5])
    assert torch.equal(image_features(vision, [*paths, paths[0]]), torch.cat([again, again[:1]]))


def test_engine_precision_transform_and_weights_are_in_the_key(counting, tmp_path):
    vision, seen = counting
    paths = [draw(tmp_path / "images" / f"{n}.jpg", n) for n in range(5)]
    image_features(vision, paths)
    image_features(vision, paths, engine="torch")  # the transform in two halves
    vision.dtype, vision.auto_dtype = torch.bfloat16, False
    image_features(vision, paths)
    vision.source.transform_settings = {"another": 1}
    image_features(vision, paths)
    assert seen == [5, 5, 5, 5]
    image_features(vision, paths)
    assert seen[4:] == [0]
    torch.nn.init.zeros_(vision.source.model.head.bias)
    vision._fingerprint = ""
    image_features(vision, paths)
    assert seen[5:] == [5]


def test_modules_of_the_users_own_and_pictures_in_memory_are_not_cached(counting, tmp_path):
    from headword.data.safe_images import load_image

    vision, seen = counting
    paths = [draw(tmp_path / "images" / f"{n}.jpg", n) for n in range(5)]
    image_features(vision, [load_image(path) for path in paths])
    vision.source.kind = "module"
    image_features(vision, paths)
    image_features(vision, paths)
    assert seen == [5, 5, 5]
    assert entries() == []


def test_unreadable_and_changing_files_are_not_cached(counting, tmp_path):
    vision, seen = counting
    paths = [draw(tmp_path / "images" / f"{n}.jpg", n) for n in range(6)]
    paths[1].write_bytes(b"")
    extracted = extract(vision, [*paths, tmp_path / "gone.jpg"], batch_size=2,
                        progress=lambda done, _all: done == 2 and draw(paths[0], 50) and None)  # fmt: skip
    assert list(extracted.errors) == [1, 6]
    assert extracted.kept == (0, 2, 3, 4, 5)
    assert len(extract(vision, paths).features) == 5
    assert seen[0] == 7
    with pytest.raises(HeadwordError, match="is empty"):
        image_features(vision, paths)


def test_command_line(counting, tmp_path):
    vision, _ = counting
    image_features(vision, [draw(tmp_path / "images" / f"{n}.jpg", n) for n in range(5)])
    said = CliRunner().invoke(app, ["cache", "info", "--json", "-"])
    result = json.loads(said.stdout)
    assert result["entries"][0]["kind"] == "image"
    assert result["entries"][0]["vectors"] == 5
    assert result["folder"] == str(cache_folder())
    assert "timm:TinyNet" in CliRunner().invoke(app, ["cache", "info"]).stdout
    assert "removed" in CliRunner().invoke(app, ["cache", "clear"]).stdout
    assert entries() == []
    assert clear() == 0


@pytest.mark.attack
def test_a_damaged_vector_is_never_served():
    """Any flipped bit of a segment: what was kept comes back as it was, or not at all."""
    cache = VectorCache({"n": 1}, 2)
    cache.put(keys(*range(20)), torch.arange(40.0).view(20, 2))
    (segment,) = cache.folder.glob("*.safetensors")
    whole = segment.read_bytes()
    rng = random.Random(0)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        segment.write_bytes(damaged)
        for n, value in enumerate(got(cache, list(range(20)))):
            assert value in (None, 2.0 * n)
