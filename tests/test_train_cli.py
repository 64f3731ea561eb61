"""`headword train`, as docs/training.md has it, and what it leaves: a model like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import headword
from headword.cli.app import app
from headword.files import load_tensors
from headword.superclip.config import TrainConfig
from training import TINY

TINY_WORDS = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    out = tmp_path_factory.mktemp("cli") / "run"
    told = out.with_name("result.json")
    result = run("train", "--out", out, *TINY_WORDS, "--steps", 3, "--json", told)
    assert result.exit_code == 0, result.output
    return out, result.output, json.loads(told.read_text())


def test_a_trained_model_is_a_model_like_any_other(
    trained: tuple[Path, str, dict[str, Any]], pictures: dict[str, Path]
) -> None:
    out, said, told = trained
    assert "step       1  loss" in said
    assert told["command"] == "train"
    assert told["protocol"]["config"]["steps"] == 3
    assert {"shapes/overall", "held_out/overall", "images_per_second"} <= told["metrics"].keys()
    model = headword.load(out / "model")
    assert model.classify(list(pictures.values())[:2], ["a cat", "a cup"]).shape == (2, 2)
    picture = str(next(iter(pictures.values())))
    labelled = run("classify", out / "model", picture, "--labels", "a cat,a cup", "--json", "-")
    assert labelled.exit_code == 0, labelled.output


def test_a_runs_own_options_start_it_again(trained: tuple[Path, str, dict[str, Any]]) -> None:
    out, _, told = trained
    assert TrainConfig.from_sources(out / "config.yaml") == TrainConfig.of(told["protocol"]["config"])
    result = run("train", "--config", out / "config.yaml", "--out", out, "--resume", "auto", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    refused = run("train", "--config", out / "config.yaml", "--out", out)
    assert refused.exit_code == 2
    assert "--resume auto" in refused.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "stepps=3"], "did you mean 'steps'"),
        (["--data", "nowhere"], "there is no training set"),
        (["--eval-data", "nowhere"], "nowhere"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--config", "nowhere.yaml"], "no file"),
        (["--wandb", "project", *TINY_WORDS], "headword[wandb]"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    result = run("train", "--out", tmp_path / "run", *words)
    assert result.exit_code == 2
    assert said in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "run" / "model").exists()


def test_captions_are_measured_by_retrieval_and_folders_by_name(
    pictures: dict[str, Path], tmp_path: Path
) -> None:
    paths = list(pictures.items())[:8]
    captions = tmp_path / "captions.jsonl"
    captions.write_text(
        "".join(json.dumps({"image": str(p), "caption": f"a picture of {n}"}) + "\n" for n, p in paths)
    )
    for number, (_, path) in enumerate(paths):
        folder = tmp_path / "sorted" / ("bright" if number % 2 else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).symlink_to(path)
    for eval_data, metric in (
        (captions, "retrieval/t2i_r5"),
        (tmp_path / "sorted", "zero_shot/mean_per_class"),
    ):
        told = tmp_path / "result.json"
        out = tmp_path / metric.replace("/", "-")
        words = [*TINY_WORDS, "--data", captions, "--steps", 1, "--eval-data", eval_data, "--quiet"]
        result = run("train", "--out", out, *words, "--json", told)
        assert result.exit_code == 0, result.output
        assert 0 <= json.loads(told.read_text())["metrics"][metric] <= 100


def test_a_classifiers_backbone_is_trained_on(
    pictures: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: Any
) -> None:
    from headword.superclip import prototypes

    begun_with: list[Any] = []
    monkeypatch.setattr(  # tests/test_trained.py has the rows, which take a while
        prototypes, "init_token_head", lambda _, dual, *, features: begun_with.extend((dual, features))
    )
    captions = tmp_path / "captions.jsonl"
    lines = [json.dumps({"image": str(p), "caption": f"a picture of {n}"}) for n, p in pictures.items()]
    captions.write_text("\n".join(lines))
    words = ["--data", captions, "--backbone", "embedded", "--image-size", 64, "--batch-size", 4]
    words += ["--accumulate", 2, "--steps", 1, "--set", "token_init=prototypes", "--device", "cpu"]
    result = run("train", "--out", tmp_path / "run", *words, "--set", "tensorboard=no", "--quiet")
    assert result.exit_code == 0, result.output
    dual, features = begun_with
    assert dual.vision.fingerprint == embedded.vision.fingerprint
    assert features.shape == (4, 1280)
    # Frozen by default, since pieces are not the batch; the weights beside them are trained.
    before = embedded.vision.source.model.state_dict()
    trained = load_tensors(tmp_path / "run" / "model" / "clip" / "open_clip_model.safetensors")
    trunk = {name.removeprefix("visual.trunk."): t for name, t in trained.items() if ".trunk." in name}
    for name, tensor in trunk.items():
        if "running" in name:
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(trunk["conv_stem.weight"], before["conv_stem.weight"])
