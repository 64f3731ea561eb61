"""open_clip's own trainer runs SuperCLIP, and it is the same training as ours."""

from __future__ import annotations

import sys
import types
from argparse import Namespace
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from open_clip_train.train import train_one_epoch
from torch import Tensor, nn

from headword.errors import HeadwordError
from headword.training import SuperCLIP, SuperCLIPTask
from headword.training.open_clip_trainer import TrainerModel, for_open_clip, open_clip_task

TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
CAPTIONS = [["a red boat", "two dogs"], ["rain on a street", "a green hill"]]


def task(**settings: Any) -> SuperCLIPTask:
    torch.manual_seed(0)
    return SuperCLIPTask(SuperCLIP(CLIP(16, VIT, TEXT, **settings), SimpleTokenizer(context_length=12)))


def batches(model: SuperCLIP) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(2, 3, 32, 32, generator=generator), model.tokenize(c).ids) for c in CAPTIONS]


class Loader(list[tuple[Tensor, Tensor]]):
    num_batches, num_samples = 2, 4


def run_open_clips(model: TrainerModel, loss: nn.Module, loader: Loader, accum_freq: int = 1) -> None:
    arguments = Namespace(
        device="cpu", precision="fp32", distill=False, accum_freq=accum_freq, skip_scheduler=True,
        horovod=False, grad_clip_norm=None, rank=0, local_rank=0, log_local=False, log_every_n_steps=1,
        batch_size=2, world_size=1, wandb=False,
    )  # fmt: skip
    data = {"train": types.SimpleNamespace(dataloader=loader, set_epoch=lambda _: None)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    train_one_epoch(model, data, loss, 0, optimizer, None, None, None, arguments)


@pytest.mark.parametrize("bias", [None, -10.0])
def test_two_steps_of_open_clips_trainer_are_two_of_ours(bias: float | None) -> None:
    theirs, ours = task(init_logit_bias=bias), task(init_logit_bias=bias)
    run_open_clips(*for_open_clip(theirs), Loader(batches(theirs.model)))
    optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-3)
    for images, texts in batches(ours.train().model):
        optimizer.zero_grad()
        ours.training_forward({"images": images, "texts": texts})["loss"].backward()
        optimizer.step()
        ours.model.clamp_logit_scale_()
    for name, value in ours.state_dict().items():
        assert torch.allclose(theirs.state_dict()[name], value, atol=1e-6), name
    assert theirs.loss["token_loss"].documents == 4


def test_accumulated_batches_count_their_words_once() -> None:
    accumulated = task()
    run_open_clips(*for_open_clip(accumulated), Loader(batches(accumulated.model)), accum_freq=2)
    assert accumulated.loss["token_loss"].documents == 4
    assert accumulated.model.token_head.linear.weight.isfinite().all()


def test_in_evaluation_it_is_a_model_like_any_other() -> None:
    model, _ = for_open_clip(task())
    images, texts = batches(model.task.model)[0]
    output = model.eval()(images, texts)
    assert set(output) == {"image_features", "text_features", "logit_scale"}
    assert torch.allclose(output["image_features"], model.encode_image(images, normalize=True), atol=1e-6)


def test_cocas_decoder_is_frozen() -> None:
    vision = {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = {**TEXT, "embed_cls": True, "output_tokens": True}
    coca = open_clip.CoCa(16, {"width": 16, "heads": 2, "layers": 1, "context_length": 12}, text, vision)
    model, loss = for_open_clip(SuperCLIPTask(SuperCLIP(coca, SimpleTokenizer(context_length=12))))
    assert not any(p.requires_grad for p in coca.text_decoder.parameters())
    run_open_clips(model, loss, Loader(batches(model.task.model)))
    assert all(p.requires_grad for p in coca.visual.parameters() if p.grad is not None)


def test_it_is_a_task_of_open_clips_where_there_are_such(monkeypatch: pytest.MonkeyPatch) -> None:
    class CLIPTask(nn.Module):
        """As the one of open_clip's that is not released yet."""

        def __init__(self, model: nn.Module, loss: nn.Module) -> None:
            super().__init__()
            self.trainable_module, self.loss = model, loss

        def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
            losses: dict[str, Tensor] = self.loss(**self.trainable_module(images, texts), output_dict=True)
            return {**losses, "loss": sum(v for k, v in losses.items() if k.endswith("_loss"))}

    module = types.ModuleType("open_clip.task")
    module.CLIPTask = CLIPTask  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "open_clip.task", module)
    ours = task()
    images, texts = batches(ours.model)[0]
    theirs = open_clip_task(task()).train()(images, texts)
    told = ours.train().training_forward({"images": images, "texts": texts})
    assert torch.allclose(theirs["loss"], told["loss"], atol=1e-6)


@pytest.mark.skipif(hasattr(open_clip, "task"), reason="open_clip has task objects")
def test_an_open_clip_without_tasks_is_named() -> None:
    with pytest.raises(HeadwordError, match="has no task objects; give its trainer the model and the loss"):
        open_clip_task(task())
