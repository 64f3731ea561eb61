"""What leaves headword: the files by themselves, compared with headword; and what is refused."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
from torchvision.models.resnet import BasicBlock
from torchvision.transforms._presets import ImageClassification

from headword.aligners import make_aligner
from headword.encoders import load_text, load_vision
from headword.errors import HeadwordError
from headword.export import export_immich, export_labels
from headword.export import graph as graphs
from headword.export.graph import LabelGraph, PictureGraph, example_pixels, pixel_plan
from headword.export.last_layer import last_layer
from headword.files import load_tensors, read_metadata
from headword.recycling import recycle
from support import stranger_models as made
from support.commands import check_result, run
from support.extraction import TinyNet, tiny_vision
from support.indexing import tiny_model, tiny_text

LABELS = ["a cat", "a cup of coffee", "a rocket launch", "a motorcycle"]
WORDS = ["ant", "bee", "an elk in the snow"]
OPTIONS = ({}, {"none_of_these": True}, {"multi_label": True})


@pytest.fixture(scope="module")
def tiny():
    return tiny_model()


@pytest.fixture(scope="module")
def exported(plain, tmp_path_factory) -> Path:
    """The embedded encoders with four labels and its text side."""
    file = tmp_path_factory.mktemp("exported") / "pets.onnx"
    done = plain.classifier(LABELS).export(file, with_text=True)
    assert done.metrics["difference"] < 1e-4
    assert [one.name for one in done.files] == ["pets.onnx", "pets.text.onnx", "pets.tokenizer.json"]
    return file


def pixels_of(model, images) -> np.ndarray:
    plan = pixel_plan(model.vision)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (plan.mean, plan.std))
    from headword.data.safe_images import load_image

    return torch.stack([model.vision.source.transform(load_image(i)) * std + mean for i in images]).numpy()


def test_the_file_says_what_headword_says(plain, pictures, exported):
    names = ["cat", "coffee", "rocket", "motorcycle", "temple"]
    images = [pictures[name] for name in names if name in pictures]
    classifier = plain.classifier(LABELS)
    session = onnxruntime.InferenceSession(exported)
    assert [(one.name, one.type, one.shape[1:]) for one in session.get_inputs()] == [
        ("pixels", "tensor(float)", [3, 224, 224])
    ]
    assert [one.name for one in session.get_outputs()] == ["probabilities", "embeddings"]
    chances, embeddings = session.run(None, {"pixels": pixels_of(plain, images)})
    np.testing.assert_allclose(chances, classifier.predict_proba(images), atol=1e-3)
    np.testing.assert_allclose(embeddings, plain.encode_image(images).numpy(), atol=1e-3)
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert about["labels"] == LABELS
    assert about["preprocessing"]["resize"] == 256
    assert about["preprocessing"]["crop"] == [224, 224]
    assert about["headword"]["model"]["vision"]["weights_sha256"] == plain.vision.fingerprint


def test_words_elsewhere(plain, exported):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(exported.with_suffix(".tokenizer.json")))
    texts = ["a cat", "a rocket that lifts off into a sky without clouds"]
    ids = np.array([one.ids for one in tokenizer.encode_batch(texts)], dtype=np.int32)
    (got,) = onnxruntime.InferenceSession(exported.with_suffix(".text.onnx")).run(None, {"text": ids})
    expected = plain.aligner.text(plain.text.encode(texts)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.fixture(scope="module")
def tiny_sentences(tmp_path_factory):
    """A tiny model whose words have tokens."""
    folder = made.sentence_transformers(tmp_path_factory.mktemp("tiny") / "sentences")
    return recycle(tiny_vision(), load_text(str(folder)), device="cpu")


def test_words_of_sentence_transformers_elsewhere(tiny_sentences, tmp_path):
    files = tiny_sentences.classifier(WORDS).export(tmp_path / "w.onnx", with_text=True).files
    assert [file.is_file() for file in files] == [True] * 3  # each was compared with headword


def test_the_docs_example_needs_no_headword_and_starts_cold(pictures, exported, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text("utf-8")
    (code,) = (b for b in re.findall(r"^```python\n(.*?)^```", page, re.S | re.M) if "onnxruntime" in b)
    assert len(code.strip().splitlines()) <= 25
    shutil.copy(exported, tmp_path)
    shutil.copy(pictures["cat"], tmp_path / "beach.jpg")
    end = "\nimport sys\nassert not {'torch', 'headword'} & set(sys.modules)\n"
    (tmp_path / "example.py").write_text(code + end, "utf-8")
    command = [sys.executable, "-I", "example.py"]
    seconds = []
    for _ in range(2):
        before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        seconds.append(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before)
    assert done.stdout.splitlines()[0].endswith("a cat")
    assert min(seconds) < 1, seconds  # of processor time, whatever else runs


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("aligner", ["kernel-ridge", "cca"])
def test_the_graph_is_the_classifier(tiny, options, aligner):
    model = tiny if aligner == "kernel-ridge" else tiny_model(aligner=make_aligner(aligner, dim=3))
    classifier, plan = model.classifier(WORDS, **options), pixel_plan(model.vision)
    pixels = example_pixels(plan.crop)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (plan.mean, plan.std))
    chances, embeddings = LabelGraph(PictureGraph(model, plan), classifier)(pixels)
    pictures = (pixels - mean) / std
    np.testing.assert_allclose(chances.numpy(), classifier.predict_proba(pictures), atol=1e-6)
    np.testing.assert_allclose(embeddings.numpy(), model.encode_image(pictures).numpy(), atol=1e-6)


def test_openvino(tiny, tmp_path):
    openvino = pytest.importorskip("openvino")
    classifier = tiny.classifier(WORDS)
    done = classifier.export(tmp_path / "w.xml", to="openvino")
    assert [file.name for file in done.files] == ["w.xml", "w.bin"]
    model = openvino.Core().read_model(tmp_path / "w.xml")
    assert json.loads(model.get_rt_info("labels").astype(str)) == WORDS
    pixels = example_pixels((32, 32), 3).numpy()
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    plan = pixel_plan(tiny.vision)
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (plan.mean, plan.std))
    expected = classifier.predict_proba(((pixels - mean) / std).astype(np.float32))
    np.testing.assert_allclose(compiled(pixels)["probabilities"], expected, atol=1e-5)


def test_int8(tiny, pictures, tmp_path):
    done = tiny.classifier(WORDS).export(
        tmp_path / "w.onnx", int8=True, calibration=next(iter(pictures.values())).parent
    )
    session = onnxruntime.InferenceSession(tmp_path / "w.onnx")
    chances = session.run(["probabilities"], {"pixels": example_pixels((32, 32)).numpy()})[0]
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == WORDS
    assert {"speedup", "agreement", "megabytes", "difference"} == set(done.metrics)
    assert 0 <= done.metrics["agreement"] <= 1


# ---- a plain last layer


def test_a_plain_head_in_timm(plain, tmp_path):
    classifier = plain.classifier(LABELS)
    classifier.export(tmp_path / "head.safetensors", to="head")
    assert read_metadata(tmp_path / "head.safetensors")["labels"] == LABELS
    net = timm.create_model("tf_efficientnet_lite0")
    net.load_state_dict(plain.vision.source.model.state_dict())
    net.reset_classifier(len(LABELS))
    net.get_classifier().load_state_dict(load_tensors(tmp_path / "head.safetensors"))
    images = torch.rand(8, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 4 - 2
    with torch.inference_mode():
        first = net.eval()(images).argmax(dim=1)
    assert first.tolist() == classifier.decision_function(images).argmax(axis=1).tolist()


def test_a_plain_head_is_exact_whatever_the_features(tiny):
    random = torch.Generator().manual_seed(0)
    features = torch.rand(2000, 16, generator=random) * torch.rand(2000, 1, generator=random) * 9
    first = (features @ last_layer(tiny.classifier(WORDS)).T).argmax(dim=1)
    assert first.tolist() == tiny.classifier(WORDS).decision_function(features).argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("options", "centred", "match"),
    [
        ({}, True, "centred on pictures"),
        ({"none_of_these": True}, False, "intercepts of their own"),
        ({"multi_label": True}, False, "multi_label"),
    ],
)
def test_a_head_that_would_say_otherwise_is_refused(options, centred, match):
    model = tiny_model()
    features = torch.rand(300, 16, generator=torch.Generator().manual_seed(0))
    if centred:
        model.centre_on(features)
    classifier = model.classifier(WORDS, **options)
    with pytest.raises(HeadwordError, match=match) as refused:
        last_layer(classifier, features)
    if not classifier.multi_label:
        assert re.search(r"on these 300 pictures .* for (\d+\.\d)%", str(refused.value))
    with pytest.raises(HeadwordError, match=match):
        last_layer(classifier)


# ---- immich


def test_immich_s_folders(tiny_sentences, tmp_path):
    done = export_immich(tiny_sentences, tmp_path / "clip")
    names = {file.relative_to(tmp_path / "clip").as_posix() for file in (tmp_path / "clip").rglob("*.*")}
    assert names == {
        "config.json", "headword.json", "visual/model.onnx", "visual/preprocess_cfg.json",
        "textual/model.onnx", "textual/tokenizer.json", "textual/tokenizer_config.json",
    }  # fmt: skip
    assert done.metrics["difference"] < 1e-4
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    length, (visual, textual) = (
        config["text_cfg"]["context_length"],
        (
            onnxruntime.InferenceSession(tmp_path / "clip" / side / "model.onnx")
            for side in ("visual", "textual")
        ),
    )
    preprocess = json.loads((tmp_path / "clip" / "visual" / "preprocess_cfg.json").read_text())
    image = np.zeros((1, 3, *preprocess["size"]), np.float32)
    pad = json.loads((tmp_path / "clip" / "textual" / "tokenizer_config.json").read_text())["pad_token"]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tmp_path / "clip" / "textual" / "tokenizer.json"))
    tokenizer.enable_padding(length=length, pad_token=pad, pad_id=tokenizer.token_to_id(pad))
    tokenizer.enable_truncation(max_length=length)
    ids = np.array([tokenizer.encode("a cat").ids], dtype=np.int32)  # as immich pads: to the whole length
    (picture,), (text,) = visual.run(None, {"image": image}), textual.run(None, {"text": ids})
    assert picture.shape == text.shape == (1, config["embed_dim"])
    expected = tiny_sentences.aligner.text(tiny_sentences.text.encode(["a cat"])).numpy()
    np.testing.assert_allclose(text, expected, atol=1e-5)
    with pytest.raises(HeadwordError, match="already exists"):
        export_immich(tiny_sentences, tmp_path / "clip")


# ---- what is refused


def refusal(classifier, file, **options) -> str:
    with pytest.raises(HeadwordError) as refused:
        export_labels(classifier, file, **options)
    assert not list(Path(file).parent.glob("*"))
    return str(refused.value)


def test_mistakes_cost_no_work(tiny, tmp_path, monkeypatch):
    classifier = tiny.classifier(WORDS)
    assert "must end in .onnx" in refusal(classifier, tmp_path / "w.pt")
    assert "choose onnx, openvino, head" in refusal(classifier, tmp_path / "w.onnx", to="onyx")
    assert "--calibration" in refusal(classifier, tmp_path / "w.onnx", int8=True)
    assert "go with onnx" in refusal(classifier, tmp_path / "w.xml", to="openvino", int8=True)
    assert "no tokenizer.json" in refusal(classifier, tmp_path / "w.onnx", with_text=True)
    monkeypatch.setattr(graphs, "ONNX_LIMIT", 1000)
    assert "3 labels" in refusal(classifier, tmp_path / "w.onnx")


def with_vision(vision):
    return recycle(vision, tiny_text(), device="cpu").classifier(WORDS)


def test_kinds_of_classifiers_that_are_refused_by_name(tmp_path):
    made.transformers_vision(tmp_path / "vit")
    other = load_vision(TinyNet().eval(), names=list("abcde"), transform=preset(), device="cpu")
    square = load_vision(TinyNet().eval(), names=list("abcde"), transform=squash, device="cpu")
    refused = {
        "a joint classifier reads each picture once for every part": [tiny_vision(), other],
        "transformers:.* its transform is not one resize": f"transformers:{tmp_path / 'vit'}",
        "module:TinyNet cannot be exported: its transform": square,
    }
    (tmp_path / "out").mkdir()
    for match, vision in refused.items():
        assert re.search(match, refusal(with_vision(vision), tmp_path / "out" / "w.onnx"))


@pytest.mark.parametrize("kind", ["class token", "torchvision"])
def test_kinds_of_classifiers_that_are_exported(kind, tmp_path):
    if kind == "torchvision":
        net, transform = torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5), preset(64)
    else:
        net = timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=1, img_size=64)
        transform = preset(64)
    vision = load_vision(net.eval(), names=list("abcde"), transform=transform, device="cpu")
    done = with_vision(vision).export(tmp_path / "w.onnx")
    assert done.metrics["difference"] < 1e-3


def preset(crop: int = 32):
    return ImageClassification(crop_size=crop, resize_size=crop + 8)


def squash(image):
    return torch.from_numpy(np.asarray(image.resize((32, 32)), dtype=np.float32)).permute(2, 0, 1) / 255


def test_what_is_there_stays(tiny, tmp_path):
    file = tmp_path / "w.xml"
    file.with_suffix(".bin").write_text("mine")
    with pytest.raises(HeadwordError, match=r"w\.bin already exists"):
        export_labels(tiny.classifier(WORDS), file, to="openvino")
    assert file.with_suffix(".bin").read_text() == "mine"
    assert not file.exists()


def test_a_full_disk_leaves_nothing(tiny, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        for file, to in (("head.safetensors", "head"), ("w.onnx", "onnx")):
            with pytest.raises(HeadwordError, match=f"cannot write .*{file}"):
                export_labels(tiny.classifier(WORDS), tmp_path / file, to=to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


# ---- the command


def test_labels_over_the_limit_are_refused_before_they_are_encoded(saved_plain, tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "ONNX_LIMIT", 20_000_000)
    monkeypatch.setattr("headword.model.DualEncoder.encode_text", None)
    (tmp_path / "words.txt").write_text("\n".join(f"thing {n}" for n in range(2000)))
    options = ("--labels-file", tmp_path / "words.txt", "--out", tmp_path / "w.onnx")
    assert "with 2,000 labels" in run("export", saved_plain, *options, code=2)


def test_the_command(saved_plain, tmp_path):
    arguments = ("export", saved_plain, "--labels", "a cat,a dog", "--to", "head")
    result = json.loads(run(*arguments, "--out", tmp_path / "a.safetensors", "--json", "-"))
    check_result(result, "export")
    assert result["protocol"]["labels"] == ["a cat", "a dog"]
    assert load_tensors(tmp_path / "a.safetensors")["weight"].shape == (2, 1280)
    again = run(*arguments, "--out", tmp_path / "a.safetensors", code=2)
    assert "already exists" in again
    assert "without labels" in run(
        "export", saved_plain, "--labels", "a", "--to", "immich", "--out", tmp_path / "i", code=2
    )
