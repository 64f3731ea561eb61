"""WordNet's nouns: names, senses and what they are kinds of."""

from __future__ import annotations

import gzip

import pytest

from headword.errors import HeadwordError
from headword.head.wordnet import TABLE, read_nouns, wordnet

TABBY, PERSIAN, COLLIE = "n02123045", "n02123394", "n02106030"


def test_cats_and_dogs():
    nouns = wordnet()
    assert nouns[TABBY].names[0] == "tabby"
    feline = nouns.ancestors(TABBY) & nouns.ancestors(PERSIAN)
    assert {"feline", "carnivore", "animal"} <= {nouns[a].names[0] for a in feline}
    assert "feline" not in {nouns[a].names[0] for a in nouns.ancestors(COLLIE)}
    assert "feline" in nouns.hypernyms("cat")


@pytest.mark.parametrize("name", ["airplane", "Airplane", "an airplane", "airplanes", " airplane "])
def test_names_are_found_in_any_case_and_number(name):
    assert [synset.names[0] for synset in wordnet().senses(name)] == ["airplane"]


def test_unknown_names_have_no_kind():
    assert wordnet().senses("a birthday party in the rain") == ()
    assert wordnet().hypernyms("") == ()
    assert wordnet().ancestors("n99999999") == frozenset()


def test_every_parent_in_the_table_is_in_the_table():
    nouns = wordnet()
    assert all(parent in nouns for synset in nouns.values() for parent in synset.parents)
    assert len(gzip.decompress(TABLE.read_bytes()).splitlines()) == len(nouns)


def test_a_wordnet_of_the_users(tmp_path, monkeypatch):
    lines = [
        "  1 This is the licence",
        "00000100 03 n 01 animal 0 000 | a living thing",
        "00000200 05 n 02 house_cat 0 mog 0 001 @ 00000100 n 0000 | it purrs",
    ]
    (tmp_path / "data.noun").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("HEADWORD_WORDNET", str(tmp_path))
    assert wordnet().hypernyms("mog") == ("animal",)
    assert wordnet()["n00000200"].names == ("house cat", "mog")


def test_a_folder_without_wordnet_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWORD_WORDNET", str(tmp_path))
    with pytest.raises(HeadwordError, match=r"has no data\.noun"):
        wordnet()
    (tmp_path / "data.noun").write_text("nonsense\n")
    with pytest.raises(HeadwordError, match="line 1"):
        read_nouns(tmp_path / "data.noun")
