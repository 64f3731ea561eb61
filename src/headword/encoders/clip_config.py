"""What an `open_clip_config.json` may say: settings that are known here, each of its type and within bounds.

open_clip hands a configuration's entries to constructors as they are, `AutoTokenizer` and `timm.create_model`
among them, so that a folder could ask for code to be run or for other models to be fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from headword.errors import HeadwordError, near


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a value must be."""

    says: str
    holds: Callable[[Any], bool]


Schema: TypeAlias = "dict[str, _Rule | Schema]"


def _whole(low: int, high: int) -> _Rule:
    return _Rule(
        f"a whole number from {low:,} to {high:,}", lambda value: type(value) is int and low <= value <= high
    )


def _number(low: float, high: float) -> _Rule:
    return _Rule(
        f"a number from {low:g} to {high:g}",
        lambda value: type(value) in (int, float) and low <= value <= high,
    )


def _one_of(*choices: str) -> _Rule:
    return _Rule(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices)


def _listed(rule: _Rule, *, lengths: tuple[int, ...], single: bool = True) -> _Rule:
    """A list of values, or one by itself."""

    def holds(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return len(value) in lengths and all(map(rule.holds, value))
        return single and rule.holds(value)

    return _Rule(f"{rule.says}{', or' if single else ':'} {lengths[0]} of them", holds)


_FLAG = _Rule("true or false", lambda value: type(value) is bool)
_NAME = _Rule(
    "a plain name", lambda value: isinstance(value, str) and re.fullmatch(r"[\w.-]{0,100}", value) is not None
)
_REPOSITORY = _Rule(
    "a model's name on the hub",
    lambda value: isinstance(value, str) and re.fullmatch(r"([\w.-]+/)?[\w.-]{1,100}", value) is not None,
)

_BLOCKS: Schema = {
    "width": _whole(1, 16_384),
    "mlp_ratio": _number(0.01, 64),
    "ls_init_value": _number(0, 100),
    "output_tokens": _FLAG,
    "final_ln_after_pool": _FLAG,
    "act_kwargs": {"approximate": _one_of("none", "tanh")},
    "norm_kwargs": {"eps": _number(0, 1)},
    "block_type": _one_of("default", "custom"),
    **dict.fromkeys(
        ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"), _FLAG
    ),
}
_VISION: Schema = {
    **_BLOCKS,
    "layers": _listed(_whole(1, 256), lengths=(4,)),
    "head_width": _whole(1, 16_384),
    "patch_size": _whole(1, 1_024),
    "image_size": _listed(_whole(1, 4_096), lengths=(2,)),
    "patch_dropout": _number(0, 1),
    "attentional_pool": _Rule(
        "true, false, parallel or cascade",
        lambda value: type(value) is bool or value in ("parallel", "cascade"),
    ),
    "attn_pooler_queries": _whole(1, 8_192),
    "attn_pooler_heads": _whole(1, 256),
    "no_ln_pre": _FLAG,
    "pos_embed_type": _one_of("learnable", "sin_cos_2d"),
    "pool_type": _one_of("tok", "avg", "none"),
    "timm_model_name": _NAME,
    "timm_model_pretrained": _FLAG,
    "timm_pool": _NAME,
    "timm_proj": _NAME,
    "timm_proj_bias": _FLAG,
    "timm_drop": _number(0, 1),
    "timm_drop_path": _number(0, 1),
}
_TEXT: Schema = {
    **_BLOCKS,
    "context_length": _whole(1, 8_192),
    "vocab_size": _whole(1, 2_000_000),
    "heads": _whole(1, 256),
    "layers": _whole(1, 256),
    "embed_cls": _FLAG,
    "pad_id": _whole(0, 2_000_000),
    "eos_id": _whole(0, 2_000_000),
    "no_causal_mask": _FLAG,
    "pool_type": _one_of("argmax", "eos", "first", "last", "none"),
    "proj_bias": _FLAG,
    "proj_type": _one_of("linear", "none"),
    # A tokenizer's files are always the folder's own; the name only says that there are some.
    "hf_tokenizer_name": _REPOSITORY,
    "tokenizer_mode": _one_of("clips"),
    "tokenizer_kwargs": {
        "clean": _one_of("lower", "whitespace", "canonicalize"),
        "strip_sep_token": _FLAG,
    },
    # Only its sizes are asked for, and only of the models that open_clip's own configurations name.
    "hf_model_name": _one_of(
        "roberta-base",
        "xlm-roberta-base",
        "xlm-roberta-large",
        "google/mt5-base",
        "google/mt5-xl",
        "facebook/nllb-200-distilled-600M",
        "facebook/nllb-200-distilled-1.3B",
    ),
    "hf_model_pretrained": _FLAG,
    "hf_proj_type": _one_of("linear", "mlp"),
    "hf_pooler_type": _one_of("mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler"),
}
_CONFIG: Schema = {
    "model_cfg": {
        "embed_dim": _whole(1, 16_384),
        "vision_cfg": _VISION,
        "text_cfg": _TEXT,
        "multimodal_cfg": {
            **_TEXT,
            "dim_head": _whole(1, 16_384),
            "n_queries": _whole(1, 8_192),
            "attn_pooler_heads": _whole(1, 256),
        },
        "quick_gelu": _FLAG,
        "custom_text": _FLAG,
        "init_logit_scale": _number(-100, 100),
        "init_logit_bias": _number(-1_000, 1_000),
        "nonscalar_logit_scale": _FLAG,
    },
    "preprocess_cfg": {
        "size": _listed(_whole(1, 4_096), lengths=(2,)),
        "mode": _one_of("RGB"),
        "mean": _listed(_number(-1_000, 1_000), lengths=(3,), single=False),
        "std": _listed(_number(1e-6, 1_000), lengths=(3,), single=False),
        "interpolation": _one_of("bicubic", "bilinear", "random"),
        "resize_mode": _one_of("shortest", "longest", "squash"),
        "fill_color": _whole(0, 255),
    },
}
_NEEDED = ("embed_dim", "vision_cfg", "text_cfg")


def check_clip_config(config: object, where: object) -> None:
    """Refuse a configuration that says anything else than what is known of open_clip's.

    Args:
        config: the content of `open_clip_config.json`.
        where: the file, for messages.

    Raises:
        HeadwordError: for a part that is missing, an unknown setting, or a value of another type or out of
            bounds, by name.
    """
    if not isinstance(config, dict) or not config.keys() >= _CONFIG.keys():
        raise HeadwordError(f"{where} is damaged: it holds no model_cfg and preprocess_cfg")
    _check({part: config[part] for part in _CONFIG}, _CONFIG, "", where)
    missing = [name for name in _NEEDED if config["model_cfg"].get(name) is None]
    if missing:
        raise HeadwordError(f"{where} is damaged: model_cfg has no {missing[0]}")


def _check(config: Mapping[str, Any], schema: Schema, prefix: str, where: object) -> None:
    for key, value in config.items():
        name, rule = f"{prefix}{key}"[:200], schema.get(key)
        if rule is None:
            known = near(key, schema) or f"; known: {', '.join(schema)}"
            raise HeadwordError(f"{where}: {name} is no setting that open_clip is given here{known}")
        if value is None:  # its default
            continue
        if isinstance(rule, dict):
            if not isinstance(value, dict):
                raise HeadwordError(f"{where}: {name} must be an object with settings")
            _check(value, rule, f"{name}.", where)
        elif not rule.holds(value):
            raise HeadwordError(f"{where}: {name} is {str(value)[:80]!r}; it must be {rule.says}")
