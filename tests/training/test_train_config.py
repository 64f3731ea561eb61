"""Options: their list, their sources, their types, and what a resumed run may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headword.errors import HeadwordError
from headword.training.config import FREE, TrainConfig

OPTIONS = """
data split rewritten_share max_corrupt crop flip workers
model pretrained backbone image_size context_length patch_size vision_width vision_layers text_width
text_layers embed_dim patch_dropout grad_checkpointing freeze_batch_norm
method sigmoid token_weight token_targets token_init
steps epochs batch_size accumulate lr backbone_lr_factor warmup beta1 beta2 eps weight_decay clip_norm
max_logit_scale
ema seed device dtype strategy deterministic
eval_data eval_split eval_every best_metric log_every checkpoint_every keep_last
keep_token_head tensorboard wandb
"""


def test_the_list_of_options_is_this_one() -> None:
    assert list(TrainConfig.model_fields) == OPTIONS.split()
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
    assert TrainConfig(**config.as_dict()) == config


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
        TrainConfig(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 'b", "not valid YAML"),
        ("- 1", "lines of key: value"),
        ("lrr: 1", "did you mean 'lr'"),
        ("", "lines of key: value"),
        ("# nothing", "lines of key: value"),
        ("1: 2", "lines of key: value"),
        ("lr: 1\n---\nlr: 2", ":3 .*lines of key: value"),
        ("lr: 1\nsteps: 3\n'lr': 2", ":3 gives 'lr' again, which line 1 has"),
        ("steps: 3\nlr: " + "[" * 3000 + "]" * 3000, ":2 .*no lists"),
        ("lr: " + "{a: " * 3000 + "1" + "}" * 3000, ":1 .*no lists, mappings"),
        ("- " * 3000 + "1", ":1 .*no lists"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]", ":1 .*no lists"),
        ("lr: &x 1\neps: *x", ":2 .*references"),
        ("<<: 3", "not valid YAML"),
        ("lr: !!python/object/apply:os.system [touch pwned]", ":1 .*tags"),
        ("lr: !!python/name:os.system x", ":1 .*tags"),
        ("!!python/object/new:os.system\nlr: 1", ":1 .*tags|:2 .*tags"),
        ("%TAG ! tag:yaml.org,2002:python/\n---\nlr: !name:os x", ":3 .*tags"),
        ("flip: !!bool maybe", ":1 .*tags"),
        ("lr: .nan", "lr must be a number"),
        ("lr: .inf", "lr must be finite"),
        ("lr: 1e999", "lr must be finite"),
        ("steps: " + "9" * 5000, "not valid YAML"),
        ("steps: 0x" + "f" * 100_000, "steps must be a whole number"),
        ("steps: 1e300", "steps must be at most"),
        ("seed: 99999999999999999999", "seed must be at most"),
        ("image_size: 1000000000", "image_size must be at most"),
        ("data: 2001-99-99", "not valid YAML"),
        ("method: " + "a" * 200_000, "method must be one of"),
        ("a" * 1000 + "?: 1", "there is no option"),
        ("lr: 1\0", "not valid YAML"),
        ("lr: " + "1" * (50 << 20), "more than 262,144 bytes"),
    ],
    ids=lambda value: value[:20],
)
def test_a_file_that_is_no_options_is_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(HeadwordError, match=said) as caught:
        TrainConfig.from_sources(file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not Path("pwned").exists()


def test_a_byte_order_mark_is_no_option(tmp_path: Path) -> None:
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbflr: 0.5\r\nsteps: 3\r\n")
    assert TrainConfig.from_sources(file) == TrainConfig(lr=0.5, steps=3)


def test_steps_given_later_are_not_lost_to_the_files_epochs(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("steps: 5\nepochs: 2\n")
    assert TrainConfig.from_sources(file).epochs == 2
    assert TrainConfig.from_sources(file, ["steps=9"]).epochs is None
    assert TrainConfig.from_sources(file, steps=9).epochs is None
    assert TrainConfig.from_sources(file, ["steps=9"], epochs=4).epochs == 4


def test_a_word_without_equals_is_refused() -> None:
    with pytest.raises(HeadwordError, match="key=value"):
        TrainConfig.from_sources(None, ["lr"])


def test_only_what_says_where_and_how_to_watch_may_change() -> None:
    before = TrainConfig()
    assert before.differences(TrainConfig(workers=2, log_every=1, keep_last=9, strategy="fsdp")) == []
    assert before.differences(TrainConfig(steps=9, epochs=2, best_metric="a/b", eval_data="c")) == []
    assert before.differences(TrainConfig(lr=1.0, workers=2, flip=True)) == ["flip", "lr"]
