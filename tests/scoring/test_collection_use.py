"""Whole collections and moving centres through the model, the command line and protocols."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

import headword
from headword.errors import HeadwordError
from headword.evaluation import Protocol
from headword.evaluation.subjects import arrival
from headword.evaluation.tasks import ZeroShot
from headword.scoring.centring import RunningCentre
from headword.scoring.transductive import Hubs, collective_scores, label_shares
from support.commands import run
from support.evaluation_helpers import measured, paint, painted

LABELS = ["a cat", "a rocket", "a cup of coffee"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWORD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def features(plain, pictures):
    return plain.image_features(list(pictures.values())[:8])


@pytest.mark.parametrize("method", ["off", "csls", "inverted-softmax", "sinkhorn", "adapt"])
def test_classify_a_collection(model, features, method):
    prior = {"a cat": 2, "a rocket": 1, "a cup of coffee": 1} if method == "sinkhorn" else None
    chances = model.classify(features, LABELS, collection=method, prior=prior)
    scores = collective_scores(
        model.encode_image(features),
        model.encode_text(LABELS, templates=model.templates),
        method=method,
        scale=model.scores.scale,
        shares=None if prior is None else label_shares(prior, LABELS),
    )
    torch.testing.assert_close(chances, (model.scores.scale * scores).softmax(dim=1))
    torch.testing.assert_close(chances.sum(dim=1), torch.ones(8))
    plain = model.classify(features, LABELS)
    assert torch.equal(chances, plain) == (method == "off")
    if prior is not None:
        torch.testing.assert_close(chances.mean(dim=0), torch.tensor([0.5, 0.25, 0.25]), atol=1e-4, rtol=0)


def test_classify_mistakes(model, features):
    for options, said in (
        ({"collection": "sinkhorn"}, "needs a stated prior"),
        ({"prior": "uniform"}, "goes with the collection method sinkhorn"),
        ({"collection": "adapt", "none_of_these": True}, "judge each image by itself"),
        ({"collection": "sinkhorn", "prior": {"a cat": 1}}, "no share for the label 'a rocket'"),
    ):
        with pytest.raises(HeadwordError, match=said):
            model.classify(features, LABELS, **options)


def test_images_as_they_arrive(model, features):
    running = model.running_centre()
    parts = torch.cat([model.encode_image(part, centre=running) for part in features.split([3, 1, 4])])
    centres = RunningCentre(torch.zeros(model.vision.dim), 2.0).centres(features)
    by_hand = model.aligner.image(features, centres)
    torch.testing.assert_close(parts, by_hand)
    assert not torch.allclose(parts, model.encode_image(features), atol=1e-2)
    model.centre_on(features)
    torch.testing.assert_close(model.running_centre().prior, model.aligner.centre_.double())
    chances = model.classify(features, LABELS, centre=model.running_centre(5.0))
    assert chances.shape == (8, 3)


def test_search_with_hubs(model, features):
    said = ["a cat on a sofa", "a launch", "breakfast", "the moon at night"]
    hubs = model.hubs(features, said, k=2)
    assert isinstance(hubs, Hubs)
    places, scores = model.search(features, LABELS, k=8, hubs=hubs)
    words = model.encode_text(said)
    queries = F.normalize(model.encode_text(LABELS) - words.mean(dim=0), dim=1)
    images, reference = model.encode_image(features), F.normalize(words - words.mean(dim=0), dim=1)
    naive = queries @ images.T - (images @ reference.T).topk(2, dim=1).values.mean(dim=1) / 2
    torch.testing.assert_close(scores, naive.gather(1, places))
    assert (scores.diff(dim=1) <= 0).all()
    plain, cosines = model.search(features, LABELS, k=8)
    naive = model.encode_text(LABELS) @ model.encode_image(features).T
    torch.testing.assert_close(cosines, naive.gather(1, plain))


def test_by_source_is_kept(plain, features):
    words = plain.text.encode(["a photo of it"] * 8)
    shown = headword.Pairs(features, words, ("a photo of it",) * 8, ("caption",) * 8)
    fitted = headword.make_aligner("ridge", centre_by_source=True).fit(plain.pairs + shown)
    torch.testing.assert_close(fitted.centre_, F.normalize(features, dim=1).mean(dim=0))
    again = type(fitted).restore(fitted.settings, fitted.tensors)
    assert again.centre_by_source
    assert torch.equal(again.image(features), fitted.image(features))
    assert torch.equal(again.text(words), fitted.text(words))


# ---- the command line


def test_classify_command(saved_plain, pictures, tmp_path):
    shown = [pictures[name] for name in ("cat", "coffee", "rocket")]
    line = ("classify", saved_plain, *shown, "--labels", ",".join(LABELS), "--json", tmp_path / "c.json")
    text = run(*line, "--collection", "adapt", "--centre-on", "online")
    assert "transductive: adapt labels the whole collection at once" in " ".join(text.split())
    said = json.loads((tmp_path / "c.json").read_text())
    assert said["protocol"]["collection"] == "adapt"
    assert said["protocol"]["centre_on"] == "online"
    assert len(said["notes"]) == 2
    (tmp_path / "prior.json").write_text(json.dumps(dict(zip(LABELS, (1, 1, 2), strict=True))))
    run(*line, "--collection", "sinkhorn", "--prior", tmp_path / "prior.json")
    said = json.loads((tmp_path / "c.json").read_text())
    assert said["protocol"]["prior"] == {"a cat": 0.25, "a rocket": 0.25, "a cup of coffee": 0.5}
    chances = [{entry["label"]: entry["probability"] for entry in r["labels"]} for r in said["results"]]
    assert sum(one["a cup of coffee"] for one in chances) == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--collection", "nope"], "no collection method 'nope'"),
        (["--collection", "sinkhorn"], "needs a stated prior"),
        (["--collection", "sinkhorn", "--prior", "/nope.json"], "no file /nope.json"),
        (["--collection", "sinkhorn", "--prior", "LIST"], "must hold an object"),
        (["--collection", "csls", "--multi-label"], "judge each image by itself"),
        (["--centre-on", "/nope"], "/nope"),
    ],
)
def test_classify_command_mistakes(saved_plain, pictures, tmp_path, options, said):
    (tmp_path / "list.json").write_text("[1]")
    given = [str(tmp_path / "list.json") if option == "LIST" else option for option in options]
    assert said in run("classify", saved_plain, pictures["cat"], "--labels", "a,b", *given, code=2)


def test_evaluate_command(saved_plain, tmp_path):
    line = (
        "evaluate",
        saved_plain,
        "--task",
        "classification",
        "--data",
        painted(tmp_path / "d"),
        "--json",
        "-",
    )
    options = ("--collection", "sinkhorn", "--prior", "uniform", "--centre-on", "first:4", "--seed", 1)
    said = json.loads(run(*line, *options))
    assert (said["protocol"]["collection"], said["protocol"]["centre_on"]) == ("sinkhorn", "first:4")
    assert said["data"]["prior"] == pytest.approx([1 / 3] * 3)
    assert len(said["notes"]) == 2


@pytest.mark.parametrize("values", [{"collection": "csls"}, {"collection": "adapt"}, {"centre_on": "online"}])
def test_evaluate(model, tmp_path, values):
    data = str(painted(tmp_path / "d"))
    plain = measured(model, task="classification", data=data)
    assert (plain.protocol.collection, plain.notes) == ("off", ())
    result = measured(model, task="classification", data=data, **values)
    assert result.protocol.as_dict() == {**plain.protocol.as_dict(), **values}
    assert len(result.notes) == 1


def test_evaluate_retrieval_with_hubness(saved_plain, tmp_path):
    lines = ["image,caption,split"]
    for colour in ("red", "green", "blue", "yellow"):
        for number, split in enumerate(("train", "test")):
            paint(tmp_path / f"{colour}{number}.png", colour, 20 * number)
            lines.append(f"{colour}{number}.png,a {colour} wall,{split}")
    (tmp_path / "c.csv").write_text("\n".join(lines))
    line = ("evaluate", saved_plain, "--task", "retrieval", "--data", tmp_path / "c.csv", "--split", "test")
    said = json.loads(run(*line, "--hubness", "train", "--centre-on", "reference", "--json", "-"))
    assert said["protocol"]["hubness"] == "train"
    assert said["model"]["centre"]["images"] == 4
    assert any("4 images and 4 texts of the split train" in note for note in said["notes"])
    assert "no split 'val'" in run(*line, "--hubness", "val", code=2)


# ---- protocols


def test_online_and_first_protocols(model, features, tmp_path):
    protocol = {"task": "classification", "data": str(painted(tmp_path / "d"))}
    task = ZeroShot(Protocol(**protocol, centre_on="online", seed=3))
    order = arrival(8, 3)
    assert not torch.equal(order, torch.arange(8))
    embeds = task.encode_images(model, features)
    by_hand = model.encode_image(features[order], centre=model.running_centre())
    torch.testing.assert_close(embeds[order], by_hand)
    result = measured(model, **protocol, centre_on="first:2", seed=5)
    assert result.model["centre"]["images"] == 2
    assert "2 of the tested images" in result.notes[0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"collection": "nope"}, "no collection method"),
        ({"collection": "adapt", "task": "retrieval"}, "collection is for the task classification"),
        ({"hubness": "train"}, "hubness is for the task retrieval"),
        ({"centre_on": "reference"}, "give hubness a split"),
        ({"centre_on": "first:none"}, "needs a positive number"),
        ({"centre_on": "first:0"}, "needs a positive number"),
        ({"prior": "uniform"}, "goes with the collection method sinkhorn"),
    ],
)
def test_bad_protocols(values, said):
    with pytest.raises(HeadwordError, match=said):
        Protocol(**{"task": "classification", "data": "x", **values})
