"""The command line, in-process: every documented command, and what users get wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import headword
from headword.cli import app
from support.commands import check_result, run


@pytest.fixture
def photos(pictures, tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("cat", "coffee"):
        shutil.copy(pictures[name], folder / f"{name}.png")
    return folder


# ---- what works


def test_recycle_then_classify(photos, tmp_path):
    shown = run("recycle", "--out", tmp_path / "m", "--centre-on", photos, "--json", tmp_path / "r.json")
    assert "kernel-ridge" in shown
    assert "1,000 from head" in shown
    result = json.loads((tmp_path / "r.json").read_text())
    check_result(result, "recycle")
    assert result["model"]["centre"] == {"kind": "pool", "images": 2, "source": str(photos), "unreadable": 0}
    assert result["metrics"]["fit aligner"] > 0
    said = json.loads(
        run("classify", tmp_path / "m", photos, "--labels", "a cat,a cup of coffee", "--json", "-")
    )
    check_result(said, "classify")
    assert [Path(r["image"]).name for r in said["results"]] == ["cat.png", "coffee.png"]
    assert [r["labels"][0]["label"] for r in said["results"]] == ["a cat", "a cup of coffee"]
    for entry in said["results"]:
        assert sum(label["probability"] for label in entry["labels"]) == pytest.approx(1)
        assert entry["labels"][0]["cosine"] > entry["labels"][1]["cosine"]


def test_recycle_options(photos, tmp_path):
    captions = tmp_path / "captions.jsonl"
    captions.write_text(json.dumps({"image": "photos/cat.png", "captions": ["my pet", "a tabby looks up"]}))
    templates = ("--template", "{}", "--template", "a photo of a {}")
    options = (
        "--aligner",
        "ridge",
        "--set",
        "penalty=2.5",
        "--seed",
        3,
        "--device",
        "cpu",
        "--dtype",
        "float32",
    )
    shown = run("recycle", "--out", tmp_path / "m", "--captions", captions, *templates, *options)
    assert "caption" in shown
    model = headword.load(tmp_path / "m")
    assert (model.aligner.name, model.aligner.settings["penalty"]) == ("ridge", 2.5)
    assert model.templates == ("{}", "a photo of a {}")


def test_quiet_prints_nothing(saved, photos):
    assert run("classify", saved, photos / "cat.png", "--labels", "a cat,a dog", "--quiet") == ""


def test_classify_table_and_options(saved, photos, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("a cat\na cup of coffee\n\na rocket launch\n")
    options = (
        "--centre-on",
        photos,
        "--none-of-these",
        "-k",
        2,
        "--template",
        "a photo of {}",
        "--batch-size",
        1,
    )
    shown = run("classify", saved, f"{photos}/*.png", "--labels-file", words, *options)
    assert "cat.png" in shown
    assert shown.count("%") == 4
    said = json.loads(run("classify", saved, photos, "--labels-file", words, "--multi-label", "--json", "-"))
    assert said["protocol"]["multi_label"] is True
    assert said["results"][0]["labels"][0]["probability"] > 0.5


def test_inspect_classifier_and_model(saved, tmp_path):
    shown = " ".join(run("inspect", "embedded", "--json", tmp_path / "i.json").split())
    for words in (
        "1,000 classes × 1,280 features",
        "apache-2.0",
        "crane ×2",
        "tench",
        "headword recycle --vision",
    ):
        assert words in shown
    result = json.loads((tmp_path / "i.json").read_text())
    check_result(result, "inspect")
    assert result["classes"][0]["name"] == "tench"
    shown = " ".join(run("inspect", saved).split())
    for words in ("kernel-ridge", "tau=0.15", "not centred", "held-out classes"):
        assert words in shown


def test_names_that_look_like_markup(saved, photos, tmp_path):
    odd = tmp_path / "[b]:smile:.png"
    shutil.copy(photos / "cat.png", odd)
    shown = run("classify", saved, odd, "--labels", "[/b],:dog:")
    assert "[b]:smile:.png" in shown
    assert ":dog:" in shown


def test_file_name_that_is_not_utf8(saved, photos):
    import os

    shutil.copy(photos / "cat.png", os.fsencode(photos) + b"/\xff.png")
    said = json.loads(run("classify", saved, photos, "--labels", "a,b", "--json", "-"))
    assert len(said["results"]) == 3
    run("classify", saved, f"{photos}/ca?.png", "--labels", "a,b")


def test_version_and_help():
    assert run("--version").strip() == f"headword {headword.__version__}"
    for command in ("recycle", "classify", "inspect", "demo"):
        assert "--json" in run(command, "--help")


def test_import_is_light():
    """In one process: neither importing headword nor the whole command line imports a model library."""
    code = (
        "import sys, headword, headword.cli; "
        "print([m for m in ('torch', 'numpy', 'timm', 'PIL', 'pyarrow', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names():
    for name in headword.__all__:
        assert getattr(headword, name) is not None
    assert callable(headword.recycle)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = headword.nope


# ---- what users get wrong


def test_missing_image(saved, tmp_path):
    assert "nope.jpg" in run("classify", saved, tmp_path / "nope.jpg", "--labels", "a,b", code=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--labels", ""], "list of labels is empty"),
        (["--labels", " , "], "list of labels is empty"),
        (["--labels", "a,a"], "'a' is given 2 times"),
        ([], "give the words to choose from"),
        (["--labels", "a", "--labels-file", "x"], "give the words to choose from"),
        (["--labels", "a,b", "--template", "photo"], 'must have exactly one "{}"'),
        (["--labels", "a,b", "--multi-label", "--none-of-these"], "exclude each other"),
        (["--labels-file", "/nope.txt"], "/nope.txt"),
        (["--labels", "a,b", "--centre-on", "/nope"], "/nope"),
        (["--labels", "a,b", "--json", "/"], "is a folder"),
    ],
)
def test_classify_mistakes(saved, photos, options, said):
    assert said in run("classify", saved, photos / "cat.png", *options, code=2)


def test_no_model(tmp_path, photos):
    line = run("classify", tmp_path / "nope", photos, "--labels", "a,b", code=2)
    assert "no saved model at" in line
    assert "headword recycle --out" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--aligner", "kernal-ridge"], "did you mean 'kernel-ridge'"),
        (["--aligner", "ridge", "--set", "tau=1"], "ridge has no setting 'tau'"),
        (["--set", "tau"], "write NAME=VALUE"),
        (["--set", "tau=abc"], "tau must be a number"),
        (["--set", "tau=-1"], "tau"),
        (["--vision", "resnt50"], "did you mean"),
        (["--class-names", "/nope.txt"], "/nope.txt"),
        (["--captions", "/nope.jsonl"], "/nope.jsonl"),
        (["--centre-on", "/nope"], "/nope"),
        (["--template", "x"], "template"),
        (["--device", "cuda"], "not available")
        if not torch.cuda.is_available()
        else (["--head", "x"], "no module"),
    ],
)
def test_recycle_mistakes_leave_nothing(tmp_path, options, said):
    assert said in run("recycle", "--out", tmp_path / "m", *options, code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lines", [999, 1001])
def test_class_name_file_of_wrong_length(tmp_path, lines):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing {chr(97 + n % 26)}{n}" for n in range(lines)))
    line = run("recycle", "--out", tmp_path / "m", "--class-names", names, code=2)
    assert f"{lines} class names (class_names) for the 1000 rows" in line


def test_existing_output_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "already exists" in run("recycle", "--out", tmp_path, code=2)
    assert "is a file" in run("recycle", "--out", tmp_path / "file", code=2)


def test_unknown_option_and_choice_exit_with_2(tmp_path):
    for arguments in (["recycle", "--nope"], ["recycle", "--out", tmp_path, "--device", "tpu"], ["nope"]):
        assert CliRunner().invoke(app, [str(a) for a in arguments]).exit_code == 2


def test_readme_commands_exist():
    """Every `headword …` line of the README is parsed by the command it names."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    lines = [line for line in readme.splitlines() if line.startswith("headword ")]
    assert len(lines) >= 5
    for line in lines:
        command = line.split()[1]
        options = [word for word in line.split("#")[0].split() if word.startswith("--")]
        usage = run(command, "--help")
        assert all(option in usage for option in options), line


def test_inspect_knows_an_index_and_a_store(saved, pictures, tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(pictures["cat"], tmp_path / "photos")
    run("index", saved, tmp_path / "photos", "--out", tmp_path / "index")
    assert re.search(r"images +1 of", run("inspect", tmp_path / "index"))
    assert json.loads(run("inspect", tmp_path / "index", "--json", "-"))["index"]["images"] == 1
    run("embed", saved, tmp_path / "photos", "--out", tmp_path / "store")
    assert "Feature store" in run("inspect", tmp_path / "store")
    assert json.loads(run("inspect", tmp_path / "store", "--json", "-"))["store"]["dim"] == 1280
