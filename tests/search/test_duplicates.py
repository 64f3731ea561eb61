"""Pictures that are there more than once."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from torch.nn.functional import normalize

from headword.data.safe_images import load_image
from headword.errors import HeadwordError
from headword.search import Index, build_index, duplicates
from headword.search.duplicates import altered, find_duplicates
from support.extraction import draw_many


@pytest.fixture(scope="module")
def index(tiny, tmp_path_factory) -> Index:
    """Thirty pictures; of the first an equal and a rougher copy, of the second an equal one."""
    folder = tmp_path_factory.mktemp("copies")
    photos = draw_many(folder / "photos", 30)
    first, second, *_ = sorted(photos.iterdir())
    shutil.copy(first, photos / "copy-1.jpg")
    Image.open(first).convert("RGB").save(photos / "copy-2.jpg", quality=40)
    shutil.copy(second, photos / "copy-3.jpg")
    build_index(tiny, photos, folder / "ix")
    return Index.open(folder / "ix", model=tiny)


def by_hand(index: Index, similarity: float) -> set[frozenset[str]]:
    """The groups, by float64 brute force over all pairs."""
    version = index._version
    features = np.asarray(version.rows[version.slots], np.float64)
    close = features @ features.T >= similarity
    reached = np.linalg.matrix_power(close.astype(float), len(close)) > 0
    names = [version.hit(place, 0.0).path for place in range(len(close))]
    groups = {frozenset(name for name, linked in zip(names, row, strict=True) if linked) for row in reached}
    return {group for group in groups if len(group) > 1}


@pytest.mark.parametrize("rows", [7, 1024])
@pytest.mark.parametrize("similarity", [0.9, 0.99, 0.9999])
def test_groups_are_those_of_brute_force(index, rows, similarity, monkeypatch):
    monkeypatch.setattr(duplicates, "_ROWS", rows)
    found = find_duplicates(index, similarity=similarity)
    assert {frozenset(hit.path for hit in group) for group in found.groups} == by_hand(index, similarity)
    assert [len(group) for group in found.groups] == sorted(map(len, found.groups), reverse=True)
    assert all(similarity <= hit.score <= 1 + 1e-6 for group in found.groups for hit in group)


def test_equal_files_are_always_found(index):
    found = find_duplicates(index)
    grouped = [{hit.path for hit in group} for group in found.groups]
    names = sorted(hit.path for hit in index.browse(k=100) if not hit.path.startswith("copy"))
    assert any({"copy-1.jpg", names[0]} <= group for group in grouped)
    assert any({"copy-3.jpg", names[1]} <= group for group in grouped)


def test_where_duplicates_begin(index, tiny):
    """Between what nine in ten and three in four altered copies keep: here are more copies than that."""
    version = index._version
    features = np.asarray(version.rows[version.slots])
    images = [load_image(index.file(version.hit(n, 0.0).path)) for n in range(len(features))]
    copies = [normalize(tiny.image_features(list(altered(image))), dim=1).numpy() for image in images]
    kept = np.concatenate([copy @ row for copy, row in zip(copies, features, strict=True)])
    begin = find_duplicates(index).similarity
    assert np.quantile(kept, 0.05) <= begin <= np.quantile(kept, 0.35)


def test_mistakes_are_lines(index, tiny, tmp_path):
    with pytest.raises(HeadwordError, match="a cosine"):
        find_duplicates(index, similarity=2)
    shutil.copytree(index.path, tmp_path / "ix")
    gone = Index.open(tmp_path / "ix", model=tiny)
    moved = [shutil.move(path, tmp_path) for path in sorted(index.root.iterdir())]
    try:
        with pytest.raises(HeadwordError, match="can be read; give a similarity"):
            find_duplicates(gone)
    finally:
        for path in moved:
            shutil.move(path, index.root)
