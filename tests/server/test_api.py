"""The HTTP API over a real server and a real index: what it answers."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headword.search import Index, Query
from headword.server.schemas import parse_words
from support.filter_attacks import ATTACKS
from support.serving import Live, base64_of

PICTURES = ()  # all


def paths(reply) -> list[str]:
    assert reply.status == 200, reply.body
    return [hit["path"] for hit in reply.json["hits"]]


# ---- searching


def test_words_find_their_picture_first(live: Live):
    reply = live.post("/search", {"text": "a cup of coffee", "k": 3})
    assert paths(reply)[0] == "coffee.png"
    scores = [hit["score"] for hit in reply.json["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3
    expected = live.index.search(Query(text="a cup of coffee"), k=3)
    relevance = [hit["relevance"] for hit in reply.json["hits"]]
    assert relevance == pytest.approx([hit.relevance for hit in expected], abs=1e-4)
    assert reply.json["least_shown"] == pytest.approx(expected.least_shown, abs=1e-4)
    by_picture = live.post("/search", {"like": "cat.png", "k": 1}).json
    assert (by_picture["hits"][0]["relevance"], by_picture["least_shown"]) == (None, None)
    assert reply.json["index_version"] == live.index.version
    assert paths(live.get("/search?q=a+cup+of+coffee&k=3")) == paths(reply)


def test_search_is_the_index_own(live: Live, pictures):
    """Words, pictures, and words to keep away from, in every combination, as `Index.search` has them."""
    image = {"image": base64_of(pictures["motorcycle"])}
    for sent, query in [
        ({"text": "a red wheel"}, Query(text="a red wheel")),
        ({"words": "a red wheel -garage"}, Query(text="a red wheel", negative=("garage",))),
        ({"text": "roof", "negative": ["lake", "a b"]}, Query(text="roof", negative=("lake", "a b"))),
        (image, Query(image=pictures["motorcycle"])),
        ({**image, "text": "flower"}, Query(text="flower", image=pictures["motorcycle"])),
        ({"like": "cat.png", "text": "rocket"}, Query(text="rocket", like="cat.png")),
    ]:  # fmt: skip
        reply = live.post("/search", {**sent, "k": 14})
        wanted = live.index.search(query, k=14)
        assert paths(reply) == [hit.path for hit in wanted]
        said = [hit["score"] for hit in reply.json["hits"]]
        assert said == pytest.approx([hit.score for hit in wanted], abs=1e-5)


def test_a_picture_finds_itself(live: Live, pictures):
    buffer = io.BytesIO()
    Image.open(pictures["temple"]).save(buffer, "PNG")
    for sent in ({"image": f"data:image/png;base64,{base64_of(buffer.getvalue())}"}, {"like": "temple.jpg"}):
        hit = live.post("/search", {**sent, "k": 1}).json["hits"][0]
        assert hit["path"] == "temple.jpg"
        assert hit["score"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("typed", "text", "negative"),
    [
        ("two dogs", "two dogs", ()),
        ("two  dogs -leash", "two dogs", ("leash",)),
        ('beach -"two  people" -boat sunset', "beach sunset", ("two people", "boat")),
        ("a t-shirt", "a t-shirt", ()),
        ("snow -dog -dog", "snow", ("dog",)),
        ("-dog", None, ("dog",)),
        ('snow -"dog on', "snow", ("dog on",)),
        ("snow - dog --", "snow dog", ()),
        ('snow -""', "snow", ()),
    ],
)
def test_typed_words(typed, text, negative):
    assert parse_words(typed) == (text, negative)


@settings(deadline=None, max_examples=50)
@given(st.text("ab-\"' \t\n猫"))
def test_typed_words_are_clean(typed):
    text, negative = parse_words(typed)
    for words in (*negative, *([text] if text else [])):
        assert words == " ".join(words.split())
        assert words
    assert len(set(negative)) == len(negative)


def test_filters_and_pages(live: Live):
    inside = "folder = 'people'"
    assert set(paths(live.post("/search", {"text": "a cat", "where": inside}))) == {
        "people/astronaut.png",
        "people/photographer.png",
    }
    everything = live.get("/pictures").json
    assert everything["total"] == len(everything["pictures"]) == 14
    found = [hit["path"] for hit in everything["pictures"]]
    assert found == sorted(found)
    assert {hit["score"] for hit in everything["pictures"]} == {None}
    page = live.get("/pictures?offset=5&k=3").json
    assert [hit["path"] for hit in page["pictures"]] == found[5:8]
    assert live.get(f"/pictures?where={quote(inside)}").json["total"] == 2


def test_two_hundred_at_once(live: Live):
    words = [
        f"picture number {n % 50} of a {kind}" for n in range(50) for kind in ("cat", "cup", "star", "hat")
    ]
    alone = {text: paths(live.post("/search", {"text": text, "k": 2})) for text in words[:4]}
    with ThreadPoolExecutor(200) as pool:
        found = list(pool.map(lambda text: paths(live.post("/search", {"text": text, "k": 2})), words))
    assert [len(row) for row in found] == [2] * 200
    assert dict(zip(words[:4], found, strict=False)) == alone


def test_texts_are_encoded_once(live: Live, embedded):
    """For the query and for how well the head knows its words, and for every query that has them."""
    encoded: list[str] = []
    with embedded.text.source.model.register_forward_pre_hook(lambda _, given: encoded.extend(given[0])):
        for words in ("a newer word", "a newer word", "a newer word -another", "another"):
            assert live.post("/search", {"words": words}).status == 200
    assert encoded == ["a newer word", "another"]


# ---- tags


def test_tagging_and_filtering(live: Live):
    labels = ["a cat's face", "a cup of coffee", "a rocket launch", "a building"]
    reply = live.post("/tag", {"labels": labels, "templates": ["a photo of {}"]})
    assert reply.status == 200
    counts = {row["tag"]: row["count"] for row in reply.json["tags"]}
    assert sum(counts.values()) == 14
    assert live.index.reload()
    assert counts == live.index.tags()
    assert [row["count"] for row in reply.json["tags"]] == sorted(counts.values(), reverse=True)
    assert live.get("/tags").json["tags"] == reply.json["tags"]
    for tag, count in counts.items():
        tagged = live.get(f"/pictures?tag={quote(tag)}").json
        assert tagged["total"] == len(tagged["pictures"]) == count
        assert {hit["tag"] for hit in tagged["pictures"]} == {tag}
    cats = live.post("/search", {"text": "a lake", "tag": "a cat's face", "k": 14})
    assert "cat.png" in paths(cats)
    assert len(paths(cats)) == counts["a cat's face"]
    tag_score = next(hit["tag_score"] for hit in cats.json["hits"] if hit["path"] == "cat.png")
    single = live.post(
        "/classify", {"pictures": ["cat.png"], "labels": labels, "templates": ["a photo of {}"]}
    )
    assert single.json["results"][0][0]["label"] == "a cat's face"
    assert single.json["results"][0][0]["probability"] == pytest.approx(tag_score, abs=1e-6)
    assert 0.3 < tag_score <= 1
    assert paths(live.post("/search", {"text": "x", "tag": "nothing has it"})) == []


def test_tagged_by_another_process_meanwhile(live: Live):
    before = live.get("/tags").json["index_version"]
    Index.open(live.index.path, model=live.index.model).tag(["dark", "bright"])
    after = live.get("/tags").json
    assert after["index_version"] != before
    assert {row["tag"] for row in after["tags"]} <= {"dark", "bright"}
    assert live.post("/search", {"text": "night"}).json["index_version"] == after["index_version"]


# ---- the model by itself


def test_embed_is_the_model_own(live: Live, pictures, embedded):
    texts = [f"a thing of kind {n}" for n in range(40)]  # more than one piece
    reply = live.post(
        "/embed",
        {"texts": texts, "images": [base64_of(pictures["cat"])], "templates": ["a {}", "the {}"]},
    ).json
    wanted = embedded.encode_text(texts, templates=["a {}", "the {}"])
    torch.testing.assert_close(torch.tensor(reply["texts"]), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        torch.tensor(reply["images"]), embedded.encode_image([pictures["cat"]]), rtol=0, atol=1e-6
    )
    assert reply["dim"] == embedded.dim
    assert live.post("/embed", {}).json == {"dim": embedded.dim, "texts": [], "images": []}


def test_classify_is_the_model_own_centred_as_the_index_is(live: Live, pictures, model):
    labels = ["a cat", "a cup of coffee", "a wall"]
    sent = {"images": [base64_of(pictures["coffee"])], "pictures": ["bricks.png"], "labels": labels}
    model.centre_on([live.index.file(hit.path) for hit in live.index.browse()])
    features = model.image_features([pictures["coffee"], pictures["bricks"]])
    names = [*labels, "none of these"]
    for options in ({}, {"none_of_these": True}, {"multi_label": True}):
        reply = live.post("/classify", {**sent, **options}).json["results"]
        wanted = model.classify(features, labels, **options)
        for row, chances in zip(reply, wanted.tolist(), strict=True):
            assert {entry["label"]: entry["probability"] for entry in row} == pytest.approx(
                dict(zip(names, chances, strict=False)), abs=1e-5
            )
            said = [entry["probability"] for entry in row]
            assert said == sorted(said, reverse=True)
            assert all((entry["cosine"] is None) == (entry["label"] == "none of these") for entry in row)
        assert reply[0][0]["label"] == "a cup of coffee"


def test_about_and_classes(live: Live, embedded):
    about = live.get("/about").json
    assert about["images"] == 14
    assert about["classes"] == 1000
    assert about["model"]["vision"]["licence"] == "apache-2.0"
    assert about["folder"] == live.index.root.name
    found = live.get("/classes?find=TABBY").json
    assert found == {"classes": ["tabby"], "total": 1}
    assert live.get("/classes?k=5").json == {
        "classes": [c.name for c in embedded.classes[:5]],
        "total": 1000,
    }


# ---- pictures


def test_pictures_and_thumbnails(live: Live, pictures):
    assert live.get("/images/people/astronaut.png").body == pictures["astronaut"].read_bytes()
    assert live.get("/images/temple.jpg").headers["content-type"] == "image/jpeg"
    for size in (160, 320, 640):
        small = live.get(f"/thumbnails/people/astronaut.png?size={size}")
        assert small.headers["content-type"] == "image/jpeg"
        assert max(Image.open(io.BytesIO(small.body)).size) == min(size, 512)
    again = live.get("/thumbnails/people/astronaut.png?size=640", **{"If-None-Match": small.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


def test_a_changed_picture_gets_a_new_thumbnail(live: Live, pictures):
    file = live.index.root / "page.png"
    before = live.get("/thumbnails/page.png").body
    content = file.read_bytes()
    try:
        file.write_bytes(pictures["flower"].read_bytes())
        assert live.get("/thumbnails/page.png").body not in (before, b"")
        file.unlink()
        assert live.get("/thumbnails/page.png").status == 404
        assert live.get("/images/page.png").status == 404
    finally:
        file.write_bytes(content)
    assert live.get("/thumbnails/page.png").body == before


# ---- what users get wrong


@pytest.mark.parametrize(
    ("path", "body", "status", "line"),
    [
        ("/search", {}, 400, "nothing to search for"),
        ("/search", {"text": " "}, 422, "text: "),
        ("/search", {"text": "x", "k": 0}, 422, "k: "),
        ("/search", {"text": "x", "colour": 1}, 422, "colour: "),
        ("/search", {"text": "x", "words": "y"}, 400, "not both"),
        ("/search", {"text": "x", "where": "tga = 'dog'"}, 400, "tga"),
        ("/search", {"text": "x", "where": "1 = 1; drop table"}, 400, "not understood"),
        ("/search", {"like": "nope.png"}, 400, "'nope.png' is not in the index"),
        ("/search", {"text": "y" * 501}, 422, "at most 500"),
        ("/search", b"{", 422, "JSON"),
        ("/search", [1], 422, "dictionary"),
        ("/embed", {"texts": ["x"] * 257}, 422, "at most 256"),
        ("/embed", {"texts": ["x"], "templates": ["no place"]}, 400, 'exactly one "{}"'),
        ("/classify", {"labels": []}, 422, "labels: "),
        ("/classify", {"labels": ["a", "a"], "pictures": ["cat.png"]}, 400, "'a' is given 2 times"),
        ("/classify", {"labels": ["a"], "pictures": ["nope"]}, 404, "nope"),
        ("/classify", {"labels": ["a"], "multi_label": True, "none_of_these": True}, 400, "exclude"),
        ("/tag", {"labels": ["a", "a"]}, 400, "'a' is given 2 times"),
        ("/tag", {"labels": ["x"] * 1001}, 422, "at most 1000"),
        ("/nope", {}, 404, "Not Found"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line(live: Live, path, body, status, line):
    reply = live.post(path, body)
    assert reply.status == status, reply.body
    assert set(reply.json) == {"error"}
    assert line in reply.json["error"]
    assert "\n" not in reply.json["error"]


def test_a_mistake_in_a_batch_is_its_own(live: Live):
    """Many searches are answered together; those with a mistake fail alone."""
    start = threading.Barrier(20)

    def ask(n: int) -> int:
        start.wait()
        sent = {"text": f"word {n}"} if n % 3 else {"like": f"nope {n}"}
        return live.post("/search", sent).status

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(ask, range(20)))
    assert found == [200 if n % 3 else 400 for n in range(20)]


@pytest.mark.attack
def test_filters_of_strangers(live):
    """None of them costs the server more than an answer of one line."""
    for where in (text for text in ATTACKS.values() if len(text) <= 500 and text.isprintable()):
        sent = where.encode("utf-8", "replace").decode()
        for reply in (
            live.post("/search", {"text": "a cat", "where": sent}),
            live.get(f"/pictures?where={quote(sent)}"),
        ):
            assert reply.status == 400, where
            assert "\n" not in reply.json["error"]
    for where in (text for text in ATTACKS.values() if 500 < len(text) < 10_000):
        assert live.post("/search", {"text": "a cat", "where": where}).status == 422
    assert live.get("/pictures?where=bytes%20%3E%200").json["total"] == len(live.index)
