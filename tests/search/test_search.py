"""Searching an index: queries, conditions, and the commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headword.errors import HeadwordError
from headword.search import Hit, Index, Query, build_index
from support.commands import run
from support.extraction import draw, draw_many
from support.indexing import QUERIES

COUNT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    photos = draw_many(tmp_path_factory.mktemp("search") / "photos", COUNT)
    draw(photos / "trips" / "sea.png", 1000)
    draw(photos / "trips" / "hills.png", 1001)
    return photos


@pytest.fixture(scope="module")
def index(tiny, folder) -> Index:
    build_index(tiny, folder, folder.parent / "ix")
    return Index.open(folder.parent / "ix", model=tiny)


# ---- queries


def test_the_formula_of_a_query(index, tiny, folder):
    picture = folder / "0003.jpg"
    query = Query(
        text="ant",
        image=picture,
        negative=("bee", "elk"),
        text_weight=2,
        image_weight=0.7,
        negative_weight=0.3,
    )
    t, n, m = tiny.encode_text(["ant", "bee", "elk"])
    v = index.encode([Query(image=picture)])[0]
    right = torch.nn.functional.normalize(2 * t + 0.7 * v - 0.3 * (n + m), dim=0)
    torch.testing.assert_close(index.encode([query])[0], right)
    hits = index.search(query, k=100)
    embeds = torch.cat([index.encode([Query(like=hit.path)]) for hit in hits])
    np.testing.assert_allclose([hit.score for hit in hits], (embeds @ right).numpy(), atol=1e-5)


def test_judged_hits_move_a_query(index, tiny):
    a, b, c = (index.encode([Query(like=path)])[0] for path in ("0003.jpg", "0004.jpg", "0005.jpg"))
    (t,) = tiny.encode_text(["ant"])
    moved = index.encode([Query(text="ant", right=("0003.jpg", "0004.jpg"), wrong=("0005.jpg",))])[0]
    expected = torch.nn.functional.normalize(t + (0.3 + 0.5 / 3) * ((a + b) / 2 - 0.1 * c), dim=0)
    torch.testing.assert_close(moved, expected)
    all_right = index.encode([Query(text="ant", right=("0003.jpg",))])[0]
    torch.testing.assert_close(all_right, torch.nn.functional.normalize(t + 0.3 * a, dim=0))
    assert index.search(Query(right=("0003.jpg",)), k=1)[0].path == "0003.jpg"


def test_a_picture_finds_itself(index, folder):
    """By file, in memory, and by its path in the index."""
    path = folder / "trips" / "sea.png"
    by_file, in_memory = Query(image=path), Query(image=Image.open(path))
    for query in (by_file, in_memory, Query(like="trips/sea.png")):
        best = index.search(query, k=3)[0]
        assert best.path == "trips/sea.png"
        assert best.score == pytest.approx(1, abs=1e-6)


def test_many_queries_are_encoded_together(index):
    seen = []

    def words(texts):
        seen.append(texts)
        return index.model.encode_text(texts)

    queries = [Query(text="ant", negative=("bee",)), Query(like="0001.jpg"), Query(text="elk")]
    together = index.encode(queries, words)
    assert seen == [["ant", "bee", "elk"]]
    torch.testing.assert_close(together, torch.cat([index.encode([query]) for query in queries]))
    hits = index.nearest(together, k=5)
    for found, query in zip(hits, queries, strict=True):
        alone = index.search(query, k=5)
        assert [hit.path for hit in found] == [hit.path for hit in alone]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in alone], abs=1e-5)


@pytest.mark.parametrize(
    ("query", "match"),
    [
        (Query(), "nothing to search for"),
        (Query(text="  "), "are empty"),
        (Query(text="ant", negative=("",)), "are empty"),
        (Query(image="a.jpg", like="b.jpg"), "one picture"),
        (Query(text="ant", text_weight=0), "must be positive"),
        (Query(text="ant", negative_weight=float("nan")), "must be positive"),
        (Query(like="../0001.jpg"), "not in the index"),
        (Query(text="ant", wrong=("../0001.jpg",)), "not in the index"),
        (Query(text="ant", right=("0003.jpg",), wrong=("0003.jpg",)), "judged right and wrong"),
        (Query(image="none.jpg"), r"there is no image file .*none\.jpg"),
        (Query(negative=("ant",)), "nothing to search for"),
    ],
)
def test_queries_that_say_nothing(index, query, match):
    with pytest.raises(HeadwordError, match=match):
        index.search(query)


def test_k(index):
    assert len(index.search(QUERIES[0], k=1)) == 1
    assert len(index.search(QUERIES[0], k=1000)) == COUNT + 2
    with pytest.raises(HeadwordError, match="k must be 1 or more"):
        index.search(QUERIES[0], k=0)


# ---- conditions


def test_conditions(index):
    every = index.search(QUERIES[0], k=1000)
    hits = index.search(QUERIES[0], k=1000, where="path like 'trips/%' or bytes < 0")
    assert hits == [hit for hit in every if hit.path.startswith("trips/")]
    assert index.count("folder = 'trips'") == 2
    assert index.count("modified > timestamp '2001-01-01 00:00:00'") == len(index) == index.count()
    assert index.search(QUERIES[0], where="tag = 'none'") == []
    assert index.browse(k=2, offset=1, where="folder = ''") == [Hit("0001.jpg", 0.0), Hit("0002.jpg", 0.0)]


@pytest.mark.parametrize(
    "where",
    [
        "tag = 'x",
        "nope = 3",
        "1=1; DROP TABLE images",
        "path = 'a'; --",
        "place in (select 1)",
        "",
        "drop table images",
        "path",
        ")",
        "bytes / 0 > 'x'",
        "\n",
    ],
)
def test_conditions_that_are_none(index, where):
    """One line, and the index is what it was: a condition only ever filters."""
    before = index.browse(k=1000)
    with pytest.raises(HeadwordError, match="filter") as caught:
        index.search(QUERIES[0], k=1000, where=where)
    assert "\n" not in str(caught.value)
    assert Index.open(index.path, model=index.model).browse(k=1000) == before


# ---- many at once


def test_searches_in_threads_while_tags_change(index, tiny, folder):
    opened = Index.open(shutil.copytree(index.path, folder.parent / "threads"), model=tiny)
    right = [(hit.path, hit.score) for hit in opened.search(QUERIES[0], k=50)]
    sets, failed = (["ant", "bee"], ["elk", "cat"]), []

    def search():
        for _ in range(20):
            hits = opened.search(QUERIES[0], k=50)
            labels = {hit.tag for hit in hits}
            if [(h.path, h.score) for h in hits] != right or not any(labels <= {None, *s} for s in sets):
                failed.append(labels)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for labels in (*sets, sets[0]):
        opened.tag(labels)
    for thread in threads:
        thread.join()
    assert failed == []


# ---- the commands


@pytest.fixture(scope="module")
def gallery_index(saved, pictures, tmp_path_factory) -> Path:
    """The embedded model's index of real pictures, made by the command."""
    root = tmp_path_factory.mktemp("gallery")
    (root / "photos").mkdir()
    for name in ("cat", "coffee", "rocket", "motorcycle", "coins", "flower"):
        shutil.copy(pictures[name], root / "photos" / f"{name}{pictures[name].suffix}")
    (root / "photos" / "broken.jpg").write_bytes(b"no picture")
    said = root / "index.json"
    shown = run("index", saved, root / "photos", "--out", root / "ix", "--json", said)
    assert "Left out, since they cannot be read: 1\n  broken.jpg: " in shown
    result = json.loads(said.read_text())
    assert result["command"] == "index"
    assert (result["metrics"]["images"], result["metrics"]["unreadable"]) == (6, 1)
    assert result["protocol"]["centre"] == {"kind": "collection", "images": 6}
    return root / "ix"


