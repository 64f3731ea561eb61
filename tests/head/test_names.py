"""Class names: parsing, files, timm's label sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headword.errors import HeadwordError
from headword.head.names import (
    ClassName,
    class_names,
    duplicate_names,
    imagenet_classes,
    parse_labels,
    placeholders,
)


def test_lemmas_become_name_and_synonyms():
    tench, shark = parse_labels(["tench, Tinca tinca", "great_white_shark, man-eater"])
    assert tench == ClassName("tench", ("Tinca tinca",))
    assert shark == ClassName("great white shark", ("man-eater",))
    assert tench.synset == "tench, Tinca tinca"


def test_latin_names_stand_behind_common_ones():
    birds = parse_labels(
        [
            "Cyanocitta cristata (Blue Jay)",
            "Ardea herodias occidentalis (Great White Heron)",
            "Circus cyaneus hudsonius (Northern Harrier (American))",
            "Porzana carolina ()",
        ]
    )
    assert [b.name for b in birds] == [
        "Blue Jay",
        "Great White Heron",
        "Northern Harrier (American)",
        "Porzana carolina",
    ]
    assert birds[0].synonyms == ("Cyanocitta cristata",)
    assert birds[3].synonyms == ()


def test_brackets_of_other_sets_stay_in_the_name():
    names = [
        c.name
        for c in parse_labels(
            ["crane (bird)", "tench", "crane (machine)", "Sydney opera house (building)", "cat"]
        )
    ]
    assert names[0] == "crane (bird)"
    assert names[3] == "Sydney opera house (building)"


def test_leading_wordnet_id_is_the_id():
    assert parse_labels(["n01440764 tench, Tinca tinca", "x"])[0] == ClassName(
        "tench", ("Tinca tinca",), id="n01440764"
    )


def test_duplicates_are_kept_apart_and_reported():
    classes = parse_labels(["crane", "heron", "crane"])
    assert len(classes) == 3
    assert duplicate_names(classes) == {"crane": 2}


@pytest.mark.parametrize(
    ("labels", "empty"),
    [
        (["LABEL_0", "LABEL_1"], True),
        (["0", "1"], True),
        (["class 3"], True),
        (["cat", "LABEL_1"], False),
        (["7up"], False),
    ],
)
def test_placeholders(labels, empty):
    assert placeholders(labels) is empty


@pytest.mark.parametrize(
    ("size", "subset", "first"),
    [(1000, "imagenet-1k", "tench"), (11821, "imagenet-12k", "benthos"), (21841, "imagenet-22k", "organism")],
)
def test_label_sets_by_verified_size(size, subset, first):
    found = imagenet_classes(size)
    assert found is not None
    name, classes = found
    assert (name, len(classes), classes[0].name) == (subset, size, first)
    assert all(c.id and c.definition for c in classes)
    assert imagenet_classes(size + 7) is None


def test_tench_has_lemma_id_and_definition():
    found = imagenet_classes(1000)
    assert found is not None
    tench = found[1][0]
    assert (tench.synonyms, tench.id) == (("Tinca tinca",), "n01440764")
    assert tench.definition is not None
    assert tench.definition.startswith("freshwater dace-like game fish")


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("C", "Z")), min_size=1).filter(lambda s: s.strip("_, ")),
        min_size=1,
    )
)
def test_every_label_gives_one_class_with_a_name(labels):
    classes = parse_labels(labels)
    assert len(classes) == len(labels)
    assert all(c.name for c in classes)


def test_text_file(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("﻿tench, Tinca tinca\r\ngoldfish\n\n", encoding="utf-8")
    assert [c.name for c in class_names(file)] == ["tench", "goldfish"]


def test_jsonl_round_trip(tmp_path):
    import json

    classes = (ClassName("crane", ("heron",), "a bird", "n1"), ClassName("comma, kept"))
    file = tmp_path / "names.jsonl"
    file.write_text("\n".join(json.dumps(c.as_json()) for c in classes), encoding="utf-8")
    assert class_names(file) == classes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no class names"),
        ("cat\n\ndog\n", ":2: empty line"),
        ('{"name": "cat"}\n{"nam": "dog"}\n', ":2: unknown key 'nam'"),
        ('{"name": "cat"}\n{"name": ""}\n', ":2: the name is empty"),
        ('{"name": "cat", "synonyms": "abc"}\n', ":1: synonyms must be a list"),
        ('{"name": "cat", "definition": 5}\n', ":1: definition must be a string"),
        ('{"name": "cat"}\nnot json\n', ":2: not a class"),
        (" , ,\n", "class name 1 of 1 is empty"),
    ],
)
def test_bad_files(tmp_path, content, said):
    file = tmp_path / "names"
    file.write_text(content)
    with pytest.raises(HeadwordError, match=said):
        class_names(file)


def test_lists_may_mix_strings_and_classes():
    mixed = class_names([ClassName("a, b"), "c, d"])
    assert mixed == (ClassName("a, b"), ClassName("c", ("d",)))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({0: "cat"}, "not a dictionary"),
        (["cat", 7], "class name 2 of 2 is int"),
        ([ClassName(" ")], "class name 1 of 1 is empty"),
    ],
)
def test_odd_lists(source, said):
    with pytest.raises(HeadwordError, match=said):
        class_names(source)


def test_line_separators_inside_a_name_do_not_end_its_line(tmp_path):
    file = tmp_path / "names.jsonl"
    file.write_text('{"name": "tench", "definition": "a\u2028b\x85c"}\n', encoding="utf-8")
    assert class_names(file)[0].definition == "a\u2028b\x85c"


def test_missing_and_empty_sources(tmp_path):
    with pytest.raises(HeadwordError, match=r"names\.txt"):
        class_names(tmp_path / "names.txt")
    with pytest.raises(HeadwordError, match="list of class names is empty"):
        class_names([])


@pytest.mark.parametrize(
    "written",
    [
        "n02084071\nn02121620\nn02958343\n",
        '{"n02084071": 91, "n02121620": 60, "n02958343": 7}',
        '["n02084071", "n02121620",\n "n02958343"]',
    ],
)
def test_a_vocabulary_of_synsets_has_wordnets_names(written, tmp_path):
    (tmp_path / "vocabulary").write_text(written)
    dog, cat, car = class_names(tmp_path / "vocabulary")
    assert (dog.name, cat.name, car.name) == ("dog", "cat", "car")
    assert "domestic dog" in dog.synonyms
    assert dog.id == "n02084071"


def test_a_vocabulary_of_senses_has_its_lemmas(tmp_path):
    (tmp_path / "vocabulary.json").write_text('{"hot_dog.n.02": 3, "red.s.01": 2}')
    assert [c.name for c in class_names(tmp_path / "vocabulary.json")] == ["hot dog", "red"]


def test_a_synset_that_is_not_known_is_named(tmp_path):
    (tmp_path / "vocabulary").write_text("n02084071\nn00000001\n")
    with pytest.raises(HeadwordError, match=r"n00000001 is none of the .* HEADWORD_WORDNET"):
        class_names(tmp_path / "vocabulary")
