"""Zero-shot tags of an index."""

from __future__ import annotations

import contextlib
import sqlite3

import numpy as np
import pytest

from headword.errors import HeadwordError
from headword.search import Index, build_index, read_version, tagging
from headword.search.catalogue import BY_MODEL, OK, STATE, Catalogue, Entry, write_catalogue
from headword.search.manifest import Manifest, publish
from support.extraction import draw, draw_many
from support.indexing import found, tiny_model

LABELS = ["an ant", "a bee", "an elk in the snow", "cat"]


@pytest.fixture(scope="module")
def tiny():
    return tiny_model(templates=("{}", "a photo of {}"))


@pytest.fixture
def index(tiny, tmp_path) -> Index:
    folder = draw_many(tmp_path / "photos", 30)
    (folder / "broken.jpg").write_bytes(b"no picture")
    build_index(tiny, folder, tmp_path / "ix")
    return Index.open(tmp_path / "ix", model=tiny)


def classified(tiny, index: Index, labels, **options):
    """What `DualEncoder.classify` says, centred on the same images."""
    paths = [index.file(hit.path) for hit in index.browse(k=1000)]
    features = tiny.image_features(paths)
    own = tiny.aligner.centre_.clone()
    tiny.aligner.centre_on(features)
    chances = tiny.classify(features, labels, **options)
    tiny.aligner._learn(centre_=own)
    return chances


@pytest.mark.parametrize("none", [False, True])
@pytest.mark.parametrize("templates", [None, "a drawing of {}"])
def test_tags_are_what_classify_says(tiny, index, none, templates, monkeypatch):
    monkeypatch.setattr(tagging, "_ROWS", 7)
    counts = index.tag(LABELS, templates=templates, none_of_these=none)
    chances = classified(tiny, index, LABELS, templates=templates, none_of_these=none)
    hits = index.browse(k=1000)
    names = [*LABELS, None]
    best = chances.max(dim=1)
    assert [hit.tag for hit in hits] == [names[place] for place in best.indices.tolist()]
    said = [hit.tag_score for hit in hits if hit.tag is not None]
    right = [score for hit, score in zip(hits, best.values.tolist(), strict=True) if hit.tag is not None]
    np.testing.assert_allclose(said, right, atol=1e-4)
    assert all(hit.tag_score is None for hit in hits if hit.tag is None)
    assert counts == index.tags()
    assert sum(counts.values()) == sum(hit.tag is not None for hit in hits)
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert index.count("tag is not null") == sum(counts.values())


def test_new_images_get_the_same_labels(tiny, index, tmp_path):
    index.tag(LABELS)
    draw(tmp_path / "photos" / "new.jpg", 99)
    index.refresh()
    assert sum(index.tags().values()) == 31
    build_index(tiny, tmp_path / "photos", tmp_path / "once")
    once = Index.open(tmp_path / "once", model=tiny)
    once.tag(LABELS)
    assert found(index) == found(once)


def test_tags_replace_tags(index):
    index.tag(LABELS)
    version = read_version(index.path)
    assert set(index.tag(["x", "y"])) <= {"x", "y"}
    assert read_version(index.path) != version
    assert index.about()["tags"]["labels"] == ["x", "y"]


def test_labels_may_be_encoded_elsewhere(tiny, index):
    classifier = tiny.classifier(LABELS)
    index.tag(LABELS)
    before = index.browse(k=100)
    index.tag(classifier)
    assert index.browse(k=100) == before
    assert index.about()["tags"]["labels"] == LABELS


