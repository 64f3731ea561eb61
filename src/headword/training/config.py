"""Every option of a training run: defaults, files, `key=value`, and what a resumed run may change."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

from headword.errors import HeadwordError, MissingExtraError, near
from headword.files import expand, read_text

CHOICES = {
    "method": ("superclip", "clip", "superclass"),
    "token_targets": ("idf", "uniform", "reference"),
    "token_init": ("normal", "prototypes"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "dtype": ("auto", "float32", "bfloat16"),
    "strategy": ("auto", "ddp", "fsdp"),
}
"""The values of options that name one of a few."""

LARGEST_FILE = 1 << 18
"""Bytes of a file of options."""

FREE = frozenset(
    {
        *("workers", "device", "strategy", "tensorboard", "wandb", "steps", "epochs"),
        *("eval_data", "eval_split", "best_metric"),
        *("log_every", "eval_every", "checkpoint_every", "keep_last"),
    }
)
"""Options a resumed run may change: how long, where, and how to watch, not what a step computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training run. The defaults train a small ViT on `shapes` in minutes on two cores.

    Raises:
        HeadwordError: for values that cannot be meant.
    """

    data: str = "shapes"
    """What to train on, as `headword.training.data.open_training_set` takes it: "shapes", a caption file,
    "wds:PATTERN", a folder of class folders."""
    split: str | None = None
    """Which part of the data, where it has parts."""
    rewritten_share: float = 0.0
    """How often a re-written caption is taken in place of an original, where there is one."""
    max_corrupt: float = 0.01
    """The share of samples that may be unreadable before the run stops."""
    crop: float = 0.9
    """Random crops keep at least this share of the image's area; 1 takes all of it."""
    flip: bool = False
    """Mirror half of the images; wrong where captions say left and right."""
    workers: int = 0
    """Processes that read and decode ahead, per training process; 0 decodes between steps."""

    model: str = "small"
    """"small": towers of the sizes below; "timm:NAME": an untrained timm image tower beside that text tower;
    else an architecture of open_clip's, such as "ViT-B-32"."""
    pretrained: str | None = None
    """Weights of an open_clip architecture to start from: a tag or a file."""
    backbone: str | None = None
    """A trained timm classifier, as `headword recycle --vision` takes it or a saved model's folder, to
    become the image tower in place of "small"'s own."""
    image_size: int | None = None
    """Side in pixels; 64 for "small", else the model's own."""
    context_length: int | None = None
    """Tokens of a caption; 32 for our own text tower, else the model's own."""
    patch_size: int = 8
    """Side in pixels of "small"'s patches."""
    vision_width: int = 64
    """Width of "small"'s image tower, a multiple of 32."""
    vision_layers: int = 3
    """Its transformer blocks."""
    text_width: int = 64
    """Width of our own text tower, a multiple of 32."""
    text_layers: int = 2
    """Its transformer blocks."""
    embed_dim: int = 64
    """D of the space that images and texts share, for our own towers."""
    patch_dropout: float = 0.0
    """Share of a ViT's patches left out in training (FLIP)."""
    grad_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    freeze_batch_norm: bool | None = None
    """Keep the batch norms' statistics as they are; when None, where a trained backbone meets more than one
    process or cached gradients."""

    method: str = "superclip"
    """"superclip"; "clip", without the token loss; "superclass", without the contrastive loss."""
    sigmoid: bool = False
    """SigLIP's loss in place of CLIP's."""
    token_weight: float = 1.0
    """λ of the token loss."""
    token_targets: str = "idf"
    """Weights of a caption's words: "idf", "uniform", or "reference" (the public code's counting)."""

    token_init: str = "normal"
    """Where the token head's layer starts: "normal", or "prototypes", the words of the recycled `backbone`
    (`headword.training.prototypes`)."""

    steps: int = 1500
    """Optimiser steps of the whole run."""
    epochs: int | None = None
    """Passes over the data, in place of `steps`."""
    batch_size: int = 64
    """Pairs a step, over all processes."""
    accumulate: int = 1
    """Pieces a process's batch goes through the towers in, by cached gradients: the same gradient, less
    memory, a second forward pass."""
    lr: float = 1e-3
    """Highest learning rate."""
    backbone_lr_factor: float = 0.1
    """Times `lr` for the image trunk of `backbone`."""
    warmup: int = 100
    """Steps of linear warm-up, at most a fifth of the run; a cosine to 0 follows."""
    beta1: float = 0.9
    """AdamW's β₁."""
    beta2: float = 0.98
    """AdamW's β₂."""
    eps: float = 1e-6
    """AdamW's ε."""
    weight_decay: float = 0.2
    """AdamW's, on matrices alone: not on biases, norms, scales."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient; None does not clip."""
    max_logit_scale: float = 100.0
    """Largest exp(logit scale)."""

    seed: int = 0
    """Of weights, order, crops, captions and dropout."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "mps"."""
    dtype: str = "auto"
    """"float32", or "bfloat16" (autocast; weights stay float32); "auto" is bfloat16 on CUDA."""
    strategy: str = "auto"
    """How several processes share the work: "ddp", or "fsdp", which shards weights; "auto" is ddp."""
    deterministic: bool = False
    """Deterministic algorithms alone, and an error where there is none."""

    eval_data: str | None = None
    """What to measure on in the loop: a caption file (retrieval) or a folder of class folders (zero-shot);
    `shapes` brings its own."""
    eval_split: str | None = None
    """Which part of `eval_data`, where it has parts."""
    eval_every: int = 500
    """Steps between evaluations; 0 evaluates at the end alone."""
    best_metric: str | None = None
    """Which metric, higher being better, says which checkpoint is kept as the best; the first when None."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between checkpoints; there is always one at the end."""
    keep_last: int = 2
    """How many checkpoints are kept beside the best."""
    tensorboard: bool = True
    """Write TensorBoard's event files."""
    wandb: str | None = None
    """The Weights & Biases project to log to."""

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise HeadwordError(
                    f"{name} must be one of {', '.join(known)}, not {_shown(getattr(self, name))}"
                    f"{near(str(getattr(self, name))[:80], known, n=1)}"
                )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise HeadwordError(f"{field.name} must be finite, not {value}")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                bound = f"between {low:g} and {high:g}"
                if high > 1:
                    bound = f"at least {low:g}" if value < low else f"at most {high:g}"
                raise HeadwordError(f"{name} must be {bound}, not {value:g}")
        for name in ("vision_width", "text_width"):
            if getattr(self, name) % 32:
                raise HeadwordError(f"{name} must be a multiple of 32, not {getattr(self, name)}")
        if self.backbone is not None and self.model != "small":
            raise HeadwordError("backbone brings its own image tower; leave out one of backbone and model")
        if self.pretrained is not None and (self.model == "small" or self.model.startswith("timm:")):
            raise HeadwordError("pretrained goes with an architecture of open_clip's: give model=NAME too")
        if self.method != "clip" and self.token_weight == 0:
            raise HeadwordError(f"{self.method} without a token loss (token_weight 0) is not meant; say clip")
        if self.token_init == "prototypes" and (self.backbone is None or self.method == "clip"):
            raise HeadwordError(
                "token_init=prototypes takes the words of a recycled backbone into the token head; give "
                "backbone, and not method=clip"
            )
        if self.method == "superclass" and self.sigmoid:
            raise HeadwordError("superclass has no contrastive loss, so sigmoid says nothing; leave it out")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """A configuration of the given options, the others at their defaults.

        Args:
            values: by name; strings are read as the option's type, as from a command line.

        Raises:
            HeadwordError: for an option that does not exist, or a value of another type.
        """
        return cls(**_read(values, "the options"))

    @classmethod
    def from_sources(
        cls, file: str | os.PathLike[str] | None = None, sets: Iterable[str] = (), **flags: Any
    ) -> Self:
        """A configuration from a YAML file, then `key=value` words, then flags; later ones win.

        Args:
            file: YAML of options and values.
            sets: words "key=value".
            flags: options by name; None means not given.

        Raises:
            HeadwordError: as `of`; for a file that is no YAML mapping, or a word without "=".
            MissingExtraError: if there is a file, and PyYAML is not installed.
        """
        values = {} if file is None else _read(_read_yaml(file), str(file))
        words: dict[str, Any] = {}
        for word in sets:
            name, equals, value = word.partition("=")
            if not equals:
                raise HeadwordError(f"--set takes key=value, not {word!r}")
            words |= _read({name.strip(): value.strip()}, "--set")
        given = {name: value for name, value in flags.items() if value is not None}
        for later in (words, given):
            if "steps" in later and "epochs" not in later:
                values["epochs"] = None  # of the file's, which would win
            values |= later
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """All options by name, as JSON can hold them."""
        return dataclasses.asdict(self)

    def as_yaml(self) -> str:
        """All options, as `from_sources` reads them.

        Raises:
            MissingExtraError: if PyYAML is not installed.
        """
        text: str = _yaml().safe_dump(self.as_dict(), sort_keys=False)
        return text

    def differences(self, other: TrainConfig) -> list[str]:
        """Which options keep `other` from going on where a run of this configuration stopped."""
        mine, theirs = self.as_dict(), other.as_dict()
        return [name for name in mine if mine[name] != theirs[name] and name not in FREE]


