"""`python -m experiments`, in-process: on planted classes, on real data where there is some, and mistakes."""

from __future__ import annotations

import json
import re

import pytest

from experiments import bench, report
from experiments.__main__ import FILES, app
from experiments.likeness import drawn_means, likeness
from experiments.recipes import RECIPES, modality_gap
from experiments.recipes.cosine_classifier import cosine_against_linear
from support import recipe_helpers
from support.commands import check_result, run_app


def run(*arguments, code=0):
    return run_app(app, *arguments, code=code)


@pytest.fixture
def planted(monkeypatch):
    """The command measures on planted classes."""
    monkeypatch.setattr(bench, "Bench", recipe_helpers.planted)
    monkeypatch.setattr(modality_gap, "planar", recipe_helpers.flat)


def test_list():
    listed = run()
    assert run("--list") == run("-h") == listed
    assert set(RECIPES) < set(FILES)
    assert all(re.search(rf"^  {name}  +\S", listed, re.MULTILINE) for name in (*FILES, "all"))


def test_one_recipe(planted, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw", recipe_helpers.drawn)
    line = ("cosine-classifier", "--data", tmp_path, "--out", tmp_path / "o")
    assert "here" in run(*line, "--json", tmp_path / "r")
    result = json.loads((tmp_path / "r").read_text())
    check_result(result, "experiments")
    assert result["recipe"] == "cosine-classifier"
    assert [claim["outcome"] for claim in result["claims"]]
    assert (tmp_path / "o" / "cosine-classifier" / "report.html").is_file()
    assert not run(*line, "--seed", 3, "--json", tmp_path / "r", "--quiet", "--overwrite")
    assert json.loads((tmp_path / "r").read_text())["seed"] == 3
    assert "already exists" in run(*line, code=2)


def test_mistakes(tmp_path, monkeypatch):
    monkeypatch.delenv("HEADWORD_DATA", raising=False)
    assert "did you mean 'setting-1'" in run("setting1", code=2)
    assert "set HEADWORD_DATA" in run("setting-1", code=2)
    assert "there is no folder" in run("setting-1", "--data", tmp_path / "no", code=2)
    line = ("setting-1", "--data", tmp_path)
    assert "no folder data/" in run(*line, code=2)
    assert "there is no aligner 'mpl'" in run(*line, "--without", "mpl", code=2)
    (tmp_path / "data").mkdir()
    assert "has no cifar10" in run(*line, code=2)


@pytest.mark.data
def test_real_rows_are_prototypes_and_nearer_to_words_than_images(headword_data):
    """One head on a thousand images; the recipes themselves take four heads and more sets."""
    real = bench.Bench(root=headword_data)
    head, data = real.head(), real.labelled("imagenet_sample")
    assert len(head.names) == 1000 == len(data.features)
    found = cosine_against_linear(data.features, data.labels, head.rows, head.bias)
    assert found.linear == pytest.approx(84.4, abs=0.5)
    assert found.cosine == pytest.approx(83.0, abs=0.5)
    images = drawn_means(data.features, data.labels, 1, real.generator(0))
    rows, single = (likeness(side, head.text, (10,)).neighbours[10] for side in (head.rows, images))
    assert rows == pytest.approx(0.197, abs=0.003)
    assert single == pytest.approx(0.088, abs=0.005)
    assert real.provenance()["EfficientNet-Lite0"]["weights_sha256"]
