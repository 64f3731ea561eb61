"""The pairs that a head's classes get beyond their names, and labels with what they are kinds of."""

from __future__ import annotations

import zlib
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

import headword
from headword.encoders.enrichment import (
    MERGED_WORDS,
    PLAIN,
    RICH,
    Enrichment,
    enriched_pairs,
    make_enrichment,
)
from headword.encoders.prompts import FOUR_TEMPLATES, Prompts, embed_names
from headword.errors import HeadwordError
from headword.head.names import ClassName
from headword.head.wordnet import wordnet

TABBY, PERSIAN, COLLIE = "n02123045", "n02123394", "n02106030"


@pytest.fixture
def text():
    """An encoder that gives each text a vector of its own."""

    def encode(texts, progress=None):
        rows = [
            torch.randn(16, generator=torch.Generator().manual_seed(zlib.crc32(t.encode()))) for t in texts
        ]
        return torch.stack(rows) if rows else torch.zeros(0, 16)

    return SimpleNamespace(encode=encode, dim=16)


# ---- labels with what they are kinds of


def test_kinds_take_their_share(text):
    said = Prompts(("cat", "xyzzy"), ("{}", "a {}"), 0.75)
    assert said.texts[:4] == ["cat", "xyzzy", "a cat", "a xyzzy"]
    assert said.texts[4:] == [f"cat, a kind of {kind}" for kind in wordnet().hypernyms("cat")]
    found = said.combine(text.encode(said.texts))
    unit = normalize(text.encode(said.texts), dim=1)
    base = normalize(unit[:4].view(2, 2, 16).mean(dim=0), dim=1)
    kinds = normalize(unit[4:].sum(dim=0), dim=0)
    torch.testing.assert_close(found[0], normalize(0.25 * base[0] + 0.75 * kinds, dim=0))
    torch.testing.assert_close(found[1], base[1])


def test_without_kinds_names_are_as_they_were(text):
    torch.testing.assert_close(
        embed_names(text, ["cat", "dog"], "a {}"), normalize(text.encode(["a cat", "a dog"]), dim=1)
    )


# ---- pairs


def classes() -> list[ClassName]:
    return [
        ClassName("tabby", ("tabby cat",), "a cat with stripes", TABBY),
        ClassName("Persian cat", (), None, PERSIAN),
        ClassName("collie", (), "a silky dog", COLLIE),
        ClassName("Grumbling Frobnicator", (), None, None),
        ClassName("Silent Frobnicator", (), None, None),
    ]


def test_planted_pairs(text):
    rows = torch.eye(5, 8)
    pairs = enriched_pairs(rows, classes(), text, "a {}", RICH)
    by = {
        (source, name): (image, said, float(weight))
        for source, name, image, said, weight in zip(
            pairs.source, pairs.names, pairs.image, pairs.text, pairs.weight, strict=True
        )
    }
    assert pairs.source[:5] == ("head",) * 5
    torch.testing.assert_close(
        pairs.text[:5], normalize(text.encode([f"a {c.name}" for c in classes()]), dim=1)
    )
    image, said, weight = by["synonym", "tabby cat"]
    assert image.equal(rows[0])
    assert said.equal(text.encode(["tabby cat"])[0])
    assert weight == pytest.approx(0.3)
    assert by["definition", "collie, a silky dog"][0].equal(rows[2])
    assert ("definition", "Persian cat, None") not in by
    assert by["kind", "Persian cat, a kind of domestic cat"][0].equal(rows[1])
    assert by["hypernym", "feline"][0].equal((rows[0] + rows[1]) / 2)
    assert by["hypernym", "feline"][2] == pytest.approx(0.1)
    assert by["hypernym", "Frobnicator"][0].equal((rows[3] + rows[4]) / 2)
    # What more than half of the classes are says nothing.
    assert ("hypernym", "animal") not in by


def test_plain_is_the_paper(text):
    rows = torch.eye(5, 8)
    pairs = enriched_pairs(rows, classes(), text, "{}", PLAIN)
    assert pairs.sources == {"head": 5}
    assert pairs.names == tuple(c.name for c in classes())


def test_merged_texts_are_the_weighted_mean(text):
    rows = torch.eye(5, 8)
    settings = Enrichment(hypernyms=0)
    pairs = enriched_pairs(rows, classes(), text, "{}", settings, merge=True)
    assert pairs.sources == {"head": 5}
    said = ["tabby", "tabby cat", "tabby, a cat with stripes", "tabby, a kind of domestic cat"]
    unit = normalize(text.encode(said), dim=1)
    expected = unit[0] + 0.3 * unit[1] + 0.3 * unit[2] + unit[3]
    torch.testing.assert_close(pairs.text[0], expected)


def test_merged_definitions_are_cut_and_others_are_not(text, monkeypatch):
    long = ClassName("tabby", definition=" ".join(f"w{n}" for n in range(20)))
    settings, seen = Enrichment(hypernyms=0, kinds=0), []
    encode = text.encode
    monkeypatch.setattr(text, "encode", lambda texts, **_: seen.append(texts) or encode(texts))
    for merge in (True, False):
        enriched_pairs(torch.eye(1, 8), [long], text, "{}", settings, merge=merge)
    assert seen[0][0] == "tabby, " + " ".join(f"w{n}" for n in range(MERGED_WORDS))
    assert seen[1][0] == f"tabby, {long.definition}"


def test_bad_settings_are_one_line():
    with pytest.raises(HeadwordError, match="choose rich or plain"):
        make_enrichment("poor")
    with pytest.raises(HeadwordError, match="synonyms must be"):
        Enrichment(synonyms=-1)
    with pytest.raises(HeadwordError, match="between 0 and 1"):
        Enrichment(hypernym_weight=1.5)


# ---- the model


def test_the_default_is_rich_and_says_so(embedded):
    assert embedded.hypernym_weight == RICH.hypernym_weight
    assert embedded.templates == FOUR_TEMPLATES
    assert embedded.pairs.sources["head"] == 1000
    assert {"synonym", "definition", "kind", "hypernym"} <= set(embedded.pairs.sources)
    assert embedded.provenance()["hypernym_weight"] == RICH.hypernym_weight


def test_kinds_survive_saving(embedded, saved):
    loaded = headword.load(saved)
    assert loaded.hypernym_weight == embedded.hypernym_weight
    assert loaded.encode_text(["cat"]).equal(embedded.encode_text(["cat"]))
    plain = embedded.aligner.text(embed_names(embedded.text, ["cat"]))
    assert not torch.allclose(loaded.encode_text(["cat"]), plain, atol=1e-3)


def test_a_template_of_ones_own_is_for_fit_and_use(embedded):
    model = headword.recycle(embedded.vision, embedded.text, words="plain", templates="a {}")
    assert model.templates == ("a {}",)
    assert model.hypernym_weight == 0
    expected = embed_names(embedded.text, [c.name for c in model.classes[:2]], "a {}")
    torch.testing.assert_close(model.pairs.text[:2], expected)
