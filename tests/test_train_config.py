"""Options: their list, their sources, their types, and what a resumed run may change."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from headword.errors import HeadwordError
from headword.superclip.config import FREE, TrainConfig

OPTIONS = """
data split rewritten_share max_corrupt crop flip workers
model pretrained backbone image_size context_length patch_size vision_width vision_layers text_width
text_layers embed_dim patch_dropout grad_checkpointing freeze_batch_norm
method sigmoid token_weight token_targets token_init
steps epochs batch_size accumulate lr backbone_lr_factor warmup beta1 beta2 eps weight_decay clip_norm
max_logit_scale
seed device dtype strategy deterministic
eval_data eval_split eval_every best_metric log_every checkpoint_every keep_last tensorboard wandb
"""


def test_the_list_of_options_is_this_one() -> None:
    assert [field.name for field in dataclasses.fields(TrainConfig)] == OPTIONS.split()
    assert set(OPTIONS.split()) >= FREE


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("lr: 1e-3\nbatch_size: 32\nflip: true\nclip_norm: null\nwandb: 7\n")
    config = TrainConfig.from_sources(file, ["batch_size=16", "eps = 1e-8", "flip=no"], seed=3, steps=None)
    assert (config.lr, config.batch_size, config.eps, config.flip) == (1e-3, 16, 1e-8, False)
    assert (config.clip_norm, config.wandb, config.seed) == (None, "7", 3)
    assert config.steps == TrainConfig().steps


def test_yaml_and_json_give_the_same_options_back(tmp_path: Path) -> None:
    config = TrainConfig(lr=3e-4, clip_norm=None, sigmoid=True, data="wds:x-{000..009}.tar", eps=1e-8)
    file = tmp_path / "config.yaml"
    file.write_text(config.as_yaml())
    assert TrainConfig.from_sources(file) == config
    assert TrainConfig.of(config.as_dict()) == config


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batchsize": 3}, "did you mean 'batch_size'"),
        ({"method": "superclipp"}, "did you mean 'superclip'"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"steps": "many"}, "steps must be a whole number"),
        ({"steps": None}, "steps must be a whole number"),
        ({"flip": 3}, "flip must be true or false"),
        ({"lr": "nan"}, "lr must be a number"),
        ({"lr": "inf"}, "lr must be finite"),
        ({"data": [1]}, "data must be a text"),
        ({"patch_dropout": 1}, "patch_dropout must be between 0 and 0.95"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"vision_width": 100}, "multiple of 32"),
        ({"backbone": "embedded", "model": "ViT-B-32"}, "leave out one"),
        ({"pretrained": "openai"}, "give model=NAME"),
        ({"method": "superclass", "sigmoid": True}, "no contrastive loss"),
        ({"token_weight": 0}, "say clip"),
        ({"token_init": "prototypes"}, "give backbone"),
    ],
)
def test_values_that_cannot_be_meant_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(HeadwordError, match=said) as caught:
        TrainConfig.of(options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [("a: [", "not valid YAML"), ("- 1", "lines of key: value"), ("lrr: 1", "did you mean 'lr'")],
)
def test_a_file_that_is_no_options_is_refused(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(HeadwordError, match=said):
        TrainConfig.from_sources(file)


def test_a_word_without_equals_is_refused() -> None:
    with pytest.raises(HeadwordError, match="key=value"):
        TrainConfig.from_sources(None, ["lr"])


def test_only_what_says_where_and_how_to_watch_may_change() -> None:
    before = TrainConfig()
    assert before.differences(TrainConfig(workers=2, log_every=1, keep_last=9, strategy="fsdp")) == []
    assert before.differences(TrainConfig(lr=1.0, workers=2, flip=True)) == ["flip", "lr"]
