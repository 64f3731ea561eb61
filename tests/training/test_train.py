"""A run from start to end, stopped, killed, resumed, refused."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from headword.errors import HeadwordError
from headword.files import load_tensors
from headword.training import SuperCLIP, checkpoint
from headword.training.checkpoint import folder_of, steps_of
from headword.training.processes import SIGNALS, stoppable
from headword.training.run import TrainResult, train
from headword.training.trainer import Evaluator
from support.training import TINY, tiny


class Stopped(Exception):  # noqa: N818 - it is no error
    pass


def stop_after(step: int) -> Any:
    def watch(record: Mapping[str, float]) -> None:
        if record["step"] == step:
            raise Stopped

    return watch


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(tiny(), tmp_path_factory.mktemp("runs") / "unbroken")


def assert_same_end(run: Path, other: Path) -> None:
    for file in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        mine, wanted = (load_tensors(folder_of(r, 12) / file) for r in (run, other))
        assert mine.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert torch.equal(mine[name], tensor), name


def records(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("images_per_second", "data_wait")
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def test_a_run_learns_and_leaves_its_folder(unbroken: TrainResult) -> None:
    run = unbroken.folder
    assert sorted(entry.name for entry in run.iterdir()) == [
        "checkpoints", "config.yaml", "metrics.jsonl", "run.json",
    ]  # fmt: skip
    lines = records(run)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[0]["loss"] == pytest.approx(lines[0]["contrastive"] + lines[0]["token"], rel=1e-6)
    assert steps_of(run) == [8, 12]
    assert json.loads((run / "run.json").read_text())["data_fingerprint"] == unbroken.data_fingerprint
    assert unbroken.model is not None
    assert not unbroken.model.training


def test_a_stopped_run_goes_on_to_the_same_numbers(unbroken: TrainResult, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train(tiny(), run, watch=stop_after(7))
    assert steps_of(run) == [4]
    result = train(tiny(log_every=1, workers=0, keep_last=1), run, resume="auto")
    assert result.resumed_from == 4
    assert_same_end(run, unbroken.folder)
    assert records(run) == records(unbroken.folder)
    assert steps_of(run) == [12]


def test_a_run_killed_in_the_middle_of_an_epoch_goes_on_to_the_same_numbers(
    unbroken: TrainResult, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    script = (
        "import os, signal, sys, torch; torch.set_num_threads(1)\n"
        "from headword.training.config import TrainConfig\n"
        "from headword.training.run import train\n"
        "watch = lambda record: os.kill(os.getpid(), signal.SIGKILL) if record['step'] == 6 else None\n"
        f"train(TrainConfig(**{TINY!r}), {str(run)!r}, watch=watch)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / ".run.lock").exists()  # which keeps nobody out
    assert steps_of(run) == [4]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # as a kill may leave it
    (run / "checkpoints" / ".step-00000008.0a1b2c3d.tmp").mkdir()
    train(tiny(), run, resume="auto")
    assert_same_end(run, unbroken.folder)
    assert records(run) == records(unbroken.folder)
    assert sorted(entry.name for entry in (run / "checkpoints").iterdir()) == [
        "step-00000008",
        "step-00000012",
    ]


@pytest.mark.attack
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of itself")
def test_a_run_killed_while_it_writes_goes_on_to_the_same_files(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "support" / "killed_training.py"
    words = [sys.executable, str(script), str(tmp_path), "10", "0"]
    told = subprocess.run(words, capture_output=True, text=True, check=True)
    changes = json.loads(told.stdout)
    assert len(changes) == 10
    assert sum(".tmp" in change for change in changes) >= 5, changes

    def files(run: Path) -> dict[str, bytes]:
        return {str(f.relative_to(run)): f.read_bytes() for f in run.rglob("*") if f.is_file()}

    killed, unbroken = files(tmp_path / "killed"), files(tmp_path / "unbroken")
    assert killed.keys() == unbroken.keys()  # nothing is left of what was half-written
    for name in killed.keys() - {"run.json", "metrics.jsonl"}:
        assert killed[name] == unbroken[name], name
    assert records(tmp_path / "killed") == records(tmp_path / "unbroken")


def test_processes_that_read_ahead_change_nothing(unbroken: TrainResult, tmp_path: Path) -> None:
    result = train(tiny(workers=2), tmp_path / "run")
    assert_same_end(result.folder, unbroken.folder)


def test_a_checkpoint_goes_on_in_another_folder(unbroken: TrainResult, tmp_path: Path) -> None:
    result = train(tiny(), tmp_path / "fork", resume=folder_of(unbroken.folder, 8))
    assert result.resumed_from == 8
    assert_same_end(result.folder, unbroken.folder)


def test_a_finished_run_has_nothing_left_to_do(unbroken: TrainResult) -> None:
    result = train(tiny(), unbroken.folder, resume="auto")
    assert (result.resumed_from, result.steps) == (12, 12)
    assert result.model is not None
    assert unbroken.model is not None
    for name, tensor in unbroken.model.state_dict().items():
        assert torch.equal(result.model.state_dict()[name], tensor), name


def test_auto_starts_where_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(tiny(), tmp_path / "run", resume="auto", watch=stop_after(2))
    assert steps_of(tmp_path / "run") == []
    with pytest.raises(Stopped):  # stopped before its first checkpoint: from the start
        train(tiny(), tmp_path / "run", resume="auto", watch=stop_after(2))


@pytest.mark.parametrize(
    ("options", "how", "said"),
    [
        ({}, {}, "--resume auto"),
        ({"lr": 0.5, "workers": 1}, {"resume": "auto"}, "other options: lr 0.001 .now 0.5"),
        ({"seed": 1}, {"resume": "auto"}, "other options: seed"),
        ({}, {"resume": "auto", "overwrite": True}, "not both"),
        ({}, {"resume": "nowhere"}, "is no checkpoint"),
        ({}, {"resume": 8}, "later checkpoints"),
    ],
)
def test_a_folder_with_a_run_is_not_lost(
    unbroken: TrainResult, options: dict[str, Any], how: dict[str, Any], said: str
) -> None:
    if how.get("resume") == 8:
        how = {"resume": folder_of(unbroken.folder, 8)}
    before = {path: path.stat().st_mtime_ns for path in unbroken.folder.rglob("*")}
    with pytest.raises(HeadwordError, match=said):
        train(tiny(**options), unbroken.folder, **how)
    assert {path: path.stat().st_mtime_ns for path in unbroken.folder.rglob("*")} == before


def test_other_data_are_not_gone_on_with(unbroken: TrainResult) -> None:
    from headword.training.data import open_training_set

    other = open_training_set("shapes:images=64,size=48")
    with pytest.raises(HeadwordError, match="other data"):
        train(tiny(), unbroken.folder, dataset=other, resume="auto")


def test_a_strange_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(HeadwordError, match="not overwritten"):
        train(tiny(), tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").is_file()


def test_the_best_checkpoint_is_kept_beside_the_last(tmp_path: Path) -> None:
    values = iter([1.0, 5.0, 2.0, 2.0, 2.0, 2.0])
    modes = []

    def evaluator(model: SuperCLIP) -> dict[str, float]:
        modes.append(model.training)
        return {"accuracy": next(values), "other": 0.0}

    config = tiny(eval_every=2, checkpoint_every=100, keep_last=1)
    evaluators = {"test": Evaluator(("accuracy", "other"), evaluator)}
    result = train(config, tmp_path / "run", evaluators=evaluators)
    assert result.best is not None
    assert (result.best.step, result.best.metric, result.best.value) == (4, "test/accuracy", 5.0)
    assert steps_of(tmp_path / "run") == [4, 12]
    assert modes == [False] * 6
    told = [r for r in records(tmp_path / "run") if "test/accuracy" in r]
    assert [r["step"] for r in told] == [2, 4, 6, 8, 10, 12]


def test_a_metric_that_is_not_measured_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    def never(_: SuperCLIP) -> dict[str, float]:
        raise AssertionError

    config = tiny(best_metric="test/acuracy")
    said = "none of those measured: test/accuracy; did you mean 'test/accuracy'"
    with pytest.raises(HeadwordError, match=said):
        train(config, tmp_path / "run", evaluators={"test": Evaluator(("accuracy",), never)})
    with pytest.raises(HeadwordError, match="give eval_data"):
        train(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_that_fails_loses_nothing(unbroken: TrainResult, tmp_path: Path) -> None:
    run, measured = tmp_path / "run", []

    def evaluator(model: SuperCLIP) -> dict[str, float]:
        measured.append(model.clip.logit_scale.item())
        if len(measured) == 2:
            raise HeadwordError("the disk with the pictures is gone")
        return {"first": -measured[-1], "second": measured[-1]}

    evaluators = {"test": Evaluator(("first", "second"), evaluator)}
    config = tiny(eval_every=5, checkpoint_every=100)
    with pytest.raises(HeadwordError, match="is gone; step 10 is kept; go on with: headword train --resume"):
        train(config, run, evaluators=evaluators)
    assert steps_of(run) == [5, 10]
    result = train(config.replace(best_metric="test/second"), run, evaluators=evaluators, resume="auto")
    assert measured[1] == measured[2]  # step 10 was measured again
    told = [r for r in records(run) if "test/first" in r]
    assert [r["step"] for r in told] == [5, 10, 12]
    best = max(told[1:], key=lambda r: r["test/second"])  # of those since it counts
    assert result.best is not None
    assert (result.best.step, result.best.value) == (best["step"], best["test/second"])
    assert_same_end(run, unbroken.folder)
    again = train(config, run, evaluators=evaluators, resume="auto")  # measured, so not once more
    assert len(measured) == 4
    assert again.metrics == result.metrics


def test_a_longer_run_goes_on_and_a_shorter_is_refused(unbroken: TrainResult, tmp_path: Path) -> None:
    result = train(tiny(steps=14), tmp_path / "run", resume=folder_of(unbroken.folder, 12))
    assert (result.resumed_from, result.steps) == (12, 14)
    with pytest.raises(HeadwordError, match="already past the 10 steps"):
        train(tiny(steps=10), unbroken.folder, resume="auto")
    result = train(tiny(epochs=2), tmp_path / "run", resume="auto")
    assert (result.resumed_from, result.steps) == (14, 16)


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGINT, 2), (signal.SIGTERM, 0)])
def test_an_interrupted_run_is_kept_and_goes_on(
    number: signal.Signals, workers: int, unbroken: TrainResult, tmp_path: Path
) -> None:
    run = tmp_path / "a run"
    before = [signal.getsignal(one) for one in SIGNALS]

    def press(record: Mapping[str, float]) -> None:
        if record["step"] == 5:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt, match=r"step 6 is kept; go on with: .* --out '.*/a run'$"):
        train(tiny(workers=workers), run, watch=press)
    assert [signal.getsignal(one) for one in SIGNALS] == before
    assert steps_of(run) == [4, 6]
    train(tiny(workers=workers), run, resume="auto")
    assert_same_end(run, unbroken.folder)
    assert records(run) == records(unbroken.folder)


def test_the_second_signal_does_what_it_did_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stoppable(alone=True) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with stoppable(alone=False) as stop:  # torchrun may send it twice
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
    assert signal.getsignal(signal.SIGINT) is before


def test_a_folder_has_one_run_at_a_time(unbroken: TrainResult, tmp_path: Path) -> None:
    run, refused = tmp_path / "run", []

    def another(record: Mapping[str, float]) -> None:
        if record["step"] == 5:
            (tmp_path / "link").symlink_to(run)
            for out, how in ((run, {"resume": "auto"}), (tmp_path / "link", {"overwrite": True})):
                with pytest.raises(HeadwordError, match=r"another process is training into .*/run; wait"):
                    train(tiny(), out, **how)
                refused.append(how)

    train(tiny(), run, watch=another)
    assert len(refused) == 2
    assert_same_end(run, unbroken.folder)
    assert not list(tmp_path.glob(".*"))


def test_a_loss_that_is_not_finite_stops_with_step_and_samples(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = tiny(lr=1e30, clip_norm=None, weight_decay=0.0, warmup=0, checkpoint_every=1, keep_last=20)
    with pytest.raises(HeadwordError, match=r"loss is nan, .* in step 2, samples shapes/train/\d+"):
        train(config, run)
    assert steps_of(run) == [1]


def test_batches_that_cannot_be_divided_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HeadwordError, match="1 processes × 3 pieces"):
        train(tiny(accumulate=3), tmp_path / "run")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(HeadwordError, match="3 processes × 1 pieces"):
        train(tiny(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sharding_over_one_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadwordError, match="torchrun"):
        train(tiny(strategy="fsdp"), tmp_path / "run")


def test_a_run_leaves_torch_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(tiny(steps=1, deterministic=True, patch_dropout=0.5), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


def test_event_files_are_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny(steps=2, tensorboard=True), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]


def test_an_average_of_the_weights_is_kept_measured_and_gone_on_with(tmp_path: Path) -> None:
    seen: list[SuperCLIP] = []

    def measure(model: SuperCLIP) -> dict[str, float]:
        seen.append(copy.deepcopy(model))
        return {"one": 1.0}

    evaluators = {"own": Evaluator(("one",), measure)}
    whole = train(tiny(ema=0.5, eval_every=0), tmp_path / "whole", evaluators=evaluators)
    with pytest.raises(Stopped):
        train(tiny(ema=0.5, eval_every=0), tmp_path / "parts", watch=stop_after(5))
    train(tiny(ema=0.5, eval_every=0), tmp_path / "parts", resume="auto")
    assert_same_end(tmp_path / "parts", tmp_path / "whole")
    plain = train(tiny(eval_every=0), tmp_path / "plain")
    assert whole.model is not None
    assert plain.model is not None
    averaged, last = dict(whole.model.named_parameters()), dict(plain.model.named_parameters())
    differ = [name for name in last if not torch.equal(averaged[name], last[name])]
    assert "token_head.linear.weight" in differ
    tensors = load_tensors(tmp_path / "whole" / "checkpoints" / "step-00000012" / "model.safetensors")
    for name, value in averaged.items():
        assert torch.equal(value, tensors[f"average.{name}"])
        assert torch.equal(tensors[f"model.{name}"], last[name]), "the weights themselves are as without"
        assert torch.equal(value, dict(seen[0].named_parameters())[name])
