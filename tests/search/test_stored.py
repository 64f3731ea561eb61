"""A feature store as the source of an index: `headword embed` wrote it, `headword index` takes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from headword.errors import HeadwordError
from headword.extract import extract_features
from headword.search import Index, build_index
from support.extraction import draw, draw_many
from support.indexing import found, tiny_model


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = draw_many(tmp_path / "photos", 12)
    draw(folder / "trips" / "sea.png", 100)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


@pytest.fixture
def store(tiny, photos, tmp_path) -> Path:
    extract_features(tiny.vision, photos, tmp_path / "store")
    return tmp_path / "store"


def test_an_index_of_a_store_is_that_of_its_folder(tiny, photos, store, tmp_path, embedded_files):
    """Nothing that the store knows is embedded; the index is brought up to date from the folder."""
    embedded_files.clear()
    assert build_index(tiny, store, tmp_path / "ix").images == 13
    assert embedded_files == ["broken.jpg"]
    build_index(tiny, photos, tmp_path / "once")
    assert found(Index.open(tmp_path / "ix", model=tiny)) == found(Index.open(tmp_path / "once", model=tiny))
    embedded_files.clear()
    draw(photos / "new.jpg", 77)
    assert build_index(tiny, photos, tmp_path / "ix").added == 1
    assert embedded_files == ["new.jpg"]


def test_a_picture_that_is_newer_than_the_store_is_embedded(tiny, photos, store, tmp_path, embedded_files):
    draw(photos / "0003.jpg", 333)
    draw(photos / "new.jpg", 77)
    later = (store / "_headword.json").stat().st_mtime_ns + 10**9
    os.utime(photos / "0003.jpg", ns=(later, later))
    embedded_files.clear()
    build_index(tiny, store, tmp_path / "ix")
    assert sorted(embedded_files) == ["0003.jpg", "broken.jpg", "new.jpg"]


def test_stores_that_do_not_fit(tiny, photos, store, tmp_path):
    other = tiny_model()
    with torch.no_grad():
        other.vision.source.model.body[0].weight[0, 0, 0, 0] += 1
    other.vision._fingerprint = ""
    extract_features(tiny.vision, sorted(photos.glob("*.jpg"))[:1], tmp_path / "one")
    extract_features(tiny.vision, photos, tmp_path / "fast", engine="torch")
    build_index(tiny, photos, tmp_path / "ix")
    for model, folder, out, match in (
        (other, store, "new", "made with the classifier .* with another weights; give that model"),
        (tiny, tmp_path / "one", "new", "not of one folder of pictures"),
        (tiny, tmp_path / "fast", "ix", "was computed in another way .* leave the store out"),
    ):
        with pytest.raises(HeadwordError, match=match):
            build_index(model, folder, tmp_path / out)
