"""`headword train`, as docs/training.md has it, and what it leaves: a model like any other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import headword
from headword.cli.app import app
from headword.files import load_tensors
from headword.training import in_training
from headword.training.config import TrainConfig
from headword.training.run import train
from support.training import TINY

TINY_WORDS = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module", autouse=True)
def _few_questions() -> Iterator[None]:
    """Enough for a number of each name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_training, "evaluate_shapes", partial(in_training.evaluate_shapes, images=40))
        yield


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
    assert TrainConfig.from_sources(out / "config.yaml") == TrainConfig(**told["protocol"]["config"])
    result = run("train", "--config", out / "config.yaml", "--out", out, "--resume", "auto", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    refused = run("train", "--config", out / "config.yaml", "--out", out)
    assert refused.exit_code == 2
    assert "--resume auto" in refused.output


def test_a_run_goes_on_with_its_own_options(
    trained: tuple[Path, str, dict[str, Any]], tmp_path: Path
) -> None:
    out, _, told = trained
    fork, last = tmp_path / "fork", out / "checkpoints" / "step-00000003"
    result = run("train", "--resume", last, "--out", fork, "--steps", 4, "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert "1 steps after step 3; Ctrl-C keeps what is done" in result.output
    options = json.loads((tmp_path / "r.json").read_text())["protocol"]["config"]
    assert options == {**told["protocol"]["config"], "steps": 4}
    refused = run("train", "--resume", "auto", "--out", fork, "--lr", 0.5)
    assert refused.exit_code == 2
    assert "other options: lr 0.001 (now 0.5)" in refused.output


def test_a_checkpoint_is_made_a_model(
    trained: tuple[Path, str, dict[str, Any]], pictures: dict[str, Path], tmp_path: Path
) -> None:
    out, _, _ = trained
    stopped, model = tmp_path / "stopped", tmp_path / "model"

    def press(record: Mapping[str, float]) -> None:
        if record["step"] == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig.from_sources(out / "config.yaml"), stopped, watch=press)
    for source, step in ((out, 3), (out / "checkpoints" / "step-00000003", 3), (stopped, 2)):
        shown = run("train", "--export", source, "--out", model, "--overwrite", "--json", tmp_path / "m.json")
        assert shown.exit_code == 0, shown.output
        assert shown.output.splitlines()[-1].startswith(f"Next: headword classify {model} IMAGE")
        assert headword.load(model).provenance()["training"]["steps"] == step
        file = Path("clip") / "open_clip_model.safetensors"
        assert ((model / file).read_bytes() == (out / "model" / file).read_bytes()) == (step == 3)
    picture = str(next(iter(pictures.values())))
    labelled = run("classify", model, picture, "--labels", "a cat,a cup", "--json", "-")
    assert labelled.exit_code == 0, labelled.output


STUCK = """
import time
from headword.cli.app import main
from headword.training.data.sources import ShapesSamples

text, read = ShapesSamples.text, []

def stuck(samples, index):  # as a disk that does not answer
    read.append(index)
    if len(read) > 40:
        time.sleep(1000)
    return text(samples, index)

ShapesSamples.text = stuck
main()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a terminal as Unix has it")
def test_a_second_ctrl_c_ends_a_run_that_is_stuck(tmp_path: Path) -> None:
    import fcntl
    import pty
    import termios

    words = [*TINY_WORDS, "--workers", "1", "--set", "checkpoint_every=2", "--out", str(tmp_path / "run")]
    screen, terminal = pty.openpty()
    command = [sys.executable, "-c", STUCK, "train", *words]
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    for awaited in (b"step       5", b"Ctrl-C again stops at once", b"go on with: headword train"):
        while awaited not in shown:
            shown += os.read(screen, 1024)
        os.write(screen, b"\x03")
    assert process.wait(60) == 130
    assert b"headword: interrupted: step 4 is kept" in shown
    assert b"Traceback" not in shown
    os.close(screen)


def test_what_is_no_checkpoint_is_no_model(trained: tuple[Path, str, dict[str, Any]], tmp_path: Path) -> None:
    out, _, _ = trained
    broken = tmp_path / "broken"
    shutil.copytree(out, broken)
    last = broken / "checkpoints" / "step-00000003"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    shutil.copytree(last, tmp_path / "elsewhere" / "alone")

    def refused(said: str, *words: Any) -> None:
        result = run("train", *words)
        assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
        assert said in result.output
        assert not (tmp_path / "new").exists()

    new = ("--out", tmp_path / "new")
    refused("is no run and no checkpoint", "--export", tmp_path, *new)
    refused("is no run and no checkpoint", "--export", tmp_path / "nowhere", *new)
    refused("lies outside its run", "--export", tmp_path / "elsewhere" / "alone", *new)
    refused("already exists", "--export", out, "--out", tmp_path / "full")
    refused("not overwritten", "--export", out, "--out", tmp_path / "full", "--overwrite")
    refused("so --lr does not go with it", "--export", out, *new, "--lr", 1)
    refused("so --resume does not go with it", "--export", out, *new, "--resume", "auto")
    weights = last / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    refused("cut short", "--export", broken, *new)
    (broken / "run.json").write_text('{"format": 1, "model": {"model_cfg": 3}}')
    refused("is damaged", "--export", broken, *new)
    shutil.rmtree(last)
    refused("has no checkpoint yet; no step was kept; go on with", "--export", broken, *new)


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
        shutil.copy(path, folder)
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


def test_damaged_pictures_are_left_out_of_an_evaluation(pictures: dict[str, Path], tmp_path: Path) -> None:
    captions, folders, whole = tmp_path / "captions.jsonl", tmp_path / "folders", list(pictures.values())[:6]
    broken = folders / "kind a" / "broken.jpg"
    for number, path in enumerate(whole):
        folder = folders / f"kind {'ab'[number % 2]}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    training = tmp_path / "training.jsonl"
    for file, paths in ((training, whole), (captions, [broken, *whole])):
        file.write_text("".join(json.dumps({"image": str(p), "caption": p.stem}) + "\n" for p in paths))
    options = [*TINY_WORDS, "--data", training, "--steps", 2, "--batch-size", 2, "--set", "eval_every=1"]
    for eval_data, metric, content, why in (
        (captions, "retrieval/t2i_r5", whole[0].read_bytes()[:900], "damaged"),
        (folders, "zero_shot/mean_per_class", b"no picture", "is not an image"),
    ):
        broken.write_bytes(content)
        told, out = tmp_path / "result.json", tmp_path / metric.replace("/", "-")
        result = run("train", "--out", out, *options, "--eval-data", eval_data, "--json", told)
        assert result.exit_code == 0, result.output
        left_out = [line for line in result.output.splitlines() if "left out of the evaluation" in line]
        assert len(left_out) == 1
        assert left_out[0].startswith(f"1 of 7 pictures of {eval_data} cannot be read")
        assert why in left_out[0]
        assert metric in json.loads(told.read_text())["metrics"]


def test_an_evaluation_without_a_picture_is_refused_before_the_first_step(tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"no picture")
    captions.write_text("".join(json.dumps({"image": f"{n}.jpg", "caption": n}) + "\n" for n in "ab"))
    result = run("train", "--out", tmp_path / "run", *TINY_WORDS, "--eval-data", captions)
    assert result.exit_code == 2
    assert "none of 2 images could be read" in result.output
    assert not (tmp_path / "run").exists()


def test_a_classifiers_backbone_is_trained_on(
    pictures: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: Any
) -> None:
    from headword.training import prototypes

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
