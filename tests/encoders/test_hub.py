"""Models on the hub: any pin becomes a commit, which is recorded and loaded again; and what can go wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import headword
from headword.cli import app
from headword.encoders import hub as _hub
from headword.encoders import load_text, load_vision
from headword.errors import HeadwordError
from headword.evaluation import open_model
from support import stranger_models as made
from support.hub import LocalHub

KINDS = {
    "hf-hub:me/timm": (load_vision, made.timm_folder),
    "transformers:me/vision": (load_vision, made.transformers_vision),
    "transformers:me/text": (load_text, made.transformers_text),
    "sentence-transformers:me/sentences": (load_text, made.sentence_transformers),
    "open_clip:hf-hub:me/clip": (load_text, made.open_clip_folder),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for spec, (_, make) in KINDS.items():
        make(root / spec.rpartition("/")[2])
    return root


@pytest.fixture
def hub(models, tmp_path, monkeypatch):
    """A local hub, an empty cache, and a first commit of each model as main and v1.0."""
    served = LocalHub()
    for name in (spec.rpartition("/")[2] for spec in KINDS):
        served.push(f"me/{name}", models / name, "main", "v1.0", "refs/pr/1")
    with served.for_client(tmp_path / "hub-cache", monkeypatch):
        yield served


def other(folder: Path, target: Path) -> Path:
    """The same model with other weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    for file in target.rglob("*.safetensors"):
        changed = {
            name: tensor * 1.01 if tensor.is_floating_point() else tensor
            for name, tensor in load_file(file).items()
        }
        save_file(changed, file, {"format": "pt"})
    return target


@pytest.mark.parametrize("spec", KINDS)
def test_a_pin_becomes_a_commit(hub, models, tmp_path, spec):
    load, _ = KINDS[spec]
    repo = spec.partition("me/")[1] + spec.partition("me/")[2]
    first = hub.refs[repo]["v1.0"]
    moved = hub.push(repo, other(models / repo[3:], tmp_path / "other"))
    newest, pinned = load(spec), load(f"{spec}@v1.0")
    assert (newest.source.revision, pinned.source.revision) == (moved, first)
    assert newest.source.id == pinned.source.id == spec.partition(":")[2] or spec.startswith("hf-hub")
    assert newest.fingerprint != pinned.fingerprint
    for pin in (first, "refs/pr/1"):
        assert load(f"{spec}@{pin}").fingerprint == pinned.fingerprint
    assert load(pinned.name + "@" + first).fingerprint == pinned.fingerprint  # as a saved model names it


def test_saved_model_stays_on_its_commit(hub, models, tmp_path, monkeypatch):
    from huggingface_hub import constants

    model = headword.recycle("hf-hub:me/timm@main", "transformers:me/text")
    folder = model.save(tmp_path / "model")
    config = json.loads((folder / "headword.json").read_text())
    assert config["vision"]["revision"] == hub.refs["me/timm"]["main"]
    assert config["text"]["revision"] == hub.refs["me/text"]["main"]
    for name in ("timm", "text"):
        hub.push(f"me/{name}", other(models / name, tmp_path / name))
    words = model.encode_text(["a cat"])
    assert torch.equal(headword.load(folder).encode_text(["a cat"]), words)
    shutil.rmtree(constants.HF_HUB_CACHE)  # another machine: the old commit is downloaded
    assert torch.equal(headword.load(folder).encode_text(["a cat"]), words)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert torch.equal(headword.load(folder).encode_text(["a cat"]), words)
    assert hub.requests == []


def test_reference_records_its_commit(hub):
    said = open_model("open_clip:hf-hub:me/clip@v1.0").provenance()
    assert said["vision"]["revision"] == hub.refs["me/clip"]["v1.0"]