def test_progress_counts_images(index):
    seen: list[tuple[int, int]] = []
    index.tag(LABELS, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (30, 30)


@pytest.mark.parametrize(
    ("labels", "options", "match"),
    [
        ([], {}, "the list of labels is empty"),
        (["a", "a"], {}, "give each once"),
        (["a", " "], {}, "is empty"),
        ("a,b", {}, "must be a list"),
        (["a"], {"templates": "no place"}, "exactly one"),
    ],
)
def test_mistakes_change_nothing(index, labels, options, match):
    version = read_version(index.path)
    with pytest.raises(HeadwordError, match=match):
        index.tag(labels, **options)
    assert read_version(index.path) == version


def test_tags_of_a_catalogue_keep_its_other_columns(tmp_path):
    entries = [
        Entry(path=name, raw=None, bytes=n, modified=n, content=bytes(16), slot=n, status=OK, sum=n)
        for n, name in enumerate("abc")
    ]
    state = {name: np.arange(3).astype(kind) for name, kind in STATE.items()}
    write_catalogue(tmp_path / "1.sqlite", entries, state, ())
    Catalogue(tmp_path / "1.sqlite", 3).write_retagged(
        tmp_path / "2.sqlite",
        [[("x", 0.5, BY_MODEL)], [], [("y", 1.0, BY_MODEL)]],
        np.ones(2, np.float32),
    )
    tagged = Catalogue(tmp_path / "2.sqlite", 3)
    assert [tagged.image(place)[2] for place in range(3)] == [0.5, None, 1.0]
    assert tagged.entries() == entries
    assert all(np.array_equal(tagged.state[name], state[name]) for name in STATE if name != "taught")
    assert np.array_equal(tagged.state["taught"], np.ones(2))


def test_several_labels_a_picture(tiny, index, monkeypatch):
    monkeypatch.setattr(tagging, "_ROWS", 7)
    counts = index.tag(LABELS, multi_label=True)
    chances = classified(tiny, index, LABELS, multi_label=True)
    hits = index.browse(k=1000)
    for hit, row in zip(hits, chances.tolist(), strict=True):
        likely = {label: chance for label, chance in zip(LABELS, row, strict=True) if chance >= 0.5}
        assert {tag.tag: tag.score for tag in hit.tags} == pytest.approx(likely, abs=1e-4)
        scores = [tag.score for tag in hit.tags]
        assert scores == sorted(scores, reverse=True)
        assert (hit.tag, hit.tag_score) == ((hit.tags[0].tag, hit.tags[0].score) if likely else (None, None))
    assert max(len(hit.tags) for hit in hits) > 1, "a test of several labels"
    assert sum(counts.values()) == sum(len(hit.tags) for hit in hits)
    for label in LABELS:
        assert index.count(f"any_tag = '{label}'") == counts.get(label, 0)
    assert index.count("any_tag is null") == sum(not hit.tags for hit in hits)
    assert index.count("any_tag is not null and not any_tag in ('cat')") == sum(
        bool(hit.tags) and "cat" not in {tag.tag for tag in hit.tags} for hit in hits
    )


@pytest.mark.parametrize("several", [False, True])
def test_what_is_said_by_hand_stays(tiny, index, tmp_path, several):
    """Through labelling anew, with other words too, and through new pictures."""
    index.tag(LABELS, multi_label=several)
    first, second, *_, last = (hit.path for hit in index.browse(k=1000) if hit.tag)
    was = index[second].tag
    other = next(label for label in LABELS if label != index[first].tag)
    index.correct({first: {other: True, "blurred": True}, second: {was: False}})

    def by_hand(path):
        return {tag.tag for tag in index[path].tags if tag.by_hand}

    for again in (None, LABELS, ["something", "else"], LABELS):
        if again is not None:
            index.tag(again, multi_label=several)
        assert by_hand(first) == {other, "blurred"}
        assert was not in {tag.tag for tag in index[second].tags}
        assert by_hand(last) == set()
    if not several:
        assert {tag.tag for tag in index[first].tags} == {other, "blurred"}
        assert index[second].tag is not None, "the next best label"
    draw(tmp_path / "photos" / "0.jpg", 99)
    index.refresh()
    assert by_hand(first) == {other, "blurred"}
    assert was not in {tag.tag for tag in index[second].tags}
    with pytest.raises(HeadwordError, match="not in the index"):
        index.correct({"owl.png": {"owl": True}})


def test_tags_of_before_come_back(tiny, index):
    index.tag(LABELS)
    index.correct({index.browse()[0].path: {"mine": True}})
    before = index.browse(k=100)
    tagged = tagging.tag_index(index.path, tiny, tiny.classifier(["x", "y"]))
    tagging.restore_tags(index.path, tagged)
    index.reload()
    assert index.browse(k=100) == before
    assert index.about()["tags"]["labels"] == LABELS
    with pytest.raises(HeadwordError, match="changed since then"):
        tagging.restore_tags(index.path, tagged)


def test_an_index_of_one_tag_each_is_read(index):
    """As versions of format 4 had it at first, without the table of tags."""
    index.tag(LABELS)
    before = index.browse(k=100)
    manifest = Manifest.read(index.path)

    def write(path):
        with contextlib.closing(sqlite3.connect(path)) as database:
            index._version.catalogue._database.backup(database)
            database.execute("DROP TABLE tags")
            database.commit()

    publish(index.path, manifest, write, {})
    index.reload()
    assert index.browse(k=100) == before
    index.correct({before[0].path: {"mine": True}})
    assert index[before[0].path].tag == "mine"
