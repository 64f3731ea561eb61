"""`GET /maps`: where words are in a picture of the index."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest

from headword.data.safe_images import load_image
from headword.dense.regions import regions
from headword.server import map_routes
from support.serving import Live


def _asked(live: Live, path: str, *words: str):
    return live.get(f"/maps/{quote(path)}?{urlencode([('words', word) for word in words])}")


def test_maps_are_the_model_s(live: Live):
    reply = _asked(live, "cat.png", "a cat", "a cup of coffee")
    assert reply.status == 200, reply.body
    assert reply.json["exact"] is True
    first, second = reply.json["maps"]
    assert [first["words"], second["words"]] == ["a cat", "a cup of coffee"]
    model = live.index.model
    picture = load_image(live.index.root / "cat.png")
    (shares,) = model.locate(picture, ["a cat"])
    rows, columns = shares.shape[1:]
    assert (len(first["levels"]), len(first["levels"][0])) == (rows, columns)
    flat = [level for row in first["levels"] for level in row]
    assert (min(flat), max(flat), flat.index(255)) == (0, 255, int(shares[0].argmax()))
    wanted = regions(shares[0])[0]
    assert first["regions"][0]["box"] == pytest.approx(wanted.box)
    assert second["regions"] == []


def test_places_are_read_once_a_picture(live: Live, monkeypatch):
    assert _asked(live, "coffee.png", "a cup").status == 200
    monkeypatch.setattr(map_routes, "load_image", lambda *_, **__: pytest.fail("read again"))
    assert _asked(live, "coffee.png", "a spoon").status == 200


def test_what_is_kept_is_bounded(live: Live):
    mapper = live.server.config.app._app.state.mapper
    mapper._recent.limit = 1
    assert _asked(live, "people/astronaut.png", "a helmet").status == 200
    assert mapper._recent.held == 0


@pytest.mark.parametrize(
    ("path", "words", "status", "line"),
    [
        ("nowhere.png", ["a cat"], 404, "nowhere.png"),
        ("../index.json", ["a cat"], 404, ""),
        ("cat.png", [], 422, "words"),
        ("cat.png", [" "], 422, "words"),
        ("cat.png", ["a" * 1001], 422, "words"),
        ("cat.png", ["a cat", "a cat"], 400, "a cat"),
        ("cat.png", [f"word {n}" for n in range(9)], 422, "words"),
    ],
)
def test_what_is_refused(live: Live, path, words, status, line):
    reply = _asked(live, path, *words)
    assert reply.status == status, reply.body
    assert line in reply.json["error"]