def test_pins_on_the_command_line(hub, tmp_path):
    arguments = [
        "recycle",
        "--vision",
        "transformers:me/vision@v1.0",
        "--text",
        "sentence-transformers:me/sentences@v1.0",
    ]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "model"), "--json", "-"])
    model = json.loads(result.stdout)["model"]
    assert model["vision"]["revision"] == hub.refs["me/vision"]["v1.0"]
    assert model["text"]["revision"] == hub.refs["me/sentences"]["v1.0"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("me/missing", "the hub has no model 'me/missing', or it is private: log in"),
        ("me/private", "the hub has no model 'me/private', or it is private: log in"),
        ("me/gated", "'me/gated' is gated: ask for access at http.*/me/gated, then log in"),
        ("me/timm@v9", "the hub's 'me/timm' has no branch, tag or commit 'v9'"),
        (f"me/timm@{'0' * 40}", "has no branch, tag or commit '0000"),
        ("me/unknown-token", r"does not accept your token \(401\)"),
        ("me/busy", r"asked too often \(429\)"),
        ("me/broken", r"the hub itself is at fault \(500\); try again later"),
        ("me/cut", "the download of 'me/cut' was cut off; run it again"),
        ("me/empty", "the hub's me/empty has no weights that timm reads: no model.safetensors"),
    ],
)
def test_what_the_hub_answers(hub, models, tmp_path, name, said):
    hub.push("me/cut", models / "timm")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    hub.push("me/empty", tmp_path / "empty")
    with pytest.raises(HeadwordError, match=said) as caught:
        load_vision(f"hf-hub:{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://no-such-host.invalid", "its name no-such-host.invalid is not found"),
        ("http://127.0.0.1:1", "the model hub cannot be reached: 127.0.0.1:1: Connection refused"),
        (None, "HF_HUB_OFFLINE keeps the hub from being asked"),
    ],
)
def test_no_hub(hub, monkeypatch, endpoint, said):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", endpoint is None)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint or hub.url)
    _hub.hub_unreachable.cache_clear()
    for load, spec in ((load_vision, "transformers:me/vision"), (load_text, "open_clip:hf-hub:me/clip")):
        with pytest.raises(HeadwordError, match=said + ".*, and it is not in the cache; what works offline"):
            load(spec)
    assert hub.requests == []
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with _hub.data_sets():  # which would ask for half a minute
        assert datasets.config.HF_HUB_OFFLINE
    assert not datasets.config.HF_HUB_OFFLINE


@pytest.mark.parametrize("spec", ["transformers:me/bin", "sentence-transformers:me/bin"])
def test_pytorch_checkpoints_by_the_weights_only_reader(hub, models, tmp_path, spec):
    """One rule for all: without safetensors, torch's own format is read, never its code."""
    from safetensors.torch import load_file

    folder = shutil.copytree(models / ("text" if spec.startswith("tr") else "sentences"), tmp_path / "bin")
    sound = load_text(str(folder) if spec.startswith("s") else f"transformers:{folder}")
    for file in folder.rglob("*.safetensors"):
        torch.save(load_file(file), file.with_name("pytorch_model.bin"))
        file.unlink()
    made.bring_code(folder, tmp_path / "RAN")
    hub.push("me/bin", folder)
    assert load_text(spec).fingerprint == sound.fingerprint
    assert not any("evil.py" in line for line in hub.requests)
    payload = shutil.copytree(folder, tmp_path / "payload")
    made.pickled(payload / "pytorch_model.bin", tmp_path / "RAN")
    hub.push("me/bin", payload)
    with pytest.raises(HeadwordError, match="cannot load 'me/bin'"):
        load_text(spec)
    assert not (tmp_path / "RAN").exists()


def test_timm_names_are_pinned_too(hub, models, monkeypatch, tmp_path):
    """timm's own weights lie in repositories of the hub's, and are loaded by commit as well."""
    import timm

    folder = tmp_path / "weights"
    model = timm.create_model("mobilenetv3_small_050")
    folder.mkdir()
    from safetensors.torch import save_file

    save_file(model.state_dict(), folder / "model.safetensors")
    commit = hub.push("timm/mobilenetv3_small_050.lamb_in1k", folder)
    loaded = load_vision("mobilenetv3_small_050")
    assert loaded.source.revision == commit
    again = load_vision(f"timm:mobilenetv3_small_050@{commit}")
    assert again.fingerprint == loaded.fingerprint


def test_a_repository_is_no_path():
    with pytest.raises(HeadwordError, match="no file or folder"):
        load_vision("transformers:./nothing")
