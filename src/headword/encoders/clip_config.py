"""What an `open_clip_config.json` may say: settings that are known here, each of its type and within bounds.

open_clip hands a configuration's entries to constructors as they are, `AutoTokenizer` and `timm.create_model`
among them, so that a folder could ask for code to be run or for other models to be fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from headword.errors import HeadwordError, near


class _Rule(NamedTuple):
    """What a value must be."""

    says: str
    holds: Callable[[Any], bool]


Schema: TypeAlias = "dict[str, _Rule | Schema]"


def _whole(low: int, high: int) -> _Rule:
    return _Rule(f"a whole number from {low:,} to {high:,}", lambda x: type(x) is int and low <= x <= high)


def _number(low: float, high: float) -> _Rule:
    return _Rule(f"a number from {low:g} to {high:g}", lambda x: type(x) in (int, float) and low <= x <= high)


def _one_of(*choices: str) -> _Rule:
    return _Rule(f"one of {', '.join(choices)}", lambda x: isinstance(x, str) and x in choices)


def _spelt(says: str, pattern: str) -> _Rule:
    return _Rule(says, lambda x: isinstance(x, str) and re.fullmatch(pattern, x) is not None)


def _listed(rule: _Rule, length: int, *, single: bool = False) -> _Rule:
    def holds(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return len(value) == length and all(map(rule.holds, value))
        return single and rule.holds(value)

    return _Rule(f"{rule.says}{', or' if single else ':'} {length} of them", holds)


def _each(rule: _Rule, *names: str) -> Schema:
    return dict.fromkeys(names, rule)


_FLAG = _Rule("true or false", lambda x: type(x) is bool)
_NAME = _spelt("a plain name", r"[\w.-]{0,100}")

_BLOCKS: Schema = {
    "width": _whole(1, 16_384),
    "mlp_ratio": _number(0.01, 64),
    "ls_init_value": _number(0, 100),
    "act_kwargs": {"approximate": _one_of("none", "tanh")},
    "norm_kwargs": {"eps": _number(0, 1)},
    "block_type": _one_of("default", "custom"),
    **_each(_FLAG, "output_tokens", "final_ln_after_pool", "qk_norm", "scaled_cosine_attn", "scale_heads"),
    **_each(_FLAG, "scale_attn_inner", "scale_attn", "scale_fc"),
}
_VISION: Schema = {
    **_BLOCKS,
    "layers": _listed(_whole(1, 256), 4, single=True),
    "head_width": _whole(1, 16_384),
    "patch_size": _whole(1, 1_024),
    "image_size": _listed(_whole(1, 4_096), 2, single=True),
    "attentional_pool": _Rule(
        "true, false, parallel or cascade", lambda x: type(x) is bool or x in ("parallel", "cascade")
    ),
    "attn_pooler_queries": _whole(1, 8_192),
    "attn_pooler_heads": _whole(1, 256),
    "pos_embed_type": _one_of("learnable", "sin_cos_2d"),
    "pool_type": _one_of("tok", "avg", "none"),
    **_each(_NAME, "timm_model_name", "timm_pool", "timm_proj"),
    **_each(_FLAG, "no_ln_pre", "timm_model_pretrained", "timm_proj_bias"),
    **_each(_number(0, 1), "patch_dropout", "timm_drop", "timm_drop_path"),
}
_TEXT: Schema = {
    **_BLOCKS,
    "context_length": _whole(1, 8_192),
    "vocab_size": _whole(1, 2_000_000),
    **_each(_whole(1, 256), "heads", "layers"),
    **_each(_whole(0, 2_000_000), "pad_id", "eos_id"),
    **_each(_FLAG, "embed_cls", "no_causal_mask", "proj_bias", "hf_model_pretrained"),
    "pool_type": _one_of("argmax", "eos", "first", "last", "none"),
    "proj_type": _one_of("linear", "none"),
    # A tokenizer's files are always the folder's own; the name only says that there are some.
    "hf_tokenizer_name": _spelt("a model's name on the hub", r"([\w.-]+/)?[\w.-]{1,100}"),
    "tokenizer_mode": _one_of("clips"),
    "tokenizer_kwargs": {"clean": _one_of("lower", "whitespace", "canonicalize"), "strip_sep_token": _FLAG},
    # Only its sizes are asked for, and only of the models that open_clip's own configurations name.
    "hf_model_name": _one_of(
        *("roberta-base", "xlm-roberta-base", "xlm-roberta-large", "google/mt5-base", "google/mt5-xl"),
        *("facebook/nllb-200-distilled-600M", "facebook/nllb-200-distilled-1.3B"),
    ),
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
        "init_logit_scale": _number(-100, 100),
        "init_logit_bias": _number(-1_000, 1_000),
        **_each(_FLAG, "quick_gelu", "custom_text", "nonscalar_logit_scale"),
    },
    "preprocess_cfg": {
        "size": _listed(_whole(1, 4_096), 2, single=True),
        "mode": _one_of("RGB"),
        "mean": _listed(_number(-1_000, 1_000), 3),
        "std": _listed(_number(1e-6, 1_000), 3),
        "interpolation": _one_of("bicubic", "bilinear", "random"),
        "resize_mode": _one_of("shortest", "longest", "squash"),
        "fill_color": _whole(0, 255),
    },
}
_NEEDED = ("embed_dim", "vision_cfg", "text_cfg")


def check_clip_config(config: object, where: object) -> None:
    """Refuse a configuration in which a part is missing, a setting unknown, or a value of another type or out
    of bounds; `where` is the file, for messages.
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
