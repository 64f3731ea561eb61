"""CLIP models as the reference line: tiny ones, made here."""

from __future__ import annotations

import json

import pytest
import torch

from headword.data.safe_images import load_image
from headword.errors import HeadwordError
from headword.evaluation import open_model
from support.evaluation_helpers import measured, painted


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWORD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny_open_clip(tmp_path):
    """An open_clip architecture that is not shipped, and a checkpoint of it."""
    import open_clip

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-for-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-for-test.json")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-for-test")
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    return model.eval(), f"open_clip:tiny-for-test/{tmp_path}/tiny.pt"


def test_open_clip_checkpoint(tiny_open_clip, tmp_path):
    import open_clip

    model, name = tiny_open_clip
    root = painted(tmp_path / "data")
    (root / "red" / "1.png").write_bytes(b"no picture")
    result = measured(name, task="classification", data=str(root), centre_on="collection")
    assert result.name == name
    assert result.model["centre"]["kind"] == "default"
    assert result.protocol.templates == ("a photo of a {}",)
    assert result.data["images"] == 8
    assert result.model["vision"]["weights_sha256"]
    # By hand, through open_clip alone.
    preprocess = open_clip.image_transform(
        32, is_train=False, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer("tiny-for-test")(
            [f"a photo of a {c}" for c in ("blue", "green", "red")]
        )
        words = model.encode_text(tokens, normalize=True)
        right = 0
        paths = sorted(path for path in root.rglob("*.png") if path.stat().st_size > 20)
        for path in paths:
            image = model.encode_image(preprocess(load_image(path))[None], normalize=True)
            right += ("blue", "green", "red")[int((image @ words.T).argmax())] == path.parent.name
    assert result.metrics["top1"] == pytest.approx(100 * right / 8)
    with pytest.raises(HeadwordError, match=r"no mapping .* to fit on further pairs"):
        measured(name, task="few-shot", data=str(root), shots=(1,), draws=1)


def test_transformers_clip(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = [chr(c) for c in range(97, 123)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = CLIPConfig(
        text_config={**size, **ends, "vocab_size": len(words), "max_position_embeddings": 77},
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    edge = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = CLIPProcessor(CLIPImageProcessor(**edge), tokenizer)
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    opened = open_model(f"transformers:{tmp_path}/clip")
    root = painted(tmp_path / "data")
    path = root / "red" / "0.png"
    inputs = processor(text=["a cat", "reds"], images=load_image(path), return_tensors="pt", padding=True)
    with torch.inference_mode():
        out = model(**inputs)
    torch.testing.assert_close(opened.encode_image([path]), out.image_embeds)
    torch.testing.assert_close(opened.encode_text(["a cat", "reds"]), out.text_embeds)
    result = measured(opened, task="probe", data=str(root), shots=(1,), draws=1)
    assert result.metrics["mean_per_class_1"] > 50
    assert open_model(f"transformers:{tmp_path}/clip").vision.fingerprint == opened.vision.fingerprint


def test_a_text_encoder_is_no_reference(tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(HeadwordError, match="BertModel: no model of images and texts"):
        open_model(f"transformers:{tmp_path}/bert")
