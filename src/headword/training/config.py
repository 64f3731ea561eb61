"""Every option of a training run, and which of them a resumed run may change."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from headword.errors import HeadwordError
from headword.settings import Settings

Method = Literal["superclip", "clip", "superclass"]
Count = Annotated[int, Field(ge=1, le=10**9)]  # more is a slip of the finger
Number = Annotated[int, Field(ge=0, le=10**9)]
Size = Annotated[int, Field(ge=1, le=1 << 16)]
Width = Annotated[int, Field(ge=1, le=1 << 16, multiple_of=32)]
Layers = Annotated[int, Field(ge=1, le=1 << 10)]
Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=0)]

FREE = frozenset(
    {
        *("workers", "device", "strategy", "tensorboard", "wandb", "steps", "epochs"),
        *("eval_data", "eval_split", "best_metric"),
        *("log_every", "eval_every", "checkpoint_every", "keep_last", "keep_token_head"),
    }
)  # options a resumed run may change: how long, where, and how to watch, not what a step computes


class TrainConfig(Settings):
    """A training run. The defaults train a small ViT on `shapes` in minutes on two cores."""

    supersedes: ClassVar = {"steps": "epochs"}

    data: str = "shapes"
    """What to train on, as `headword.training.data.open_training_set` takes it: "shapes", a caption file,
    "wds:PATTERN", a folder of class folders."""
    split: str | None = None  # which part of the data, where it has parts
    rewritten_share: Share = 0.0
    """How often a re-written caption is taken in place of an original, where there is one."""
    max_corrupt: Share = 0.01  # the share of samples that may be unreadable before the run stops
    crop: float = Field(default=0.9, ge=0.01, le=1)
    """Random crops keep at least this share of the image's area; 1 takes all of it."""
    flip: bool = False  # mirror half of the images; wrong where captions say left and right
    workers: int = Field(default=0, ge=0, le=1024)
    """Processes that read and decode ahead, per training process; 0 decodes between steps."""

    model: str = "small"
    """"small": towers of the sizes below; "timm:NAME": an untrained timm image tower beside that text tower;
    else an architecture of open_clip's, such as "ViT-B-32"."""
    pretrained: str | None = None  # weights of an open_clip architecture to start from: a tag or a file
    backbone: str | None = None
    """A trained timm classifier, as `headword recycle --vision` takes it or a saved model's folder, to
    become the image tower in place of "small"'s own."""
    image_size: Size | None = None  # side in pixels; 64 for "small", else the model's own
    context_length: int | None = Field(default=None, ge=3, le=1 << 16)
    """Tokens of a caption; 32 for our own text tower, else the model's own."""
    patch_size: Size = 8  # side in pixels of "small"'s patches
    vision_width: Width = 64  # width of "small"'s image tower, a multiple of 32
    vision_layers: Layers = 3  # its transformer blocks
    text_width: Width = 64  # width of our own text tower, a multiple of 32
    text_layers: Layers = 2  # its transformer blocks
    embed_dim: Size = 64  # D of the space that images and texts share, for our own towers
    patch_dropout: float = Field(default=0.0, ge=0, le=0.95)
    """Share of a ViT's patches left out in training (FLIP)."""
    grad_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    freeze_batch_norm: bool | None = None
    """Keep the batch norms' statistics as they are; when None, where a trained backbone meets more than one
    process or cached gradients."""

    method: Method = "superclip"
    """"superclip"; "clip", without the token loss; "superclass", without the contrastive loss."""
    sigmoid: bool = False  # SigLIP's loss in place of CLIP's
    token_weight: Factor = 1.0  # λ of the token loss
    token_targets: Literal["idf", "uniform", "reference"] = "idf"
    """Weights of a caption's words: "idf", "uniform", or "reference" (the public code's counting)."""

    token_init: Literal["normal", "prototypes"] = "normal"
    """Where the token head's layer starts: "normal", or "prototypes", the words of the recycled `backbone`
    (`headword.training.prototypes`)."""

    steps: Count = 1500  # optimiser steps of the whole run
    epochs: Count | None = None  # passes over the data, in place of `steps`
    batch_size: Count = 64  # pairs a step, over all processes
    accumulate: Count = 1
    """Pieces a process's batch goes through the towers in, by cached gradients: the same gradient, less
    memory, a second forward pass."""
    lr: Factor = 1e-3  # highest learning rate
    backbone_lr_factor: Factor = 0.1  # times `lr` for the image trunk of `backbone`
    warmup: Number = 100  # steps of linear warm-up, at most a fifth of the run; a cosine to 0 follows
    beta1: Share = 0.9  # AdamW's β₁
    beta2: Share = 0.98  # AdamW's β₂
    eps: float = Field(default=1e-6, ge=1e-12, le=1)  # AdamW's ε
    weight_decay: Factor = 0.2  # AdamW's, on matrices alone: not on biases, norms, scales
    clip_norm: float | None = Field(default=1.0, ge=1e-6)  # largest norm of the gradient; None does not clip
    max_logit_scale: float = Field(default=100.0, ge=1)  # largest exp(logit scale)
    ema: float | None = Field(default=None, ge=0, lt=1)
    """Decay of a moving average of the weights, which then is measured and exported; none when None."""

    seed: int = Field(default=0, ge=0, le=(1 << 63) - 1)  # of weights, order, crops, captions and dropout
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """"float32", or "bfloat16" (autocast; weights stay float32); "auto" is bfloat16 on CUDA."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several processes share the work: "ddp", or "fsdp", which shards weights; "auto" is ddp."""
    deterministic: bool = False  # deterministic algorithms alone, and an error where there is none

    eval_data: str | None = None
    """What to measure on in the loop: a caption file (retrieval) or a folder of class folders (zero-shot);
    `shapes` brings its own."""
    eval_split: str | None = None  # which part of `eval_data`, where it has parts
    eval_every: Number = 500  # steps between evaluations; 0 evaluates at the end alone
    best_metric: str | None = None
    """Which metric, higher being better, says which checkpoint is kept as the best; the first when None."""
    log_every: Count = 20  # steps between lines of metrics.jsonl
    checkpoint_every: Count = 500  # steps between checkpoints; there is always one at the end
    keep_last: Count = 2  # how many checkpoints are kept beside the best
    keep_token_head: bool = False
    """Keep the token head beside the model, so that its words can be recycled."""
    tensorboard: bool = True  # write TensorBoard's event files
    wandb: str | None = None  # the Weights & Biases project to log to

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        token_loss = self.method != "clip"
        if self.backbone is not None and self.model != "small":
            raise HeadwordError("backbone brings its own image tower; leave out one of backbone and model")
        if self.pretrained is not None and (self.model == "small" or self.model.startswith("timm:")):
            raise HeadwordError("pretrained goes with an architecture of open_clip's: give model=NAME too")
        if token_loss and self.token_weight == 0:
            raise HeadwordError(f"{self.method} without a token loss (token_weight 0) is not meant; say clip")
        if self.token_init == "prototypes" and (self.backbone is None or not token_loss):
            raise HeadwordError(
                "token_init=prototypes takes the words of a recycled backbone into the token head; give "
                "backbone, and not method=clip"
            )
        if self.keep_token_head and not token_loss:
            raise HeadwordError("clip trains no token head; leave out keep_token_head")
        if self.ema is not None and self.strategy == "fsdp":
            raise HeadwordError("ema averages whole weights, which fsdp shards; leave out one of the two")
        if self.method == "superclass" and self.sigmoid:
            raise HeadwordError("superclass has no contrastive loss, so sigmoid says nothing; leave it out")
        return self

    def differences(self, other: TrainConfig) -> list[str]:
        """Which options keep `other` from going on where a run of this configuration stopped."""
        mine, theirs = self.as_dict(), other.as_dict()
        return [name for name in mine if mine[name] != theirs[name] and name not in FREE]
