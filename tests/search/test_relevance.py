"""The chance that hits show the words, and where answers end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from headword.search import Index, Query, build_index, relevance
from support.commands import run
from support.extraction import draw_many

FITTED = Path(__file__).parents[2] / "experiments" / "benchmarks" / "results" / "relevance.json"


@pytest.fixture(scope="module")
def index(tiny, tmp_path_factory):
    photos = draw_many(tmp_path_factory.mktemp("relevance") / "photos", 60)
    build_index(tiny, photos, photos.parent / "ix")
    return Index.open(photos.parent / "ix", model=tiny)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def test_evidence_by_its_formula():
    random = np.random.default_rng(0)
    sample, query = unit(random.normal(size=(300, 16))), unit(random.normal(size=16))
    hits = sample[np.argsort(-sample @ query)[:30]]

    def z(value: float, among: list[float]) -> float:
        return (value - np.mean(among)) / np.std(among)

    cosines = [float(picture @ query) for picture in sample]
    above = [z(float(hit @ query), cosines) for hit in hits]
    shares = [value / sum(above[:5]) for value in above[:5]]
    alike = [sum(share * float(picture @ leader) for share, leader in zip(shares, hits, strict=False))
             for picture in sample]  # fmt: skip
    for place, found in enumerate(relevance.evidence(query, hits, hits[:20], sample)):
        others = [n for n in range(5) if n != place]
        mine = sum(shares[n] * float(hits[place] @ hits[n]) for n in others) / sum(shares[n] for n in others)
        expected = [above[place], above[0], above[19], above[place] * above[0], z(mine, alike)]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_answers_end_where_f1_is_expected_to_be_greatest():
    random = np.random.default_rng(1)
    for _ in range(20):
        chances = random.beta(0.4, 2, size=40)
        chances[0] = 0.9
        falling = sorted(chances, reverse=True)
        expected = [2 * sum(falling[:k]) / (k + sum(falling)) for k in range(1, 41)]
        assert relevance.least_shown(chances) == pytest.approx(falling[int(np.argmax(expected))])


def test_nothing_answers_and_too_few_to_tell():
    assert relevance.least_shown(np.full(50, relevance.LEAST / 2)) == relevance.LEAST
    assert relevance.least_shown(np.full(19, 0.01)) == 0


def test_weights_are_those_that_were_fitted():
    fit = json.loads(FITTED.read_text())["fit"]
    assert [relevance.OFFSET, *relevance.WEIGHTS] == pytest.approx([fit["offset"], *fit["weights"]], abs=1e-3)


def test_relevance_does_not_depend_on_how_many_are_asked_for(index):
    many, few = (index.search(Query(text="an ant"), k=k) for k in (60, 3))
    assert [hit.relevance for hit in few] == [hit.relevance for hit in many[:3]]
    assert few.least_shown == many.least_shown
    assert all(0 < hit.relevance < 1 for hit in many)


def test_pictures_have_none(index):
    for query in (Query(like="0001.jpg"), Query(text="an ant", like="0001.jpg")):
        hits = index.search(query, k=3)
        assert ([hit.relevance for hit in hits], hits.least_shown) == ([None] * 3, None)
    assert index.browse(k=1)[0].relevance is None


def test_the_command_stops_there(index, monkeypatch):
    monkeypatch.setattr(Index, "open", lambda *_, **__: index)
    asked = ("search", index.path, "an ant", "-k", 30)

    def shown(*more: object) -> int:
        return sum(".jpg" in line for line in run(*asked, "--paths", *more).splitlines())

    hits = index.search(Query(text="an ant"), k=30)
    monkeypatch.setattr("headword.search.index.least_shown", lambda _: hits[3].relevance)
    likely = [hit for hit in hits if hit.relevance >= hits[3].relevance]
    assert shown() == len(likely)
    assert f"{len(likely)} picture" in run(*asked)
    assert shown("--all") == 30
    assert shown("--min-relevance", 0) == 30
    assert shown("--min-relevance", 1) == 0
    assert "Nothing seems to show it; the 30 nearest all the same: --all" in run(*asked, "--min-relevance", 1)
    assert "exclude each other" in run(*asked, "--all", "--min-relevance", 0.5, code=2)
    said = json.loads(run(*asked, "--json", "-"))
    assert len(said["results"]) == 30
    assert said["least_shown"] == hits[3].relevance
