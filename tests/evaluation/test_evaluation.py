"""Protocols on a model whose answers are known, and the cache of features."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

import headword
from headword.errors import HeadwordError
from headword.evaluation import Protocol, evaluate, probe
from headword.evaluation.protocol import table
from headword.evaluation.subjects import recentred, refitted
from headword.extract import job
from support.evaluation_helpers import colours_model, measured, paint, painted


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWORD_CACHE", str(tmp_path / "cache"))


def captions(folder, entries, name="captions.jsonl"):
    path = folder / name
    path.write_text("\n".join(json.dumps(entry) for entry in entries))
    return path


# ---- protocols as data


def test_protocol_goes_through_json():
    protocol = Protocol(task="probe", data="x", shots=(1, 3), k=(1,), templates=("a {}",), split="val")
    assert Protocol(**json.loads(json.dumps(protocol.as_dict()))) == protocol


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"task": "retrieval", "data": "x", "splt": "test"}, "no option 'splt'; did you mean 'split'"),
        ({"task": "retreival", "data": "x"}, "task must be one of .*'retreival'; did you mean 'retrieval'"),
        ({"task": "retrieval"}, "data is missing"),
        ({"task": "retrieval", "data": "x", "k": 5}, "k must be a list"),
        ({"task": "retrieval", "data": "x", "k": ["five"]}, "k must be a list"),
        ({"task": "retrieval", "data": "x", "k": [0]}, "k must be at least 1"),
        ({"task": "retrieval", "data": "x", "k": [1, 1]}, "a number, and each once"),
        ({"task": "probe", "data": "x", "shots": []}, "must name a number"),
        ({"task": "probe", "data": "x", "shots": None}, "shots must be a list"),
        ({"task": "probe", "data": "x", "draws": True}, "draws must be a whole number"),
        ({"task": "probe", "data": ["x"]}, "data must be a text"),
        ({"task": "probe", "data": "x", "missing": "no"}, "missing must be one of error, skip"),
        ({"task": "probe", "data": "x", "templates": ["photo"]}, "exactly one"),
    ],
)
def test_protocol_mistakes(values, said):
    with pytest.raises(HeadwordError, match=said):
        Protocol(**values)


# ---- tasks


def test_zero_shot_result_says_everything(tmp_path):
    root = painted(tmp_path / "data", colours=("red", "green", "blue", "yellow"))
    shutil.move(root / "red" / "0.png", root / "blue" / "odd.png")  # a red picture that is called blue
    result = measured(colours_model(), task="classification", data=str(root), templates=("a {} thing",))
    assert result.metrics["top1"] == pytest.approx(100 * 11 / 12)
    assert result.metrics["mean_per_class"] == pytest.approx(100 * (3 + 0.75) / 4)
    assert "top5" not in result.metrics
    assert result.protocol.class_names == ("blue", "green", "red", "yellow")
    assert result.protocol.templates == ("a {} thing",)
    assert result.protocol.k == (1,)
    assert result.data["images"] == 12
    said = result.as_json()
    assert said["schema"] == 1
    assert said["headword"] == headword.__version__
    assert said["environment"]["torch"]
    assert said["model"]["name"] == "identity"
    assert Protocol(**said["protocol"]) == result.protocol
    json.dumps(said)


@pytest.mark.usefixtures("short_calls_too")
def test_unreadable_image_is_left_out_counted_and_named(tmp_path):
    root = painted(tmp_path / "data")
    (root / "green" / "1.png").write_bytes(b"no picture")
    (root / "red" / "2.png").write_bytes(b"")
    for _ in range(2):  # computed, then from the cache
        result = measured(colours_model(), task="classification", data=str(root))
        assert result.metrics["top1"] == 100
        assert result.data["images"] == 7
        assert [line for line in result.data["skipped"] if "green/1.png" in line]
        assert [line for line in result.data["skipped"] if "red/2.png" in line]


def test_class_without_readable_images_is_named(tmp_path):
    root = painted(tmp_path / "data", each=1)
    (root / "green" / "0.png").write_bytes(b"no picture")
    result = measured(colours_model(), task="classification", data=str(root))
    assert result.data["classes_without_images"] == ["green"]
    (root / "blue" / "0.png").write_bytes(b"no picture")
    with pytest.raises(HeadwordError, match="are of one class, 'red'"):
        measured(colours_model(), task="classification", data=str(root))
    (root / "red" / "0.png").write_bytes(b"no picture")
    with pytest.raises(HeadwordError, match="none of 3 images could be read"):
        measured(colours_model(), task="classification", data=str(root))


def test_retrieval_and_an_unreadable_image(tmp_path):
    for colour in ("red", "green", "blue"):
        paint(tmp_path / f"{colour}.png", colour)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    path = captions(
        tmp_path,
        [
            {"image": "bad.png", "captions": ["a yellow one", "more yellow"]},
            {"image": "red.png", "captions": ["a red one", "a blue mistake"]},
            {"image": "green.png", "captions": ["a green one"]},
            {"image": "blue.png", "captions": ["a blue one"]},
        ],
    )
    result = measured(colours_model(), task="retrieval", data=str(path), k=(1, 2))
    assert (result.data["images"], result.data["captions"], len(result.data["skipped"])) == (3, 4, 1)
    assert "bad.png" in result.data["skipped"][0]
    assert result.metrics["t2i_r1"] == 75
    assert result.metrics["i2t_r1"] == pytest.approx(200 / 3)  # of blue, the mistake ties with the right one
    assert result.protocol.metric == "t2i_r2"


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [
        (("train", "val", "test"), "test"),
        (("train", "val", "train"), "val"),
        (("train", "restval", "train"), "restval+train"),
        (("train", "restval", None), None),
        ((None, None, None), None),
    ],
)
def test_the_split_that_is_measured_is_one_rule_and_said(tmp_path, splits, chosen):
    rows = list(zip(("red", "green", "blue"), splits, strict=True))
    for colour, _ in rows:
        paint(tmp_path / f"{colour}.png", colour)
    path = captions(tmp_path, [{"image": f"{c}.png", "caption": f"a {c} one", "split": s} for c, s in rows])
    table = tmp_path / "labels.csv"
    table.write_text("image,label,split\n" + "".join(f"{c}.png,{c},{s or ''}\n" for c, s in rows))
    kept = [c for c, s in rows if chosen is None or s in chosen.split("+")]
    result = measured(colours_model(), task="retrieval", data=str(path), k=(1,))
    assert (result.protocol.split, result.data["images"]) == (chosen, len(kept))
    said = [note for note in result.notes if "since none was named" in note]
    assert said == ([f"measured on the split {chosen}, since none was named (--split)"] if chosen else [])
    named = measured(colours_model(), task="retrieval", data=str(path), k=(1,), split=chosen)
    assert named.data == result.data
    assert not any("since none was named" in note for note in named.notes)
    if len(kept) > 1:
        result = measured(colours_model(), task="classification", data=str(table), k=(1,))
        assert (result.protocol.split, result.data["images"]) == (chosen, len(kept))


def test_retrieval_counts_missing_images(tmp_path):
    for colour in ("red", "green"):
        paint(tmp_path / f"{colour}.png", colour)
    entries = [{"image": f"{name}.png", "caption": name} for name in ("red", "green", "gone")]
    path = captions(tmp_path, entries)
    with pytest.raises(HeadwordError, match=r"1 of 3 images are missing.*gone\.png"):
        measured(colours_model(), task="retrieval", data=str(path))
    result = measured(colours_model(), task="retrieval", data=str(path), missing="skip")
    assert result.data["missing"] == 1
    assert result.protocol.k == (1,)
    with pytest.raises(HeadwordError, match="k = 5 does not fit a set of 2 images"):
        measured(colours_model(), task="retrieval", data=str(path), missing="skip", k=(5,))
    with pytest.raises(HeadwordError, match="no split 'test'"):
        measured(colours_model(), task="retrieval", data=str(path), split="test")
    with pytest.raises(HeadwordError, match="captions, not classes"):
        measured(colours_model(), task="retrieval", data=str(path), templates=("{}",))


@pytest.mark.parametrize("colours", [("red", "green"), ("red", "green", "blue")])
def test_probe_tells_colours_apart(tmp_path, colours):
    root = painted(tmp_path / "data", each=5, colours=colours)
    result = measured(colours_model(), task="probe", data=str(root), shots=(1, 4), draws=2)
    assert result.metrics["mean_per_class_1"] == result.metrics["mean_per_class_4"] == 100
    assert result.metrics["mean_per_class_4_std"] == 0
    with pytest.raises(HeadwordError, match="5 shots and one to test on are more than the 5 images"):
        measured(colours_model(), task="probe", data=str(root), shots=(5,))


def test_shots_from_another_split(tmp_path):
    painted(tmp_path / "data" / "test", each=2)
    painted(tmp_path / "data" / "train", each=4)
    settings = {"task": "probe", "data": str(tmp_path / "data"), "split": "test", "shots": (4,), "draws": 1}
    result = measured(colours_model(), **settings, train_split="train")
    assert result.metrics["mean_per_class_4"] == 100
    assert result.data["images"] == 6
    with pytest.raises(HeadwordError, match="from the tested split 'test' itself"):
        measured(colours_model(), **settings, train_split="test")
    shutil.rmtree(tmp_path / "data" / "train" / "red")
    with pytest.raises(HeadwordError, match="same classes"):
        measured(colours_model(), **settings, train_split="train")


def test_few_shot_adds_class_means(tmp_path, monkeypatch):
    root, added = painted(tmp_path / "data", each=3), []
    monkeypatch.setattr(
        probe, "refitted", lambda model, more: added.append(more) or refitted(model, more=more)
    )
    result = measured(colours_model(fitted=True), task="few-shot", data=str(root), shots=(1, 2), draws=1)
    assert list(result.metrics) == ["mean_per_class_0", "mean_per_class_1", "mean_per_class_2", "seconds"]
    for pairs in added:
        assert pairs.names == ("blue", "green", "red")
        assert set(pairs.source) == {"class-mean"}
    assert result.protocol.templates == ("{}",)


def test_centring(tmp_path):
    root = painted(tmp_path / "data")
    pool = measured(colours_model(), task="classification", data=str(root), centre_on="collection")
    assert pool.model["centre"]["images"] == 9
    assert "tested images" in pool.notes[0]
    bad = painted(tmp_path / "pool", colours=("red",))
    (bad / "red" / "0.png").write_bytes(b"no picture")
    other = measured(colours_model(), task="classification", data=str(root), centre_on=str(bad))
    assert other.model["centre"] == {"kind": "pool", "images": 2, "source": str(bad), "unreadable": 0}
    assert "1 images of the pool could not be read" in other.notes[0]
    with pytest.raises(HeadwordError, match="no folder"):
        measured(colours_model(), task="classification", data=str(root), centre_on="/nope")


def test_metric_must_be_the_tasks(tmp_path):
    root = painted(tmp_path / "data")
    with pytest.raises(HeadwordError, match="no metric 'r1'; it has top1"):
        measured(colours_model(), task="classification", data=str(root), metric="r1")
    with pytest.raises(HeadwordError, match="k = 5 does not fit a set of 3 classes"):
        measured(colours_model(), task="classification", data=str(root), k=(5,))


# ---- the cache


@pytest.fixture
def short_calls_too(monkeypatch):
    """The cache is asked however few images or texts there are."""
    monkeypatch.setattr("headword.extract.features.CACHE_FROM", 1)
    monkeypatch.setattr("headword.encoders.text.CACHE_FROM", 1)


@pytest.mark.usefixtures("short_calls_too")
def test_features_are_computed_once(tmp_path):
    root = painted(tmp_path / "data")
    protocol = {"task": "classification", "data": str(root)}
    model = colours_model()
    seen, read = model.vision.source.model.seen, model.text.source.model.read
    first = measured(model, **protocol)
    assert measured(model, **protocol).metrics["top1"] == first.metrics["top1"]
    assert (seen, len(read)) == ([9], 3)
    os.utime(root / "red" / "0.png", (0, 0))  # an image changed
    measured(model, **protocol)
    assert seen == [9, 1]
    other = colours_model("other weights")
    results = evaluate({"colours": model, "other weights": other}, Protocol(**protocol))
    assert (seen, other.vision.source.model.seen) == ([9, 1], [9])
    columns, rows = table(results)
    assert columns == ("model", "mean_per_class", "top1", "seconds")
    assert [row[0] for row in rows] == ["colours", "other weights"]


@pytest.mark.usefixtures("short_calls_too")
def test_features_of_another_engine_or_precision_are_never_served(tmp_path, monkeypatch):
    """As after OpenVINO was installed, or on a machine that has bfloat16."""
    protocol = {"task": "classification", "data": str(painted(tmp_path / "data"))}
    model = colours_model()
    measured(model, **protocol)
    choose = job.choose
    for engine, dtype in (("torch", "bfloat16"), ("openvino", "float32")):
        monkeypatch.setattr(job, "choose", lambda *_, e=engine, d=dtype, **__: job.Choice(e, d))
        monkeypatch.setattr(job, "open_engine", lambda _, choice, *__, **___: (all_red, choice, None))
        assert measured(model, **protocol).metrics["top1"] == pytest.approx(100 / 3)
    monkeypatch.setattr(job, "choose", choose)
    assert measured(model, **protocol).metrics["top1"] == 100


def all_red(batches):
    """An engine to which all pictures are red."""
    return (torch.tensor([1.0, 0, 0]).expand(len(batch), 3) for batch in batches)


# ---- a real model


def test_aligners_on_one_set_of_features(plain, pictures, tmp_path):
    entries = [{"image": str(pictures[name]), "caption": f"a {name}"} for name in ("cat", "coffee", "rocket")]
    path = captions(tmp_path, entries)
    protocol = Protocol(task="retrieval", data=str(path), centre_on="collection")
    results = evaluate(plain, protocol, aligners=["kernel-ridge", "ridge"])
    assert [r.name for r in results] == ["kernel-ridge", "ridge"]
    assert [r.model["aligner"]["name"] for r in results] == ["kernel-ridge", "ridge"]
    assert results[0].model["centre"]["images"] == 3
    (direct,) = evaluate(plain, protocol)
    assert direct.metrics["t2i_map"] == results[0].metrics["t2i_map"]
    assert plain.centre.kind == "default"  # the model itself stays as it was
    other = recentred(plain, torch.rand(2, 1280), "x")
    assert not torch.equal(other.aligner.centre_, plain.aligner.centre_)
    for model, aligners, said in (
        (plain, ["cats"], "no aligner 'cats'"),
        (colours_model(), ["ridge"], "no mapping to exchange"),
        (plain, ["ridge", "ridge"], "each aligner once"),
        ([plain, plain], ["ridge"], "of one model; give one"),
        ([], None, "no model"),
    ):
        with pytest.raises(HeadwordError, match=said):
            evaluate(model, protocol, aligners=aligners)


def test_few_shot_of_a_real_model(plain, tmp_path):
    root = painted(tmp_path / "data", each=3)
    result = measured(plain, task="few-shot", data=str(root), shots=(2,), draws=1)
    assert result.metrics["mean_per_class_2"] >= result.metrics["mean_per_class_0"]
    assert plain.pairs.sources["head"] == 1000
    assert "class-mean" not in plain.pairs.sources
    more = refitted(plain, more=plain.pairs[:3])
    assert more.provenance()["pairs"]["number"] == len(plain.pairs) + 3