_MOST = 10**9
"""Of what is counted; more is a slip of the finger."""
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "epochs", "batch_size", "accumulate", "keep_last", "log_every"), (1, _MOST)),
    **dict.fromkeys(("image_size", "patch_size", "embed_dim", "vision_width", "text_width"), (1, 1 << 16)),
    **dict.fromkeys(("vision_layers", "text_layers"), (1, 1 << 10)),
    **dict.fromkeys(("warmup", "eval_every"), (0, _MOST)),
    "workers": (0, 1 << 10),
    "seed": (0, (1 << 63) - 1),
    "backbone_lr_factor": (0, math.inf),
    **dict.fromkeys(("token_weight", "weight_decay", "lr"), (0, math.inf)),
    **dict.fromkeys(("rewritten_share", "max_corrupt", "beta1", "beta2"), (0, 1)),
    "checkpoint_every": (1, _MOST),
    "context_length": (3, 1 << 16),
    "patch_dropout": (0, 0.95),
    "crop": (0.01, 1),
    "eps": (1e-12, 1),
    "clip_norm": (1e-6, math.inf),
    "max_logit_scale": (1, math.inf),
}


def _read(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    kinds = typing.get_type_hints(TrainConfig)
    for name in values:
        if name not in kinds:
            raise HeadwordError(f"{where}: there is no option {_shown(name)}{near(name[:80], kinds, n=1)}")
    return {name: _typed(name, value, kinds[name]) for name, value in values.items()}


def _typed(name: str, value: Any, kind: Any) -> Any:
    """A value as an option's type, from YAML or from a word of the command line."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    optional, wanted = type(None) in kinds, next(k for k in kinds if k is not type(None))
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
        if optional:
            return None
    elif wanted is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if isinstance(value, bool) or (isinstance(value, str) and value.lower() in words):
            return value if isinstance(value, bool) else words[value.lower()]
    elif wanted is str:
        if isinstance(value, str | int | float):
            return str(value)
    elif not isinstance(value, bool):
        try:  # YAML reads 1e-3 as a string
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if wanted is float and not math.isnan(number):
            return number
        if wanted is int and number.is_integer():
            return int(number)
    what = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[wanted]
    raise HeadwordError(f"{name} must be {what}{' or none' if optional else ''}, not {_shown(value)}")


def _shown(value: object) -> str:
    """A value in a message, however long it is."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= 80 else f"{text[:77]}…"


def _read_yaml(file: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Options of a YAML file, which is flat: what is nested is refused before it is built."""
    yaml = _yaml()
    path = expand(Path(file))
    text = read_text(path, limit=LARGEST_FILE)
    try:
        _check_flat(yaml, text, path)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # dates and long numbers are no YAMLError
        reason = " ".join(str(error).split())
        raise HeadwordError(f"{path} is not valid YAML: {reason[:300]}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise HeadwordError(f"{path} must hold options and values: lines of key: value")
    return values


def _check_flat(yaml: Any, text: str, path: Path) -> None:
    """Refuse a file that has a name twice, or holds more than names and plain values."""
    lines: dict[str, int] = {}
    inside, name = False, None
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        nested = isinstance(event, yaml.CollectionStartEvent) and (
            inside or isinstance(event, yaml.SequenceStartEvent)
        )
        if nested or isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise HeadwordError(
                f"{path}:{line} must hold options and values: lines of key: value; no lists, mappings, "
                "references or tags"
            )
        if isinstance(event, yaml.MappingStartEvent):
            inside = True
        elif isinstance(event, yaml.ScalarEvent) and inside:
            if name is not None:  # this is its value
                name = None
                continue
            name = event.value
            if name in lines:
                raise HeadwordError(
                    f"{path}:{line} gives {_shown(name)} again, which line {lines[name]} has; keep one"
                )
            lines[name] = line


def _yaml() -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise MissingExtraError("reading and writing YAML", "train") from None
    return yaml
