"""`headword teach`, and its classifiers where labels are taken."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import headword
from support.commands import check_result, run

LABELS = "a pet,a drink,a machine"


@pytest.fixture(scope="module")
def shown(pictures, tmp_path_factory):
    root = tmp_path_factory.mktemp("shown")
    for label, name in (("a pet", "cat"), ("a drink", "coffee"), ("a machine", "rocket")):
        (root / label).mkdir()
        shutil.copy(pictures[name], root / label)
    (root / "a pet" / "torn.jpg").write_bytes(b"\xff\xd8 no picture")
    return root


@pytest.fixture(scope="module")
def pets(saved, shown, tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught") / "pets"
    run("teach", saved, "--labels", LABELS + ",a plant", "--examples", shown, "--out", folder, "--quiet")
    return folder


def test_taught_said_and_used(saved, shown, pictures, tmp_path):
    out, file = tmp_path / "pets", tmp_path / "r.json"
    said = run(
        "teach", saved, "--labels", LABELS + ",a plant", "--examples", shown, "--out", out, "--json", file
    )
    for words in ("a pet", "known by words alone: a plant", "cannot be read: 1", "--classifier"):
        assert words in said
    result = json.loads(file.read_text())
    check_result(result, "teach")
    assert result["examples"] == {"a pet": 1, "a drink": 1, "a machine": 1, "a plant": 0}
    assert result["unseen"] == ["a plant"]
    assert len(result["unreadable"]) == 1
    run("classify", saved, pictures["rocket"], "--classifier", out, "--json", file)
    best = json.loads(file.read_text())["results"][0]["labels"][0]
    classifier = headword.load_classifier(out)
    assert best["label"] == "a machine"
    chances = classifier.predict_proba(pictures["rocket"])
    assert best["probability"] == pytest.approx(float(chances.max()), abs=1e-5)


def test_taken_away(saved, pets, pictures, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "pets.onnx"
    run("export", saved, "--classifier", pets, "--out", file)
    session = onnxruntime.InferenceSession(str(file))
    kept = session.get_modelmeta().custom_metadata_map
    assert json.loads(kept["labels"]) == [*LABELS.split(","), "a plant"]
    pixels = np.asarray(Image.open(pictures["cat"]).convert("RGB").resize((224, 224)), np.float32) / 255
    chances, _ = session.run(["probabilities", "embeddings"], {"pixels": pixels.transpose(2, 0, 1)[None]})
    assert chances[0].argmax() == 0
    line = run("export", saved, "--classifier", pets, "--none-of-these", "--out", tmp_path / "x.onnx", code=2)
    assert "is settled in" in line


def test_measured(saved, pets, shown, tmp_path):
    """A classifier is measured by its own labels; a folder that is none of them is named."""
    held = tmp_path / "held"
    shutil.copytree(shown, held, ignore=shutil.ignore_patterns("torn.jpg"))
    file = tmp_path / "r.json"
    about = ("--task", "classification", "--data", held, "-k", "1", "--json", file, "--quiet")
    run("evaluate", saved, *about, "--classifier", pets)
    result = json.loads(file.read_text())
    assert result["protocol"]["classifier"] == str(pets)
    assert result["metrics"]["top1"] == 100
    (held / "a drink").rename(held / "a dog")
    line = run("evaluate", saved, *about, "--classifier", pets, code=2)
    assert "'a dog' is none of the 4 labels" in line


def test_it_goes_on_and_unlearns(pets, shown, pictures, tmp_path):
    more, mine = tmp_path / "more", tmp_path / "mine"
    shutil.copytree(pets, mine)
    (more / "a machine").mkdir(parents=True)
    shutil.copy(pictures["motorcycle"], more / "a machine")
    run("teach", mine, "--examples", more, "--quiet")
    assert len(headword.load_classifier(mine).examples) == 4
    run(
        "teach",
        mine,
        "--forget",
        more / "a machine" / pictures["motorcycle"].name,
        "--labels",
        "a bird",
        "--quiet",
    )
    classifier = headword.load_classifier(mine)
    assert len(classifier.examples) == 3
    assert classifier.unseen_ == ["a plant", "a bird"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["MODEL", "--labels", "a,b"], "--examples FOLDER --out DIR"),
        (["MODEL", "--labels", "a pit,a drink,a machine", "--examples", "SHOWN", "--out", "new"],
         "'a pet' is none of the 3 labels; did you mean 'a pit'?"),
        (["PETS"], "nothing to do"),
        (["PETS", "--examples", "SHOWN", "--none-of-these"], "settled in"),
        (["MODEL", "--labels", LABELS, "--examples", "SHOWN", "--out", "SHOWN"], "already exists"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(saved, shown, pets, arguments, match):
    places = {"MODEL": saved, "SHOWN": shown, "PETS": pets}
    assert match in run("teach", *(places.get(word, word) for word in arguments), code=2)


def test_one_picture_with_two_labels(saved, pictures, tmp_path):
    table = tmp_path / "shown.csv"
    rows = ((pictures["cat"], "a pet"), (pictures["coffee"], "a drink"), (pictures["cat"], "a drink"))
    table.write_text("\n".join(["image,label", *(f"{image},{label}" for image, label in rows)]))
    line = run("teach", saved, "--examples", table, "--out", tmp_path / "new", code=2)
    assert f"{pictures['cat']} has different labels; keep the one that is right" in " ".join(line.split())
    assert not (tmp_path / "new").exists()


def test_a_picture_that_is_not_there_is_counted_and_said(saved, pictures, tmp_path):
    table = tmp_path / "shown.csv"
    table.write_text(f"image,label\n{pictures['cat']},a pet\ngone.jpg,a pet\n")
    said = run("teach", saved, "--examples", table, "--out", tmp_path / "new")
    assert "cannot be read: 1" in said
    assert "gone.jpg: there is no image" in " ".join(said.split())
    assert "labelled right" not in said  # with one label that says nothing


def test_a_classifier_is_no_place_for_labels_too(saved, pets, pictures):
    line = run("classify", saved, pictures["cat"], "--classifier", pets, "--labels", "a", code=2)
    assert "leave out --labels" in line
    line = run("classify", saved, pictures["cat"], "--classifier", pets, "--none-of-these", code=2)
    assert "is settled in" in line
    assert "no saved classifier" in run("classify", saved, pictures["cat"], "--classifier", saved, code=2)
