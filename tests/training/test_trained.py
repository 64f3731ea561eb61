"""A trained model is a dual encoder like any other; and a token layer may start from a recycled head."""

from __future__ import annotations

import json
import shutil

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

import headword
from headword.aligners import Identity
from headword.aligners.pairs import Pairs
from headword.cli import app
from headword.data.shapes import Shapes
from headword.encoders import load_text, load_vision
from headword.encoders.clip_folder import evaluation_transform
from headword.encoders.token_head import token_texts
from headword.errors import HeadwordError
from headword.evaluation import Protocol, evaluate
from headword.evaluation.shape_questions import evaluate_shapes
from headword.training.build import build
from headword.training.config import TrainConfig
from headword.training.export import dual_encoder, save_trained
from headword.training.prototypes import init_token_head, prototype_rows

TINY = {
    "vision_width": 32,
    "vision_layers": 1,
    "text_width": 32,
    "text_layers": 1,
    "embed_dim": 16,
    "image_size": 32,
}


@pytest.fixture(scope="module")
def towers():
    """A model that nothing was taught, with its blueprint."""
    return build(TrainConfig(**TINY | {"patch_size": 16}))


@pytest.fixture(scope="module")
def folder(towers, tmp_path_factory):
    model, blueprint = towers
    return save_trained(
        model,
        blueprint,
        tmp_path_factory.mktemp("trained") / "model",
        provenance={"steps": 7, "data": "shapes"},
    )


@pytest.fixture(scope="module")
def trained(folder):
    return headword.load(folder, device="cpu")


@pytest.fixture(scope="module")
def images():
    data = Shapes("val", images=6, size=48)
    return [data.picture(i) for i in range(6)]


def unit(x):
    return F.normalize(x, dim=1)


def test_embeddings_are_the_towers_own(towers, trained, images):
    model, _ = towers
    assert model.training, "saving leaves the model as it is"
    assert all(p.requires_grad for p in model.parameters())
    now = dual_encoder(model)
    texts = ["a red circle", "two blue stars"]
    assert torch.allclose(now.encode_image(images), trained.encode_image(images), atol=1e-6)
    assert torch.allclose(now.encode_text(texts), trained.encode_text(texts), atol=1e-6)
    assert model.training
    scale = model.clip.logit_scale.detach().exp()
    want = (scale * trained.encode_image(images) @ trained.encode_text(texts).T).softmax(dim=1)
    assert torch.allclose(trained.classify(images, texts), want, atol=1e-5)


def test_it_has_no_head_no_classes_and_no_pairs(trained, folder):
    assert (trained.vision.head, trained.vision.labels, trained.pairs, trained.classes) == (
        None,
        None,
        None,
        (),
    )
    assert trained.training == {"steps": 7, "data": "shapes"}
    assert trained.dim == trained.vision.dim == trained.text.dim == 16
    assert repr(trained).startswith("DualEncoder(VisionEncoder(trained:vit-32x1-patch16, dim 16)")
    assert {path.name for path in folder.iterdir()} == {"headword.json", "aligner.safetensors", "clip"}
    said = json.loads((folder / "headword.json").read_text())
    assert (said["format"], said["vision"]["head"], said["vision"]["labels"]) == (2, None, None)
    with pytest.raises(HeadwordError, match="image tower without a classifier's head"):
        headword.recycle(trained.vision, trained.text)
    with pytest.raises(HeadwordError, match="class names and head do not apply"):
        load_vision(f"trained:{folder / 'clip'}", names=["a"])


def test_saved_again_it_is_the_same(trained, images, tmp_path):
    trained = headword.load(trained.save(tmp_path / "one"))
    trained.centre_on(images)
    again = headword.load(trained.save(tmp_path / "two", with_encoders=True))
    assert torch.equal(again.encode_image(images), trained.encode_image(images))
    assert torch.equal(again.encode_text(["a"]), trained.encode_text(["a"]))
    assert again.centre == trained.centre
    assert again.provenance() == trained.provenance()


