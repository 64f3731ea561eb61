"""Familiarity and explanations of a real model: in Python, saved, and on the command line."""

from __future__ import annotations

import json

import pytest
import torch

import headword
from headword.errors import HeadwordError
from headword.files import sealed
from support.commands import check_result, run

TAUGHT, NEAR, FAR = "tench", "a poodle", "quarterly revenue growth"


def without_familiarity(folder) -> None:
    """The saved model as a headword without familiarity wrote it."""
    config = json.loads((folder / "headword.json").read_text())
    del config["familiarity"]
    (folder / "headword.json").write_text(json.dumps(sealed(config)))


@pytest.fixture
def old(embedded, tmp_path):
    folder = embedded.save(tmp_path / "old")
    without_familiarity(folder)
    return folder


def test_known_words_are_covered_and_far_ones_are_not(embedded) -> None:
    taught, near, far = embedded.familiarity([TAUGHT, NEAR, FAR]).tolist()
    assert taught > 0.9
    assert near > 0.8
    assert far < embedded.familiarity_fit.low
    assert embedded.familiarity_fit.fitted_on == 1000
    assert embedded.familiarity([NEAR, FAR])[1] == pytest.approx(far, abs=1e-6)


def test_familiarity_follows_the_pairs(model) -> None:
    before = model.familiarity([TAUGHT])
    model.pairs = model.pairs[100:]
    assert model.familiarity([TAUGHT]) < before


def test_loaded_model_has_the_same_familiarity(embedded, saved) -> None:
    loaded = headword.load(saved)
    assert loaded.familiarity_fit == embedded.familiarity_fit
    assert torch.equal(loaded.familiarity([TAUGHT, FAR]), embedded.familiarity([TAUGHT, FAR]))
    (said,), (was,) = loaded.explain([NEAR], k=2), embedded.explain([NEAR], k=2)
    assert [part.name for part in said.prototypes] == [part.name for part in was.prototypes]
    assert said.others_share == pytest.approx(was.others_share, abs=1e-5)


def test_explain_names_the_prototypes(saved, tmp_path) -> None:
    shown = run("explain", saved, NEAR, FAR, "-k", 3, "--json", tmp_path / "e.json")
    for words in ("toy poodle", "others", "out of its depth"):
        assert words in " ".join(shown.split())
    result = json.loads((tmp_path / "e.json").read_text())
    check_result(result, "explain")
    near, far = result["results"]
    assert near["prototypes"][0]["name"] == "toy poodle"
    assert all("poodle" in part["name"] for part in near["prototypes"])
    assert near["kind"] == "weights"
    assert sum(part["share"] for part in near["prototypes"]) + near["others_share"] == pytest.approx(
        1, abs=1e-3
    )
    assert (near["out_of_depth"], far["out_of_depth"]) == (False, True)
    assert far["familiarity"] < result["protocol"]["familiarity"]["low"] < near["familiarity"]


def test_explain_takes_templates_and_prints_nothing_when_quiet(saved) -> None:
    said = json.loads(run("explain", saved, "dog", "--template", "a photo of a {}", "--json", "-"))
    assert said["protocol"]["templates"] == ["a photo of a {}"]
    assert run("explain", saved, "dog", "--quiet") == ""


def test_classify_marks_labels_out_of_depth(saved, pictures) -> None:
    arguments = ("classify", saved, pictures["cat"], "--labels", f"{NEAR},{FAR}")
    shown = run(*arguments)
    assert f"{FAR} *" in shown
    assert f"{NEAR} *" not in shown
    assert f"take with care: {FAR}" in " ".join(shown.split())
    said = json.loads(run(*arguments, "--json", "-"))["familiarity"]
    assert said["out_of_depth"] == [FAR]
    assert said["labels"][FAR] < said["low"] < said["labels"][NEAR]


def test_older_models_load_and_say_nothing_of_familiarity(old, pictures) -> None:
    loaded = headword.load(old)
    with pytest.raises(HeadwordError, match=r"cannot tell its familiarity: .* recycle again"):
        loaded.familiarity([TAUGHT])
    said = json.loads(run("explain", old, NEAR, "--json", "-"))["results"][0]
    assert said["familiarity"] is None
    assert said["out_of_depth"] is None
    assert (
        json.loads(run("classify", old, pictures["cat"], "--labels", FAR, "--json", "-"))["familiarity"]
        is None
    )


def test_mistakes_are_one_line(saved, tmp_path) -> None:
    assert "no saved model" in run("explain", tmp_path / "nowhere", "dog", code=2)
    assert "label 2 of 2 is empty" in run("explain", saved, "dog", " ", code=2)
