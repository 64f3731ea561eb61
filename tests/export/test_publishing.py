"""A model on the hub: pushed and loaded again, its card, and what the hub or headword refuses."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
import yaml

import headword
from headword.aligners.kernel import KernelRidge
from headword.aligners.pairs import Pairs
from headword.encoders import load_vision
from headword.errors import HeadwordError
from headword.export.card import model_card
from headword.model import DualEncoder
from headword.scoring.calibration import Scores
from headword.scoring.centring import Centre
from support import stranger_models as made
from support.commands import run
from support.hub import TOKEN, LocalHub
from support.indexing import tiny_model

TEXTS = ["a cat", "a street at night"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A local hub with nothing on it, and a token that may write."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with LocalHub().for_client(tmp_path / "hub-cache", monkeypatch) as served:
        yield served


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A model whose encoders are small and in folders of this machine."""
    root = tmp_path_factory.mktemp("own")
    text = headword.load_text(str(made.sentence_transformers(root / "sentences")))
    folder = made.timm_folder(root / "timm")
    return headword.recycle(f"local-dir:{folder}", text, class_names=made.NAMES)


def test_a_round_trip(hub, plain):
    name = plain.push("me/pets")
    commit = hub.refs["me/pets"]["main"]
    assert name == f"hf:me/pets@{commit}"
    files = {file.name for file in hub.repos["me/pets"][commit].iterdir()}
    assert files == {
        "README.md", "aligner.safetensors", "classes.jsonl", "headword.json", "prototypes.safetensors",
    }  # fmt: skip
    for spec in ("hf:me/pets", name):
        again = headword.load(spec)
        assert torch.equal(again.encode_text(TEXTS), plain.encode_text(TEXTS))
        assert again.provenance() == plain.provenance()


def test_a_second_push_replaces_the_first(hub, plain, own):
    first = own.push("me/pets", with_encoders=True)
    assert (hub.repos["me/pets"][first.partition("@")[2]] / "text").is_dir()
    around = copy.deepcopy(plain.aligner)
    around.centre_on(torch.rand(9, 1280, generator=torch.Generator().manual_seed(0)))
    second = replace(plain, aligner=around, centre=Centre("pool", images=9)).push("me/pets")
    assert headword.load("hf:me/pets").centre.kind == "pool"
    assert headword.load(first).centre.kind == "default"
    assert not (hub.repos["me/pets"][second.partition("@")[2]] / "text").exists()


def test_the_command(hub, saved_plain, tmp_path):
    result = tmp_path / "result.json"
    result.write_text(
        json.dumps({"protocol": {"task": "classification", "data": "pets"}, "metrics": {"top1": 71.5}})
    )
    said = json.loads(run("push", saved_plain, "me/pets", "--private", "--results", result, "--json", "-"))
    assert said["pushed"].startswith("hf:me/pets@")
    assert hub.private == {"me/pets"}
    card = next(iter(hub.repos["me/pets"].values())).parent
    text = (hub.repos["me/pets"][hub.refs["me/pets"]["main"]] / "README.md").read_text("utf-8")
    assert "| classification pets top1 | 71.50 |" in text, card
    result.write_text("[]")
    assert "headword evaluate" in run("push", saved_plain, "me/pets", "--results", result, code=2)


def test_private_without_the_token_is_one_line(hub, plain, monkeypatch):
    plain.push("me/secret", private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HeadwordError, match="or it is private: log in"):
        headword.load("hf:me/secret")
    with pytest.raises(HeadwordError, match="pushing needs a token"):
        plain.push("me/secret")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("me/gated", "is gated: ask for access"),
        ("me/none", "has no model"),
        ("me/broken", "itself is at fault"),
    ],
)
def test_what_cannot_be_had(hub, name, match):
    with pytest.raises(HeadwordError, match=match):
        headword.load(f"hf:{name}")


def test_what_the_hub_refuses(hub, plain, monkeypatch):
    with pytest.raises(HeadwordError, match="may not write there"):
        plain.push("theirs/pets")
    monkeypatch.setenv("HF_TOKEN", "hf_of_yesterday")
    with pytest.raises(HeadwordError, match="does not accept your token"):
        plain.push("me/pets")
    for name in ("pets", "me/pets@v1", "../pets"):
        with pytest.raises(HeadwordError, match=r"no repository|no model's name|Repo id must"):
            plain.push(name)


def test_what_is_here_alone_is_not_named(hub, own):
    with pytest.raises(HeadwordError, match="vision encoder module:TinyNet is on this machine alone"):
        tiny_model().push("me/tiny")
    with pytest.raises(HeadwordError, match="--with-encoders"):
        own.push("me/own")
    own.push("me/own", with_encoders=True)
    again = headword.load("hf:me/own")
    images = torch.rand(2, 3, *own.vision.source.input_size)
    assert torch.equal(again.encode_image(images), own.encode_image(images))


def test_the_card_is_for_people(plain):
    card = model_card(plain, "me/pets")
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "headword"
    for words in (
        'headword.load("hf:me/pets")',
        "embedded:lite0",
        "1,000 classes × 1,280 features",
        "apache-2.0",
    ):
        assert words in card
    well = next(line for line in card.splitlines() if line.startswith("| well"))
    badly = next(line for line in card.splitlines() if line.startswith("| badly"))
    words = [line.split("|")[2].strip().split(", ") for line in (well, badly)]
    least, most = (plain.familiarity(side) for side in words)
    assert least.min() > plain.familiarity_fit.low > most.max()


def wide_model(names, text):
    """A model of many classes; what it has learnt is drawn."""
    random = torch.Generator().manual_seed(0)
    net = timm.create_model("mobilenetv3_small_050", num_classes=len(names))
    vision = load_vision(net, names=names, device="cpu")
    image, words = (torch.randn(len(names), width, generator=random) for width in (vision.dim, text.dim))
    pairs = Pairs(image, words, tuple(names))
    learnt = {"text_": F.normalize(words, dim=1), "alpha_": image, "centre_": torch.zeros(vision.dim)}
    return DualEncoder(
        vision=vision,
        text=text,
        aligner=KernelRidge.restore({}, learnt),
        pairs=pairs,
        templates=("{}",),
        scores=Scores(20.0, 20.0, 0.2),
        centre=Centre("default"),
    )


def test_21841_classes_push_and_load_quickly(hub, own):
    names = [f"class {n} of many" for n in range(21_841)]
    model = wide_model(names, own.text)
    start = time.process_time()
    model.push("me/wide", with_encoders=True)
    again = headword.load("hf:me/wide")
    seconds = time.process_time() - start  # the hub's share among them, whatever else runs
    assert len(again.classes) == 21_841
    assert torch.equal(again.encode_text(TEXTS), model.encode_text(TEXTS))
    assert seconds < 30
