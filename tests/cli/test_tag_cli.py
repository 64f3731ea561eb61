"""`headword tag --write` and `headword duplicates`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.commands import run
from support.serving import gallery_index


@pytest.fixture(scope="module")
def index(saved, pictures, tmp_path_factory) -> Path:
    chosen = {name: pictures[name] for name in ("cat", "coffee", "rocket", "astronaut")}
    return gallery_index(saved, chosen, tmp_path_factory.mktemp("tag"))


def test_tags_are_written_and_taken_out(index, tmp_path):
    words = ("--labels", "a cat,an animal,a rocket", "--multi-label")
    said = json.loads(run("tag", index, *words, "--write", "xmp", "--json", "-"))
    tagged = said["written"]["pictures"]
    assert 1 <= tagged <= 4
    assert said["written"]["failed"] == {}
    assert said["protocol"]["multi_label"] is True
    photos = index.parent / "photos"
    assert len(list(photos.rglob("*.xmp"))) == tagged
    told = run("tag", index, "--write", "csv", "--out", tmp_path / "t.csv")
    assert f"Wrote the tags of {tagged} images" in told
    assert "cat.png,a cat," in (tmp_path / "t.csv").read_text("utf-8")
    assert f"out of {tagged} sidecars" in run("tag", index, "--remove-xmp")
    assert list(photos.rglob("*.xmp")) == []
    searched = json.loads(run("search", index, "--where", "any_tag = 'a cat'", "--json", "-"))["results"]
    assert "cat.png" in [hit["path"] for hit in searched]
    assert all("a cat" in [tag["tag"] for tag in hit["tags"]] for hit in searched)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--write", "csv"], "go with --out FILE"),
        (["--labels", "a", "--out", "x"], "go with --out FILE"),
        (["--write", "xmp", "--out", "x"], "go with --out FILE"),
        (["--remove-xmp", "--labels", "a"], "goes alone"),
        ([], "--labels"),
    ],
)
def test_options_that_do_not_go_together(index, options, line):
    assert line in run("tag", index, *options, code=2)


def test_duplicates(index, tmp_path):
    said = json.loads(run("duplicates", index, "--similarity", 0.9, "--json", "-"))
    assert said["groups"] == []
    assert "0 groups of 0 images" in run("duplicates", index, "--similarity", 0.999)
    assert "more" in run("duplicates", index, "--similarity", -1)
    assert "less than or equal to 1" in run("duplicates", index, "--similarity", 2, code=2)
