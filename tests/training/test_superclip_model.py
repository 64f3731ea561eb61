"""SuperCLIP over open_clip's towers: same embeddings, right patch tokens, right losses, clear refusals."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from transformers import BertConfig

from experiments.benchmarks.superclip_flops import count_flops
from headword.errors import HeadwordError
from headword.training import CLIPTask, SuperClassTask, SuperCLIP, SuperCLIPTask, tokenize

TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}


def timm(name: str, pool: str = "", proj: str = "linear", size: int = 160) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": size}


TOWERS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "vit pooling before its norm": {**VIT, "pool_type": "avg", "final_ln_after_pool": True},
    "vit with attention pooling": {
        **VIT,
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "attn_pooler_queries": 4,
    },
    "resnet": RESNET,
    "timm vit": timm("test_vit"),
    "timm siglip": timm("test_vit3", pool="map", proj="none"),
    "timm convnext": timm("test_convnext"),
    "timm efficientnet": timm("test_efficientnet"),
    "timm mambaout": timm("test_mambaout", pool="avg", proj="none"),
}


def clip(vision: dict[str, Any] = VIT, kind: type[nn.Module] = CLIP, **settings: Any) -> Any:
    torch.manual_seed(0)
    return kind(embed_dim=16, vision_cfg=dict(vision), text_cfg=TEXT, **settings)


def tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer(context_length=12)


def superclip(vision: dict[str, Any] = VIT, **settings: Any) -> SuperCLIP:
    return SuperCLIP(clip(vision, **settings), tokenizer())


def batch(model: SuperCLIP, n: int = 2) -> tuple[Tensor, Tensor]:
    size = model.clip.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    captions = ["a red boat!", "two dogs and a boat", "", "rain"][:n]
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1)), model.tokenize(
        captions
    ).ids


def losses(model: SuperCLIP, images: Tensor, texts: Tensor, **settings: Any) -> dict[str, Tensor]:
    return SuperCLIPTask(model, **settings).training_forward({"images": images, "texts": texts})


@pytest.mark.parametrize("tower", TOWERS)
def test_every_tower_keeps_its_embeddings_and_runs_once(tower: str) -> None:
    model = superclip(TOWERS[tower]).eval()
    images, texts = batch(model)
    convolution = next(m for m in model.clip.visual.modules() if isinstance(m, nn.Conv2d))
    calls: list[None] = []
    hook = convolution.register_forward_hook(lambda *_: calls.append(None))
    out = model(images, texts)
    hook.remove()
    assert len(calls) == 1
    assert torch.equal(out["image_features"], model.clip.encode_image(images, normalize=True))
    assert torch.equal(out["text_features"], model.clip.encode_text(texts, normalize=True))
    assert out["token_features"].shape == (2, model.token_head.linear.in_features)
    (out["token_features"].square() @ torch.ones(out["token_features"].shape[1])).sum().backward()
    assert convolution.weight.grad is not None
    assert convolution.weight.grad.any()


def test_patch_tokens_of_a_vit_come_after_its_final_norm_without_the_class_token() -> None:
    model = superclip().eval()
    visual, head = model.clip.visual, model.token_head
    images, _ = batch(model)
    tokens = visual.ln_post(visual.transformer(visual._embeds(images)))
    assert torch.allclose(model(images)["token_features"], head.norm(tokens[:, 1:].mean(dim=1)), atol=1e-6)
    assert visual.output_tokens is False


def test_patch_tokens_of_timm_towers_leave_out_prefix_tokens() -> None:
    model = superclip(TOWERS["timm vit"]).eval()
    images, _ = batch(model)
    trunk = model.clip.visual.trunk
    assert trunk.num_prefix_tokens == 1
    want = trunk.forward_features(images)[:, 1:].mean(dim=1)
    assert torch.allclose(model(images)["token_features"], model.token_head.norm(want), atol=1e-6)
    grid = superclip(TOWERS["timm mambaout"]).eval()
    images, _ = batch(grid)
    features = grid.clip.visual.trunk.forward_features(images)  # [B, H, W, C]
    assert torch.allclose(
        grid(images)["token_features"], grid.token_head.norm(features.mean(dim=(1, 2))), atol=1e-5
    )


def test_building_changes_nothing_in_a_timm_tower() -> None:
    plain = clip(TOWERS["timm efficientnet"]).train()
    frozen = next(m for m in plain.visual.trunk.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = {k: v.clone() for k, v in plain.state_dict().items()}
    SuperCLIP(plain)
    assert plain.visual.trunk.training
    assert not frozen.training
    assert all(torch.equal(v, before[k]) for k, v in plain.state_dict().items())


@pytest.mark.parametrize(
    ("tower", "last", "kept"),
    [
        ("vit", "ln_post", 8),
        ("vit with attention pooling", "transformer.resblocks.1", 8),
        ("timm vit", "trunk.norm", 50),
    ],
)
def test_patch_dropout_averages_the_survivors(tower: str, last: str, kept: int) -> None:
    model = superclip({**TOWERS[tower], "patch_dropout": 0.5}).train()
    seen: list[Tensor] = []
    model.clip.visual.get_submodule(last).register_forward_hook(lambda _m, _a, out: seen.append(out))
    out = model(batch(model)[0])
    assert seen[0].shape[1] == 1 + kept  # half of the patches; the class token stays
    assert torch.allclose(out["token_features"], model.token_head.norm(seen[0][:, 1:].mean(dim=1)), atol=1e-6)


@pytest.mark.parametrize("tower", ["vit", "timm vit"])
def test_gradient_checkpointing_gives_the_same_gradients(tower: str) -> None:
    gradients = []
    for enable in (False, True):
        model = superclip(TOWERS[tower]).train()
        model.set_grad_checkpointing(enable)
        images, texts = batch(model)
        losses(model, images, texts)["loss"].backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(g, gradients[1][n], atol=1e-6) for n, g in gradients[0].items())


def test_the_head_starts_as_the_paper_says() -> None:
    head = superclip().token_head.linear
    assert head.weight.shape == (49408, 32)
    assert head.weight.std().item() == pytest.approx(32**-0.5, rel=0.01)
    assert not head.bias.any()


def dense_token_loss(model: SuperCLIP, images: Tensor, captions: list[str]) -> Tensor:
    logits = model.token_head.linear(model(images)["token_features"])
    targets = torch.zeros(len(captions), model.vocab_size)
    for i, caption in enumerate(captions):
        targets[i, tokenizer().encode(caption)] = 1
    shares = targets / targets.sum(dim=1, keepdim=True).clamp_min(1)
    return -(shares * logits.log_softmax(dim=1)).sum(dim=1).mean()


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
def test_loss_is_open_clips_plus_lambda_times_the_token_loss(kind: type[nn.Module]) -> None:
    model = SuperCLIP(clip(kind=kind), tokenizer())
    images, texts = batch(model, 4)
    out = model(images, texts)
    told = losses(model, images, texts, uniform=True, weight=0.5, contrastive_weight=2.0)
    want = 2 * ClipLoss()(out["image_features"], out["text_features"], model.clip.logit_scale.exp())
    captions = ["a red boat!", "two dogs and a boat", "", "rain"]
    assert torch.allclose(told["contrastive"], want)
    assert torch.allclose(told["token"], 0.5 * dense_token_loss(model, images, captions), atol=1e-5)
    assert torch.equal(told["loss"], told["contrastive"] + told["token"])
    assert told["n_empty"] == 1


def test_siglip_trains_with_its_sigmoid_loss_and_bias() -> None:
    model = superclip(init_logit_bias=-10.0)
    images, texts = batch(model)
    task, out, clip = SuperCLIPTask(model), model(images, texts), model.clip
    assert isinstance(task.loss["contrastive_loss"], SigLipLoss)
    told = task.losses(out, texts)
    sides = out["image_features"], out["text_features"]
    assert torch.equal(told["contrastive"], SigLipLoss()(*sides, clip.logit_scale.exp(), clip.logit_bias))
    told["loss"].backward()
    assert clip.logit_bias.grad.abs() > 0


def test_superclass_needs_no_text_tower() -> None:
    model = superclip()
    images, texts = batch(model)
    told = SuperClassTask(model).training_forward({"images": images, "texts": texts})
    told["loss"].backward()
    assert told.keys() == {"loss", "token", "n_empty"}
    assert torch.equal(told["loss"], told["token"])
    assert model.clip.token_embedding.weight.grad is None


def test_clip_counts_no_words() -> None:
    model = superclip()
    images, texts = batch(model)
    task = CLIPTask(model)
    told = task.training_forward({"images": images, "texts": texts})
    assert told.keys() == {"loss", "contrastive"}
    assert torch.equal(told["loss"], losses(model, images, texts)["contrastive"])
    assert not [name for name in task.state_dict() if name.startswith("loss.")]


def test_cached_gradients_equal_those_of_the_whole_batch() -> None:
    whole, pieces = superclip().train(), superclip().train()
    images, texts = batch(whole, 4)
    losses(whole, images, texts)["loss"].backward()
    halves = (slice(0, 2), slice(2, 4))
    with torch.no_grad():
        outs = [pieces(images[h], texts[h]) for h in halves]
    cache = {n: torch.cat([o[n] for o in outs]).requires_grad_() for n in outs[0]}
    SuperCLIPTask(pieces).losses(cache, texts)["loss"].backward()
    for h in halves:
        out = pieces(images[h], texts[h])
        torch.autograd.backward(list(out.values()), [cache[n].grad[h] for n in out])
    for (name, p), q in zip(whole.named_parameters(), pieces.parameters(), strict=True):
        assert (p.grad - q.grad).norm() <= 1e-5 * p.grad.norm() + 1e-6, name


def test_text_towers_from_transformers_are_wrapped_too(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertConfig(vocab_size=500, max_position_embeddings=16, **sizes).save_pretrained(tmp_path)
    text = {"hf_model_name": str(tmp_path), "hf_model_pretrained": False, "hf_proj_type": "linear"}
    model = SuperCLIP(CustomTextCLIP(16, VIT, {**text, "hf_pooler_type": "mean_pooler"}))
    assert model.vocab_size == 500
    out = model(torch.randn(2, 3, 32, 32), torch.randint(1, 500, (2, 8)))
    assert out["text_features"].shape == (2, 16)


def test_coca_models_are_wrapped_too() -> None:
    vision = {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = {**TEXT, "embed_cls": True, "output_tokens": True}
    torch.manual_seed(0)
    coca = open_clip.CoCa(16, {"width": 16, "heads": 2, "layers": 1, "context_length": 12}, text, vision)
    model = SuperCLIP(coca, tokenizer()).eval()
    images, texts = batch(model)
    out = model(images, texts)
    assert torch.equal(out["image_features"], coca.encode_image(images))
    assert out["token_features"].shape == (2, 32)


def test_a_batch_of_one_trains() -> None:
    model = superclip().train()
    told = losses(model, *batch(model, 1))
    told["loss"].backward()
    assert told["contrastive"] == 0  # one pair has no negatives
    assert told["token"] > 0
    assert model.clip.visual.conv1.weight.grad.any()


def test_training_lowers_both_losses() -> None:
    model = superclip().train()
    images, texts = batch(model)
    task = SuperCLIPTask(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(8):
        told = task.training_forward({"images": images, "texts": texts})
        optimizer.zero_grad()
        told["loss"].backward()
        optimizer.step()
        model.clamp_logit_scale_()
        history.append([told["contrastive"].item(), told["token"].item()])
    assert history[-1][0] < 0.7 * history[0][0]
    assert history[-1][1] < 0.7 * history[0][1]
    assert model.clip.logit_scale.exp() <= 100.001


def test_export_loads_into_open_clip_strictly_and_bit_equal(tmp_path: Path) -> None:
    config = tmp_path / "headword-tiny.json"
    config.write_text(json.dumps({"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT}))
    logging.disable(logging.WARNING)  # open_clip warns of random weights
    try:
        open_clip.add_model_config(config)
        model = SuperCLIP(open_clip.create_model("headword-tiny"), tokenizer()).eval()
        exported = model.export()
        torch.save(exported, tmp_path / "clip.pt")
        images, texts = batch(model)
        with torch.no_grad():
            out = model(images, texts)
            model.clip.visual.conv1.weight.zero_()  # a copy: later training leaves it alone
        plain = open_clip.create_model("headword-tiny", pretrained=str(tmp_path / "clip.pt")).eval()
    finally:
        logging.disable(logging.NOTSET)
        open_clip.factory._MODEL_CONFIG_PATHS.remove(config)
        del open_clip.factory._MODEL_CONFIGS["headword-tiny"]
    assert set(exported) == set(plain.state_dict())
    plain.load_state_dict(exported, strict=True)
    with torch.no_grad():
        assert torch.equal(plain.encode_image(images, normalize=True), out["image_features"])
        assert torch.equal(plain.encode_text(texts, normalize=True), out["text_features"])


@pytest.mark.parametrize("tower", ["vit", "timm vit"])
def test_compiles_without_a_graph_break(tower: str) -> None:
    model = superclip(TOWERS[tower]).eval()
    images, texts = batch(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    wanted = model(images, texts)
    for name, value in compiled(images, texts).items():
        assert torch.allclose(value, wanted[name], atol=1e-5), name


def test_bfloat16_autocast_and_a_bfloat16_model() -> None:
    model = superclip()
    images, texts = batch(model)
    want = losses(model, images, texts)
    with torch.autocast("cpu", torch.bfloat16):
        told = losses(model, images, texts)
    assert told["token"].item() == pytest.approx(want["token"].item(), rel=0.02)
    pure = SuperCLIP(clip().bfloat16(), tokenizer())
    told = losses(pure, images.bfloat16(), texts)
    told["loss"].backward()
    assert told["token"].dtype == torch.float32


def test_captions_longer_than_the_context_are_cut_and_counted() -> None:
    words = " ".join(["boat"] * 10)
    tokens = tokenize(tokenizer(), ["a boat", words, words + " dog", "", words + " and a dog"])
    end = tokenizer().eot_token_id
    assert tokens.n_truncated == 2
    assert (tokens.ids[[1, 2, 4], -1] == end).all()  # the second fits exactly
    assert ((tokens.ids == end).sum(dim=1) == 1).all()
    for bad in ("a boat", [], [None]):
        with pytest.raises(HeadwordError, match="list of at least one string"):
            tokenize(tokenizer(), bad)  # type: ignore[arg-type]


def test_users_mistakes() -> None:
    plain = clip()
    plain.visual = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16))
    with pytest.raises(HeadwordError, match="cannot find patch tokens in a Sequential"):
        SuperCLIP(plain)
    pooled = clip(TOWERS["timm efficientnet"])
    pooled.visual.trunk.forward_features = lambda images: images.mean(dim=(2, 3))
    with pytest.raises(HeadwordError, match=r"gives no patch tokens: its features are \[1, 3\]"):
        SuperCLIP(pooled)
    with pytest.raises(HeadwordError, match="'none'"):
        SuperCLIP(clip({**VIT, "pool_type": "none"}))
    with pytest.raises(HeadwordError, match="Linear has no image tower"):
        SuperCLIP(nn.Linear(2, 2))
    small = CLIP(embed_dim=16, vision_cfg=VIT, text_cfg={**TEXT, "vocab_size": 1000})
    with pytest.raises(HeadwordError, match="49,408 ids but the head has 1,000"):
        SuperCLIP(small, tokenizer())
    model = SuperCLIP(small)
    with pytest.raises(HeadwordError, match="no tokenizer"):
        model.tokenize(["a boat"])
    with pytest.raises(HeadwordError, match="contrastive_weight"):
        SuperCLIPTask(superclip(), contrastive_weight=-1)
    with pytest.raises(HeadwordError, match="no tokenizer"):
        SuperCLIPTask(model)
    wide = superclip()
    with pytest.raises(HeadwordError, match="built for 4 process"):
        losses(wide, *batch(wide), contrastive_loss=ClipLoss(world_size=4))
    with pytest.raises(HeadwordError, match="no model 'ViT-Q'"):
        count_flops("ViT-Q")


def test_flops_of_vit_b_16_by_hand() -> None:
    logging.disable(logging.WARNING)
    try:
        flops = count_flops("ViT-B-16")
    finally:
        logging.disable(logging.NOTSET)
    assert flops.head.total == 2 * 768 * 49408
    blocks = 12 * 12 * 768 * 768  # weights in twelve blocks of width 768
    assert flops.image.linear == 2 * (197 * blocks + 768 * 512)
    assert flops.image.attention == 2 * 12 * 2 * 197 * 197 * 768
    assert flops.image.convolution == 2 * 196 * 768 * 3 * 16 * 16
