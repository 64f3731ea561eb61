"""Every benchmark runs, small: a few pictures, a few classes, a few steps; and writes its result."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import headword
from experiments import harness
from experiments.__main__ import FILES, app
from headword.training.export import save_trained
from headword.training.run import train
from support.commands import run_app
from support.small_data import small_data
from support.training import tiny

SMALL = {
    "beyond-fit": ("--first", 12),
    "beyond-tried": ("--only", "default", "--classes", 60),
    "centring": ("--classes", 60),
    "collection": ("--classes", 60),
    "extract-memory": ("--images", 30),
    "extract-speed": ("--images", 4, "--photos", 1, "--rounds", 1),
    "familiarity": (),
    "first-minutes": ("--rounds", 1, "--recycles", 0),
    "fit-large": ("--pairs", 60, "--agreement-pairs", 60, "--runs", 1, "--only", "ridge"),
    "gradcache": ("--batch", 4, "--pieces", 1, "--pieces", 2),
    "index-speed": ("--size", 50, "--count", 50, "--new", 2, "--queries", 2),
    "joint": (
        *("--general", "embedded", "--general", "embedded:lite1", "--special", "embedded:lite2"),
        *("--classes", 12),
    ),
    "judged": (),
    "kernel-vs-paper-mlp": ("--classes", 30, "--epochs", 2),
    "locate": ("--pictures", 1, "--no-variants"),
    "locate-families": ("--families", "resnet,vgg"),
    "locate-shapes": ("--seeds", 1, "--pairs", 256, "--pictures", 8),
    "metrics-speed": ("--share", 0.01),
    "relevance": (),
    "reproduce": (),
    "score-calibration": (),
    "search-speed": ("--rows", 2000, "--turns", 1),
    "serve-speed": ("--images", 50, "--searches", 1, "--parallel", 4, "--rounds", 1, "--commands", 1),
    "small-heads": ("--most", 1),
    "soak": ("--requests", 30),
    "superclip-flops": ("--models", "RN50"),
    "superclip-evidence": ("train", "--images", 128, "--only", "superclip-b128-n2-lr0.00283-s3"),
    "superclip-step": ("--model", "ViT-S-32-alt", "--batch", 2, "--steps", 1),
    "teach": ("--set", "tf_flowers", "--draws", 1, "--no-clicks"),
    "teach-speed": ("--size", "3x9", "--images", 40, "--labels", 2, "--clicks", 10),
    "text-cache": ("--prompts", 20),
    "token-heads": ("--images", 12, "--captions", 8),
    "token-loss-memory": ("--batch", 64, "--vocab", 300, "--width", 8, "--steps", 1, "--repeats", 1),
    "train-input": ("--batch", 4, "--steps", 1, "--blocks", 1),
}


def tiny_with_token_head(run: Path) -> Path:
    """A model that two steps were taught, with its token head."""
    result = train(tiny(steps=2), run)
    assert result.model is not None
    return save_trained(
        result.model, result.blueprint, run / "model", provenance={}, keep_token_head=True,
        token_counts=result.token_counts,
    )  # fmt: skip


REAL = os.environ.get("HEADWORD_DATA")  # where boxes and masks are

SLOW = {
    *("beyond-fit", "beyond-tried", "centring", "collection", "extract-memory", "extract-speed"),
    *(
        "familiarity",
        "first-minutes",
        "gradcache",
        "joint",
        "judged",
        "kernel-vs-paper-mlp",
        "locate",
        "locate-families",
        "locate-shapes",
        "relevance",
        "score-calibration",
    ),
    *("score-calibration", "serve-speed", "small-heads", "soak"),
    *("superclip-evidence", "superclip-step", "teach", "teach-speed", "token-heads", "train-input"),
}
"""Those that take more than a few seconds: `pytest -m slow` runs them."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def results(data, model, tmp_path, monkeypatch):
    """Where results go, with few pictures for data and the model that other tests have recycled."""
    monkeypatch.setenv("HEADWORD_DATA", str(data))
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(headword, "recycle", lambda *_, **__: model)
    return tmp_path / "results"


def test_none_is_forgotten():
    assert set(SMALL) == {name for name, file in FILES.items() if file.parent.name == "benchmarks"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in SMALL]
)
def test_runs_small(name, results, saved, monkeypatch):
    options = list(SMALL[name])
    if name == "search-speed":
        pytest.importorskip("faiss")
        monkeypatch.delenv("HEADWORD_DATA")
    if name == "judged":
        monkeypatch.setattr("experiments.benchmarks.judged.SHARES", (0.8,))
        monkeypatch.setattr("experiments.benchmarks.judged.DRAWS", 1)
        monkeypatch.setattr("experiments.benchmarks.judged.MOVES", (0.5,))
    if name in ("judged", "locate", "relevance"):
        if REAL is None:
            pytest.skip("HEADWORD_DATA does not name a folder with data/coco128")
        monkeypatch.setenv("HEADWORD_DATA", REAL)
    if name == "first-minutes":
        options += ["--model", saved]
    if name == "token-heads":
        options += ["--model", tiny_with_token_head(results.parent / "run")]
    if name == "familiarity":
        monkeypatch.setattr("experiments.benchmarks.familiarity.RESAMPLES", 20)
    if name == "joint":
        monkeypatch.setattr("experiments.benchmarks.joint.BIRDS", list(range(6)))
    if name == "small-heads":
        monkeypatch.setattr("experiments.benchmarks.small_heads.SIZES", {5: 1, 20: 1})
    if name == "superclip-evidence":
        monkeypatch.setattr("experiments.benchmarks.superclip_evidence.PAIRS", 256)
        monkeypatch.setattr("experiments.benchmarks.superclip_evidence.shape_evaluators", lambda _: {})
    if name == "reproduce":
        monkeypatch.setattr("experiments.benchmarks.reproduce.RECIPES", {})
    run_app(app, name, *options)
    files = [json.loads(file.read_text()) for file in results.rglob("*.json")]
    assert files
    assert all(result["environment"]["python"] == sys.version.split()[0] for result in files)