def stem(hit: dict) -> str:
    return hit["path"].partition(".")[0]


def test_commands_find_real_pictures(gallery_index, pictures, saved):
    for words, right in [("something hot to drink", "coffee"), ("two wheels and an engine", "motorcycle")]:
        shown = run("search", gallery_index, words, "-k", 2)
        assert right in next(line for line in shown.splitlines() if line.strip().startswith("1 "))
        result = json.loads(run("search", gallery_index, words, "--json", "-"))
        assert stem(result["results"][0]) == right
        assert result["protocol"]["query"]["text"] == words
        assert result["protocol"]["engine"] == "exact"
    like = json.loads(run("search", gallery_index, "--image", pictures["cat"], "--json", "-"))
    assert (stem(like["results"][0]), like["results"][0]["score"]) == ("cat", pytest.approx(1, abs=1e-4))
    name = like["results"][0]["path"]
    by_name = json.loads(run("search", gallery_index, "--like", name, "--not", "an animal", "--json", "-"))
    assert by_name["protocol"]["query"]["negative"] == ["an animal"]
    assert by_name["results"][0]["score"] < 1
    again = run("index", saved, gallery_index.parent / "photos", "--out", gallery_index)
    assert "added 0" in " ".join(again.split())


def test_command_tag(gallery_index, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("a cat\na motorbike\nold money\na plant\n")
    result = json.loads(run("tag", gallery_index, "--labels-file", labels, "--none-of-these", "--json", "-"))
    assert result["command"] == "tag"
    assert sum(result["counts"].values()) + result["untagged"] == 6
    found = json.loads(
        run("search", gallery_index, "a picture", "--where", "tag = 'old money'", "--json", "-")
    )
    assert "coins" in [stem(hit) for hit in found["results"]]
    assert {hit["tag"] for hit in found["results"]} == {"old money"}
    assert all(0 < hit["tag_score"] <= 1 for hit in found["results"])
    shown = run("tag", gallery_index, "--labels", "a cat,a rocket")
    assert "a rocket" in shown
    assert "No image" in run("search", gallery_index, "a cat", "--where", "tag = 'old money'")


def test_command_mistakes(gallery_index, saved, tmp_path):
    photos = gallery_index.parent / "photos"
    assert "is no index" in run("search", tmp_path, "a cat", code=2)
    assert "nothing to search for" in run("search", gallery_index, code=2)
    assert "columns are path" in run("search", gallery_index, "a cat", "--where", "nope = 1", code=2)
    assert "there is no folder" in run("index", saved, tmp_path / "none", "--out", tmp_path / "ix", code=2)
    assert "no saved model" in run("index", tmp_path / "none", photos, "--out", tmp_path / "ix", code=2)
    assert "is the index of" in run("index", saved, tmp_path, "--out", gallery_index, code=2)
    assert "give the words" in run("tag", gallery_index, code=2)
    assert "give each once" in run("tag", gallery_index, "--labels", "a,a", code=2)
    assert not (tmp_path / "ix" / "index.json").exists()


def test_importing_search_is_light():
    """What a client needs loads neither torch, nor Arrow."""
    code = (
        "import sys, headword.search as s; s.Query, s.Hit, s.read_version; "
        "print(sorted({'torch', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