def test_its_folder_is_open_clips(towers, folder, images):
    model, _ = towers
    clip, _, transform = open_clip.create_model_and_transforms(
        f"local-dir:{folder / 'clip'}", force_image_size=32
    )
    with torch.no_grad():
        batch = torch.stack([transform(image) for image in images])
        own = dual_encoder(model).encode_image(images)
        assert torch.allclose(unit(clip.eval().encode_image(batch)), own, atol=1e-6)


def test_edits_and_missing_files_are_found(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    weights = copied / "clip" / "open_clip_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-4] + b"\0\0\0\1")
    with pytest.raises(HeadwordError, match=r"open_clip_model\.safetensors is not the file that was saved"):
        headword.load(copied)
    weights.unlink()
    with pytest.raises(HeadwordError, match=r"open_clip_model\.safetensors is missing"):
        headword.load(copied)
    with pytest.raises(HeadwordError, match="no folder"):
        load_text(f"trained:{tmp_path / 'nowhere'}")
    (copied / "clip" / "open_clip_config.json").write_text("[]")
    with pytest.raises(HeadwordError, match="holds no model_cfg"):
        load_vision(f"trained:{copied / 'clip'}")


def test_saving_refuses_what_is_there_and_leaves_nothing_half_written(towers, folder, tmp_path):
    with pytest.raises(HeadwordError, match="already exists"):
        save_trained(*towers, folder, provenance={})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(HeadwordError, match="not headword's own"):
        save_trained(*towers, tmp_path / "notes", provenance={}, overwrite=True)
    save_trained(*towers, tmp_path / "new", provenance={"a": 1})
    save_trained(*towers, tmp_path / "new", provenance={"a": 2}, overwrite=True)
    assert headword.load(tmp_path / "new").training == {"a": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "notes"]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_commands_take_it(folder, images, tmp_path):
    for name, image in zip(("a", "b", "c"), images, strict=False):
        (tmp_path / "set" / name).mkdir(parents=True)
        for n in range(2):
            image.rotate(n).save(tmp_path / "set" / name / f"{n}.png")
    photo = tmp_path / "set" / "a" / "0.png"
    said = json.loads(run("classify", folder, photo, "--labels", "a red circle,a blue star", "--json", "-"))
    assert {entry["label"] for entry in said["results"][0]["labels"]} == {"a red circle", "a blue star"}
    shown = " ".join(run("inspect", folder).split())
    for words in (
        "image tower trained:vit-32x1-patch16",
        "weights' licence yours: trained here",
        "32×32 px, bicubic (open_clip's own transform)",
        "pairs none: trained in one space",
        "aligner identity",
        "score scale 14.3, learnt in training",
    ):
        assert words in shown, words
    assert "classes" not in json.loads(run("inspect", folder, "--json", "-"))["model"]["vision"]
    said = json.loads(
        run("evaluate", folder, "--task", "classification", "--data", tmp_path / "set",
            "--centre-on", "collection", "--json", "-")
    )  # fmt: skip
    assert said["data"]["images"] == 6
    for space in ("features", "shared"):
        run("embed", folder, tmp_path / "set", "--out", tmp_path / space, "--space", space, "--quiet")
    assert (tmp_path / "shared" / "_headword.json").is_file()


def test_it_labels_searches_and_tags_as_open_clip_does(folder, trained, tmp_path):
    from headword.search import Index, Query, build_index
    from support.serving import served

    data, pool = Shapes("val", images=24, size=32), tmp_path / "pool"
    pool.mkdir()
    for n in range(24):
        data.picture(n).save(pool / f"{n:02}.png")
    labels = ["a red circle", "a blue star", "two green squares", "nothing"]
    clip, _, transform = open_clip.create_model_and_transforms(
        f"local-dir:{folder / 'clip'}", force_image_size=32
    )
    tokens = open_clip.get_tokenizer(f"local-dir:{folder / 'clip'}")(labels)
    paths = sorted(pool.iterdir())
    with torch.no_grad():
        batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
        cosines = unit(clip.eval().encode_image(batch)) @ unit(clip.encode_text(tokens)).T
    theirs = [labels[place] for place in cosines.argmax(dim=1).tolist()]

    def labelled(*more: object) -> list[str]:
        shown = json.loads(run("classify", folder, pool, "--labels", ",".join(labels), "--json", "-", *more))
        return [entry["labels"][0]["label"] for entry in shown["results"]]

    assert labelled() == theirs
    assert labelled("--centre-on", "online") != theirs, "a centre makes no difference here"
    assert [labels[n] for n in trained.classify(paths, labels).argmax(dim=1).tolist()] == theirs
    build_index(folder, pool, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert index.about()["centre"]["kind"] == "none"
    hits = index.search(Query(text=labels[0]), k=24)
    best = cosines[:, 0].sort(descending=True)
    assert [hit.path for hit in hits] == [paths[n].name for n in best.indices.tolist()]
    assert torch.allclose(torch.tensor([hit.score for hit in hits]), best.values, atol=1e-5)
    index.tag(labels)
    assert [hit.tag for hit in index.browse()] == theirs
    with served(index) as live:
        asked = {"pictures": [path.name for path in paths[:16]], "labels": labels}
        for row, plain in zip(live.post("/classify", asked).json["results"], cosines, strict=False):
            said = {entry["label"]: entry["cosine"] for entry in row}
            assert said == pytest.approx(dict(zip(labels, plain.tolist(), strict=True)), abs=1e-5)
    build_index(folder, pool, tmp_path / "asked", centre_on="collection")
    build_index(folder, pool, tmp_path / "asked")  # goes on as it was made
    assert Index.open(tmp_path / "asked").about()["centre"]["kind"] == "collection"


def test_it_is_measured_as_any_other(folder, tmp_path, images):
    lines = []
    for n, image in enumerate(images):
        image.save(tmp_path / f"{n}.png")
        lines.append(json.dumps({"image": f"{n}.png", "caption": f"picture {n}"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    protocol = Protocol(task="retrieval", data=str(tmp_path / "captions.jsonl"), k=(1,))
    (result,) = evaluate(folder, protocol)
    assert 0 <= result.metrics["t2i_r1"] <= 100
    with pytest.raises(HeadwordError, match="no mapping to exchange or to fit on further pairs"):
        evaluate(folder, protocol, aligners=["ridge"])


def test_shapes_protocol_takes_its_encoders(towers):
    dual = dual_encoder(towers[0])
    found = evaluate_shapes(dual.encode_image, dual.encode_text, images=20, size=32)
    assert 0 <= found["overall"] <= 100


def test_sigmoid_models_bring_their_own_threshold(tmp_path):
    model, blueprint = build(TrainConfig(**TINY | {"patch_size": 16, "sigmoid": True}))
    trained = headword.load(save_trained(model, blueprint, tmp_path / "m", provenance={}))
    assert trained.scores.scale == pytest.approx(10.0)
    assert trained.scores.threshold == pytest.approx(1.0)  # bias -10 over scale 10
    classifier = trained.classifier(["a cat"], multi_label=True)
    torch.testing.assert_close(classifier.weight, 10 * classifier.label_vectors)
    logits = classifier.logits(0.3 * classifier.label_vectors)  # of a cosine of 0.3
    torch.testing.assert_close(classifier.probabilities(logits), torch.tensor([[3.0 - 10]]).sigmoid())


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_evaluation_transform_is_open_clips(mode, images):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    settings = {"size": 24, "mean": (0.1, 0.2, 0.3), "std": (0.3, 0.4, 0.5), "interpolation": "bicubic"}
    wide = images[0].resize((70, 40))
    theirs = image_transform_v2(PreprocessCfg(**settings, resize_mode=mode), is_train=False)(wide)
    assert torch.equal(evaluation_transform({**settings, "resize_mode": mode})(wide), theirs)
    with pytest.raises(HeadwordError, match="'longest'"):
        evaluation_transform({**settings, "resize_mode": "longest"})


def test_identity_changes_directions_by_its_centre_alone():
    x, t = torch.randn(5, 8), torch.randn(4, 8)
    aligner = Identity.of(8)
    assert torch.allclose(aligner.image(x), unit(x))
    assert torch.allclose(aligner.text(t), unit(t))
    aligner.centre_on(x)
    assert torch.allclose(aligner.image(x), unit(unit(x) - unit(x).mean(dim=0)))
    assert torch.allclose(aligner.text(t), unit(t))
    assert torch.equal(Identity().fit(Pairs(x[:4], t)).centre_, torch.zeros(8))
    with pytest.raises(HeadwordError, match="8 and 3 wide"):
        Identity().fit(Pairs(x[:4], t[:, :3]))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A model of which ten words were seen in training, with its token head."""
    model, blueprint = build(TrainConfig(**TINY | {"patch_size": 16}))
    counts = torch.zeros(model.vocab_size, dtype=torch.int64)
    words = ["red", "blue", "green", "black", "circle", "square", "star", "heart", "ring", "moon"]
    counts[model.tokenize(words).ids[:, 1]] = 3
    counts[model.tokenize(["!"]).ids[0, 1]] = 5
    folder = tmp_path_factory.mktemp("kept") / "model"
    save_trained(model, blueprint, folder, provenance={}, keep_token_head=True, token_counts=counts)
    return model, words, folder


def test_a_kept_token_head_is_a_classifier_of_the_words_seen(kept, images):
    model, words, folder = kept
    encoder = load_vision(str(folder), head="tokens", device="cpu")
    head, labels = encoder.named_head()
    assert {c.name for c in labels.classes} == set(words)
    assert not encoder.source.tower
    pixels = encoder.preprocess(images)
    with torch.no_grad():
        features = model.eval()(pixels)["token_features"]
    model.train()
    assert torch.allclose(encoder.encode(pixels), features, atol=1e-5)
    token = model.tokenize(["moon"]).ids[0, 1]
    row = [c.name for c in labels.classes].index("moon")
    assert torch.equal(head.weight[row], model.token_head.linear.weight[token])


def test_the_words_of_a_token_head_are_recycled(kept, images, tmp_path):
    _, words, folder = kept
    command = ["recycle", "--vision", str(folder), "--head", "tokens", "--out", str(tmp_path / "words")]
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0, made.output
    recycled = headword.load(tmp_path / "words", device="cpu")
    assert {c.name for c in recycled.classes} == set(words)
    chances = recycled.classify(images, ["a red circle", "something blue"])
    assert chances.shape == (6, 2)
    recycled.save(tmp_path / "whole", with_encoders=True)
    shutil.copytree(folder, tmp_path / "moved")
    again = headword.load(tmp_path / "whole", device="cpu")
    assert torch.allclose(again.classify(images, ["a red circle", "something blue"]), chances, atol=1e-6)


def test_a_token_head_stays_beside_its_model(kept, folder, tmp_path):
    assert not (folder / "token_head.safetensors").exists(), "off unless asked"
    headword.load(kept[2], device="cpu").save(tmp_path / "again")
    again = tmp_path / "again" / "token_head.safetensors"
    assert again.read_bytes() == (kept[2] / again.name).read_bytes()
    with pytest.raises(HeadwordError, match=r"no token_head\.safetensors: train with --keep"):
        load_vision(str(folder), head="tokens", device="cpu")
    with pytest.raises(HeadwordError, match="is a saved model; --head tokens recycles the words"):
        load_vision(str(folder), device="cpu")
    again.write_bytes(again.read_bytes()[:-8] + bytes(8))
    with pytest.raises(HeadwordError, match="is not the file that was saved with the model"):
        headword.load(tmp_path / "again", device="cpu")


def test_token_texts_are_the_words_of_the_vocabulary():
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    texts = token_texts(tokenizer, 49_408)
    said = {"dog</w>": "dog", "a</w>": "a", "skate": "skate", "!": "", "th": "", "7</w>": ""}
    assert {word: texts[tokenizer.encoder[word]] for word in said} == said
    assert texts[49_406] == texts[49_407] == ""
    assert len(texts) == 49_408
    assert 40_000 < sum(map(bool, texts)) < 49_000
    with pytest.raises(HeadwordError, match="tokenizer"):
        token_texts(None, 10)


def test_whole_words_are_told_from_pieces():
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    words = token_texts(tokenizer, 49_408, whole=True)
    whole, beginning = tokenizer.encoder["photo</w>"], tokenizer.encoder["photo"]
    assert words[whole] == "photo"
    assert not words[beginning]
    assert token_texts(tokenizer, 49_408)[beginning] == "photo"


def test_prototype_rows_are_centred_and_scaled_as_the_usual_start(embedded):
    words = ["dog", "cat", "car", "train", "apple", "banana", "the", "of"]
    rows = prototype_rows(embedded, words)
    assert rows.shape == (8, 1280)
    assert rows.mean(dim=0).abs().max() < 1e-6
    assert rows.std() / 1280**-0.5 == pytest.approx(1.0, abs=1e-5)
    plain = embedded.encode_text(words)
    assert torch.allclose(unit(rows), unit(plain - plain.mean(dim=0)), atol=1e-5)


@pytest.fixture(scope="module")
def from_backbone():
    config = TrainConfig(**{"backbone": "embedded", "image_size": 224, "text_width": 32, "text_layers": 1})
    model, _ = build(config)
    return model.eval()


def test_the_token_layer_reads_the_feature_of_the_recycled_head(from_backbone, embedded, pictures):
    """What makes prototypes rows of the layer: mean patch token = input of the classifier's head."""
    from PIL import Image

    images = [Image.open(path).convert("RGB") for path in list(pictures.values())[:2]]
    batch = embedded.vision.preprocess(images)
    seen = []
    hook = from_backbone.token_head.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        from_backbone(batch)
    hook.remove()
    assert torch.allclose(seen[0], embedded.vision.encode(batch), atol=1e-4)


def test_token_layer_from_prototypes_names_what_is_in_a_picture(
    from_backbone, embedded, pictures, monkeypatch
):
    words = ["cat", "coffee", "rocket", "piano", "train", "dog", "banana", "guitar"]
    tokenizer = from_backbone.tokenizer
    places = [tokenizer.encoder[f"{word}</w>"] for word in words]

    def few(_tokenizer, size):
        texts = [""] * size
        for place, word in zip(places, words, strict=True):
            texts[place] = word
        return texts

    monkeypatch.setattr("headword.training.prototypes.token_texts", few)
    from PIL import Image

    shown = {name: path for name, path in pictures.items() if name in words}
    images = [Image.open(path).convert("RGB") for path in pictures.values()]
    with torch.no_grad():
        features = from_backbone(embedded.vision.preprocess(images))["token_features"]
    layer = from_backbone.token_head.linear
    before = layer.weight.detach().clone()
    assert init_token_head(from_backbone, embedded, features=features) == len(words)
    kept = torch.ones(len(before), dtype=torch.bool)
    kept[places] = False
    assert torch.equal(layer.weight[kept], before[kept])
    assert float(layer.weight[places].detach().std() / before.std()) == pytest.approx(1.0, abs=0.02)
    logits = (features @ layer.weight.T + layer.bias)[:, places].detach()
    assert logits.mean(dim=0).abs().max() < 1e-3
    for row, name in enumerate(pictures):
        if name in shown:
            assert words[int(logits[row].argmax())] == name
    assert len(shown) == 3


def test_prototypes_of_another_space_are_refused(embedded, towers):
    with pytest.raises(
        HeadwordError, match="reads 32 features, but the recycled model's classifier gives 1280"
    ):
        init_token_head(towers[0], embedded)
