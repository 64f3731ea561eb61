"""`headword evaluate`, in-process, and what users get wrong."""

from __future__ import annotations

import json
import shutil

import pytest

from support.commands import check_result, run
from support.evaluation_helpers import paint, painted


def test_a_model_then_its_mappings(saved_plain, tmp_path):
    root = painted(tmp_path / "data")
    (root / "red" / "1.png").write_bytes(b"no picture")
    line = ("--task", "classification", "--data", root, "--centre-on", "collection")
    shown = run("evaluate", saved_plain, *line, "--template", "a {} wall", "--json", tmp_path / "e.json")
    for words in ("mean_per_class", "1 unreadable images were left out", "red/1.png", "tested images"):
        assert words in " ".join(shown.split())
    result = json.loads((tmp_path / "e.json").read_text())
    check_result(result, "evaluate")
    assert result["protocol"]["templates"] == ["a {} wall"]
    assert result["protocol"]["class_names"] == ["blue", "green", "red"]
    assert result["model"]["centre"]["images"] == result["data"]["images"] == 8
    assert result["model"]["vision"]["weights_sha256"]
    assert set(result["metrics"]) == {"top1", "mean_per_class", "seconds"}
    shown = run(
        "evaluate", saved_plain, *line, "--aligners", "kernel-ridge, ridge,cca", "--json", tmp_path / "c.json"
    )
    for name in ("kernel-ridge", "ridge", "cca", "top1"):
        assert name in shown
    result = json.loads((tmp_path / "c.json").read_text())
    check_result(result, "evaluate")
    assert [r["model"]["name"] for r in result["results"]] == ["kernel-ridge", "ridge", "cca"]
    assert all(set(r["metrics"]) == {"top1", "mean_per_class", "seconds"} for r in result["results"])


def test_models_in_one_table_of_retrieval(saved_plain, tmp_path):
    for colour in ("red", "green", "blue"):
        paint(tmp_path / f"{colour}.png", colour)
    rows = "".join(f"{c}.png,a {c} wall,test\n" for c in ("red", "green", "blue"))
    (tmp_path / "c.csv").write_text("image,caption,split\n" + rows)
    said = json.loads(
        run(
            *("evaluate", saved_plain, saved_plain, "--task", "retrieval", "--data", tmp_path / "c.csv"),
            *("-k", 1, "-k", 2, "--json", "-"),
        )
    )
    one, two = said["results"]
    assert said["protocol"]["split"] == one["protocol"]["split"] == "test"
    assert one["metrics"]["t2i_r2"] == two["metrics"]["t2i_r2"]
    assert one["protocol"]["k"] == [1, 2]
    assert one["data"]["captions"] == 3


def test_probe(saved_plain, tmp_path):
    root = painted(tmp_path / "data")
    options = ("--data", root, "--shots", 1, "--shots", 2, "--draws", 2, "--json", "-")
    said = json.loads(run("evaluate", saved_plain, "--task", "probe", *options))
    assert said["metrics"]["mean_per_class_2"] > 50
    assert said["protocol"]["shots"] == [1, 2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "clasification", "--data", "DATA"], "did you mean 'classification'"),
        (["--task", "classification", "--data", "/nope"], "there is no folder /nope"),
        (["--task", "classification", "--data", "DATA", "--split", "val"], "no split 'val'; its subfolders"),
        (["--task", "classification", "--data", "DATA", "-k", "9"], "k = 9 does not fit a set of 3 classes"),
        (["--task", "classification", "--data", "DATA", "--template", "x"], 'must have exactly one "{}"'),
        (["--task", "classification", "--data", "DATA", "--centre-on", "/nope"], "/nope"),
        (["--task", "classification", "--data", "DATA", "--class-names", "NAMES"], "2 class names for the 3"),
        (["--task", "classification", "--data", "DATA/red"], "has no class folders"),
        (["--task", "classification", "--data", "EMPTY"], "no images in"),
        (["--task", "classification", "--data", "ONE"], "one class only"),
        (["--task", "classification", "--data", "torchvision:nope"], "no torchvision set 'nope'"),
        (["--task", "retrieval", "--data", "LOST"], "2 of 2 images are missing"),
        (["--task", "retrieval", "--data", "DATA"], "is no caption file"),
        (["--task", "probe", "--data", "DATA", "--shots", "3"], "3 shots and one to test on are more than"),
        (["--task", "few-shot", "--data", "DATA", "--shots", "0"], "shots must be at least 1"),
    ],
)
def test_mistakes(saved_plain, tmp_path, options, said):
    painted(tmp_path / "DATA")
    painted(tmp_path / "EMPTY", colours=("red",))
    (tmp_path / "EMPTY" / "green").mkdir()
    painted(tmp_path / "ONE", colours=("red",))
    (tmp_path / "NAMES").write_text("cat\ndog\n")
    lines = [{"image": f"{n}.png", "caption": "x"} for n in range(2)]
    (tmp_path / "LOST.jsonl").write_text("\n".join(map(json.dumps, lines)))
    places = {"NAMES": "NAMES", "EMPTY": "EMPTY", "ONE": "ONE", "LOST": "LOST.jsonl", "DATA": "DATA"}
    places["DATA/red"] = "DATA/red"
    given = [str(tmp_path / places[option]) if option in places else option for option in options]
    assert said in run("evaluate", saved_plain, *given, code=2)


def test_model_mistakes(saved_plain, tmp_path):
    line = ("--task", "classification", "--data", painted(tmp_path / "d"))
    assert "there is no model 'nope'" in run("evaluate", "nope", *line, code=2)
    assert "no model 'ViT-B-3200'" in run("evaluate", "open_clip:ViT-B-3200/x", *line, code=2)
    assert "say which weights" in run("evaluate", "open_clip:ViT-B-32", *line, code=2)
    assert "of one model; give one" in run(
        "evaluate", saved_plain, saved_plain, *line, "--aligners", "ridge", code=2
    )
    for aligners in ("x", "ridge,"):
        assert "no aligner" in run("evaluate", saved_plain, *line, "--aligners", aligners, code=2)


@pytest.mark.data
def test_flowers(headword_data, tmp_path):
    root = tmp_path / "flowers"
    for folder in (headword_data / "data" / "tf_flowers").iterdir():
        (root / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[::4]:
            shutil.copy(path, root / folder.name)
    said = json.loads(
        run(
            *("evaluate", "embedded", "--task", "classification", "--data", root),
            *("--centre-on", "collection", "--json", "-"),
        )
    )
    assert said["data"]["images"] == 150
    assert said["metrics"]["mean_per_class"] == pytest.approx(47.3, abs=1.5)
