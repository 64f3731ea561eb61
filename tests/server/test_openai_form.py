"""Embeddings by OpenAI's own client, from a running server."""

from __future__ import annotations

import pytest

from support.serving import Live, base64_of

openai = pytest.importorskip("openai", reason="pip install openai")


@pytest.fixture
def client(live: Live):
    with openai.OpenAI(base_url=f"{live.address.url}v1", api_key="any", max_retries=0) as connected:
        yield connected


def test_texts_and_pictures_in_their_order(live: Live, client, pictures):
    cat = f"data:image/png;base64,{base64_of(pictures['cat'])}"
    items = ["a cat", cat, "a cup of coffee"]
    plain = live.post("/embed", {"texts": [items[0], items[2]], "images": [cat]}).json
    expected = [plain["texts"][0], plain["images"][0], plain["texts"][1]]
    for form in ({}, {"encoding_format": "float"}):  # the client asks for base64 by itself
        answer = client.embeddings.create(model="headword", input=items, **form)
        assert [row.index for row in answer.data] == [0, 1, 2]
        for row, vector in zip(answer.data, expected, strict=True):
            assert row.embedding == pytest.approx(vector, abs=1e-6)
    one = client.embeddings.create(model="text-embedding-3-small", input="a cat")
    assert one.data[0].embedding == pytest.approx(expected[0], abs=1e-6)
    assert [row.id for row in client.models.list()] == ["headword"]


@pytest.mark.parametrize(
    ("sent", "match"),
    [
        ({"input": "data:image/png;base64,nothing"}, "a picture to embed: .*base64"),
        ({"input": ["a cat", "data:image/png;base64,bm90aGluZw=="]}, "is not an image"),
        ({"input": "a" * 501}, "a text to embed: .*500"),
        ({"input": "a cat", "dimensions": 8}, "not 8"),
        ({"input": []}, "input"),
        ({"input": [[1, 2]]}, "input"),
    ],
)
def test_mistakes_are_lines(client, sent, match):
    with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError), match=match):
        client.embeddings.create(model="headword", **sent)


def test_other_sites_are_kept_out(live: Live):
    body = {"input": "a cat"}
    assert live.post("/v1/embeddings", body, Origin="https://elsewhere.example").status == 403
    assert live.post("/v1/embeddings", body, Authorization="Bearer any").status == 200
